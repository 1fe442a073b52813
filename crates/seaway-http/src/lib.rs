//! HTTP/1.1 servers that strangers may talk to, and a small client for unix sockets.
//!
//! The number of connections has a limit, and so has the time that a request's head may take, the wait for the next
//! request among it: whoever connects and stays silent holds a place for [`PATIENCE`] at the most.

pub mod unix;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

/// What a handshake, a request's head, and the wait for a request may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time of [`serve`]; more wait.
const MAX_CONNECTIONS: usize = 256;
/// The end of any connection of [`serve`], so that none holds its place by not reading what it asked for.
const MAX_LIFE: Duration = Duration::from_secs(300);
/// The largest head of a request.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// A peer that is silent for this long is asked whether it is still there, and given up after as many questions without an
/// answer: one that vanished would hold its place for ever.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 9;

/// A connection's place among those that its server has at a time. It is free again when the last copy is dropped: whoever
/// takes a connection over for a session keeps one.
#[derive(Clone, Debug)]
pub struct Place(#[expect(dead_code, reason = "it is kept for its end")] Arc<OwnedSemaphorePermit>);

impl From<OwnedSemaphorePermit> for Place {
    fn from(permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(permit))
    }
}

/// Serves `router` to whoever connects, for ever: small answers, such as health and metrics. Its handlers may take
/// `ConnectInfo<SocketAddr>`, the client's address.
pub async fn serve(listener: TcpListener, router: Router) {
    accept(listener, MAX_CONNECTIONS, |stream, client, place| {
        let router = router.clone().layer(Extension(ConnectInfo(client)));
        async move {
            let _ = timeout(MAX_LIFE, connection(TokioIo::new(stream), router, place)).await;
        }
    })
    .await;
}

/// As [`serve`], for many listeners that share `places`: a connection for which there is none is closed at once, so that
/// none of them waits for another one's clients.
pub async fn serve_sharing(listener: TcpListener, router: Router, places: Arc<Semaphore>) {
    accept(listener, MAX_CONNECTIONS, |stream, _, _| {
        let shared = places.clone().try_acquire_owned();
        let router = router.clone();
        async move {
            let Ok(shared) = shared else { return };
            let _ = timeout(MAX_LIFE, connection(TokioIo::new(stream), router, shared.into())).await;
        }
    })
    .await;
}

/// Hands each connection to `handle`, for ever; while `limit` places are taken, more wait. A connection has its place until
/// `handle` is done with it, and longer where it keeps the [`Place`].
pub async fn accept<F>(
    listener: TcpListener,
    limit: usize,
    handle: impl Fn(TcpStream, SocketAddr, Place) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(limit));
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, client)) => {
                prepare(&stream);
                let place = Place::from(place);
                let handling = handle(stream, client, place.clone());
                tokio::spawn(async move {
                    handling.await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, mostly: some will be free again.
                tracing::warn!(%error, "accepting a connection");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Sets what a server's connections need. None of it can fail on a socket that lives, and the connection does without.
pub fn prepare(stream: &TcpStream) {
    // Answers, keystrokes and their echoes go out as they come.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE);
    let _ = sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES);
}

/// Serves the requests of one connection, which may become a WebSocket: the handler that takes it over finds its [`Place`]
/// among the request's extensions.
pub async fn connection(stream: impl Read + Write + Unpin + Send + 'static, router: Router, place: Place) {
    let router = router.layer(Extension(place));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(MAX_HEAD_BYTES);
    let served = builder.serve_connection(stream, TowerToHyperService::new(router)).with_upgrades().await;
    if let Err(error) = served {
        // A client that breaks off is the client's concern.
        tracing::trace!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn answer_to(request: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let server = tokio::spawn(serve(listener, Router::new().route("/health", get(|| async { "OK" }))));
        client.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // A connection that is cut may also end in a reset.
        let _ = client.read_to_end(&mut answer).await;
        server.abort();
        String::from_utf8(answer).unwrap()
    }

    /// Time stands still but for waits, so that the end of patience comes at once.
    #[tokio::test(start_paused = true)]
    async fn the_silent_and_the_slow_are_cut_off() {
        for (request, answer) in [
            ("", ""),
            ("GET /health HTTP/1.1\r\nHost:", ""),
            ("GET /health HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200"),
            ("GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /he", "HTTP/1.1 200"),
            ("GET /none HTTP/1.0\r\n\r\n", "HTTP/1.0 404"),
        ] {
            let got = answer_to(request.as_bytes()).await;
            assert!(got.starts_with(answer) && (got.is_empty() == answer.is_empty()), "{request:?}: {got:?}");
        }
    }

    #[tokio::test]
    async fn handlers_know_the_client() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let who = |ConnectInfo(client): ConnectInfo<SocketAddr>| async move { client.to_string() };
        let server = tokio::spawn(serve(listener, Router::new().fallback(who)));
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with(&client.local_addr().unwrap().to_string()), "{answer}");
        server.abort();
    }

    #[tokio::test]
    async fn a_head_has_a_limit() {
        let request = format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD_BYTES));
        let got = answer_to(request.as_bytes()).await;
        assert!(!got.starts_with("HTTP/1.1 200"), "{got:?}");
    }

    #[tokio::test]
    async fn places_are_shared() {
        let places = Arc::new(Semaphore::new(1));
        let mut servers = Vec::new();
        for _ in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let router = Router::new().route("/health", get(|| async { "OK" }));
            servers.push((address, tokio::spawn(serve_sharing(listener, router, places.clone()))));
        }
        let ask = async |address: SocketAddr| {
            let mut client = TcpStream::connect(address).await.unwrap();
            let mut answer = String::new();
            let asked =
                client.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            let read = client.read_to_string(&mut answer).await;
            if asked.is_ok() && read.is_ok() { answer } else { String::new() }
        };
        assert!(ask(servers[0].0).await.starts_with("HTTP/1.1 200"));
        let silent = TcpStream::connect(servers[0].0).await.unwrap();
        while places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask(servers[1].0).await, "");
        drop(silent);
        while places.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(ask(servers[1].0).await.starts_with("HTTP/1.1 200"));
        for (_, server) in servers {
            server.abort();
        }
    }

    #[tokio::test]
    async fn places_are_given_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(accept(listener, 1, |mut stream, _, _| async move {
            let _ = stream.write_all(b"hello").await;
        }));
        for _ in 0..3 {
            let mut text = String::new();
            TcpStream::connect(address).await.unwrap().read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "hello");
        }
        server.abort();
    }

    #[tokio::test]
    async fn a_session_keeps_its_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, mut sessions) = tokio::sync::mpsc::unbounded_channel();
        let take = move |Extension(place): Extension<Place>| {
            let _ = tell.send(place);
            async { "taken" }
        };
        let router = Router::new().fallback(take);
        let server = tokio::spawn(accept(listener, 1, move |stream, _, place| {
            connection(TokioIo::new(stream), router.clone(), place)
        }));
        let ask = async || {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("taken"), "{answer}");
        };
        ask().await;
        let place = sessions.recv().await.unwrap();
        let next = ask();
        tokio::pin!(next);
        assert!(timeout(Duration::from_millis(200), next.as_mut()).await.is_err());
        drop(place);
        next.await;
        server.abort();
    }
}
