//! Kinds that are answered and forgotten: who am I, may I, whose token is this.

use seaway_apis::StatusError;
use serde_json::{Value, json};

use super::Request;
use crate::auth::token_user;
use crate::body::decode_kind;
use crate::reply::{Reply, value};
use crate::token::ISSUER;

pub(super) fn review(request: &Request, body: &[u8]) -> Result<Reply, StatusError> {
    let resource = request.resource();
    let (api_version, kind) = (resource.api_version(), &*resource.kind);
    let review = decode_kind(&request.headers, body, &api_version, kind)?.value;
    let status = match kind {
        "SelfSubjectReview" => json!({"userInfo": request.user.info()}),
        "SelfSubjectAccessReview" | "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            json!({"allowed": true, "reason": "every authenticated identity may do everything in this cluster"})
        }
        "SelfSubjectRulesReview" => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }),
        "TokenReview" => token_review(request, &review),
        _ => return Err(StatusError::method_not_allowed()),
    };
    let answer = json!({
        "kind": kind,
        "apiVersion": api_version,
        "metadata": {"creationTimestamp": null},
        "spec": review.get("spec").cloned().unwrap_or_else(|| json!({})),
        "status": status,
    });
    Ok(value(201, &answer, request.shape.plain()))
}

fn token_review(request: &Request, review: &Value) -> Value {
    let token = review.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
    let mut audiences: Vec<String> = review
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .map_or_else(Vec::new, |list| list.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect());
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    match token_user(token, &audiences, &request.app.tokens, &request.app.store) {
        Ok((user, claims)) => {
            json!({"authenticated": true, "user": user.info(), "audiences": claims.audiences})
        }
        Err(error) => json!({"authenticated": false, "error": error.to_string()}),
    }
}
