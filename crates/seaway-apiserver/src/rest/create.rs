//! create.

use jiff::Timestamp;
use rand::RngExt as _;
use seaway_apis::strategy::{self, Creation};
use seaway_apis::{StatusError, admission, defaults, validate};
use serde_json::Value;

use super::{Request, check_namespace};
use crate::app::text;
use crate::body::{conform, decode_kind};
use crate::reply::{Reply, warn};
use crate::store::{Decision, Outcome, View, key};

/// How often another name is tried for `generateName`.
const NAME_ATTEMPTS: usize = 8;
/// The API's letters for generated names: no vowels, so no words; nothing that looks like another.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Five random letters.
pub(crate) fn suffix() -> String {
    let mut random = rand::rng();
    (0..5).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}

/// `POST` to a collection.
pub(super) async fn create(request: &Request, body: &[u8]) -> Result<Reply, StatusError> {
    let resource = request.resource();
    let mut decoded = decode_kind(&request.headers, body, &resource.api_version(), &resource.kind)?;
    let warnings = conform(resource, &mut decoded.value, &decoded.duplicates, &request.query)?;
    let generated = text(&decoded.value, &["metadata", "name"]).is_empty();
    let mut attempt = 1;
    let outcome = loop {
        match create_object(request, decoded.value.clone()).await {
            Err(error) if error.code == 409 && generated && attempt < NAME_ATTEMPTS => attempt += 1,
            result => break result?,
        }
    };
    let mut response = request.written(201, outcome);
    warn(&mut response, &warnings);
    Ok(response)
}

async fn create_object(request: &Request, mut object: Value) -> Result<Outcome, StatusError> {
    let resource = request.resource();
    let dry_run = request.dry_run()?;
    let (uid, suffix) = (uuid::Uuid::new_v4().to_string(), suffix());
    let creation =
        Creation { now: Timestamp::now(), uid: &uid, suffix: &suffix, namespace: &request.target.namespace };
    defaults::set_defaults(resource, &mut object);
    strategy::prepare_create(resource, &mut object, &creation)?;
    let name = text(&object, &["metadata", "name"]).to_owned();
    let at = key(&request.target.namespace, &name);
    request
        .app
        .store
        .write(&request.target.kind(), &at, |current, view| {
            check_namespace(request, &name, view)?;
            if resource.is("", "Pod") {
                admit_pod(request, &mut object, &name, &suffix, view)?;
            }
            let mut errors = validate::create(resource, &object);
            if !errors.is_empty() {
                return Err(StatusError::invalid(resource, &name, &errors));
            }
            if current.is_some() {
                return Err(StatusError::already_exists(resource, &name));
            }
            let mut allocator = request.app.allocator.lock();
            if resource.is("", "Service") {
                errors = allocator.assign(&at, None, &mut object);
                if !errors.is_empty() {
                    return Err(StatusError::invalid(resource, &name, &errors));
                }
            }
            if dry_run {
                return Ok(Decision::Answer(object));
            }
            if resource.is("", "Service") {
                allocator.replace(&at, None, Some(&object));
            }
            Ok(Decision::Put(strategy::to_storage(resource, object)))
        })
        .await
}

/// Admission plugin ServiceAccount. A namespace's `default` account may come a moment later than its first pods.
fn admit_pod(
    request: &Request,
    pod: &mut Value,
    name: &str,
    suffix: &str,
    view: &View<'_>,
) -> Result<(), StatusError> {
    let account = match text(pod, &["spec", "serviceAccountName"]) {
        "" => "default",
        account => account,
    };
    let found = view.get("/serviceaccounts", &key(&request.target.namespace, account));
    if found.is_none() && account != "default" {
        let why = format!(
            "error looking up service account {}/{account}: serviceaccount \"{account}\" not found",
            request.target.namespace
        );
        return Err(StatusError::forbidden(request.resource(), name, &why));
    }
    let found = found.map(|object| object.value());
    admission::service_account(pod, found.as_ref(), suffix);
    Ok(())
}
