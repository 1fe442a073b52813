//! `exec` and `attach`: sessions with a container, over a WebSocket or SPDY.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::session::{Client, Left, Outcome, Said};
use super::streams::Streams;
use super::upgrade::{Protocols, Upgraded, upgrade};
use super::{channels, streams};
use crate::container::{Container, Exec};
use crate::kubelet::Kubelet;
use crate::logs::Stream;

/// How long output is waited for after a process's end, where something else holds its pipes.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long the size of the client's terminal is waited for. kubectl tells it at once, but a program that starts faster than
/// that finds a terminal of no size.
const SIZE_TIME: Duration = Duration::from_millis(100);
const PROTOCOLS: Protocols = Protocols { websocket: channels::PROTOCOLS, spdy: streams::PROTOCOLS };

type PathOf = Path<(String, String, String)>;

/// What the query asks for, in kubelet's words or the API server's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) command: Vec<String>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Wanted {
    fn of(query: Vec<(String, String)>) -> Result<Self, &'static str> {
        let mut wanted = Self::default();
        for (name, value) in query {
            let yes = matches!(value.as_str(), "1" | "true");
            match name.as_str() {
                "command" => wanted.command.push(value),
                "input" | "stdin" => wanted.stdin = yes,
                "output" | "stdout" => wanted.stdout = yes,
                "error" | "stderr" => wanted.stderr = yes,
                "tty" => wanted.tty = yes,
                _ => {}
            }
        }
        // What a terminal shows is one stream.
        wanted.stderr &= !wanted.tty;
        if wanted.stdin || wanted.stdout || wanted.stderr {
            Ok(wanted)
        } else {
            Err("you must specify at least 1 of stdin, stdout, stderr\n")
        }
    }

    fn hears(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }
}

