//! The listening sockets, kept as the plan says.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use seaway_model::{NodePlan, ObjectName};
use seaway_net::rtnl::Rtnl;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::table::{Answer, changes, listening_addresses, sockets};
use crate::health::health;
use crate::part::until;
use crate::status::Shared;
use crate::trouble::Troubles;

/// How soon a socket that could not be opened is tried again: another proxy may still have it.
const RETRY: Duration = Duration::from_secs(2);

/// Connections at a time, of all Services' health checks together.
const MAX_CONNECTIONS: usize = 512;

/// A socket that is answered at until this is dropped.
struct Open {
    service: ObjectName,
    serving: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Listens where the applied plan says, for ever.
pub(crate) async fn keep(shared: Arc<Shared>, troubles: Troubles) {
    let mut plans = shared.plans();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut open: BTreeMap<SocketAddr, Open> = BTreeMap::new();
    let mut again: Option<Instant> = None;
    let mut known = None;
    loop {
        let tried = tokio::select! {
            changed = plans.changed() => match changed {
                Ok(()) => false,
                Err(_) => return,
            },
            () = until(again) => true,
        };
        let Some(plan) = plans.borrow_and_update().clone() else { continue };
        let asked = Some(asked(&plan));
        if asked == known && !tried {
            continue;
        }
        known = asked;
        let wanted = wanted(&plan).await;
        let held = open.iter().map(|(socket, open)| (*socket, open.service.clone())).collect();
        let (close, start) = changes(&held, &wanted);
        for socket in close {
            tracing::info!(%socket, "health check closed");
            open.remove(&socket);
        }
        again = None;
        for (socket, service) in start {
            match listen(socket).await {
                Ok(listener) => {
                    tracing::info!(%socket, %service, "health check opened");
                    let router = router(shared.clone(), service.clone());
                    let serving = tokio::spawn(seaway_http::serve_sharing(listener, router, places.clone()));
                    open.insert(socket, Open { service, serving });
                }
                Err(error) => {
                    again = Some(Instant::now() + RETRY);
                    let node = &shared.node;
                    let message = format!("node {node} cannot listen at {socket} for health checks: {error}");
                    troubles.tell(service, "FailedToStartServiceHealthcheck", message);
                }
            }
        }
    }
}

/// What of the plan says where to listen: the Services' ports, and where node ports are.
fn asked(plan: &NodePlan) -> (Vec<(ObjectName, u16)>, Vec<IpNet>) {
    let checks = plan.services.health_checks().map(|(service, check)| (service.clone(), check.port));
    (checks.collect(), plan.proxy.node_port_networks.clone())
}

async fn wanted(plan: &NodePlan) -> BTreeMap<SocketAddr, ObjectName> {
    let (checks, networks) = asked(plan);
    if checks.is_empty() {
        return BTreeMap::new();
    }
    let own = tokio::task::spawn_blocking(own_addresses).await.map_err(io::Error::other).flatten();
    let own = own.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list this node's addresses; the Node object's are used");
        plan.proxy.node_addresses.clone()
    });
    sockets(checks, &listening_addresses(&networks, &own))
}

fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let addresses = Rtnl::open().and_then(|mut rtnl| rtnl.addresses(None)).map_err(io::Error::other)?;
    Ok(addresses.iter().map(|address| address.net.addr()).collect())
}

/// `[::]` stands for IPv4's addresses too; where there is no IPv6, for them alone.
async fn listen(socket: SocketAddr) -> io::Result<TcpListener> {
    let listening = TcpListener::bind(socket).await;
    match &listening {
        Err(error) if error.raw_os_error() == Some(EAFNOSUPPORT) && socket.ip().is_unspecified() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, socket.port())).await
        }
        _ => listening,
    }
}

/// Address family not supported (asm-generic/errno.h).
const EAFNOSUPPORT: i32 = 97;

/// Answers alike whatever path is asked for.
fn router(shared: Arc<Shared>, service: ObjectName) -> Router {
    Router::new().fallback(move || {
        let answer = answer(&shared, &service);
        async move { answer }
    })
}

fn answer(shared: &Shared, service: &ObjectName) -> Response {
    let local = shared
        .applied()
        .and_then(|plan| plan.services.health_check(service).map(|check| check.local_endpoints))
        .unwrap_or_default();
    let answer = Answer::new(service, local, health(shared).healthy);
    let code = if answer.is_good() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [
        ("X-Content-Type-Options", "nosniff".to_owned()),
        ("X-Load-Balancing-Endpoint-Weight", answer.local_endpoints.to_string()),
    ];
    (code, headers, axum::Json(answer)).into_response()
}
