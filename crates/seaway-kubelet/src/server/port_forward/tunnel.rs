//! Bytes within the messages of a WebSocket.

use std::io;

use axum::extract::ws::{Message, WebSocket};
use bytes::BytesMut;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};

use super::READ_BYTES;

/// The bytes in the messages of `socket`, and the messages that carry what is written. The socket goes with the stream.
pub(super) fn open(socket: WebSocket) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(2 * READ_BYTES);
    tokio::spawn(async move {
        let (sink, messages) = socket.split();
        let (read, write) = tokio::io::split(theirs);
        // Where either way has ended, the other one is of no use.
        let ended = tokio::select! {
            ended = inward(messages, write) => ended,
            ended = outward(read, sink) => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a tunnel ended");
        }
    });
    ours
}

async fn inward(mut messages: SplitStream<WebSocket>, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    while let Some(message) = messages.next().await {
        match message.map_err(io::Error::other)? {
            Message::Binary(data) => to.write_all(&data).await?,
            Message::Close(_) => break,
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) => {}
        }
    }
    Ok(())
}

async fn outward(
    mut from: impl AsyncRead + Unpin,
    mut sink: SplitSink<WebSocket, Message>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_BYTES);
        if from.read_buf(&mut buffer).await? == 0 {
            return sink.close().await.map_err(io::Error::other);
        }
        sink.send(Message::Binary(buffer.split().freeze())).await.map_err(io::Error::other)?;
    }
}
