//! Field selectors: `metadata.name=a,status.phase!=Running`.

use serde_json::Value;

use super::SelectorError;
use crate::resource::Resource;
use crate::value::{flag, int, text};

/// A parsed field selector; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    value: String,
    equal: bool,
}

/// Fields beyond `metadata.name` and `metadata.namespace`, by group and kind, as the API supports them.
const FIELDS: &[(&str, &str, &[&str])] = &[
    (
        "",
        "Pod",
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
    ),
    ("", "Node", &["spec.unschedulable"]),
    ("", "Namespace", &["status.phase"]),
    ("", "Secret", &["type"]),
    ("", "Service", &["spec.clusterIP", "spec.type"]),
    (
        "",
        "Event",
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
    ),
    (
        "events.k8s.io",
        "Event",
        &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
    ),
    ("apps", "ReplicaSet", &["status.replicas"]),
    ("batch", "Job", &["status.successful"]),
];

impl FieldSelector {
    /// Parses a selector and checks that the resource supports its fields.
    pub fn parse(resource: &Resource, selector: &str) -> Result<FieldSelector, SelectorError> {
        let mut terms = Vec::new();
        for part in split(selector).iter().filter(|p| !p.is_empty()) {
            let term = term(part).ok_or_else(|| {
                SelectorError(format!("invalid selector: '{selector}'; can't understand '{part}'"))
            })?;
            if !supported(resource, &term.field) {
                return Err(unsupported(resource, &term.field));
            }
            terms.push(term);
        }
        Ok(FieldSelector { terms })
    }

    /// Whether it has no term.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The name that `metadata.name=NAME` asks for, if it does.
    pub fn name(&self) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == "metadata.name").map(|t| t.value.as_str())
    }

    /// Whether an object matches.
    pub fn matches(&self, resource: &Resource, object: &Value) -> bool {
        self.matches_values(&FieldValues::of(resource, object))
    }

    /// Whether an object that has these values matches.
    pub fn matches_values(&self, values: &FieldValues) -> bool {
        self.terms.iter().all(|t| (values.get(&t.field) == t.value) == t.equal)
    }
}

/// What an object has in the fields that selectors of its resource may ask for: to be asked often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldValues(Vec<(&'static str, String)>);

impl FieldValues {
    /// The values of one object.
    pub fn of(resource: &Resource, object: &Value) -> Self {
        let own = FIELDS.iter().filter(|(group, kind, _)| resource.is(group, kind));
        let own = own.flat_map(|(_, _, fields)| fields.iter().copied());
        let fields = ["metadata.name", "metadata.namespace"].into_iter().chain(own);
        Self(fields.filter_map(|field| Some((field, field_value(resource, object, field)?))).collect())
    }

    /// Empty where the object, or its resource, does not have the field.
    fn get(&self, field: &str) -> &str {
        self.0.iter().find(|(name, _)| *name == field).map_or("", |(_, value)| value)
    }
}

fn supported(resource: &Resource, field: &str) -> bool {
    field == "metadata.name"
        || (field == "metadata.namespace" && resource.namespaced)
        || FIELDS.iter().any(|(group, kind, fields)| resource.is(group, kind) && fields.contains(&field))
}

fn unsupported(resource: &Resource, field: &str) -> SelectorError {
    SelectorError(if FIELDS.iter().any(|(group, kind, _)| resource.is(group, kind)) {
        format!("field label not supported: {field}")
    } else {
        format!("\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    })
}

/// Splits at commas that no backslash escapes.
fn split(selector: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in selector.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&selector[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&selector[start..]);
    parts
}

fn term(part: &str) -> Option<Term> {
    let at = part.find('=')?;
    let (field, equal) = match part[..at].strip_suffix('!') {
        Some(field) => (field, false),
        None => (&part[..at], true),
    };
    let value = part[at + 1..].strip_prefix('=').filter(|_| equal).unwrap_or(&part[at + 1..]);
    let mut unescaped = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                c @ ('\\' | ',' | '=') => unescaped.push(c),
                _ => return None,
            },
            '=' => return None,
            c => unescaped.push(c),
        }
    }
    (!field.is_empty()).then(|| Term { field: field.to_owned(), value: unescaped, equal })
}

/// The text of an object's field as selectors compare it; `None` when the resource does not support the field.
pub fn field_value(resource: &Resource, object: &Value, field: &str) -> Option<String> {
    if !supported(resource, field) {
        return None;
    }
    let value = match field {
        "spec.hostNetwork" => flag(object, "/spec/hostNetwork").to_string(),
        "spec.unschedulable" => flag(object, "/spec/unschedulable").to_string(),
        "status.replicas" => int(object, "/status/replicas").unwrap_or(0).to_string(),
        "status.successful" => int(object, "/status/succeeded").unwrap_or(0).to_string(),
        "status.podIPs" => text(object, "/status/podIP").to_owned(),
        "source" => match text(object, "/source/component") {
            "" => text(object, "/reportingComponent").to_owned(),
            component => component.to_owned(),
        },
        _ => text(object, &format!("/{}", field.replace('.', "/"))).to_owned(),
    };
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::resource::resources;

    #[test]
    fn matches_fields() {
        let pods = resources().lookup("", "v1", "pods").unwrap();
        let pod = json!({"metadata": {"name": "a", "namespace": "d"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        let cases = [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==a", true),
            ("metadata.name!=a", false),
            ("spec.nodeName=n1,status.phase!=Failed", true),
            ("spec.nodeName=", false),
            ("spec.hostNetwork=false", true),
            ("status.podIP=", true),
        ];
        for (text, expected) in cases {
            assert_eq!(FieldSelector::parse(pods, text).unwrap().matches(pods, &pod), expected, "{text}");
        }
        assert_eq!(FieldSelector::parse(pods, "metadata.name=a").unwrap().name(), Some("a"));
        assert_eq!(FieldSelector::parse(pods, "metadata.name!=a").unwrap().name(), None);
    }

    #[test]
    fn refuses_unsupported_fields() {
        let pods = resources().lookup("", "v1", "pods").unwrap();
        let maps = resources().lookup("", "v1", "configmaps").unwrap();
        assert_eq!(
            FieldSelector::parse(pods, "spec.foo=a").unwrap_err().0,
            "field label not supported: spec.foo"
        );
        assert!(
            FieldSelector::parse(maps, "data=a")
                .unwrap_err()
                .0
                .ends_with("only \"metadata.name\", \"metadata.namespace\"")
        );
        for text in ["a", "=b", "metadata.name=a=b", "metadata.name=\\x"] {
            assert!(FieldSelector::parse(pods, text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn escaped_values_round_trip(value in "[a-z,=\\\\]{0,12}") {
            let pods = resources().lookup("", "v1", "pods").unwrap();
            let escaped = value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            let selector = FieldSelector::parse(pods, &format!("metadata.name={escaped}")).unwrap();
            prop_assert_eq!(selector.name(), Some(value.as_str()));
        }

        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let pods = resources().lookup("", "v1", "pods").unwrap();
            let _ = FieldSelector::parse(pods, &text);
        }
    }
}
