//! Packets as they come, with their bytes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::stream;
use seaway_net::capture::{Capture as Socket, Settings};
use seaway_net::netns::NetNs;
use seaway_net::wait;
use tokio::sync::mpsc;

use crate::Error;
use crate::api::{Capture, Captured, Streamed};
use crate::packet::parse;
use crate::select;
use crate::tap::{LinkNames, kernel_filters};

/// Streams at a time.
const MOST: usize = 16;
/// Bytes that the kernel keeps for a stream until they are read.
const KERNEL_BUFFER: usize = 32 << 20;
/// Reads on their way to the client; the kernel keeps what is more.
const AHEAD: usize = 64;
/// How often a stream without packets looks whether its client is still there, and tells of losses.
const BEAT: Duration = Duration::from_millis(250);

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Counts as running while it lives.
struct Running;

impl Running {
    fn new() -> Result<Self, Error> {
        let earlier = RUNNING.fetch_add(1, Ordering::Relaxed);
        let running = Self;
        if earlier < MOST { Ok(running) } else { Err(Error::TooMany(MOST)) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Captures in `ns` from when it returns until the body is dropped. Blocks.
pub(crate) fn start(ns: &NetNs, request: Capture) -> Result<Body, Error> {
    let running = Running::new()?;
    let wanted = kernel_filters(&request.packets);
    let opened = ns.run(|| -> Result<_, Error> {
        let links = LinkNames::open()?;
        let settings = Settings { wanted: &wanted, snap: request.snap, buffer: KERNEL_BUFFER };
        Ok((Socket::open(&settings).map_err(Error::Capture)?, links))
    });
    let (socket, links) = opened.map_err(Error::Namespace)??;
    let (sender, receiver) = mpsc::channel(AHEAD);
    let mut reader = Reader { socket, links, request, lost: None, sender };
    std::thread::Builder::new()
        .name("capture".to_owned())
        .spawn(move || {
            if let Err(error) = reader.run() {
                tracing::warn!(%error, "a capture cannot be read; it ends");
            }
            drop(running);
        })
        .map_err(Error::Namespace)?;
    let lines = stream::unfold(receiver, |mut receiver| async {
        let lines: Bytes = receiver.recv().await?;
        Some((Ok::<_, std::io::Error>(lines), receiver))
    });
    Ok(Body::from_stream(lines))
}

struct Reader {
    socket: Socket,
    links: LinkNames,
    request: Capture,
    /// What was told of losses.
    lost: Option<u64>,
    sender: mpsc::Sender<Bytes>,
}

impl Reader {
    fn run(&mut self) -> Result<(), Error> {
        while !self.sender.is_closed() {
            let lines = self.read()?;
            if !lines.is_empty() {
                if self.sender.blocking_send(lines.into()).is_err() {
                    break;
                }
                continue;
            }
            let fds = [std::os::fd::AsFd::as_fd(&self.socket)];
            wait::readable(&fds, BEAT).map_err(Error::Capture)?;
        }
        Ok(())
    }

    /// Lines for what waits; empty where nothing does.
    fn read(&mut self) -> Result<Vec<u8>, Error> {
        let mut lines = Vec::new();
        let (links, filters) = (&mut self.links, &self.request.packets);
        let mut write = |streamed: &Streamed| {
            if serde_json::to_writer(&mut lines, streamed).is_ok() {
                lines.push(b'\n');
            }
        };
        self.socket
            .receive(|frame| {
                let parsed = parse(frame.data);
                if !parsed.is_some_and(|parsed| select::wanted(filters, &parsed.ip)) {
                    return;
                }
                links.learn(frame.index);
                write(&Streamed::Packet(Captured {
                    time: frame.time,
                    link: links.name(frame.index),
                    out: frame.out,
                    length: frame.length,
                    data: STANDARD.encode(frame.data),
                }));
            })
            .map_err(Error::Capture)?;
        let lost = self.socket.lost().map_err(Error::Capture)?;
        if self.lost != Some(lost) {
            self.lost = Some(lost);
            write(&Streamed::Lost(lost));
        }
        Ok(lines)
    }
}
