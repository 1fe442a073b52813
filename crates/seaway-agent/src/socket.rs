//! The agent's local endpoint, `agent.sock`: for this machine's root alone.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::UnixListener;

use crate::differences::compare;
use crate::status::Shared;

/// The socket's name in the run directory.
pub(crate) const NAME: &str = "agent.sock";

/// Makes the socket, readable by its owner only. One left over from before is replaced at one stroke.
pub(crate) fn bind(directory: &Path) -> io::Result<UnixListener> {
    fs::create_dir_all(directory)?;
    let path = directory.join(NAME);
    let fresh = directory.join(format!(".{NAME}.{}", std::process::id()));
    let _ = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, &path)?;
    Ok(listener)
}

/// What it serves.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/plan", get(plan))
        .route("/v1/differences", get(differences))
        .with_state(shared)
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    axum::Json(shared.status()).into_response()
}

async fn plan(State(shared): State<Arc<Shared>>) -> Response {
    match shared.applied_plan() {
        Some(plan) => axum::Json(plan).into_response(),
        None => no_plan(),
    }
}

async fn differences(State(shared): State<Arc<Shared>>) -> Response {
    match tokio::task::spawn_blocking(move || compare(&shared)).await {
        Ok(Some(found)) => axum::Json(found).into_response(),
        Ok(None) => no_plan(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn no_plan() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "no plan has been applied yet\n").into_response()
}
