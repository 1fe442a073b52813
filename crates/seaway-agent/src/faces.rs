//! The addresses that a service proxy serves.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::health::{health_router, metrics_router};
use crate::status::Shared;

/// Who listens at all of them that it serves at knows that no kube-proxy does: one may be set up without the other.
const KUBE_PROXYS_PORTS: [u16; 2] = [10249, 10256];
/// How soon an address that is taken is tried again: by another proxy, as a rule, which this one takes over from.
const RETRY: Duration = Duration::from_secs(1);

/// An address to serve at.
pub(crate) struct Place {
    /// What it is for.
    pub(crate) what: &'static str,
    pub(crate) address: SocketAddr,
    /// Where it was listened on already.
    pub(crate) listener: Option<TcpListener>,
}

impl Place {
    /// Listens at once.
    pub(crate) async fn now(what: &'static str, address: SocketAddr) -> io::Result<Self> {
        Ok(Self { what, address, listener: Some(TcpListener::bind(address).await?) })
    }

    /// Listens as soon as it can.
    pub(crate) fn later(what: &'static str, address: SocketAddr) -> Self {
        Self { what, address, listener: None }
    }

    /// Serves `router` for ever. An address that is taken is tried again: the data path matters more.
    pub(crate) async fn serve(self, router: Router, shared: Arc<Shared>) {
        let Self { what, address, mut listener } = self;
        let mut told = false;
        loop {
            let listening = match listener.take() {
                Some(listener) => Ok(listener),
                None => TcpListener::bind(address).await,
            };
            match listening {
                Ok(listener) => {
                    if told {
                        tracing::info!(what, %address, "listening now");
                    }
                    if KUBE_PROXYS_PORTS.contains(&address.port()) {
                        shared.ports.hold();
                    }
                    return seaway_http::serve(listener, router).await;
                }
                Err(error) if told => tracing::debug!(what, %address, %error, "cannot listen yet"),
                Err(error) => {
                    tracing::warn!(what, %address, %error, "cannot listen; trying again every second");
                    told = true;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Where a proxy is asked.
#[derive(Default)]
pub(crate) struct Places {
    /// `/healthz` and `/livez`; `None`: nowhere.
    pub(crate) health: Option<Place>,
    /// `/metrics`, `/proxyMode` and `/configz`; `None`: nowhere.
    pub(crate) metrics: Option<Place>,
}

/// Begins to serve.
pub(crate) fn start(tasks: &mut JoinSet<()>, shared: &Arc<Shared>, places: Places) {
    let served = [&places.health, &places.metrics].into_iter().flatten();
    shared.ports.want(served.filter(|place| KUBE_PROXYS_PORTS.contains(&place.address.port())).count());
    if let Some(place) = places.health {
        tasks.spawn(place.serve(health_router(shared.clone()), shared.clone()));
    }
    if let Some(place) = places.metrics {
        tasks.spawn(place.serve(metrics_router(shared.clone()), shared.clone()));
    }
}
