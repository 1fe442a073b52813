//! `exec` and `attach`: sessions with a container over a WebSocket.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::broadcast::error::RecvError;

use super::channels::{self, Outcome, PROTOCOLS, Said};
use crate::container::{Container, Exec};
use crate::kubelet::Kubelet;
use crate::logs::Stream;

/// The largest message of a client.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// How long output is waited for after a process's end, where something else holds its pipes.
const LAST_WORDS: Duration = Duration::from_millis(500);

type PathOf = Path<(String, String, String)>;

/// What the query asks for, in kubelet's words or the API server's.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wanted {
    fn of(query: Vec<(String, String)>) -> Self {
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
        wanted
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
    let wanted = Wanted::of(query);
    if wanted.command.is_empty() {
        return (StatusCode::BAD_REQUEST, "you must specify at least 1 command to exec\n").into_response();
    }
    session(&kubelet, path, request, move |socket, container| run(socket, container, wanted)).await
}

pub(super) async fn attach(
    State(kubelet): State<Arc<Kubelet>>,
    Path(path): PathOf,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Response {
    let wanted = Wanted::of(query);
    session(&kubelet, path, request, move |socket, container| join(socket, container, wanted)).await
}

/// Finds the container and turns the request into a session with it.
async fn session<F, Fut>(
    kubelet: &Kubelet,
    path: (String, String, String),
    request: Request,
    f: F,
) -> Response
where
    F: FnOnce(WebSocket, Arc<Container>) -> Fut + Send + 'static,
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
    let (mut parts, _) = request.into_parts();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade.protocols(PROTOCOLS).max_message_size(MAX_MESSAGE),
        Err(_) => {
            let problem = "sessions need a WebSocket with subprotocol v5.channel.k8s.io or v4.channel.k8s.io, not SPDY: \
                           kubectl 1.31 or newer, or 1.29 and 1.30 with KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true\n";
            return (StatusCode::BAD_REQUEST, problem).into_response();
        }
    };
    if upgrade.selected_protocol().is_none() {
        let problem = "sessions need subprotocol v5.channel.k8s.io or v4.channel.k8s.io\n";
        return (StatusCode::BAD_REQUEST, problem).into_response();
    }
    upgrade.on_upgrade(move |socket| f(socket, container))
}

/// Runs a command for the session; it is killed when the client leaves.
async fn run(mut socket: WebSocket, container: Arc<Container>, wanted: Wanted) {
    let started = Exec::start(&container, wanted.command.clone(), wanted.stdin, wanted.tty).await;
    let mut exec = match started {
        Ok(exec) => exec,
        Err(error) => {
            let code = if error.is_not_found() {
                Outcome::Failed(not_found(&wanted.command))
            } else {
                Outcome::Failed(error.to_string())
            };
            return channels::finish(socket, &code).await;
        }
    };
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
                    if wanted.hears(stream) && socket.send(channels::output(stream, &data)).await.is_err() {
                        return;
                    }
                }
                None => output_ended = true,
            },
            ended = &mut ended, if code.is_none() => code = Some(ended),
            message = socket.recv() => match message.map(|message| message.map_or(Said::Left, channels::read)) {
                Some(Said::Stdin(data)) => {
                    if let Some(stdin) = &exec.stdin {
                        // A program that no longer reads gets no more.
                        let _ = stdin.send(data).await;
                    }
                }
                Some(Said::CloseStdin) => exec.stdin = None,
                Some(Said::Resize(size)) => exec.resize(size),
                Some(Said::Nothing) => {}
                Some(Said::Left) | None => return,
            },
            () = quiet => output_ended = true,
        }
        if let (Some(code), true) = (code, output_ended) {
            return channels::finish(socket, &Outcome::Exited(code)).await;
        }
    }
}

fn not_found(command: &[String]) -> String {
    let program = command.first().map(String::as_str).unwrap_or_default();
    format!(
        "exec failed: unable to start container process: exec: {program:?}: executable file not found in $PATH"
    )
}

/// Joins the session to the container's own process.
async fn join(mut socket: WebSocket, container: Arc<Container>, wanted: Wanted) {
    let mut output = container.listen();
    let mut stdin = if wanted.stdin { container.stdin() } else { None };
    let ended = container.ended();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            biased;
            chunk = output.recv() => match chunk {
                Ok((stream, data)) => {
                    if wanted.hears(stream) && socket.send(channels::output(stream, &data)).await.is_err() {
                        break;
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return channels::finish(socket, &Outcome::Exited(0)).await,
            },
            // The container's own exit code is in the pod's status, where clients look for it.
            _ = &mut ended => return channels::finish(socket, &Outcome::Exited(0)).await,
            message = socket.recv() => match message.map(|message| message.map_or(Said::Left, channels::read)) {
                Some(Said::Stdin(data)) => {
                    if let Some(stdin) = &stdin {
                        // A program that no longer reads gets no more.
                        let _ = stdin.send(data).await;
                    }
                }
                Some(Said::CloseStdin) => {
                    if stdin.take().is_some() && container.stdin_once {
                        container.close_stdin();
                    }
                }
                Some(Said::Resize(size)) => container.resize(size),
                Some(Said::Nothing) => {}
                Some(Said::Left) | None => break,
            },
        }
    }
    if stdin.is_some() && container.stdin_once {
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
    }
}
