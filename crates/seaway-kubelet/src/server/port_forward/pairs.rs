//! `portforward.k8s.io`: for each connection the client opens a stream for errors and one for data, both with the headers `port`
//! and `requestid`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use seaway_spdy::{Connection, Gone, Receiver, Sender, Stream, status};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;

use super::{READ_BYTES, Target};

/// How long a stream waits for its other half; kubelet's own figure.
const PAIR_TIME: Duration = Duration::from_secs(30);

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Error,
    Data,
}

/// What a stream's headers say.
fn purpose(stream: &Stream) -> Option<(Kind, u16, String)> {
    let kind = match stream.headers.get("streamtype")? {
        "error" => Kind::Error,
        "data" => Kind::Data,
        _ => return None,
    };
    let port = stream.headers.get("port")?.parse().ok().filter(|port| *port != 0)?;
    Some((kind, port, stream.headers.get("requestid")?.to_owned()))
}

/// A stream that waits for its other half.
struct Half {
    kind: Kind,
    port: u16,
    stream: Stream,
    since: Instant,
}

/// Serves the client until it leaves.
pub(super) async fn serve(mut connection: Connection, target: Target) {
    let mut waiting: HashMap<String, Half> = HashMap::new();
    let mut forwards = JoinSet::new();
    while let Some(stream) = connection.accept().await {
        while forwards.try_join_next().is_some() {}
        waiting.retain(|_, half| half.since.elapsed() < PAIR_TIME);
        let Some((kind, port, request)) = purpose(&stream) else {
            // Where the connection has ended, what follows shows it.
            let _ = stream.sender.reset(status::PROTOCOL_ERROR).await;
            continue;
        };
        match waiting.remove(&request) {
            Some(half) if half.kind != kind && half.port == port => {
                let (error, data) =
                    if kind == Kind::Data { (half.stream, stream) } else { (stream, half.stream) };
                forwards.spawn(forward(target.clone(), port, error, data));
            }
            _ => {
                let half = Half { kind, port, stream, since: Instant::now() };
                waiting.insert(request, half);
            }
        }
    }
}

/// Serves one connection. It is over for the client when its stream for errors ends.
async fn forward(target: Target, port: u16, error: Stream, data: Stream) {
    // Whichever of these finds the client gone, the others do too.
    match target.connect(port).await {
        Ok(stream) => {
            let (from, to) = stream.into_split();
            tokio::select! {
                () = outward(from, data.sender) => {}
                () = inward(data.receiver, to) => {}
            }
        }
        Err(problem) => {
            let _ = error.sender.send(problem.into()).await;
            let _ = data.sender.finish().await;
        }
    }
    let _ = error.sender.finish().await;
}

/// Carries what the pod says to the client, until either has enough.
async fn outward(mut from: OwnedReadHalf, to: Sender) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_BYTES);
        // A connection that breaks ends for the client as one that is closed: an error would end all its connections.
        if !matches!(from.read_buf(&mut buffer).await, Ok(1..)) {
            let _ = to.finish().await;
            return;
        }
        if to.send(buffer.split().freeze()).await.is_err() {
            return;
        }
    }
}

/// Carries what the client says to the pod. It ends where that breaks off; a client that has said all may still listen.
async fn inward(mut from: Receiver, mut to: OwnedWriteHalf) {
    loop {
        match from.recv().await {
            Ok(Some(data)) => {
                if to.write_all(&data).await.is_err() {
                    // What the pod has still to say comes first.
                    return std::future::pending().await;
                }
            }
            Ok(None) => {
                let _ = to.shutdown().await;
                return std::future::pending().await;
            }
            Err(Gone) => return,
        }
    }
}
