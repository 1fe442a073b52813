//! DNS over TCP (RFC 7766): queries may follow each other without waiting, and answers come as they are ready.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{MAX_QUERY, Routes, reply_to};
use crate::message::Transport;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 1024;
/// Queries of one connection under way at a time; then the next is not read before one is answered.
const MAX_PIPELINED: usize = 64;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// How long a client may take to take a reply.
const WRITE: Duration = Duration::from_secs(5);

/// Answers whoever connects to `listener`, for ever.
pub(super) async fn serve(listener: TcpListener, routes: Routes) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: some will be free again.
                tracing::warn!(%error, "accepting a TCP connection");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        // Over the limit the connection is closed at once.
        if let Ok(permit) = room.clone().try_acquire_owned() {
            let routes = routes.clone();
            connections.spawn(async move {
                converse(stream, client, routes).await;
                drop(permit);
            });
        }
    }
}

async fn converse(stream: TcpStream, client: SocketAddr, routes: Routes) {
    let _ = stream.set_nodelay(true);
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(4096, reader);
    let (send, mut replies) = mpsc::channel::<Vec<u8>>(MAX_PIPELINED);
    let write = async move {
        while let Some(reply) = replies.recv().await {
            if timeout(WRITE, writer.write_all(&reply)).await.is_ok_and(|written| written.is_ok()) {
                continue;
            }
            return;
        }
    };
    let read = async move {
        let room = Arc::new(Semaphore::new(MAX_PIPELINED));
        let mut queries = JoinSet::new();
        while let Ok(permit) = room.clone().acquire_owned().await {
            let Ok(Some(query)) = timeout(IDLE, read_message(&mut reader)).await else { break };
            let (routes, send) = (routes.clone(), send.clone());
            while queries.try_join_next().is_some() {}
            queries.spawn(async move {
                if let Some(reply) = reply_to(&query, client, Transport::Tcp, &routes).await
                    && let Ok(length) = u16::try_from(reply.len())
                {
                    let framed = [&length.to_be_bytes()[..], &reply].concat();
                    let _ = send.send(framed).await;
                }
                drop(permit);
            });
        }
        // What was asked before the client's end of file is still answered.
        while queries.join_next().await.is_some() {}
    };
    tokio::pin!(write, read);
    tokio::select! {
        () = &mut write => {}
        () = &mut read => write.await,
    }
}

/// A message with its length before it (RFC 1035, section 4.2.2); `None` at the end, if the stream breaks, or for what is
/// too long for a query: such a client is not waited for.
async fn read_message(reader: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let length = usize::from(reader.read_u16().await.ok()?);
    if length > MAX_QUERY {
        return None;
    }
    let mut message = vec![0; length];
    reader.read_exact(&mut message).await.ok()?;
    Some(message)
}
