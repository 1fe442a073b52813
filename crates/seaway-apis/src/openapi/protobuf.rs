//! The protobuf form of the v2 document (gnostic's `openapiv2/OpenAPIv2.proto`), in which Go clients ask for it.
//!
//! kubectl looks there for one thing: whether it knows the kinds of a `List` that it is to apply. So it has the
//! definitions of kinds with their group, version and kind, and leaves what is in them to the server's own validation.

use serde_json::Value;

/// The media type of the answer.
pub const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The media type that clients ask for; `@` cannot be in one (RFC 9110, section 5.6.2), so it is not answered so.
pub const ASKED_MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

const KIND: &str = "x-kubernetes-group-version-kind";

/// Writes a v2 document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let mut definitions = Vec::new();
    for (name, definition) in document.get("definitions").and_then(Value::as_object).into_iter().flatten() {
        if let Some(kinds) = definition.get(KIND) {
            // Any.yaml = 2; NamedAny: name = 1, value = 2; Schema.vendor_extension = 31; NamedSchema: name = 1, value = 2.
            let any = field(2, kinds.to_string().as_bytes());
            let extension = [field(1, KIND.as_bytes()), field(2, &any)].concat();
            let schema = field(31, &extension);
            let named = [field(1, name.as_bytes()), field(2, &schema)].concat();
            definitions.extend(field(1, &named));
        }
    }
    let info =
        [field(1, text("/info/title").as_bytes()), field(2, text("/info/version").as_bytes())].concat();
    // Document: swagger = 1, info = 2, definitions = 9.
    [field(1, text("/swagger").as_bytes()), field(2, &info), field(9, &definitions)].concat()
}

/// A field whose value has a length (wire type 2).
fn field(number: u64, value: &[u8]) -> Vec<u8> {
    let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
    [varint((number << 3) | 2), varint(length), value.to_vec()].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn definitions_of_kinds_are_there() {
        let document = json!({"swagger": "2.0", "info": {"title": "t", "version": "v"}, "definitions": {
            "a": {KIND: []},
            "b": {"type": "object"},
        }});
        let schema = [&[0xfa, 1, 37, 10, 31][..], KIND.as_bytes(), &[18, 4, 18, 2], b"[]"].concat();
        let named = [&[10, 1, b'a', 18, 40][..], &schema].concat();
        let expected = [b"\x0a\x032.0\x12\x06\x0a\x01t\x12\x01v", &[0x4a, 47, 10, 45][..], &named].concat();
        assert_eq!(encode(&document), expected);
    }

    #[test]
    fn numbers_have_seven_bits_a_byte() {
        for (number, bytes) in [(0, vec![0]), (127, vec![127]), (300, vec![0xac, 2])] {
            assert_eq!(varint(number), bytes);
        }
    }
}
