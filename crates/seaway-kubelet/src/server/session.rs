//! A session's far end, whichever way the client speaks, and what is said in it.

use axum::extract::ws::WebSocket;
use bytes::Bytes;
use seaway_net::sandbox::WindowSize;
use serde::Deserialize;
use serde_json::{Value, json};

use super::channels;
use super::streams::Streams;
use crate::logs::Stream;

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Stdin(Bytes),
    CloseStdin,
    Resize(WindowSize),
    Nothing,
    Left,
}

/// The client is gone.
pub(super) struct Left;

/// A client with a session.
#[expect(clippy::large_enum_variant, reason = "there is one a session, and it stays where it is")]
pub(super) enum Client {
    WebSocket(WebSocket),
    Spdy(Box<Streams>),
}

impl Client {
    /// What the client says next. It may be given up and asked again.
    pub(super) async fn next(&mut self) -> Said {
        match self {
            Self::WebSocket(socket) => {
                socket.recv().await.map_or(Said::Left, |message| message.map_or(Said::Left, channels::read))
            }
            Self::Spdy(streams) => streams.next().await,
        }
    }

    /// Passes output on.
    pub(super) async fn output(&mut self, stream: Stream, data: Bytes) -> Result<(), Left> {
        match self {
            Self::WebSocket(socket) => socket.send(channels::output(stream, &data)).await.map_err(|_| Left),
            Self::Spdy(streams) => streams.output(stream, data).await,
        }
    }

    /// Tells the client how it ended, and takes leave.
    pub(super) async fn finish(self, outcome: &Outcome) {
        match self {
            Self::WebSocket(socket) => channels::finish(socket, outcome).await,
            Self::Spdy(streams) => streams.finish(outcome).await,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct TerminalSize {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

impl TerminalSize {
    /// The size, where it is one: terminals without lines or columns confuse programs.
    pub(super) fn window(&self) -> Option<WindowSize> {
        let real = self.width > 0 && self.height > 0;
        real.then_some(WindowSize { rows: self.height, columns: self.width })
    }
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Exited(i32),
    Failed(String),
}

impl Outcome {
    /// What a person reads; nothing where all went well.
    pub(super) fn message(&self) -> Option<String> {
        match self {
            Self::Exited(0) => None,
            Self::Exited(code) => {
                Some(format!("command terminated with non-zero exit code: exit status {code}"))
            }
            Self::Failed(problem) => Some(problem.clone()),
        }
    }

    /// The Status object that clients read the exit code from.
    pub(super) fn status(&self) -> Value {
        match (self, self.message()) {
            (Self::Exited(code), Some(message)) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            (Self::Failed(problem), _) => json!({
                "metadata": {}, "status": "Failure", "message": problem, "reason": "InternalError", "code": 500,
                "details": {"causes": [{"message": problem}]},
            }),
            (Self::Exited(_), None) => json!({"metadata": {}, "status": "Success"}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_in_the_status() {
        assert_eq!(Outcome::Exited(0).status()["status"], "Success");
        let failed = Outcome::Exited(3).status();
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        assert_eq!(Outcome::Failed("no".into()).status()["message"], "no");
    }
}
