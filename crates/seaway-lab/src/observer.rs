//! The observer of the gateway and of the internet's hosts, with what each was told to be.

use std::path::Path;

use anyhow::Context;
use axum::routing::get;
use axum::{Json, Router};
use seaway_observe::Observer;
use serde::Serialize;

/// In a place's own file system.
const SOCKET: &str = "/run/seaway/observer.sock";

/// Serves the observer of this process's namespace, and beside it what `plan` gives.
pub(crate) async fn serve<P>(plan: impl Fn() -> P + Clone + Send + Sync + 'static) -> anyhow::Result<()>
where
    P: Serialize + Send + 'static,
{
    let observer = Observer::new().context("open the network namespace")?;
    let plan = Router::new().route("/v1/plan", get(move || async move { Json(plan()) }));
    let listener = seaway_http::unix::bind(Path::new(SOCKET)).with_context(|| format!("make {SOCKET}"))?;
    axum::serve(listener, plan.merge(seaway_observe::router(observer))).await?;
    Ok(())
}
