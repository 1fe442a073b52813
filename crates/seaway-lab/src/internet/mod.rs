//! The small internet around a lab's cloud: hosts that say who called them, and a resolver.

mod resolver;
mod web;
mod zone;

use std::net::Ipv4Addr;

use anyhow::Context;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use zone::Zone;

/// What `seaway lab internet-host` is told to be, as JSON on its command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HostConfig {
    /// The host's name.
    pub(crate) name: String,
    /// Sources that the web server serves; everyone where absent.
    pub(crate) allow: Option<Vec<Ipv4Net>>,
    /// The names that the host resolves, where it is the resolver.
    pub(crate) zone: Option<Zone>,
}

/// Serves until the process is told to end.
pub(crate) async fn serve(config: HostConfig) -> anyhow::Result<()> {
    let web = web::bind((Ipv4Addr::UNSPECIFIED, 80).into()).context("web server on port 80")?;
    let resolver = match config.zone {
        Some(zone) => Some(
            resolver::bind((Ipv4Addr::UNSPECIFIED, 53).into(), zone).await.context("resolver on port 53")?,
        ),
        None => None,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        () = web::serve(web, config.name, config.allow) => {}
        () = async { match resolver { Some(resolver) => resolver.serve().await, None => std::future::pending().await } } => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
