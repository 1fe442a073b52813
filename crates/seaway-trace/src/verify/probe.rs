//! Leads the probe in the caller's namespaces through its steps.

use std::net::{IpAddr, SocketAddr};

use anyhow::anyhow;
use seaway_lab::Lab;
use seaway_probe::Probe;
use seaway_probe::api::{Event, Http, Libc, Protocol, Stage, Target};

use tokio::sync::mpsc;

use super::collect::{Wanted, Watcher, watch_for};
use super::evidence::Program;
use crate::explain::Caller;
use crate::hop::Proto;

/// How long connecting, and waiting for an answer, may take: two retransmissions of a SYN fit in.
const STEP_MS: u64 = 4_000;
/// How long a lookup may take: as long as glibc tries two dead servers for one name.
const LOOKUP_MS: u64 = 25_000;
/// Bytes of padding in the HTTP request: more than two full-size segments.
const PADDING: usize = 3_000;

/// What the probe is asked to do.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) name: Option<String>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) proto: Proto,
    pub(crate) musl: bool,
    /// Host and path of the HTTP request, where there is one.
    pub(crate) http: Option<(String, String)>,
    pub(crate) token: String,
    pub(crate) source_port: Option<u16>,
}

impl Request {
    fn to_wire(&self) -> seaway_probe::api::Request {
        seaway_probe::api::Request {
            target: Target { name: self.name.clone(), address: self.address, port: self.port },
            protocol: match self.proto {
                Proto::Tcp => Protocol::Tcp,
                Proto::Udp => Protocol::Udp,
                Proto::Icmp => Protocol::Icmp,
            },
            libc: if self.musl { Libc::Musl } else { Libc::Glibc },
            http: self.http.clone().map(|(host, path)| Http { host, path, padding: PADDING }),
            token: self.token.clone(),
            source_port: self.source_port,
            timeout_ms: STEP_MS,
            lookup_timeout_ms: Some(LOOKUP_MS),
        }
    }
}

/// Sends the request from within the caller's sandbox: what it met. Before its first packet the watchers are told from
/// which socket it comes.
///
/// An error: the caller does not run, or the probe cannot be started there.
pub(super) async fn send(
    lab: &Lab,
    caller: &Caller,
    request: Request,
    (mut watchers, wanted): (Vec<Watcher>, Wanted),
) -> (Vec<Watcher>, anyhow::Result<Program>) {
    let place = match caller {
        Caller::Pod(name) => lab.pod(&name.namespace, &name.name),
        other => lab.place(&other.place()),
    };
    let Some(pid) = place.map(|place| place.pid) else {
        return (watchers, Err(anyhow!("{} does not run", caller.place())));
    };
    let (events, mut told) = mpsc::channel(1);
    let (go, may_go) = std::sync::mpsc::channel();
    let run = move || -> anyhow::Result<()> {
        let mut probe = Probe::start(pid, &request.to_wire())?;
        loop {
            let event = probe.next_event()?;
            if event == Event::Done || events.blocking_send(event).is_err() || may_go.recv().is_err() {
                return Ok(());
            }
            probe.go()?;
        }
    };
    let running = tokio::task::spawn_blocking(run);
    let mut program = Program::default();
    while let Some(event) = told.recv().await {
        if let Event::Bound { source, source_port, .. } = &event {
            watch_for(&mut watchers, &wanted, SocketAddr::new(*source, *source_port)).await;
        }
        note(&mut program, event);
        let _ = go.send(());
    }
    let ended = running.await.map_err(anyhow::Error::from).flatten();
    (watchers, ended.map(|()| program))
}

fn note(program: &mut Program, event: Event) {
    match event {
        Event::Resolved { addresses, error, .. } => {
            program.addresses = addresses;
            program.lookup_error = error.map(|error| format!("{} ({})", error.code, error.text));
        }
        Event::Bound { source, source_port, destination, destination_port } => {
            let to = SocketAddr::new(destination, destination_port);
            program.socket = Some((SocketAddr::new(source, source_port), to));
            program.failure = None;
        }
        Event::Connected { .. } => program.connected = true,
        Event::Response { status, body, .. } => {
            program.connected = true;
            program.status = status;
            program.body = Some(body);
        }
        Event::Failed { stage, error, text, .. } => {
            let stage = match stage {
                Stage::Request => "reading the request",
                Stage::Bind => "choosing the source",
                Stage::Connect => "connecting",
                Stage::Response => "waiting for the answer",
                Stage::Answer => "waiting for an answer",
            };
            program.failure = Some((stage.to_owned(), format!("{error} ({text})")));
        }
        Event::Done => {}
    }
}
