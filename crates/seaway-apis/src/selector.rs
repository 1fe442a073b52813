//! Label and field selectors.
use crate::resource::Resource;
use serde_json::Value;

/// Why a selector is refused (HTTP 400).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// A parsed label selector; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {}

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        let _ = text;
        Ok(LabelSelector {})
    }

    /// From a `metav1.LabelSelector` (matchLabels, matchExpressions). Null and `{}` match everything.
    pub fn from_value(value: &Value) -> Result<LabelSelector, SelectorError> {
        let _ = value;
        Ok(LabelSelector {})
    }

    /// Whether it has no requirement.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Whether a map of labels (or null) matches.
    pub fn matches(&self, labels: &Value) -> bool {
        let _ = labels;
        true
    }
}

/// A parsed field selector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {}

impl FieldSelector {
    /// Parses `a.b=c,d.e!=f` and checks that the resource supports the fields.
    pub fn parse(resource: &Resource, text: &str) -> Result<FieldSelector, SelectorError> {
        let _ = (resource, text);
        Ok(FieldSelector {})
    }

    /// The name that `metadata.name=NAME` asks for, if it does.
    pub fn name(&self) -> Option<&str> {
        None
    }

    /// Whether an object matches.
    pub fn matches(&self, resource: &Resource, object: &Value) -> bool {
        let _ = (resource, object);
        true
    }
}

/// The text of an object's field as selectors compare it; `None` when the resource does not support the field.
pub fn field_value(resource: &Resource, object: &Value, field: &str) -> Option<String> {
    let _ = (resource, object, field);
    None
}
