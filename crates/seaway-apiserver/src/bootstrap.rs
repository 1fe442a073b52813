//! What is there from the first start on: the system namespaces, and the service by which pods reach this server.

use std::sync::Arc;

use jiff::Timestamp;
use seaway_apis::strategy::families::family_of;
use seaway_apis::strategy::{self, Creation};
use seaway_apis::{StatusError, defaults};
use serde_json::{Value, json};

use crate::app::App;
use crate::request::storage_kind;
use crate::store::{Decision, key};

/// The namespaces that every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes what is missing, and puts right what differs.
pub(crate) async fn ensure(app: &App) -> Result<(), StatusError> {
    let mut wanted: Vec<(&str, &str, Value)> = NAMESPACES
        .iter()
        .map(|name| {
            (
                "",
                "namespaces",
                json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}),
            )
        })
        .collect();
    wanted.push(("", "services", service(app)));
    wanted.push(("", "endpoints", endpoints(app)));
    wanted.push(("discovery.k8s.io", "endpointslices", endpoint_slice(app)));
    wanted.push(("networking.k8s.io", "servicecidrs", service_cidr(app)));
    let writes = wanted.into_iter().map(|(group, plural, object)| put(app, group, plural, object));
    futures::future::try_join_all(writes).await.map(drop)
}

/// Keeps them so: looks again whenever services, endpoints or endpoint slices change.
pub(crate) async fn keep(app: Arc<App>) {
    let mut stopping = app.stopping.clone();
    let mut services = app.store.follow("/services");
    let mut endpoints = app.store.follow("/endpoints");
    let mut slices = app.store.follow("discovery.k8s.io/endpointslices");
    while !*stopping.borrow() {
        if let Err(error) = ensure(&app).await {
            tracing::warn!(%error, "cannot keep the service default/kubernetes");
        }
        let changed = tokio::select! {
            changed = services.changed() => changed,
            changed = endpoints.changed() => changed,
            changed = slices.changed() => changed,
            _ = stopping.changed() => return,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Creates an object, or sets of an existing one what is wanted here.
async fn put(app: &App, group: &str, plural: &str, mut wanted: Value) -> Result<(), StatusError> {
    let resource = app
        .registry
        .lookup(group, "v1", plural)
        .ok_or_else(|| StatusError::internal(format!("the resource {plural} is not known")))?;
    let namespace = if resource.namespaced { "default" } else { "" };
    let at = key(namespace, wanted["metadata"]["name"].as_str().unwrap_or_default());
    let kind = storage_kind(resource);
    if app.store.get(&kind, &at).is_some_and(|current| has(&current.value(), &wanted)) {
        return Ok(());
    }
    let uid = uuid::Uuid::new_v4().to_string();
    let creation = Creation { now: Timestamp::now(), uid: &uid, suffix: "", namespace };
    app.store
        .write(&kind, &at, |current, _| {
            let mut allocator = app.allocator.lock();
            let old = current.map(|current| current.value());
            let mut object = match &old {
                Some(old) if has(old, &wanted) => return Ok(Decision::Answer(Value::Null)),
                Some(old) => {
                    let mut object = old.clone();
                    seaway_apis::patch::merge(&object, &wanted).clone_into(&mut object);
                    object
                }
                None => {
                    defaults::set_defaults(resource, &mut wanted);
                    strategy::prepare_create(resource, &mut wanted, &creation)?;
                    wanted
                }
            };
            if plural == "services" {
                let errors = allocator.assign(&at, None, &mut object);
                if !errors.is_empty() {
                    return Err(StatusError::invalid(resource, "kubernetes", &errors));
                }
                allocator.replace(&at, old.as_ref(), Some(&object));
            }
            Ok(Decision::Put(object))
        })
        .await
        .map(drop)
}

/// Whether an object has all that another one has.
fn has(object: &Value, wanted: &Value) -> bool {
    match (object, wanted) {
        (Value::Object(object), Value::Object(wanted)) => {
            wanted.iter().all(|(name, value)| object.get(name).is_some_and(|own| has(own, value)))
        }
        (Value::Array(list), Value::Array(wanted)) => {
            list.len() == wanted.len() && list.iter().zip(wanted).all(|(own, value)| has(own, value))
        }
        (own, wanted) => own == wanted,
    }
}

fn service(app: &App) -> Value {
    let family = family_of(app.advertised.ip());
    let ips = app.allocator.lock().first_addresses();
    // Of the family in which the server is reached; the first one where it has no address of that.
    let ip = ips.iter().find(|ip| family_of(**ip) == family).or(ips.first());
    json!({
        "metadata": {
            "name": "kubernetes",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ipFamilies": [ip.copied().map(family_of)],
            "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": app.advertised.port()}],
        },
    })
}

/// What the addresses of services are taken from, for those who want to know (KEP-1880).
fn service_cidr(app: &App) -> Value {
    json!({
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": app.allocator.lock().cidrs()},
        "status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "",
            "message": "Kubernetes default Service CIDR is ready", "lastTransitionTime": app.started,
        }]},
    })
}

fn endpoints(app: &App) -> Value {
    json!({
        "metadata": {
            "name": "kubernetes",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": app.advertised.ip()}],
            "ports": [{"name": "https", "port": app.advertised.port(), "protocol": "TCP"}],
        }],
    })
}

fn endpoint_slice(app: &App) -> Value {
    json!({
        "metadata": {
            "name": "kubernetes",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family_of(app.advertised.ip()),
        "endpoints": [{"addresses": [app.advertised.ip()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": app.advertised.port(), "protocol": "TCP"}],
    })
}
