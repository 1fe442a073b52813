//! The protobuf form of the v2 document (gnostic's `openapiv2/OpenAPIv2.proto`), in which Go clients ask for it.
//!
//! kubectl looks there for two things: whether it knows the kinds of a `List` that it is to apply, and, before 1.30, whether
//! a kind's PATCH takes `fieldValidation` and `dryRun`. So it has the definitions of kinds with their group, version and
//! kind, and of the paths the PATCH; it leaves what is in the kinds to the server's own validation.

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
            // Schema.vendor_extension = 31; NamedSchema: name = 1, value = 2.
            let schema = field(31, &kind_extension(kinds));
            let named = [field(1, name.as_bytes()), field(2, &schema)].concat();
            definitions.extend(field(1, &named));
        }
    }
    let info =
        [field(1, text("/info/title").as_bytes()), field(2, text("/info/version").as_bytes())].concat();
    // Document: swagger = 1, info = 2, paths = 8, definitions = 9.
    let swagger = field(1, text("/swagger").as_bytes());
    [swagger, field(2, &info), field(8, &patches(document)), field(9, &definitions)].concat()
}

/// The paths that can be patched.
fn patches(document: &Value) -> Vec<u8> {
    let mut paths = Vec::new();
    for (path, item) in document.get("paths").and_then(Value::as_object).into_iter().flatten() {
        if let Some(patch) = item.get("patch") {
            // PathItem.patch = 8; NamedPathItem: name = 1, value = 2; Paths.path = 2.
            let item = field(8, &operation(patch));
            paths.extend(field(2, &[field(1, path.as_bytes()), field(2, &item)].concat()));
        }
    }
    paths
}

/// An operation's kind and query parameters.
fn operation(operation: &Value) -> Vec<u8> {
    let mut message = Vec::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        if parameter["in"] == "query" {
            // QueryParameterSubSchema: in = 2, name = 4; NonBodyParameter.query = 3; Parameter.non_body = 2;
            // ParametersItem.parameter = 1; Operation.parameters = 8.
            let name = parameter["name"].as_str().unwrap_or_default();
            let query = [field(2, b"query"), field(4, name.as_bytes())].concat();
            message.extend(field(8, &field(1, &field(2, &field(3, &query)))));
        }
    }
    // Operation.vendor_extension = 13.
    message.extend(field(13, &kind_extension(&operation[KIND])));
    message
}

/// A NamedAny that says a kind or kinds.
fn kind_extension(kinds: &Value) -> Vec<u8> {
    // Any.yaml = 2; NamedAny: name = 1, value = 2. JSON is YAML.
    let any = field(2, kinds.to_string().as_bytes());
    [field(1, KIND.as_bytes()), field(2, &any)].concat()
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
        let schema = [&[0xfa, 1, 39, 10, 31][..], KIND.as_bytes(), &[18, 4, 18, 2], b"[]"].concat();
        let named = [&[10, 1, b'a', 18, 42][..], &schema].concat();
        let expected =
            [b"\x0a\x032.0\x12\x06\x0a\x01t\x12\x01v\x42\x00", &[0x4a, 49, 10, 47][..], &named].concat();
        assert_eq!(encode(&document), expected);
    }

    #[test]
    fn patches_say_their_kind_and_parameters() {
        let document = json!({"paths": {
            "/p": {"get": {}, "patch": {KIND: {}, "parameters": [{"in": "body", "name": "b"}, {"in": "query", "name": "dryRun"}]}},
            "/none": {"get": {}},
        }});
        let parameter = b"\x42\x15\x0a\x13\x12\x11\x1a\x0f\x12\x05query\x22\x06dryRun";
        let extension = [&[0x6a, 39, 10, 31][..], KIND.as_bytes(), &[18, 4, 18, 2], b"{}"].concat();
        let operation = [&parameter[..], &extension].concat();
        let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
        let item = [&[0x42, length(&operation)][..], &operation].concat();
        let named = [&[10, 2, b'/', b'p', 18, length(&item)][..], &item].concat();
        assert_eq!(patches(&document), [&[18, length(&named)][..], &named].concat());
    }

    #[test]
    fn numbers_have_seven_bits_a_byte() {
        for (number, bytes) in [(0, vec![0]), (127, vec![127]), (300, vec![0xac, 2])] {
            assert_eq!(varint(number), bytes);
        }
    }
}
