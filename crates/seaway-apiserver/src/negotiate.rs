//! The form of an answer, by the Accept header (RFC 9110 section 12.5.1), and of a body, by its Content-Type.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};
use seaway_apis::StatusError;
use serde_json::Value;

/// How an object or a list is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Plain,
    /// `meta.k8s.io` Table of a version (`v1`, `v1beta1`).
    Table(&'static str),
    /// `PartialObjectMetadata` of an object, or of each in a list or watch.
    Partial(&'static str),
    /// `APIGroupDiscoveryList` of a version (`v2`, `v2beta1`).
    Discovery(&'static str),
}

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

/// What the caller takes first among what can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) form: Form,
    pub(crate) encoding: Encoding,
}

/// The media types that can be made, for error messages.
const MADE: &[&str] = &["application/json", "application/yaml"];

impl Accepted {
    pub(crate) const JSON: Accepted = Accepted { form: Form::Plain, encoding: Encoding::Json };

    /// Chooses by the Accept header: the first clause of the highest quality that can be made.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Accepted, StatusError> {
        let text = match headers.get(ACCEPT) {
            Some(value) => value.to_str().unwrap_or("*/*"),
            None => return Ok(Self::JSON),
        };
        let mut best: Option<(u32, Accepted)> = None;
        for clause in text.split(',') {
            if let Some((quality, accepted)) = clause_of(clause)
                && quality > 0
                && best.is_none_or(|(highest, _)| quality > highest)
            {
                best = Some((quality, accepted));
            }
        }
        match best {
            Some((_, accepted)) => Ok(accepted),
            None if text.trim().is_empty() => Ok(Self::JSON),
            None => Err(StatusError::not_acceptable(MADE)),
        }
    }

    /// The answer's Content-Type.
    pub(crate) fn content_type(self) -> &'static str {
        match (self.encoding, self.form) {
            (Encoding::Yaml, _) => "application/yaml",
            (_, Form::Discovery("v2")) => seaway_apis::discovery::AGGREGATED_V2,
            (_, Form::Discovery(_)) => seaway_apis::discovery::AGGREGATED_V2BETA1,
            (Encoding::Json, _) => "application/json",
        }
    }
}

/// A clause's quality in thousandths, and what it asks for, if that can be made.
fn clause_of(clause: &str) -> Option<(u32, Accepted)> {
    let mut parts = clause.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "application/json" | "*/*" | "application/*" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        _ => return None,
    };
    let (mut kind, mut version, mut group, mut quality) = ("", "", "", 1000);
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => kind = value,
            Some(("v", value)) => version = value,
            Some(("g", value)) => group = value,
            Some(("q", value)) => quality = (value.parse::<f32>().ok()?.clamp(0.0, 1.0) * 1000.0) as u32,
            _ => {}
        }
    }
    let version = match version {
        "v1" => "v1",
        "v1beta1" => "v1beta1",
        "v2" => "v2",
        "v2beta1" => "v2beta1",
        _ => "",
    };
    let form = match (kind, group, version) {
        ("", ..) => Form::Plain,
        ("Table", "meta.k8s.io", "v1" | "v1beta1") => Form::Table(version),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1" | "v1beta1") => {
            Form::Partial(version)
        }
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2" | "v2beta1") => Form::Discovery(version),
        _ => return None,
    };
    Some((quality, Accepted { form, encoding }))
}

/// The media type of a body, without parameters; JSON when there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text.split(';').next().map(str::trim) {
        None | Some("") => "application/json",
        Some(media_type) => media_type,
    }
}

/// YAML to a JSON value; the anchors, depth and size that it may use are limited.
pub(crate) fn yaml(text: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(text).map_err(|e| e.to_string())?;
    serde_saphyr::from_str(text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept() {
        let table = Form::Table("v1");
        let cases = [
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some(table),
            ),
            ("application/json, */*", Some(Form::Plain)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Form::Plain)),
            ("application/vnd.kubernetes.protobuf", None),
            ("application/json;as=Unknown;v=v1;g=meta.k8s.io", None),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
                Some(Form::Partial("v1")),
            ),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
                Some(Form::Discovery("v2")),
            ),
            ("text/html;q=0.9,*/*;q=0.1", Some(Form::Plain)),
            ("application/json;q=0.1,application/json;as=Table;v=v1;g=meta.k8s.io", Some(table)),
            ("application/json;q=zzz", None),
            ("", Some(Form::Plain)),
        ];
        for (text, form) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, text.parse().unwrap());
            assert_eq!(Accepted::of(&headers).ok().map(|a| a.form), form, "{text}");
        }
        assert_eq!(Accepted::of(&HeaderMap::new()), Ok(Accepted::JSON));
    }

    #[test]
    fn yaml_bodies() {
        let value = yaml(b"kind: Pod\nspec:\n  containers:\n  - name: a\n    ports: [{containerPort: 80}]\n")
            .unwrap();
        assert_eq!(value["spec"]["containers"][0]["ports"][0]["containerPort"], 80);
        assert!(yaml(b"a: [").is_err());
    }
}
