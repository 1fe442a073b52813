//! `serviceaccounts/NAME/token`: TokenRequest.

use jiff::Timestamp;
use seaway_apis::{FieldError, StatusError, strategy};
use serde_json::{Value, json};

use super::Request;
use crate::app::text;
use crate::body::decode_kind;
use crate::reply::{Reply, value};
use crate::store::key;
use crate::token::{Grant, ISSUER};

/// The life of a token for which none is asked.
const DEFAULT_SECONDS: i64 = 3600;
/// No token lives shorter.
const MIN_SECONDS: i64 = 600;
/// No token lives longer: a year.
const MAX_SECONDS: i64 = 31_536_000;

pub(super) fn request(request: &Request, body: &[u8]) -> Result<Reply, StatusError> {
    let mut answer = decode_kind(&request.headers, body, "authentication.k8s.io/v1", "TokenRequest")?.value;
    let account = request.object()?;
    let seconds =
        answer.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(DEFAULT_SECONDS);
    if seconds < MIN_SECONDS {
        let error = FieldError::invalid(
            "spec.expirationSeconds",
            seconds,
            "may not specify a duration less than 10 minutes",
        );
        return Err(StatusError::invalid_kind("authentication.k8s.io", "TokenRequest", "", &[error]));
    }
    let seconds = seconds.min(MAX_SECONDS);
    let mut audiences: Vec<String> = answer
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .map_or_else(Vec::new, |list| list.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect());
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let bound = bound_pod(request, answer.pointer("/spec/boundObjectRef").unwrap_or(&Value::Null))?;
    let now = Timestamp::now();
    let expires = now.as_second().saturating_add(seconds);
    let grant = Grant {
        namespace: &request.target.namespace,
        account: &request.target.name,
        account_uid: &account.uid,
        pod: bound.as_ref().map(|(name, uid, _)| (name.as_str(), uid.as_str())),
        node: bound
            .as_ref()
            .and_then(|(.., node)| node.as_ref())
            .map(|(name, uid)| (name.as_str(), uid.as_str())),
        audiences: &audiences,
        issued: now.as_second(),
        expires,
    };
    let token =
        request.app.tokens.sign(&grant).map_err(|e| StatusError::internal(format!("cannot sign: {e}")))?;
    let until = Timestamp::from_second(expires).unwrap_or(now);
    if let Some(answer) = answer.as_object_mut() {
        let mut spec =
            answer.get("spec").filter(|spec| spec.is_object()).cloned().unwrap_or_else(|| json!({}));
        spec["audiences"] = json!(audiences);
        spec["expirationSeconds"] = seconds.into();
        answer.insert("kind".to_owned(), "TokenRequest".into());
        answer.insert("apiVersion".to_owned(), "authentication.k8s.io/v1".into());
        answer.insert(
            "metadata".to_owned(),
            json!({
                "name": request.target.name,
                "namespace": request.target.namespace,
                "creationTimestamp": strategy::api_time(now),
            }),
        );
        answer.insert("spec".to_owned(), spec);
        answer.insert(
            "status".to_owned(),
            json!({"token": token, "expirationTimestamp": strategy::api_time(until)}),
        );
    }
    Ok(value(201, &answer, request.shape.plain()))
}

/// Name, uid, and node (name, uid) of the pod to which a token is bound.
type Bound = (String, String, Option<(String, String)>);

fn bound_pod(request: &Request, reference: &Value) -> Result<Option<Bound>, StatusError> {
    if reference.is_null() {
        return Ok(None);
    }
    if text(reference, &["kind"]) != "Pod" {
        return Err(StatusError::bad_request("cannot bind token for this object: only Pods are supported"));
    }
    let name = text(reference, &["name"]);
    let pod = request.app.core_object("pods", &request.target.namespace, name)?;
    let uid = text(reference, &["uid"]);
    if !uid.is_empty() && uid != pod.uid {
        let why = format!("the UID in the bound object reference ({uid}) does not match the UID in record");
        return Err(StatusError::conflict(request.resource(), &request.target.name, &why));
    }
    let value = pod.value();
    let account = text(&value, &["spec", "serviceAccountName"]);
    if account != request.target.name {
        let why = format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            request.target.name
        );
        return Err(StatusError::bad_request(why));
    }
    let node_name = text(&value, &["spec", "nodeName"]);
    let node = request
        .app
        .store
        .get("/nodes", &key("", node_name))
        .map(|node| (node_name.to_owned(), node.uid.clone()));
    Ok(Some((name.to_owned(), pod.uid.clone(), node)))
}
