//! One upstream: exchanging a message with it, and knowing whether it is well.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use super::Settings;
use crate::metrics::{Metrics, UpstreamLabels};

/// Idle TCP connections kept for one upstream.
const MAX_IDLE: usize = 16;
/// How long a health check waits for its reply.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Why an upstream did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// Nothing came in time.
    #[error("no reply from {to} over {transport} within {after:?}")]
    Timeout {
        /// The upstream.
        to: SocketAddr,
        /// `udp` or `tcp`.
        transport: &'static str,
        /// How long we waited.
        after: Duration,
    },
    /// The socket failed.
    #[error("{step} {to} over {transport}: {source}")]
    Io {
        /// The upstream.
        to: SocketAddr,
        /// `udp` or `tcp`.
        transport: &'static str,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// What came cannot be read.
    #[error("a malformed reply from {to} over {transport}: {reason}")]
    Malformed {
        /// The upstream.
        to: SocketAddr,
        /// `udp` or `tcp`.
        transport: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// An upstream.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Its address.
    pub(crate) address: SocketAddr,
    labels: UpstreamLabels,
    fails: AtomicU32,
    checking: AtomicBool,
    idle: Mutex<Vec<(TcpStream, Instant)>>,
    metrics: Arc<Metrics>,
}

impl Upstream {
    pub(crate) fn new(address: SocketAddr, metrics: Arc<Metrics>) -> Self {
        let labels = UpstreamLabels { proxy_name: "forward", to: address.to_string().into() };
        Self {
            address,
            labels,
            fails: AtomicU32::new(0),
            checking: AtomicBool::new(false),
            idle: Mutex::default(),
            metrics,
        }
    }

    /// Health checks that failed since it last answered.
    pub(crate) fn failed_checks(&self) -> u32 {
        self.fails.load(Ordering::Relaxed)
    }

    /// Whether more than `max_fails` health checks failed.
    pub(crate) fn is_down(&self, max_fails: u32) -> bool {
        max_fails > 0 && self.fails.load(Ordering::Relaxed) > max_fails
    }

    /// Sends `message` and waits for its reply; a truncated one over UDP is asked for again over TCP.
    pub(crate) async fn exchange(
        &self,
        message: &Message,
        tcp: bool,
        settings: &Settings,
    ) -> Result<Message, ExchangeError> {
        let begin = Instant::now();
        let outcome = async {
            let wait = settings.read_timeout;
            if tcp {
                return self.over_tcp(message, wait, settings.expire).await;
            }
            let reply = self.over_udp(message, wait).await?;
            if !reply.truncation {
                return Ok(reply);
            }
            // An upstream without TCP has said what it can.
            Ok(self.over_tcp(message, wait, settings.expire).await.unwrap_or(reply))
        }
        .await;
        match &outcome {
            Ok(reply) => {
                self.metrics.upstream_answered(&self.labels.to, reply.response_code, begin.elapsed());
            }
            Err(_) => {
                self.metrics.upstream_errors.get_or_create(&self.labels).inc();
            }
        }
        outcome
    }

    async fn over_udp(&self, message: &Message, wait: Duration) -> Result<Message, ExchangeError> {
        let to = self.address;
        let io = |step| move |source| ExchangeError::Io { to, transport: "udp", step, source };
        let bytes = self.encode(message, "udp")?;
        let local: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // A socket of its own has a port of its own that nobody can guess (RFC 5452), and hears from `to` alone.
        let socket = UdpSocket::bind((local, 0)).await.map_err(io("opening a socket to"))?;
        socket.connect(to).await.map_err(io("connecting to"))?;
        socket.send(&bytes).await.map_err(io("sending to"))?;
        let receive = async {
            let mut buffer = vec![0; 65_535];
            loop {
                let length = socket.recv(&mut buffer).await.map_err(io("receiving from"))?;
                // What is no answer to this question may be forged: the true one may still come.
                match Message::from_vec(&buffer[..length]) {
                    Ok(reply) if answers(message, &reply) => return Ok(reply),
                    Err(error) if buffer[..length].starts_with(&bytes[..2]) => {
                        return Err(ExchangeError::Malformed {
                            to,
                            transport: "udp",
                            reason: error.to_string(),
                        });
                    }
                    _ => {}
                }
            }
        };
        timeout(wait, receive).await.unwrap_or(Err(ExchangeError::Timeout {
            to,
            transport: "udp",
            after: wait,
        }))
    }

    async fn over_tcp(
        &self,
        message: &Message,
        wait: Duration,
        expire: Duration,
    ) -> Result<Message, ExchangeError> {
        let to = self.address;
        let bytes = self.encode(message, "tcp")?;
        let late = || ExchangeError::Timeout { to, transport: "tcp", after: wait };
        // The other side may have closed an idle connection in the meantime: then a new one is made.
        while let Some(stream) = self.take_idle(expire) {
            let outcome = timeout(wait, self.converse(stream, &bytes, message)).await.map_err(|_| late())?;
            if outcome.is_ok() {
                return outcome;
            }
        }
        let fresh = async {
            let stream = TcpStream::connect(to).await.map_err(|source| ExchangeError::Io {
                to,
                transport: "tcp",
                step: "connecting to",
                source,
            })?;
            let _ = stream.set_nodelay(true);
            self.converse(stream, &bytes, message).await
        };
        timeout(wait, fresh).await.unwrap_or_else(|_| Err(late()))
    }

    async fn converse(
        &self,
        mut stream: TcpStream,
        bytes: &[u8],
        message: &Message,
    ) -> Result<Message, ExchangeError> {
        let to = self.address;
        let io = |step| move |source| ExchangeError::Io { to, transport: "tcp", step, source };
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(bytes);
        stream.write_all(&framed).await.map_err(io("sending to"))?;
        let length = stream.read_u16().await.map_err(io("receiving from"))?;
        let mut buffer = vec![0; length.into()];
        stream.read_exact(&mut buffer).await.map_err(io("receiving from"))?;
        let malformed = |reason| ExchangeError::Malformed { to, transport: "tcp", reason };
        let reply = Message::from_vec(&buffer).map_err(|error| malformed(error.to_string()))?;
        if !answers(message, &reply) {
            return Err(malformed("it answers another question".to_owned()));
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push((stream, Instant::now()));
        }
        Ok(reply)
    }

    fn take_idle(&self, expire: Duration) -> Option<TcpStream> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < expire);
        idle.pop().map(|(stream, _)| stream)
    }

    fn encode(&self, message: &Message, transport: &'static str) -> Result<Vec<u8>, ExchangeError> {
        message.to_vec().map_err(|error| ExchangeError::Malformed {
            to: self.address,
            transport,
            reason: format!("the query cannot be written: {error}"),
        })
    }

    /// Checks the upstream until it answers; several failures at a time need one checker only.
    pub(crate) fn check_until_well(self: &Arc<Self>, settings: &Arc<Settings>) {
        if settings.max_fails == 0 || self.checking.swap(true, Ordering::Relaxed) {
            return;
        }
        // The checker ends with the settings' last user, which is its Corefile's chain.
        let (upstream, settings) = (Arc::downgrade(self), Arc::downgrade(settings));
        tokio::spawn(async move {
            loop {
                let pause = {
                    let (Some(upstream), Some(settings)) = (upstream.upgrade(), settings.upgrade()) else {
                        return;
                    };
                    if upstream.is_well(&settings).await {
                        upstream.fails.store(0, Ordering::Relaxed);
                        upstream.checking.store(false, Ordering::Relaxed);
                        return;
                    }
                    upstream.fails.fetch_add(1, Ordering::Relaxed);
                    upstream.metrics.health_failures.get_or_create(&upstream.labels).inc();
                    settings.check_every
                };
                sleep(pause).await;
            }
        });
    }

    /// Any reply is a sign of life.
    async fn is_well(&self, settings: &Settings) -> bool {
        let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = settings.check_recursion;
        message.add_query(Question::query(settings.check_name.name().clone(), RecordType::NS));
        let reply = if settings.force_tcp {
            self.over_tcp(&message, CHECK_TIMEOUT, settings.expire).await
        } else {
            self.over_udp(&message, CHECK_TIMEOUT).await
        };
        reply.is_ok()
    }
}

/// Whether `reply` is one to `query`: same number, same question. A reply to a query that could not be read may leave
/// the question out.
fn answers(query: &Message, reply: &Message) -> bool {
    let same = |a: &Name, b: &Name| a == b;
    reply.message_type == MessageType::Response
        && reply.id == query.id
        && match (&reply.queries[..], &query.queries[..]) {
            ([theirs], [ours]) => {
                same(theirs.name(), ours.name())
                    && theirs.query_type() == ours.query_type()
                    && theirs.query_class() == ours.query_class()
            }
            ([], _) => reply.response_code != ResponseCode::NoError && reply.answers.is_empty(),
            _ => false,
        }
}
