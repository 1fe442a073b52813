//! `loop`: finds out whether queries that are forwarded come back.
//!
//! At the start the server asks itself for a random name of type HINFO. Who sees that name more than twice has a
//! loop between `forward` and itself, and stops: otherwise one query would keep it busy for ever.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use hickory_proto::op::{Message, MessageType, OpCode, Query as Question};
use hickory_proto::rr::{Name, RecordType};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::message::Query;
use crate::name::{ZoneName, lower_text};
use crate::plugin::{Next, Outcome, Plugin};

/// How often the probe may be seen: once from ourselves, once from a client's retry.
const SEEN_AT_MOST: u32 = 2;
/// How long to try to ask oneself.
const TRY_FOR: Duration = Duration::from_secs(30);
/// How long the probe may take to come around.
const WATCH_FOR: Duration = Duration::from_secs(2);

/// The plugin.
#[derive(Debug)]
pub(crate) struct Loop {
    zone: ZoneName,
    probe: Name,
    probe_text: String,
    server: SocketAddr,
    seen: AtomicU32,
    over: AtomicBool,
    fatal: mpsc::Sender<String>,
}

impl Loop {
    /// Watches the server at `server` in `zone`; a loop is told to `fatal`.
    pub(crate) fn new(zone: ZoneName, server: SocketAddr, fatal: mpsc::Sender<String>) -> Self {
        let label = || rand::random::<u64>().to_string();
        let probe = Name::from_ascii(format!("{}.{}.{zone}", label(), label()));
        let probe = probe.unwrap_or_else(|_| zone.name().clone());
        let probe_text = lower_text(&probe);
        let ip = match server.ip() {
            ip if !ip.is_unspecified() => ip,
            // A socket at [::] takes IPv4 as well.
            _ => Ipv4Addr::LOCALHOST.into(),
        };
        let server = SocketAddr::new(ip, server.port());
        Self { zone, probe, probe_text, server, seen: AtomicU32::new(0), over: AtomicBool::new(false), fatal }
    }

    /// Sends the probe.
    pub(crate) async fn probe(&self) {
        let deadline = Instant::now() + TRY_FOR;
        while Instant::now() < deadline {
            if self.ask().await.is_some() {
                sleep(WATCH_FOR).await;
                break;
            }
            self.seen.store(0, Ordering::Relaxed);
            sleep(Duration::from_secs(1)).await;
        }
        self.over.store(true, Ordering::Relaxed);
    }

    async fn ask(&self) -> Option<()> {
        let local: IpAddr =
            if self.server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((local, 0)).await.ok()?;
        socket.connect(self.server).await.ok()?;
        let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Question::query(self.probe.clone(), RecordType::HINFO));
        socket.send(&message.to_vec().ok()?).await.ok()?;
        let mut reply = [0; 512];
        timeout(WATCH_FOR, socket.recv(&mut reply)).await.ok()?.ok().map(drop)
    }
}

impl Plugin for Loop {
    fn name(&self) -> &'static str {
        "loop"
    }

    fn serve<'a>(&'a self, query: &'a Query, next: Next) -> BoxFuture<'a, Outcome> {
        if query.record_type == RecordType::HINFO
            && !self.over.load(Ordering::Relaxed)
            && *query.lower == *self.probe_text
            && self.seen.fetch_add(1, Ordering::Relaxed) >= SEEN_AT_MOST
        {
            let text = format!(
                "plugin/loop: a query for {} ({} HINFO) that was sent to {} came back from {}: an upstream of \
                 `forward` leads to this server. Give `forward` the addresses of other servers; if it reads \
                 /etc/resolv.conf, that file must not name this server (a local resolver such as systemd-resolved \
                 often does)",
                self.zone, self.probe, self.server, query.client
            );
            // A full channel has a loop in it already.
            let _ = self.fatal.try_send(text);
        }
        Box::pin(async move { next.run(query).await })
    }
}
