//! Errors of single fields, in the form in which the API reports them.

use std::fmt;

use serde_json::{Value, json};

/// What is wrong with a field (`reason` of a status cause).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A required field is missing or empty.
    Required,
    /// The value is malformed or inconsistent.
    Invalid,
    /// The value is not among the known ones.
    NotSupported,
    /// Another entry has the same value.
    Duplicate,
    /// The object or field that the value names does not exist.
    NotFound,
    /// The field may not be set, or not be changed.
    Forbidden,
    /// The value is longer than allowed.
    TooLong,
    /// A list has more entries than allowed.
    TooMany,
    /// The value has the wrong JSON type.
    TypeInvalid,
}

/// One wrong field of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What kind of error.
    pub kind: ErrorKind,
    /// Path of the field, such as `spec.containers[0].image`.
    pub field: String,
    /// The wrong value.
    pub bad_value: Value,
    /// What would be right; may be empty.
    pub detail: String,
}

impl FieldError {
    /// A required field is missing.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> FieldError {
        FieldError {
            kind: ErrorKind::Required,
            field: field.into(),
            bad_value: Value::Null,
            detail: detail.into(),
        }
    }

    /// A value is malformed.
    pub fn invalid(
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> FieldError {
        FieldError {
            kind: ErrorKind::Invalid,
            field: field.into(),
            bad_value: value.into(),
            detail: detail.into(),
        }
    }

    /// A value is not one of the supported ones.
    pub fn not_supported(
        field: impl Into<String>,
        value: impl Into<Value>,
        supported: &[&str],
    ) -> FieldError {
        let mut supported = supported.to_vec();
        supported.sort_unstable();
        let list: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        FieldError {
            kind: ErrorKind::NotSupported,
            field: field.into(),
            bad_value: value.into(),
            detail: format!("supported values: {}", list.join(", ")),
        }
    }

    /// Another entry has the same value.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> FieldError {
        FieldError {
            kind: ErrorKind::Duplicate,
            field: field.into(),
            bad_value: value.into(),
            detail: String::new(),
        }
    }

    /// What the value names does not exist.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> FieldError {
        FieldError {
            kind: ErrorKind::NotFound,
            field: field.into(),
            bad_value: value.into(),
            detail: String::new(),
        }
    }

    /// The field may not be set or changed.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> FieldError {
        FieldError {
            kind: ErrorKind::Forbidden,
            field: field.into(),
            bad_value: Value::Null,
            detail: detail.into(),
        }
    }

    /// A value is longer than `max` bytes.
    pub fn too_long(field: impl Into<String>, max: usize) -> FieldError {
        FieldError {
            kind: ErrorKind::TooLong,
            field: field.into(),
            bad_value: Value::Null,
            detail: format!("may not be more than {max} bytes"),
        }
    }

    /// A list of `count` entries may have `max`.
    pub fn too_many(field: impl Into<String>, count: usize, max: usize) -> FieldError {
        FieldError {
            kind: ErrorKind::TooMany,
            field: field.into(),
            bad_value: count.into(),
            detail: format!("must have at most {max} items"),
        }
    }

    /// Words for the kind and value, and the detail: the text of a status cause.
    pub fn message(&self) -> String {
        let head = match self.kind {
            ErrorKind::Required | ErrorKind::Forbidden | ErrorKind::TooLong => self.kind.words().to_owned(),
            _ => format!("{}: {}", self.kind.words(), shown(&self.bad_value)),
        };
        if self.detail.is_empty() { head } else { format!("{head}: {}", self.detail) }
    }

    /// The entry of `details.causes` in a Status.
    pub fn cause(&self) -> Value {
        json!({"reason": self.kind.reason(), "message": self.message(), "field": self.field})
    }
}

impl ErrorKind {
    /// `reason` of a status cause.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            ErrorKind::Required => "Required value",
            ErrorKind::Invalid | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::NotFound => "Not found",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message())
    }
}

impl std::error::Error for FieldError {}

/// A value as messages show it: strings quoted, composites as JSON.
fn shown(value: &Value) -> String {
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_api_form() {
        let cases = [
            (
                FieldError::required("spec.containers[0].image", ""),
                "spec.containers[0].image: Required value",
            ),
            (
                FieldError::invalid("metadata.name", "A", "must be lower case"),
                "metadata.name: Invalid value: \"A\": must be lower case",
            ),
            (
                FieldError::not_supported("spec.type", "X", &["NodePort", "ClusterIP"]),
                "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"NodePort\"",
            ),
            (FieldError::duplicate("spec.ports[1].name", "a"), "spec.ports[1].name: Duplicate value: \"a\""),
            (FieldError::forbidden("spec", "no"), "spec: Forbidden: no"),
            (
                FieldError::invalid("spec.replicas", -1, "must be greater than or equal to 0"),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (FieldError::too_many("x", 4, 3), "x: Too many: 4: must have at most 3 items"),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }
}
