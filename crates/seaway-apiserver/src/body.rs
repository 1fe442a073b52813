//! Request bodies: read within limits, decoded, checked against the kind.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use seaway_apis::schema::FieldValidation;
use seaway_apis::{FieldError, Resource, StatusError, json, schema};
use serde_json::Value;

use crate::app::text;
use crate::negotiate::{media_type, yaml};
use crate::protobuf;
use crate::request::Query;

/// The largest body that is read, as kube-apiserver's.
const MAX_BODY_BYTES: usize = 3 << 20;
/// A client that sends slower than this is given up.
const READ_TIME: Duration = Duration::from_secs(30);

/// Reads a whole body.
pub(crate) async fn read(body: Incoming) -> Result<Bytes, StatusError> {
    let all = tokio::time::timeout(READ_TIME, Limited::new(body, MAX_BODY_BYTES).collect()).await;
    match all {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(StatusError::too_large(MAX_BODY_BYTES)),
        Ok(Err(error)) => Err(StatusError::bad_request(format!("the request body cannot be read: {error}"))),
        Err(_) => Err(StatusError::new(408, "Timeout", "the request body took too long to arrive")),
    }
}

/// A decoded body.
pub(crate) struct Decoded {
    pub(crate) value: Value,
    /// Fields that appear twice.
    pub(crate) duplicates: Vec<String>,
}

/// Decodes a JSON, YAML or protobuf body by its Content-Type.
pub(crate) fn decode(headers: &HeaderMap, body: &[u8]) -> Result<Decoded, StatusError> {
    match media_type(headers) {
        "application/json" | "text/json" => {
            let parsed = json::parse(body).map_err(|e| {
                StatusError::bad_request(format!(
                    "the object provided is unrecognized (must be of type JSON): {e}"
                ))
            })?;
            Ok(Decoded { value: parsed.value, duplicates: parsed.duplicates })
        }
        "application/yaml" | "text/yaml" | "application/x-yaml" => {
            let value =
                yaml(body).map_err(|e| StatusError::bad_request(format!("error parsing YAML: {e}")))?;
            Ok(Decoded { value, duplicates: Vec::new() })
        }
        "application/vnd.kubernetes.protobuf" => {
            let value = protobuf::decode(body).map_err(|e| {
                StatusError::bad_request(format!("the body cannot be decoded as protobuf: {e}"))
            })?;
            Ok(Decoded { value, duplicates: Vec::new() })
        }
        _ => Err(StatusError::unsupported_media_type(&[
            "application/json",
            "application/yaml",
            "application/vnd.kubernetes.protobuf",
        ])),
    }
}

/// Decodes a body that must be an object of a kind.
pub(crate) fn decode_kind(
    headers: &HeaderMap,
    body: &[u8],
    api_version: &str,
    kind: &str,
) -> Result<Decoded, StatusError> {
    let decoded = decode(headers, body)?;
    if !decoded.value.is_object() {
        return Err(StatusError::bad_request(format!("the request body is not a {kind} object")));
    }
    let (got_version, got_kind) = (text(&decoded.value, &["apiVersion"]), text(&decoded.value, &["kind"]));
    if !got_kind.is_empty() && got_kind != kind {
        return Err(StatusError::bad_request(format!(
            "{got_kind} in version {got_version:?} cannot be handled as a {kind}: converting {got_kind} to {kind}: unknown conversion"
        )));
    }
    if !got_version.is_empty() && got_version != api_version {
        return Err(StatusError::bad_request(format!(
            "the API version in the data ({got_version}) does not match the expected API version ({api_version})"
        )));
    }
    Ok(decoded)
}

/// Brings an object into the form of its type: wrong types are refused, unknown and repeated fields by the query's
/// `fieldValidation`. Returns warnings.
pub(crate) fn conform(
    resource: &Resource,
    object: &mut Value,
    duplicates: &[String],
    query: &Query,
) -> Result<Vec<String>, StatusError> {
    let given = query.get("fieldValidation").unwrap_or_default();
    let mode = FieldValidation::parse(given).ok_or_else(|| {
        let error = FieldError::not_supported("fieldValidation", given, &["Ignore", "Strict", "Warn"]);
        StatusError::invalid_kind("meta.k8s.io", "UpdateOptions", "", &[error])
    })?;
    schema::conform(resource, object).judge(resource, duplicates, mode)
}
