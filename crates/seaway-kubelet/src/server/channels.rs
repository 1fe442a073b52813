//! The `v4.channel.k8s.io` and `v5.channel.k8s.io` WebSocket protocols: a message's first byte is its channel.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use bytes::{BufMut as _, Bytes, BytesMut};

use super::session::{Outcome, Said, TerminalSize};
use crate::logs::Stream;

/// The protocols, the better one first.
pub(super) const PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the sender closes the channel that the next byte names.
const CLOSE: u8 = 255;
/// How long a client may take to leave once everything is said.
const LEAVE_TIME: Duration = Duration::from_secs(2);

/// Reads a message; what is not of the protocol says nothing.
pub(super) fn read(message: Message) -> Said {
    let data = match message {
        Message::Binary(data) => data,
        Message::Text(text) => Bytes::from(text.as_bytes().to_vec()),
        Message::Ping(_) | Message::Pong(_) => return Said::Nothing,
        Message::Close(_) => return Said::Left,
    };
    match data.first() {
        Some(&STDIN) => Said::Stdin(data.slice(1..)),
        Some(&CLOSE) if data.get(1) == Some(&STDIN) => Said::CloseStdin,
        Some(&RESIZE) => {
            let size = serde_json::from_slice::<TerminalSize>(&data[1..]).ok();
            size.and_then(|size| size.window()).map_or(Said::Nothing, Said::Resize)
        }
        _ => Said::Nothing,
    }
}

/// Output as a message.
pub(super) fn output(stream: Stream, data: &[u8]) -> Message {
    framed(if stream == Stream::Stdout { STDOUT } else { STDERR }, data)
}

/// A message on a channel.
pub(super) fn framed(channel: u8, data: &[u8]) -> Message {
    let mut frame = BytesMut::with_capacity(data.len() + 1);
    frame.put_u8(channel);
    frame.put_slice(data);
    Message::Binary(frame.freeze())
}

/// Tells the client how it ended, and takes leave.
pub(super) async fn finish(mut socket: WebSocket, outcome: &Outcome) {
    let status = outcome.status().to_string();
    if socket.send(framed(ERROR, status.as_bytes())).await.is_ok() {
        // kubectl takes any other leave than a normal one for an error. A client that is gone needs no good-bye.
        let leave = CloseFrame { code: close_code::NORMAL, reason: Utf8Bytes::from_static("") };
        let _ = socket.send(Message::Close(Some(leave))).await;
        // Its own leave comes after it has read everything.
        let leaving = async { while let Some(Ok(_)) = socket.recv().await {} };
        let _ = tokio::time::timeout(LEAVE_TIME, leaving).await;
    }
}

#[cfg(test)]
mod tests {
    use seaway_net::sandbox::WindowSize;

    use super::*;

    #[test]
    fn messages() {
        let size = |rows, columns| Said::Resize(WindowSize { rows, columns });
        for (bytes, expected) in [
            (&b"\x00hi"[..], Said::Stdin(Bytes::from_static(b"hi"))),
            (b"\x00", Said::Stdin(Bytes::new())),
            (b"\xff\x00", Said::CloseStdin),
            (b"\xff\x01", Said::Nothing),
            (b"\xff", Said::Nothing),
            (b"\x04{\"Width\":80,\"Height\":24}", size(24, 80)),
            (b"\x04{\"Width\":80,\"Height\":0}", Said::Nothing),
            (b"\x04{", Said::Nothing),
            (b"\x09x", Said::Nothing),
            (b"", Said::Nothing),
        ] {
            assert_eq!(read(Message::Binary(Bytes::from_static(bytes))), expected, "{bytes:?}");
        }
    }
}
