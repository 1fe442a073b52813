//! Label and field selectors.

mod fields;
mod labels;

pub use fields::{FieldSelector, FieldValues, field_value};
pub use labels::{LabelSelector, Operator, Requirement};

/// Why a selector is refused (HTTP 400).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);
