//! What kube-proxy's addresses answer: health, and what it is and does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use serde::Serialize;

use crate::services;
use crate::status::Shared;

/// What a client names that reads OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text";

/// What `/healthz` and `/livez` answer (kube-proxy 1.36, pkg/proxy/healthcheck).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Health {
    last_updated: Timestamp,
    current_time: Timestamp,
    /// In `/healthz` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    /// The proxy is, whatever the node's state.
    pub(crate) healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyHealth>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyHealth {
    last_updated: Timestamp,
    healthy: bool,
}

/// The state that health follows from.
struct Facts {
    now: Timestamp,
    /// When the kernel was last brought into step.
    synced: Option<Timestamp>,
    /// How long the oldest change that is not in the kernel has waited.
    waiting: Option<Duration>,
    /// How long one may.
    limit: Duration,
    families: &'static [&'static str],
}

/// A proxy that starts is healthy until a change has waited for too long. The families are programmed together, so they
/// fare alike.
fn judge(facts: &Facts) -> Health {
    let healthy = facts.waiting.is_none_or(|waiting| waiting < facts.limit);
    let mut status = BTreeMap::new();
    if let Some(last_updated) = facts.synced {
        status.extend(facts.families.iter().map(|family| (*family, FamilyHealth { last_updated, healthy })));
    }
    Health {
        last_updated: facts.synced.unwrap_or(Timestamp::UNIX_EPOCH),
        current_time: facts.now,
        node_eligible: None,
        healthy,
        status,
    }
}

/// How the proxy is.
pub(crate) fn health(shared: &Shared) -> Health {
    let (synced, waiting) = shared
        .with_part(services::PART, |part| (part.last_sync, part.pending_since.map(|since| since.elapsed())));
    judge(&Facts {
        now: Timestamp::now(),
        synced,
        waiting,
        limit: shared.face.health_limit,
        families: shared.families(),
    })
}

/// A good answer was updated just now, as older kube-proxies said it, whose every round counted.
fn answer(mut health: Health, good: bool) -> Response {
    if good {
        health.last_updated = health.current_time;
    }
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, [("X-Content-Type-Options", "nosniff")], axum::Json(health)).into_response()
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let health = health(&shared);
    let eligible = shared.node_eligible();
    let good = health.healthy && eligible;
    let answer = answer(Health { node_eligible: Some(eligible), ..health }, good);
    shared.metrics.healthz(answer.status().as_u16());
    answer
}

async fn livez(State(shared): State<Arc<Shared>>) -> Response {
    let health = health(&shared);
    let good = health.healthy;
    let answer = answer(health, good);
    shared.metrics.livez(answer.status().as_u16());
    answer
}

/// OpenMetrics for those who read it, else the older text format, as kube-proxy does.
async fn metrics(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let open = headers.get(header::ACCEPT).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let open = open.contains(OPEN_METRICS);
    let text = shared.metrics_text(open);
    let kind = if open {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn configz(State(shared): State<Arc<Shared>>) -> Response {
    axum::Json(serde_json::json!({ "kubeproxy.config.k8s.io": &shared.face.configuration })).into_response()
}

/// The router of the health address.
pub(crate) fn health_router(shared: Arc<Shared>) -> Router {
    Router::new().route("/healthz", get(healthz)).route("/livez", get(livez)).with_state(shared)
}

/// The router of the metrics address.
pub(crate) fn metrics_router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/livez", get(livez))
        .route("/configz", get(configz))
        // What is programmed, whatever was asked for.
        .route("/proxyMode", get(|| async { "nftables" }))
        .with_state(shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_a_question_of_how_long_changes_wait() {
        let now = Timestamp::from_second(1_000).unwrap();
        let facts = |synced, waiting: Option<u64>| Facts {
            now,
            synced,
            waiting: waiting.map(Duration::from_secs),
            limit: Duration::from_secs(60),
            families: &["IPv4", "IPv6"],
        };
        for (synced, waiting, healthy, families) in [
            (None, None, true, 0),
            (None, Some(59), true, 0),
            (None, Some(60), false, 0),
            (Timestamp::from_second(900).ok(), None, true, 2),
            (Timestamp::from_second(900).ok(), Some(61), false, 2),
        ] {
            let health = judge(&facts(synced, waiting));
            assert_eq!((health.healthy, health.status.len()), (healthy, families), "{synced:?} {waiting:?}");
        }
        let health = judge(&facts(Timestamp::from_second(900).ok(), None));
        assert_eq!(
            serde_json::to_value(&health).unwrap(),
            serde_json::json!({
                "lastUpdated": "1970-01-01T00:15:00Z",
                "currentTime": "1970-01-01T00:16:40Z",
                "healthy": true,
                "status": {
                    "IPv4": {"lastUpdated": "1970-01-01T00:15:00Z", "healthy": true},
                    "IPv6": {"lastUpdated": "1970-01-01T00:15:00Z", "healthy": true},
                },
            })
        );
    }
}
