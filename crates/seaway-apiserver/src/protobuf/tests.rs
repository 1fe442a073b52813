use super::*;
use proptest::prelude::*;
use serde_json::json;

/// A field of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
    out.extend_from_slice(bytes);
    out
}

/// A field with a small number.
fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

fn body(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
    let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), field(1, &type_meta), field(2, object), field(3, b""), field(4, b"")].concat()
}

#[test]
fn every_message_that_is_named_exists() {
    let special =
        ["resource.", "intstr.", "meta.v1.Time", "meta.v1.MicroTime", "meta.v1.Duration", "runtime."];
    for (name, message) in MESSAGES.iter() {
        for field in message.values() {
            let known = field.kind.len() == 1
                || MESSAGES.contains_key(field.kind)
                || special.iter().any(|prefix| field.kind.starts_with(prefix));
            assert!(known, "{name}: {} of {}", field.name, field.kind);
        }
    }
}

#[test]
fn every_stored_kind_has_its_message() {
    for resource in seaway_apis::resources().resources() {
        // These are in no release's v1 that the table was made of.
        if matches!(&*resource.kind, "IPAddress" | "ServiceCIDR") {
            continue;
        }
        let name = message_name(&resource.api_version(), &resource.kind);
        assert!(MESSAGES.contains_key(name.as_str()), "{name}");
    }
}

/// A field that the type's JSON does not have is one that belongs inline.
#[test]
fn every_field_is_one_of_json() {
    let document = seaway_apis::openapi::v2_document(seaway_apis::resources());
    let definitions = document["definitions"].as_object().unwrap();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (name, message) in MESSAGES.iter() {
        let prefix = if name.starts_with("meta.") { "io.k8s.apimachinery.pkg.apis" } else { "io.k8s.api" };
        let Some(properties) =
            definitions.get(&format!("{prefix}.{name}")).and_then(|d| d["properties"].as_object())
        else {
            continue;
        };
        seen += 1;
        for field in
            message.values().filter(|field| field.name != "~" && !properties.contains_key(field.name))
        {
            wrong.push(format!("{name}.{}", field.name));
        }
    }
    assert!(seen > 150, "{seen} schemas");
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn decodes_what_json_would_say() {
    let label = [field(1, b"app"), field(2, b"web")].concat();
    let metadata = [field(1, b"web"), field(2, b""), field(8, b""), field(11, &label)].concat();
    let spec = [number(1, 0), number(5, 0), number(7, 0), number(6, 3)].concat();
    let object = [field(1, &metadata), field(2, &spec), field(3, b"")].concat();
    let wanted = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": 0, "revisionHistoryLimit": 3},
        "status": {},
    });
    assert_eq!(decode(&body("apps/v1", "Deployment", &object)), Ok(wanted));
}

#[test]
fn special_messages_have_their_json_form() {
    let target = [number(1, 1), number(2, 0), field(3, b"http")].concat();
    let port = [number(3, 80), field(4, &target), number(5, 0)].concat();
    let service = field(2, &field(1, &port));
    let got = decode(&body("v1", "Service", &service)).unwrap();
    assert_eq!(got["spec"]["ports"], json!([{"port": 80, "targetPort": "http"}]));

    let entry = [field(1, b"k"), field(2, b"\xff\x00")].concat();
    let got = decode(&body("v1", "Secret", &field(2, &entry))).unwrap();
    assert_eq!(got["data"], json!({"k": "/wA="}));

    assert_eq!(message_value("meta.v1.Time", &number(1, 5), 0), Ok("1970-01-01T00:00:05Z".into()));
    let time = [number(1, 5), vec![2 << 3, 0x80, 0x89, 0x7a]].concat();
    assert_eq!(message_value("meta.v1.MicroTime", &time, 0), Ok("1970-01-01T00:00:05.002000Z".into()));
    let volume = [field(1, b"v"), field(2, &field(2, b""))].concat();
    let got = message_value("core.v1.Volume", &volume, 0).unwrap();
    assert_eq!(got, json!({"name": "v", "emptyDir": {}}));
}

#[test]
fn refuses_what_it_does_not_know() {
    let cases = [
        (b"{}".to_vec(), ProtobufError::Magic),
        (b"k8s\0\x0a\x05ab".to_vec(), ProtobufError::Truncated),
        (b"k8s\0\x0b".to_vec(), ProtobufError::WireType(1)),
        (
            body("v1", "Nothing", b""),
            ProtobufError::Unknown { api_version: "v1".into(), kind: "Nothing".into() },
        ),
    ];
    for (body, error) in cases {
        assert_eq!(decode(&body), Err(error));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&body("v1", "Pod", &bytes[..bytes.len().min(100)]));
        let _ = decode(&[MAGIC, &bytes].concat());
    }
}
