//! The agent's local endpoint, `agent.sock`: for this machine's root alone.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use seaway_observe::Observer;
use serde::Serialize;

use crate::differences::compare;
use crate::status::Shared;

/// The socket's name in the run directory.
pub(crate) const NAME: &str = "agent.sock";

/// What it serves: the agent's own, and what an observer does.
pub(crate) fn router(shared: Arc<Shared>, observer: Observer) -> Router {
    let own = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/plan", get(plan))
        .route("/v1/differences", get(differences))
        .with_state(shared);
    own.merge(seaway_observe::router(observer))
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    axum::Json(shared.status()).into_response()
}

async fn plan(State(shared): State<Arc<Shared>>) -> Response {
    told(move || shared.applied_plan_with_pods()).await
}

async fn differences(State(shared): State<Arc<Shared>>) -> Response {
    told(move || compare(&shared)).await
}

/// Answers with what `work`, which may block, finds out of the plan in force.
async fn told<T: Serialize + Send + 'static>(work: impl FnOnce() -> Option<T> + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(Some(found)) => axum::Json(found).into_response(),
        Ok(None) => no_plan(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn no_plan() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "no plan has been applied yet\n").into_response()
}
