//! The `v4.channel.k8s.io` and `v5.channel.k8s.io` WebSocket protocols: a message's first byte is its channel.

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use bytes::{BufMut as _, Bytes, BytesMut};
use seaway_net::sandbox::WindowSize;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::logs::Stream;

/// The protocols, the better one first.
pub(super) const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the sender closes the channel that the next byte names.
const CLOSE: u8 = 255;

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Stdin(Bytes),
    CloseStdin,
    Resize(WindowSize),
    Nothing,
    Left,
}

#[derive(Deserialize)]
struct TerminalSize {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

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
        Some(&RESIZE) => match serde_json::from_slice::<TerminalSize>(&data[1..]) {
            Ok(size) if size.width > 0 && size.height > 0 => {
                Said::Resize(WindowSize { rows: size.height, columns: size.width })
            }
            _ => Said::Nothing,
        },
        _ => Said::Nothing,
    }
}

/// Output as a message.
pub(super) fn output(stream: Stream, data: &[u8]) -> Message {
    framed(if stream == Stream::Stdout { STDOUT } else { STDERR }, data)
}

fn framed(channel: u8, data: &[u8]) -> Message {
    let mut frame = BytesMut::with_capacity(data.len() + 1);
    frame.put_u8(channel);
    frame.put_slice(data);
    Message::Binary(frame.freeze())
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Exited(i32),
    Failed(String),
}

impl Outcome {
    /// The Status object that clients read the exit code from.
    fn status(&self) -> Value {
        match self {
            Self::Exited(0) => json!({"metadata": {}, "status": "Success"}),
            Self::Exited(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(problem) => json!({
                "metadata": {}, "status": "Failure", "message": problem, "reason": "InternalError", "code": 500,
                "details": {"causes": [{"message": problem}]},
            }),
        }
    }
}

/// Tells the client how it ended, and takes leave.
pub(super) async fn finish(mut socket: WebSocket, outcome: &Outcome) {
    let status = outcome.status().to_string();
    if socket.send(framed(ERROR, status.as_bytes())).await.is_ok() {
        // kubectl takes any other leave than a normal one for an error. A client that is gone needs no good-bye.
        let leave = CloseFrame { code: close_code::NORMAL, reason: Utf8Bytes::from_static("") };
        let _ = socket.send(Message::Close(Some(leave))).await;
        // Its own leave comes after it has read everything.
        let patience = std::time::Duration::from_secs(2);
        let _ =
            tokio::time::timeout(patience, async { while let Some(Ok(_)) = socket.recv().await {} }).await;
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn exit_codes_are_in_the_status() {
        assert_eq!(Outcome::Exited(0).status()["status"], "Success");
        let failed = Outcome::Exited(3).status();
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    }
}
