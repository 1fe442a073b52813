//! What is not a resource: discovery, OpenAPI, version, health, metrics.

use std::sync::Arc;

use http::Method;
use http::header::ETAG;
use hyper::body::Incoming;
use seaway_apis::{StatusError, discovery, openapi};
use serde_json::{Value, json};

use crate::app::App;
use crate::negotiate::{Accepted, Form};
use crate::reply::{Reply, full, reply, text, value};
use crate::request::Query;
use crate::token::ISSUER;

/// The version of the API that is served.
pub(crate) const VERSION: &str = "v1.36.0";
/// The checks that `?verbose` lists.
const CHECKS: [&str; 3] = ["ping", "store", "poststarthook/bootstrap"];

/// Answers by path, or 404.
pub(crate) fn answer(app: &Arc<App>, request: &http::Request<Incoming>) -> Result<Reply, StatusError> {
    let path = request.uri().path().trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        // Deeper than a group's version there are only resources, and this is none that is served.
        let known = parts.len() <= 3;
        return Err(if known { StatusError::method_not_allowed() } else { StatusError::no_such_path() });
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let found = match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => {
            return Ok(health(&parts, &query, app.store.failure().is_some()));
        }
        ["version"] => Some(version()),
        ["metrics"] => {
            let body = full(app.metrics.text());
            return Ok(reply(200, "application/openmetrics-text; version=1.0.0; charset=utf-8", body));
        }
        ["api" | "apis"] => return root(app, parts[0] == "api", request),
        ["api", version] => discovery::api_resource_list(app.registry, "", version),
        ["apis", group] => discovery::api_group(app.registry, group),
        ["apis", group, version] => discovery::api_resource_list(app.registry, group, version),
        ["openapi", ..] => {
            if parts.as_slice() == ["openapi", "v2"] && takes_protobuf(request) {
                return Ok(reply(200, openapi::V2_PROTOBUF, full(openapi::v2_protobuf(app.registry))));
            }
            Accepted::of(request.headers())?;
            return schema(app, &parts);
        }
        ["openid", "v1", "jwks"] => Some(app.tokens.key_set()),
        [".well-known", "openid-configuration"] => Some(openid(app)),
        [""] | [] => Some(paths(app)),
        _ => None,
    };
    let accepted = Accepted { form: Form::Plain, ..Accepted::of(request.headers())? };
    Ok(value(200, &found.ok_or_else(StatusError::no_such_path)?, accepted))
}

/// Whether anonymous callers may ask for a path.
pub(crate) fn is_public(path: &str) -> bool {
    let first = path.split('/').nth(1).unwrap_or_default();
    matches!(first, "healthz" | "livez" | "readyz" | "version")
}

fn root(app: &App, core: bool, request: &http::Request<Incoming>) -> Result<Reply, StatusError> {
    let accepted = Accepted::of(request.headers())?;
    let document = match (accepted.form, core) {
        (Form::Discovery(version), _) => discovery::aggregated(app.registry, core, version),
        (_, true) => discovery::api_versions(&app.advertised.to_string()),
        (_, false) => discovery::api_group_list(app.registry),
    };
    Ok(value(200, &document, accepted))
}

/// Go clients ask for the v2 document in protobuf alone.
fn takes_protobuf(request: &http::Request<Incoming>) -> bool {
    let accept = request.headers().get(http::header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| {
        accept.contains(openapi::V2_PROTOBUF) || accept.contains(openapi::ASKED_V2_PROTOBUF)
    })
}

fn schema(app: &App, parts: &[&str]) -> Result<Reply, StatusError> {
    let document = match parts {
        ["openapi", "v2"] => Some(openapi::v2_document(app.registry)),
        ["openapi", "v3"] => Some(openapi::v3_index(app.registry)),
        ["openapi", "v3", rest @ ..] => openapi::v3_document(app.registry, &rest.join("/")),
        _ => None,
    };
    let json = document.ok_or_else(StatusError::no_such_path)?.to_string();
    let digest = ring::digest::digest(&ring::digest::SHA256, json.as_bytes());
    let tag: String = digest.as_ref()[..16].iter().map(|byte| format!("{byte:02X}")).collect();
    let mut response = reply(200, "application/json", full(json));
    if let Ok(tag) = format!("\"{tag}\"").parse() {
        response.headers_mut().insert(ETAG, tag);
    }
    Ok(response)
}

fn version() -> Value {
    let [major, minor] = ["1", "36"];
    json!({
        "major": major,
        "minor": minor,
        "gitVersion": VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_architecture()),
    })
}

/// The machine by the name that Go has for it, as clients expect.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn health(parts: &[&str], query: &Query, store_failed: bool) -> Reply {
    let name = parts[0];
    let excluded: Vec<&str> =
        query.pairs().iter().filter(|(name, _)| name == "exclude").map(|(_, check)| check.as_str()).collect();
    let fails = |check: &str| check == "store" && store_failed && !excluded.contains(&check);
    let one = parts[1..].join("/");
    let asked: Vec<&str> = CHECKS.into_iter().filter(|check| one.is_empty() || one == *check).collect();
    if asked.is_empty() {
        return text(404, "404 page not found\n");
    }
    let failed = asked.iter().any(|check| fails(check));
    let verbose = one.is_empty() && query.flag("verbose") == Some(true);
    if !failed && !verbose {
        return text(200, "ok");
    }
    let lines: String = asked
        .iter()
        .map(|check| match (fails(check), excluded.contains(check)) {
            (true, _) => format!("[-]{check} failed: the server's log has the reason\n"),
            (false, true) => format!("[+]{check} excluded: ok\n"),
            (false, false) => format!("[+]{check} ok\n"),
        })
        .collect();
    let (code, verdict) = if failed { (500, "failed") } else { (200, "passed") };
    text(code, format!("{lines}{name} check {verdict}\n"))
}

fn openid(app: &App) -> Value {
    json!({
        "issuer": ISSUER,
        "jwks_uri": format!("https://{}/openid/v1/jwks", app.advertised),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

fn paths(app: &App) -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for (group, versions) in app.registry.groups() {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.extend(
        [
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ]
        .map(str::to_owned),
    );
    json!({"paths": paths})
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn health_tells_of_a_store_that_failed() {
        for (path, query, failed, code, expected) in [
            ("readyz", "", false, 200, "ok"),
            (
                "readyz",
                "verbose",
                false,
                200,
                "[+]ping ok\n[+]store ok\n[+]poststarthook/bootstrap ok\nreadyz check passed\n",
            ),
            ("livez/ping", "", true, 200, "ok"),
            ("healthz/poststarthook/bootstrap", "", true, 200, "ok"),
            (
                "healthz/store",
                "",
                true,
                500,
                "[-]store failed: the server's log has the reason\nhealthz check failed\n",
            ),
            ("readyz", "exclude=store", true, 200, "ok"),
            ("readyz/none", "", false, 404, "404 page not found\n"),
        ] {
            let parts: Vec<&str> = path.split('/').collect();
            let reply = health(&parts, &Query::parse(query), failed);
            assert_eq!(reply.status(), code, "{path}?{query}");
            assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), expected, "{path}?{query}");
        }
        assert_eq!(health(&["readyz"], &Query::default(), true).status(), 500);
    }
}
