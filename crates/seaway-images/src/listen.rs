//! Sockets and the HTTP server that the programs share.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

/// Connections served at a time by one listener; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 8192;
/// The kernel's accept queue (`net.core.somaxconn` limits it further).
const BACKLOG: u32 = 4096;
/// The bytes that a request's head may have.
const MAX_HEAD: usize = 64 * 1024;
/// How long a client may take for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) type Reply = Response<Full<Bytes>>;

/// A plain text answer.
pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    typed(status, "text/plain; charset=utf-8", body)
}

/// An answer of a given content type.
pub(crate) fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    reply
}

/// The machine's name, which in a pod is the pod's.
pub(crate) fn hostname() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").context("reading the hostname")?;
    Ok(text.trim().to_owned())
}

/// One line to stdout; a reader that is gone is nobody's error.
pub(crate) fn say(line: std::fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    // A broken pipe means that nobody reads the log; serving goes on.
    let _ = out.write_fmt(line).and_then(|()| out.write_all(b"\n"));
}

/// `::ffff:a.b.c.d` as what it is.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Listens on `port` of all addresses, both families where the machine has both.
pub(crate) fn tcp(port: u16) -> anyhow::Result<TcpListener> {
    let v6 = listen_at(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
    let listener = match v6 {
        Err(error) if no_ipv6(&error) => listen_at(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
        other => other,
    };
    listener.with_context(|| format!("listening on TCP port {port}"))
}

fn listen_at(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(address, port))?;
    socket.listen(BACKLOG)
}

/// A UDP socket on `port` of all addresses.
pub(crate) async fn udp(port: u16) -> anyhow::Result<UdpSocket> {
    let socket = match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if no_ipv6(&error) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).await,
        other => other,
    };
    socket.with_context(|| format!("listening on UDP port {port}"))
}

fn no_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT 97 and EADDRNOTAVAIL 99, include/uapi/asm-generic/errno.h.
    matches!(error.raw_os_error(), Some(97 | 99))
}

/// Accepts for ever and gives each connection to `serve`, at most [`MAX_CONNECTIONS`] at a time.
pub(crate) async fn accept<F, Fut>(listener: TcpListener, serve: F) -> anyhow::Result<()>
where
    F: Fn(TcpStream, SocketAddr) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    seaway_http::accept(listener, MAX_CONNECTIONS, |stream, peer, _| serve(stream, plain(peer))).await;
    Ok(())
}

/// Serves HTTP/1 on `listener` for ever.
pub(crate) async fn http<F, Fut>(listener: TcpListener, answer: F) -> anyhow::Result<()>
where
    F: Fn(Request<Incoming>, SocketAddr) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Reply> + Send + 'static,
{
    accept(listener, move |stream, peer| {
        let answer = answer.clone();
        async move {
            let service = service_fn(move |request| {
                let reply = answer(request, peer);
                async move { Ok::<_, Infallible>(reply.await) }
            });
            // A client that breaks off or speaks something else is the client's concern.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await
}

/// The value of `key` in a query string, with `%XX` and `+` decoded.
pub(crate) fn query(request: &Request<Incoming>, key: &str) -> Option<String> {
    find_in_query(request.uri().query()?, key)
}

fn find_in_query(query: &str, key: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name) == key).then(|| decode(value))
    })
}

/// Percent decoding (RFC 3986 section 2.1) with `+` for a space, as forms do.
pub(crate) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| after.get(..2)).flatten();
        let value = escaped
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, value) {
            (b'%', Some(value)) => {
                bytes.push(value);
                rest = &after[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        for (text, key, expected) in [
            ("msg=hello", "msg", Some("hello")),
            ("a=1&msg=a%20b+c", "msg", Some("a b c")),
            ("msg=%zz%4", "msg", Some("%zz%4")),
            ("msg", "msg", Some("")),
            ("other=1", "msg", None),
        ] {
            assert_eq!(find_in_query(text, key).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn mapped_addresses_are_shown_as_ipv4() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(plain(mapped).to_string(), "10.0.0.1:80");
    }
}