pub(super) async fn exec(
    State(kubelet): State<Arc<Kubelet>>,
    Path(path): PathOf,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Response {
    match Wanted::of(query) {
        Ok(wanted) if wanted.command.is_empty() => {
            (StatusCode::BAD_REQUEST, "you must specify at least 1 command to exec\n").into_response()
        }
        Ok(wanted) => session(&kubelet, path, request, wanted, run).await,
        Err(problem) => (StatusCode::BAD_REQUEST, problem).into_response(),
    }
}

pub(super) async fn attach(
    State(kubelet): State<Arc<Kubelet>>,
    Path(path): PathOf,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Response {
    match Wanted::of(query) {
        Ok(wanted) => session(&kubelet, path, request, wanted, join).await,
        Err(problem) => (StatusCode::BAD_REQUEST, problem).into_response(),
    }
}

/// Finds the container and turns the request into a session with it.
async fn session<F, Fut>(
    kubelet: &Kubelet,
    path: (String, String, String),
    request: Request,
    wanted: Wanted,
    f: F,
) -> Response
where
    F: FnOnce(Client, Arc<Container>, Wanted) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (namespace, pod, name) = path;
    let Some(entry) = kubelet.registry.find(&namespace, &pod) else {
        return (StatusCode::NOT_FOUND, "pod does not exist\n").into_response();
    };
    let known = entry.containers.lock().get(&name).cloned();
    let running = known.and_then(|known| known.container).filter(|container| container.exit().is_none());
    let Some(container) = running else {
        let problem = format!("container not found (\"{name}\")\n");
        return (StatusCode::NOT_FOUND, problem).into_response();
    };
    upgrade(request, &PROTOCOLS, async move |upgraded| {
        let client = match upgraded {
            Upgraded::WebSocket(socket, _) => Client::WebSocket(socket),
            Upgraded::Spdy(connection, protocol) => {
                let Some(streams) = Streams::gather(connection, protocol, &wanted).await else { return };
                Client::Spdy(Box::new(streams))
            }
        };
        f(client, container, wanted).await;
    })
    .await
}

/// The way to a process's standard input. While it takes no more, nothing is heard from the client, but the process's output
/// goes on: a program that answers what it reads would else wait for us, and we for it.
struct Stdin {
    to: Option<mpsc::Sender<Bytes>>,
    waiting: Option<Bytes>,
}

impl Stdin {
    fn new(to: Option<mpsc::Sender<Bytes>>) -> Self {
        Self { to, waiting: None }
    }

    fn is_full(&self) -> bool {
        self.waiting.is_some()
    }

    fn push(&mut self, data: Bytes) {
        self.waiting = Some(data);
    }

    fn close(&mut self) {
        self.to = None;
    }

    /// Passes on what waits. It may be given up and asked again.
    async fn deliver(&mut self) {
        let place = match &self.to {
            Some(to) => to.reserve().await.ok(),
            None => None,
        };
        // A program that no longer reads gets no more.
        if let (Some(place), Some(data)) = (place, self.waiting.take()) {
            place.send(data);
        }
    }
}

/// Runs a command for the session; it is killed when the client leaves.
async fn run(mut client: Client, container: Arc<Container>, wanted: Wanted) {
    let first = if wanted.tty { first_word(&mut client).await } else { Said::Nothing };
    let started = Exec::start(&container, wanted.command.clone(), wanted.stdin, wanted.tty).await;
    let mut exec = match started {
        Ok(exec) => exec,
        Err(error) => {
            let code = if error.is_not_found() {
                Outcome::Failed(not_found(&wanted.command))
            } else {
                Outcome::Failed(error.to_string())
            };
            return client.finish(&code).await;
        }
    };
    let mut stdin = Stdin::new(exec.stdin.take());
    if heed(first, &mut stdin, &exec).is_err() {
        return;
    }
    let ended = exec.ended();
    tokio::pin!(ended);
    let mut code = None;
    let mut output_ended = false;
    loop {
        let quiet = async {
            match code {
                Some(_) => tokio::time::sleep(LAST_WORDS).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            chunk = exec.output.recv(), if !output_ended => match chunk {
                Some((stream, data)) => {
                    if wanted.hears(stream) && client.output(stream, data).await.is_err() {
                        return;
                    }
                }
                None => output_ended = true,
            },
            ended = &mut ended, if code.is_none() => code = Some(ended),
            () = stdin.deliver(), if stdin.is_full() => {}
            said = client.next(), if !stdin.is_full() => if heed(said, &mut stdin, &exec).is_err() {
                return;
            },
            () = quiet => output_ended = true,
        }
        if let (Some(code), true) = (code, output_ended) {
            return client.finish(&Outcome::Exited(code)).await;
        }
    }
}

/// What the client says within [`SIZE_TIME`]: the size of its terminal, as a rule.
async fn first_word(client: &mut Client) -> Said {
    let word = async {
        loop {
            match client.next().await {
                Said::Nothing => {}
                said => return said,
            }
        }
    };
    tokio::time::timeout(SIZE_TIME, word).await.unwrap_or(Said::Nothing)
}

/// Does what the client says.
fn heed(said: Said, stdin: &mut Stdin, exec: &Exec) -> Result<(), Left> {
    match said {
        Said::Stdin(data) => stdin.push(data),
        Said::CloseStdin => stdin.close(),
        Said::Resize(size) => exec.resize(size),
        Said::Nothing => {}
        Said::Left => return Err(Left),
    }
    Ok(())
}

fn not_found(command: &[String]) -> String {
    let program = command.first().map(String::as_str).unwrap_or_default();
    format!(
        "exec failed: unable to start container process: exec: {program:?}: executable file not found in $PATH"
    )
}

/// Joins the session to the container's own process.
async fn join(mut client: Client, container: Arc<Container>, wanted: Wanted) {
    let mut output = container.listen();
    let mut stdin = Stdin::new(if wanted.stdin { container.stdin() } else { None });
    let ended = container.ended();
    tokio::pin!(ended);
    let (mut is_over, mut output_ended) = (false, false);
    loop {
        let quiet = async {
            match is_over {
                true => tokio::time::sleep(LAST_WORDS).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            chunk = output.recv(), if !output_ended => match chunk {
                Some((stream, data)) => {
                    if wanted.hears(stream) && client.output(stream, data).await.is_err() {
                        break;
                    }
                }
                None => output_ended = true,
            },
            // The container's own exit code is in the pod's status, where clients look for it.
            _ = &mut ended, if !is_over => is_over = true,
            () = quiet => output_ended = true,
            () = stdin.deliver(), if stdin.is_full() => {}
            said = client.next(), if !stdin.is_full() => match said {
                Said::Stdin(data) => stdin.push(data),
                Said::CloseStdin => {
                    if stdin.to.is_some() && container.stdin_once {
                        container.close_stdin();
                    }
                    stdin.close();
                }
                Said::Resize(size) => container.resize(size),
                Said::Nothing => {}
                Said::Left => break,
            },
        }
        if is_over && output_ended {
            return client.finish(&Outcome::Exited(0)).await;
        }
    }
    if stdin.to.is_some() && container.stdin_once {
        container.close_stdin();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_vocabularies_are_understood() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let kubelets = vec![
            pair("command", "sh"),
            pair("command", "-c"),
            pair("input", "1"),
            pair("output", "1"),
            pair("tty", "1"),
        ];
        let apis = vec![
            pair("command", "sh"),
            pair("command", "-c"),
            pair("stdin", "true"),
            pair("stdout", "true"),
            pair("tty", "true"),
        ];
        assert_eq!(Wanted::of(kubelets), Wanted::of(apis));
        assert!(Wanted::of(vec![pair("command", "sh"), pair("stdin", "false")]).is_err());
        let terminal = Wanted::of(vec![pair("tty", "1"), pair("stdout", "1"), pair("stderr", "1")]);
        assert!(!terminal.unwrap().stderr);
    }
}
