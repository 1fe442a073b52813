//! The supervisor's socket: a line of JSON asks, a line of JSON answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::Lab;

/// The longest request or answer, in bytes.
const LONGEST: u64 = 64 * 1024;
/// How long either side may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the supervisor can be asked.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// End a node as a power cut would.
    StopNode(String),
    /// Start a node that is stopped.
    StartNode(String),
}

/// Makes the socket; only root may connect.
pub(super) fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    // The folder itself is root's alone.
    UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))
}

pub(super) fn serve(socket: &UnixListener, lab: &Arc<Lab>) {
    for stream in socket.incoming().flatten() {
        let lab = lab.clone();
        std::thread::spawn(move || {
            if let Err(error) = answer(&stream, &lab) {
                tracing::warn!(error = format!("{error:#}"), "control request");
            }
        });
    }
}

fn answer(mut stream: &UnixStream, lab: &Lab) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
    let request = serde_json::from_str(&line).context("the request")?;
    let _one_at_a_time = lab.changing.lock();
    let done = match request {
        Request::StopNode(name) => lab.stop_node(&name),
        Request::StartNode(name) => lab.start_node(&name),
    };
    let reply: Result<(), String> = done.map_err(|error| format!("{error:#}"));
    writeln!(stream, "{}", serde_json::to_string(&reply)?)?;
    Ok(())
}

/// Asks the supervisor at `path`.
pub(crate) fn ask(path: &Path, request: &Request) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(path)
        .with_context(|| format!("cannot reach the lab's supervisor at {}", path.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
    let reply: Result<(), String> = serde_json::from_str(&line).context("the supervisor's answer")?;
    reply.map_err(anyhow::Error::msg)
}
