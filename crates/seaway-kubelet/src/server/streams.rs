//! `channel.k8s.io` to `v4.channel.k8s.io` over SPDY: a stream for each of error, stdin, stdout, stderr and resize, told apart by
//! the header `streamtype`.

use std::time::Duration;

use bytes::Bytes;
use seaway_net::sandbox::WindowSize;
use seaway_spdy::{Connection, Gone, Receiver, Sender, status};
use tokio::time::timeout;

use super::attach::Wanted;
use super::session::{Left, Outcome, Said, TerminalSize};
use crate::logs::Stream;

/// The protocols, the better ones first.
pub(super) const PROTOCOLS: &[&str] = &[V4, V3, "v2.channel.k8s.io", "channel.k8s.io"];

/// The one that tells the exit code, in a Status object.
const V4: &str = "v4.channel.k8s.io";
/// The first one in which terminals have sizes.
const V3: &str = "v3.channel.k8s.io";
/// How long a client may take to open its streams; kubelet's own figure.
const OPEN_TIME: Duration = Duration::from_secs(30);
/// Sizes come in pieces that are smaller; who says more says no sizes.
const MAX_SIZE_BYTES: usize = 1024;

/// A client's streams.
pub(super) struct Streams {
    connection: Connection,
    error: Sender,
    stdin: Option<Receiver>,
    stdout: Option<Sender>,
    stderr: Option<Sender>,
    resize: Option<Receiver>,
    /// What has come of the next size.
    size: Vec<u8>,
    /// Whether the end is told as a Status object.
    has_status: bool,
}

/// The streams so far.
#[derive(Default)]
struct Opened {
    error: Option<Sender>,
    stdin: Option<Receiver>,
    stdout: Option<Sender>,
    stderr: Option<Sender>,
    resize: Option<Receiver>,
}

impl Streams {
    /// Waits until the client has opened the streams that it wants; `None` where it does not.
    pub(super) async fn gather(mut connection: Connection, protocol: &str, wanted: &Wanted) -> Option<Self> {
        let sizes = wanted.tty && matches!(protocol, V3 | V4);
        let mut opened = Opened::default();
        let gathering = async {
            while !opened.has_all(wanted, sizes) {
                let stream = connection.accept().await?;
                opened.add(stream).await;
            }
            Some(())
        };
        timeout(OPEN_TIME, gathering).await.ok()??;
        let Opened { error, stdin, stdout, stderr, resize } = opened;
        let has_status = protocol == V4;
        Some(Self { connection, error: error?, stdin, stdout, stderr, resize, size: Vec::new(), has_status })
    }

    pub(super) async fn next(&mut self) -> Said {
        tokio::select! {
            biased;
            size = piece(&mut self.resize) => match size {
                Ok(Some(data)) if self.size.len() + data.len() <= MAX_SIZE_BYTES => {
                    self.size.extend_from_slice(&data);
                    last_size(&mut self.size).map_or(Said::Nothing, Said::Resize)
                }
                Ok(_) | Err(Gone) => {
                    self.resize = None;
                    Said::Nothing
                }
            },
            data = piece(&mut self.stdin) => match data {
                Ok(Some(data)) => Said::Stdin(data),
                Ok(None) | Err(Gone) => {
                    self.stdin = None;
                    Said::CloseStdin
                }
            },
            () = self.connection.gone() => Said::Left,
        }
    }

    pub(super) async fn output(&mut self, stream: Stream, data: Bytes) -> Result<(), Left> {
        let to = if stream == Stream::Stdout { &self.stdout } else { &self.stderr };
        match to {
            Some(to) => to.send(data).await.map_err(|Gone| Left),
            None => Ok(()),
        }
    }

    pub(super) async fn finish(self, outcome: &Outcome) {
        // Each may find the client gone, which needs no good-bye.
        for stream in [self.stdout, self.stderr].into_iter().flatten() {
            let _ = stream.finish().await;
        }
        let text = if self.has_status { Some(outcome.status().to_string()) } else { outcome.message() };
        if let Some(text) = text {
            let _ = self.error.send(text.into()).await;
        }
        let _ = self.error.finish().await;
        self.connection.finish().await;
    }
}

impl Opened {
    fn has_all(&self, wanted: &Wanted, sizes: bool) -> bool {
        self.error.is_some()
            && self.stdin.is_some() == wanted.stdin
            && self.stdout.is_some() == wanted.stdout
            && self.stderr.is_some() == wanted.stderr
            && self.resize.is_some() == sizes
    }

    async fn add(&mut self, stream: seaway_spdy::Stream) {
        let seaway_spdy::Stream { headers, sender, receiver } = stream;
        match headers.get("streamtype") {
            Some("error") => self.error = Some(sender),
            Some("stdin") => self.stdin = Some(receiver),
            Some("stdout") => self.stdout = Some(sender),
            Some("stderr") => self.stderr = Some(sender),
            Some("resize") => self.resize = Some(receiver),
            // Where the connection has ended, what follows shows it.
            _ => drop(sender.reset(status::PROTOCOL_ERROR).await),
        }
    }
}

/// Takes the sizes out of `bytes`, in which one as JSON follows the other; the last one counts.
fn last_size(bytes: &mut Vec<u8>) -> Option<WindowSize> {
    let mut sizes = serde_json::Deserializer::from_slice(bytes).into_iter::<TerminalSize>();
    let mut last = None;
    while let Some(Ok(size)) = sizes.next() {
        last = size.window();
    }
    let read = sizes.byte_offset();
    bytes.drain(..read);
    last
}

/// What comes next on a stream; nothing ever where there is none.
async fn piece(from: &mut Option<Receiver>) -> Result<Option<Bytes>, Gone> {
    match from {
        Some(from) => from.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_one_after_the_other_and_in_pieces() {
        let size = |rows, columns| Some(WindowSize { rows, columns });
        for (bytes, expected, left) in [
            (&b"{\"Width\":80,\"Height\":24}\n"[..], size(24, 80), &b""[..]),
            (b"{\"Width\":80,\"Height\":24}{\"Width\":81,\"Height\":25}{\"Wid", size(25, 81), b"{\"Wid"),
            (b"{\"Width\":0,\"Height\":24}", None, b""),
            (b"{\"Wid", None, b"{\"Wid"),
            (b"", None, b""),
        ] {
            let mut buffer = bytes.to_vec();
            assert_eq!(last_size(&mut buffer), expected, "{bytes:?}");
            assert_eq!(buffer.trim_ascii(), left, "{bytes:?}");
        }
    }
}
