//! Answers: objects, lists, Status errors.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use seaway_apis::StatusError;
use serde_json::Value;

use crate::negotiate::{Accepted, Encoding};

/// Characters of one warning, and of all of an answer.
const MAX_WARNING: usize = 256;
const MAX_WARNINGS: usize = 4096;

/// Any error that ends a streamed body.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;
/// Every answer.
pub(crate) type Reply = Response<Body>;

/// A body that is all there.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer of a content type.
pub(crate) fn reply(code: u16, content_type: &'static str, body: Body) -> Reply {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Plain text.
pub(crate) fn text(code: u16, text: impl Into<Bytes>) -> Reply {
    reply(code, "text/plain; charset=utf-8", full(text))
}

/// JSON that is serialized already.
pub(crate) fn json_bytes(code: u16, json: impl Into<Bytes>) -> Reply {
    reply(code, "application/json", full(json))
}

/// A value in the accepted encoding.
pub(crate) fn value(code: u16, value: &Value, accepted: Accepted) -> Reply {
    if accepted.encoding == Encoding::Yaml
        && let Ok(yaml) = serde_saphyr::to_string(value)
    {
        return reply(code, accepted.content_type(), full(yaml));
    }
    reply(code, accepted.content_type(), full(value.to_string()))
}

/// A Status error.
pub(crate) fn error(error: &StatusError) -> Reply {
    let mut response = json_bytes(error.code, error.to_value().to_string());
    if let Some(seconds) = error.details["retryAfterSeconds"].as_u64() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds Warning headers (RFC 7234 section 5.5, code 299), as the API gives them to people. Clients take heads of some size only:
/// long warnings are cut, and of many the last are left out, as by kube-apiserver.
pub(crate) fn warn(response: &mut Reply, warnings: &[String]) {
    let mut room = MAX_WARNINGS;
    for text in warnings {
        let length = text.chars().count().min(MAX_WARNING);
        if length > room {
            return;
        }
        room -= length;
        let quoted: String = text
            .chars()
            .take(MAX_WARNING)
            .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
            .flat_map(|c| if c == '"' || c == '\\' { vec!['\\', c] } else { vec![c] })
            .collect();
        if let Ok(header) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, header);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_have_limits() {
        for (warnings, count, longest) in [
            (vec!["unknown field \"spec.x\"".to_owned()], 1, 32),
            (vec!["x".repeat(10_000)], 1, 264),
            (vec!["x".repeat(200); 1_000], 20, 208),
            (vec![], 0, 0),
        ] {
            let mut response = text(200, "");
            warn(&mut response, &warnings);
            let headers: Vec<_> = response.headers().get_all(WARNING).into_iter().collect();
            assert_eq!(headers.len(), count);
            assert_eq!(headers.iter().map(|header| header.len()).max().unwrap_or(0), longest);
        }
    }
}
