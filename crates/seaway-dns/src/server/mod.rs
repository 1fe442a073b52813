//! Sockets: what comes in, and what goes out.
//!
//! A UDP socket at all addresses lets the kernel choose the source of its replies, which is the address asked wherever
//! there is one address (a pod) or one route back; with several, `bind` each.

mod http;
mod tcp;
mod udp;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use futures::FutureExt;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

pub(crate) use http::{Endpoint, Endpoints};

use crate::instance::{Served, answer};
use crate::message::{Rejected, Transport, decode};

/// Octets of a query at most: more than any question with its EDNS options has.
const MAX_QUERY: usize = 4096;

/// What is served at an address; a reload of the Corefile changes it under the socket.
type Routes = Arc<ArcSwap<Arc<[Served]>>>;

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
#[error("listening at {address} ({transport}): {source}")]
pub(crate) struct ListenError {
    /// Where.
    pub(crate) address: SocketAddr,
    /// `udp`, `tcp` or `http`.
    pub(crate) transport: &'static str,
    /// What the kernel said.
    pub(crate) source: std::io::Error,
}

/// A server at one address, on UDP and TCP. Ends when dropped.
struct Listener {
    wanted: SocketAddr,
    bound: SocketAddr,
    routes: Routes,
    _tasks: JoinSet<()>,
}

/// The servers of the process.
#[derive(Default)]
pub(crate) struct Listeners(Vec<Listener>);

/// Servers that are not yet among the process's own.
pub(crate) struct Opened(Vec<Listener>);

impl Listeners {
    /// Listens at those addresses of `routes` that are new; dropped, what comes of it leaves all as it was.
    ///
    /// # Errors
    /// An address that cannot be had.
    pub(crate) async fn open(&self, routes: &[(SocketAddr, Arc<[Served]>)]) -> Result<Opened, ListenError> {
        let mut added = Vec::new();
        for (address, served) in routes {
            if !self.0.iter().any(|listener| listener.wanted == *address) {
                added.push(Listener::new(*address, served.clone()).await?);
            }
        }
        Ok(Opened(added))
    }

    /// Serves `routes` from now on, with what was opened for them: sockets that are there already stay, with nothing lost.
    pub(crate) fn switch(&mut self, routes: &[(SocketAddr, Arc<[Served]>)], opened: Opened) {
        self.0.retain(|listener| {
            let Some((_, served)) = routes.iter().find(|(address, _)| *address == listener.wanted) else {
                return false;
            };
            listener.routes.store(Arc::new(served.clone()));
            true
        });
        self.0.extend(opened.0);
    }

    /// Where they listen, with the port that the kernel chose for port 0.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|listener| listener.bound).collect()
    }
}

impl Listener {
    async fn new(wanted: SocketAddr, served: Arc<[Served]>) -> Result<Self, ListenError> {
        let (udp, tcp, bound) = bind(wanted).await?;
        let routes: Routes = Arc::new(ArcSwap::from_pointee(served));
        let mut tasks = JoinSet::new();
        let udp = Arc::new(udp);
        let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(16));
        for _ in 0..workers {
            tasks.spawn(udp::serve(udp.clone(), routes.clone()));
        }
        tasks.spawn(tcp::serve(tcp, routes.clone()));
        Ok(Self { wanted, bound, routes, _tasks: tasks })
    }
}

/// A socket each of UDP and TCP. `[::]` takes IPv4 too; on a host without IPv6 it stands for `0.0.0.0`.
async fn bind(wanted: SocketAddr) -> Result<(UdpSocket, TcpListener, SocketAddr), ListenError> {
    let mut address = wanted;
    let mut udp = UdpSocket::bind(address).await;
    if udp.is_err() && wanted.ip().is_unspecified() && wanted.is_ipv6() && !has_ipv6() {
        address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), wanted.port());
        udp = UdpSocket::bind(address).await;
    }
    let failed = |transport| move |source| ListenError { address, transport, source };
    let udp = udp.map_err(failed("udp"))?;
    let address = udp.local_addr().map_err(failed("udp"))?;
    let tcp = TcpListener::bind(address).await.map_err(failed("tcp"))?;
    Ok((udp, tcp, address))
}

/// Whether a socket can have an IPv6 address at all.
fn has_ipv6() -> bool {
    std::net::UdpSocket::bind("[::]:0").is_ok()
}

/// The reply to one message; `None` where there is none.
async fn reply_to(
    bytes: &[u8],
    client: SocketAddr,
    transport: Transport,
    routes: &Routes,
) -> Option<Vec<u8>> {
    let begin = Instant::now();
    let work = async {
        match decode(bytes, client, transport) {
            Err(Rejected::Ignore) => None,
            Err(Rejected::Answer(bytes)) => Some(bytes),
            Ok(query) => {
                let routes = routes.load_full();
                Some(answer(&routes, &query, begin).await)
            }
        }
    };
    // Whatever a message may trip over, the next ones are answered.
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(%client, "a message of {} octets made the server panic: this is a bug", bytes.len());
        None
    })
}

#[cfg(test)]
mod tests;
