//! `port-forward`: connections to 127.0.0.1 in a pod's network.
//!
//! kubectl speaks SPDY, bare or within the messages of a WebSocket (`pairs`); client libraries speak WebSocket channels
//! (`channels`).

mod channels;
mod pairs;
mod tunnel;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use seaway_net::netns::NetNs;
use seaway_spdy::Connection;
use tokio::net::TcpStream;

use super::upgrade::{Protocols, Upgraded, upgrade};
use crate::kubelet::Kubelet;
use crate::registry::PodEntry;

/// kubectl's protocol over SPDY.
const PAIRS: &str = "portforward.k8s.io";
/// The same within a WebSocket (KEP-4006).
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Client libraries' protocol over a WebSocket.
const CHANNELS: &str = "v4.channel.k8s.io";
const PROTOCOLS: Protocols = Protocols { websocket: &[TUNNEL, CHANNELS], spdy: &[PAIRS] };
/// How long a connection in the pod may take.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Bytes that are read from a pod at once.
const READ_BYTES: usize = 32 << 10;

/// The pod whose ports are meant.
#[derive(Clone)]
struct Target {
    netns: Arc<NetNs>,
    pod: Arc<str>,
}

impl Target {
    /// Connects to a port of the pod's loopback; the error is what the user reads.
    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let netns = self.netns.clone();
        let connecting = tokio::task::spawn_blocking(move || netns.run(|| dial(port))?);
        let connected = connecting.await.map_err(io::Error::other).flatten();
        let stream = connected.and_then(|stream| {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            TcpStream::from_std(stream)
        });
        stream.map_err(|error| {
            format!("error forwarding port {port} to pod {}: dial tcp 127.0.0.1:{port}: {error}", self.pod)
        })
    }
}

/// IPv4 before IPv6, as container runtimes; the error is IPv4's.
fn dial(port: u16) -> io::Result<std::net::TcpStream> {
    let to = |ip: IpAddr| std::net::TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_TIME);
    to(Ipv4Addr::LOCALHOST.into()).or_else(|error| to(Ipv6Addr::LOCALHOST.into()).map_err(|_| error))
}

pub(super) async fn port_forward(
    State(kubelet): State<Arc<Kubelet>>,
    Path((namespace, pod)): Path<(String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Response {
    let Some(entry) = kubelet.registry.find(&namespace, &pod) else {
        return (StatusCode::NOT_FOUND, "pod does not exist\n").into_response();
    };
    let netns = match network(&entry) {
        Ok(Some(netns)) => Arc::new(netns),
        Ok(None) => {
            return (StatusCode::BAD_REQUEST, "the pod has no container that runs\n").into_response();
        }
        Err(error) => {
            let problem = format!("the pod's network namespace: {error}\n");
            return (StatusCode::INTERNAL_SERVER_ERROR, problem).into_response();
        }
    };
    let target = Target { netns, pod: format!("{namespace}/{pod}").into() };
    // kubectl names its ports stream by stream; client libraries name all of them here.
    let ports: Option<Vec<u16>> = query
        .iter()
        .filter(|(name, _)| matches!(name.as_str(), "port" | "ports"))
        .flat_map(|(_, ports)| ports.split(','))
        .map(|port| port.parse().ok().filter(|port| *port != 0))
        .collect();
    let Some(ports) = ports else {
        return (StatusCode::BAD_REQUEST, "ports: each must be a number from 1 to 65535\n").into_response();
    };
    upgrade(request, &PROTOCOLS, async move |upgraded| match upgraded {
        Upgraded::Spdy(connection, _) => pairs::serve(connection, target).await,
        Upgraded::WebSocket(socket, TUNNEL) => {
            pairs::serve(Connection::serve(tunnel::open(socket)), target).await;
        }
        Upgraded::WebSocket(socket, _) => channels::serve(socket, target, ports).await,
    })
    .await
}

/// The network of a pod, by one of its containers that runs.
fn network(entry: &PodEntry) -> io::Result<Option<NetNs>> {
    let containers = entry.containers.lock();
    let mut running =
        containers.values().filter_map(|known| known.container.as_ref()).filter(|c| c.exit().is_none());
    running.next().map(|container| NetNs::of_process(container.pid)).transpose()
}
