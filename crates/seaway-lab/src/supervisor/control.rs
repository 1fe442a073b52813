//! The supervisor's socket: a line of JSON asks, a line of JSON answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::Lab;
use crate::addresses::NodePlan;
use crate::cloud::Cut;

/// The longest request or answer, in bytes.
const LONGEST: u64 = 64 * 1024;
/// How long the supervisor waits for a request.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer may take: a node that shuts down ends its pods first.
const LONGEST_WORK: Duration = Duration::from_secs(120);

/// What the supervisor can be asked.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// End a node as a power cut would, or after it has shut down.
    StopNode { name: String, graceful: bool },
    /// Start a node that is stopped.
    StartNode { name: String },
    /// Add a node, with a name of its own or the next one.
    AddNode { name: Option<String> },
    /// End a node for good.
    RemoveNode { name: String },
    /// Lose all packets between two parts of the cloud.
    Cut { a: String, b: String },
    /// Lose them no more.
    Mend { a: String, b: String },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Answer {
    Done,
    /// The node that was added.
    Node(NodePlan),
    /// The pair, and whether it was otherwise before.
    Cut {
        cut: Cut,
        news: bool,
    },
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

fn answer(mut stream: &UnixStream, lab: &Arc<Lab>) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
    let request = serde_json::from_str(&line).context("the request")?;
    let _one_at_a_time = lab.changing.lock();
    let done = match request {
        Request::StopNode { name, graceful } => lab.stop_node(&name, graceful).map(|()| Answer::Done),
        Request::StartNode { name } => lab.start_node(&name).map(|()| Answer::Done),
        Request::AddNode { name } => lab.add_node(name.as_deref()).map(Answer::Node),
        Request::RemoveNode { name } => lab.remove_node(&name).map(|()| Answer::Done),
        Request::Cut { a, b } => lab.cut(&a, &b).map(|(cut, news)| Answer::Cut { cut, news }),
        Request::Mend { a, b } => lab.mend(&a, &b).map(|(cut, news)| Answer::Cut { cut, news }),
    };
    let reply: Result<Answer, String> = done.map_err(|error| format!("{error:#}"));
    writeln!(stream, "{}", serde_json::to_string(&reply)?)?;
    Ok(())
}

/// Asks the supervisor at `path`.
pub(crate) fn ask(path: &Path, request: &Request) -> anyhow::Result<Answer> {
    let mut stream = UnixStream::connect(path)
        .with_context(|| format!("cannot reach the lab's supervisor at {}", path.display()))?;
    stream.set_read_timeout(Some(LONGEST_WORK))?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
    let reply: Result<Answer, String> = serde_json::from_str(&line).context("the supervisor's answer")?;
    reply.map_err(anyhow::Error::msg)
}
