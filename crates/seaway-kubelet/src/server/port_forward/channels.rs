//! `v4.channel.k8s.io` for ports: a WebSocket on which the port at place N of the query has channel 2N for data and 2N+1 for
//! errors. One connection to each port; the first message on each channel is the port's number, low byte first.

use axum::extract::ws::{Message, WebSocket};
use bytes::{Bytes, BytesMut};
use futures::stream::SplitStream;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::channels::framed;
use super::{READ_BYTES, Target};

/// A message's first byte is the channel, and each port has two.
const MAX_PORTS: usize = 127;
/// Messages that wait, in either direction.
const WAITING: usize = 16;

/// Serves the client until it leaves or all its connections have ended.
pub(super) async fn serve(socket: WebSocket, target: Target, ports: Vec<u16>) {
    let (out, mut outgoing) = mpsc::channel::<Message>(WAITING);
    let mut inputs = Vec::new();
    let mut forwards = JoinSet::new();
    for (place, port) in (0_u8..).zip(ports.into_iter().take(MAX_PORTS)) {
        let (input, incoming) = mpsc::channel(WAITING);
        inputs.push(input);
        forwards.spawn(forward(target.clone(), port, 2 * place, incoming, out.clone()));
    }
    drop(out);
    let (mut sink, messages) = socket.split();
    let outward = async {
        while let Some(message) = outgoing.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        // A client that is gone needs no good-bye.
        let _ = sink.close().await;
    };
    tokio::select! {
        () = outward => {}
        () = hand_out(messages, inputs) => {}
    }
}

/// Hands out what the client says, until it leaves.
async fn hand_out(mut messages: SplitStream<WebSocket>, inputs: Vec<mpsc::Sender<Bytes>>) {
    while let Some(Ok(message)) = messages.next().await {
        match message {
            Message::Binary(data) => {
                let channel = data.first().filter(|channel| **channel % 2 == 0);
                if let Some(input) = channel.and_then(|channel| inputs.get(usize::from(channel / 2))) {
                    // A connection that has ended takes no more.
                    let _ = input.send(data.slice(1..)).await;
                }
            }
            Message::Close(_) => return,
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) => {}
        }
    }
}

/// Serves one connection.
async fn forward(
    target: Target,
    port: u16,
    data: u8,
    mut incoming: mpsc::Receiver<Bytes>,
    out: mpsc::Sender<Message>,
) {
    // A client that is gone takes the whole session with it.
    for channel in [data, data + 1] {
        let _ = out.send(framed(channel, &port.to_le_bytes())).await;
    }
    let stream = match target.connect(port).await {
        Ok(stream) => stream,
        Err(problem) => return drop(out.send(framed(data + 1, problem.as_bytes())).await),
    };
    let (mut from, mut to) = stream.into_split();
    let outward = async {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        while matches!(from.read_buf(&mut buffer).await, Ok(1..))
            && out.send(framed(data, &buffer)).await.is_ok()
        {
            buffer.clear();
        }
    };
    let inward = async {
        while let Some(data) = incoming.recv().await {
            if to.write_all(&data).await.is_err() {
                // What the pod has still to say comes first.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = outward => {}
        () = inward => {}
    }
}
