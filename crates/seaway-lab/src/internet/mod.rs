//! The small internet around a lab's cloud: hosts that say who called them, and a resolver.

mod resolver;
mod web;
mod zone;

use std::net::IpAddr;

use anyhow::Context;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

pub use zone::Zone;

use crate::{boxes, observer};

/// What `seaway lab internet-host` is told to be, as JSON on its command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostConfig {
    /// The host's name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Sources that the web server serves; everyone where absent.
    pub allow: Option<Vec<IpNet>>,
    /// The names that the host resolves, where it is the resolver.
    pub zone: Option<Zone>,
}

/// Serves until the process is told to end.
pub(crate) async fn serve(config: HostConfig) -> anyhow::Result<()> {
    let any = boxes::any_address(&config.addresses);
    let web = web::bind((any, 80).into()).context("web server on port 80")?;
    let resolver = match config.zone.clone() {
        Some(zone) => Some(resolver::bind((any, 53).into(), zone).await.context("resolver on port 53")?),
        None => None,
    };
    let shown = config.clone();
    let observer = observer::serve(move || shown.clone());
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        () = web::serve(web, config.name, config.allow) => {}
        () = async { match resolver { Some(resolver) => resolver.serve().await, None => std::future::pending().await } } => {}
        served = observer => served?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
