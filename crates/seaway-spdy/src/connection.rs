//! The server's side of a connection: it takes the streams that the client opens.
//!
//! One task reads and hands each stream its data, another one writes. Both end with the [`Connection`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::decode::Decoder;
use crate::encode::Encoder;
use crate::frame::{Frame, Headers, SpdyError, status};

/// Streams of a connection at a time; more are refused.
const MAX_STREAMS: usize = 1024;
/// Bytes that are read at once, and so the most of a piece of data.
const READ_BYTES: usize = 32 << 10;
/// Pieces of data that wait for a stream's reader.
const WAITING_DATA: usize = 16;
/// Frames that wait to be written.
const WAITING_FRAMES: usize = 16;
/// Frames are gathered up to this before they are written.
const WRITE_BYTES: usize = 64 << 10;
/// A connection on which neither side says anything for this long is ended, as kubelet's `--streaming-connection-idle-timeout`.
const MAX_IDLE: Duration = Duration::from_secs(4 * 60 * 60);
/// How long a client may take to leave once everything is said.
const LEAVE_TIME: Duration = Duration::from_secs(10);

/// The stream is no more: it was reset, or its connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream is no more")]
pub struct Gone;

/// A connection with a client.
pub struct Connection {
    streams: mpsc::Receiver<Stream>,
    frames: mpsc::Sender<Frame>,
    last: Arc<AtomicU32>,
    gone: CancellationToken,
    reading: AbortOnDropHandle<()>,
    writing: AbortOnDropHandle<()>,
}

/// A stream that the client has opened.
pub struct Stream {
    /// What the client said when it opened the stream.
    pub headers: Headers,
    /// To the client.
    pub sender: Sender,
    /// From the client.
    pub receiver: Receiver,
}

/// The server's half of a stream.
pub struct Sender {
    stream: u32,
    frames: mpsc::Sender<Frame>,
    _place: Arc<OwnedSemaphorePermit>,
}

/// The client's half of a stream.
pub struct Receiver {
    pieces: mpsc::Receiver<Piece>,
    ended: bool,
    _place: Arc<OwnedSemaphorePermit>,
}

struct Piece {
    data: Bytes,
    last: bool,
}

impl Connection {
    /// Begins to serve the client at the other end of `io`, where an upgrade to SPDY has been agreed on.
    pub fn serve(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (read, write) = tokio::io::split(io);
        let (accepted, streams) = mpsc::channel(WAITING_DATA);
        let (frames, to_write) = mpsc::channel(WAITING_FRAMES);
        let gone = CancellationToken::new();
        let last = Arc::new(AtomicU32::new(0));
        let written = Arc::new(AtomicBool::new(false));
        let reader = Reader {
            accepted,
            frames: frames.clone(),
            open: HashMap::new(),
            last: last.clone(),
            written: written.clone(),
            places: Arc::new(Semaphore::new(MAX_STREAMS)),
        };
        let (end_of_reading, end_of_writing) = (gone.clone().drop_guard(), gone.clone().drop_guard());
        let reading = AbortOnDropHandle::new(tokio::spawn(async move {
            let _end = end_of_reading;
            if let Err(error) = reader.run(read).await {
                tracing::debug!(%error, "a SPDY connection ended");
            }
        }));
        let writing = AbortOnDropHandle::new(tokio::spawn(async move {
            let _end = end_of_writing;
            if let Err(error) = write_frames(to_write, write, &written).await {
                tracing::debug!(%error, "a SPDY connection ended");
            }
        }));
        Self { streams, frames, last, gone, reading, writing }
    }

    /// The next stream that the client opens; `None` once the client is gone.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Ends once the client is gone.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        self.gone.clone().cancelled_owned()
    }

    /// Says that this is all and waits for the client to leave: it drops what it has not yet read when the connection ends
    /// before that.
    pub async fn finish(self) {
        let Self { streams, frames, last, gone, reading, writing } = self;
        drop(streams);
        let leaving = async {
            let _ = frames.send(Frame::GoAway { last_good: last.load(Ordering::Relaxed), status: 0 }).await;
            gone.cancelled().await;
        };
        let _ = timeout(LEAVE_TIME, leaving).await;
        drop((frames, reading));
        let _ = timeout(LEAVE_TIME, writing).await;
    }
}

impl Sender {
    /// Sends data, once there is room.
    pub async fn send(&self, data: Bytes) -> Result<(), Gone> {
        self.frame(Frame::Data { stream: self.stream, fin: false, data }).await
    }

    /// Says that nothing more is sent.
    pub async fn finish(self) -> Result<(), Gone> {
        self.frame(Frame::Data { stream: self.stream, fin: true, data: Bytes::new() }).await
    }

    /// Ends the stream both ways.
    pub async fn reset(self, status: u32) -> Result<(), Gone> {
        self.frame(Frame::RstStream { stream: self.stream, status }).await
    }

    async fn frame(&self, frame: Frame) -> Result<(), Gone> {
        self.frames.send(frame).await.map_err(|_| Gone)
    }
}

impl Receiver {
    /// The next piece of data; `None` once the client has said that this is all. It may be given up and asked again.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, Gone> {
        while !self.ended {
            let Piece { data, last } = self.pieces.recv().await.ok_or(Gone)?;
            self.ended = last;
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// The reading half.
struct Reader {
    accepted: mpsc::Sender<Stream>,
    frames: mpsc::Sender<Frame>,
    /// Streams on which the client may still send.
    open: HashMap<u32, mpsc::Sender<Piece>>,
    /// The last stream that the client has opened.
    last: Arc<AtomicU32>,
    /// Whether anything was written since this was looked at last.
    written: Arc<AtomicBool>,
    places: Arc<Semaphore>,
}

/// Why a connection ended; but for [`End::Spdy`] there is nothing wrong with it.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Spdy(#[from] SpdyError),
    #[error("nobody has said anything for {} s", MAX_IDLE.as_secs())]
    Idle,
    #[error(transparent)]
    Gone(#[from] Gone),
}

impl Reader {
    async fn run(mut self, mut from: impl AsyncRead + Unpin) -> Result<(), End> {
        let mut decoder = Decoder::default();
        let mut input = BytesMut::new();
        loop {
            while let Some(frame) = decoder.decode(&mut input)? {
                self.take(frame).await?;
            }
            input.reserve(READ_BYTES);
            match timeout(MAX_IDLE, from.read_buf(&mut input)).await {
                Ok(read) => {
                    if read? == 0 {
                        return Ok(());
                    }
                }
                Err(_) if self.written.swap(false, Ordering::Relaxed) => {}
                Err(_) => return Err(End::Idle),
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), Gone> {
        match frame {
            Frame::SynStream { stream, fin, headers, .. } => self.opened(stream, fin, headers).await,
            Frame::Data { stream, fin, data } => {
                self.came(stream, Piece { data, last: fin }).await;
                Ok(())
            }
            Frame::Headers { stream, fin: true, .. } => {
                self.came(stream, Piece { data: Bytes::new(), last: true }).await;
                Ok(())
            }
            Frame::RstStream { stream, .. } => {
                self.open.remove(&stream);
                Ok(())
            }
            // A client's pings have odd numbers (section 2.6.5); others would be answers.
            Frame::Ping(id) if id % 2 == 1 => self.say(Frame::Ping(id)).await,
            Frame::Ping(_)
            | Frame::Headers { .. }
            | Frame::SynReply { .. }
            | Frame::Settings(_)
            | Frame::WindowUpdate { .. }
            | Frame::GoAway { .. } => Ok(()),
        }
    }

    async fn opened(&mut self, stream: u32, fin: bool, headers: Headers) -> Result<(), Gone> {
        // A client's streams have odd numbers, each higher than the one before (section 2.3.2).
        if stream.is_multiple_of(2) || stream <= self.last.load(Ordering::Relaxed) {
            return self.say(Frame::RstStream { stream, status: status::PROTOCOL_ERROR }).await;
        }
        self.last.store(stream, Ordering::Relaxed);
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return self.say(Frame::RstStream { stream, status: status::REFUSED_STREAM }).await;
        };
        let place = Arc::new(place);
        let (sender, pieces) = mpsc::channel(WAITING_DATA);
        if !fin {
            self.open.insert(stream, sender);
        }
        self.say(Frame::SynReply { stream, fin: false, headers: Headers::default() }).await?;
        let new = Stream {
            headers,
            sender: Sender { stream, frames: self.frames.clone(), _place: place.clone() },
            receiver: Receiver { pieces, ended: fin, _place: place },
        };
        // Where no more streams are taken, the others go on.
        let _ = self.accepted.send(new).await;
        Ok(())
    }

    /// Data for a stream that nobody reads is dropped: the client may not know yet.
    async fn came(&mut self, stream: u32, piece: Piece) {
        let Some(sender) = self.open.get(&stream) else { return };
        let last = piece.last;
        let unread = sender.send(piece).await.is_err();
        if last || unread {
            self.open.remove(&stream);
        }
    }

    async fn say(&self, frame: Frame) -> Result<(), Gone> {
        self.frames.send(frame).await.map_err(|_| Gone)
    }
}

async fn write_frames(
    mut frames: mpsc::Receiver<Frame>,
    mut to: impl AsyncWrite + Unpin,
    written: &AtomicBool,
) -> Result<(), End> {
    let mut encoder = Encoder::default();
    let mut output = BytesMut::new();
    while let Some(frame) = frames.recv().await {
        encoder.encode(&frame, &mut output)?;
        while output.len() < WRITE_BYTES
            && let Ok(frame) = frames.try_recv()
        {
            encoder.encode(&frame, &mut output)?;
        }
        to.write_all_buf(&mut output).await?;
        to.flush().await?;
        written.store(true, Ordering::Relaxed);
    }
    to.shutdown().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::*;

    /// The client's end, frame by frame.
    struct Client {
        io: DuplexStream,
        encoder: Encoder,
        decoder: Decoder,
        input: BytesMut,
    }

    fn pair() -> (Client, Connection) {
        let (io, theirs) = tokio::io::duplex(64 << 10);
        let client =
            Client { io, encoder: Encoder::default(), decoder: Decoder::default(), input: BytesMut::new() };
        (client, Connection::serve(theirs))
    }

    impl Client {
        async fn say(&mut self, frame: Frame) {
            let mut bytes = BytesMut::new();
            self.encoder.encode(&frame, &mut bytes).unwrap();
            self.io.write_all(&bytes).await.unwrap();
        }

        async fn open(&mut self, stream: u32, name: &str) {
            let headers = Headers(vec![("streamtype".to_owned(), name.to_owned())]);
            let (associated, priority, fin, unidirectional) = (0, 0, false, false);
            self.say(Frame::SynStream { stream, associated, priority, fin, unidirectional, headers }).await;
        }

        async fn data(&mut self, stream: u32, fin: bool, text: &'static str) {
            self.say(Frame::Data { stream, fin, data: Bytes::from_static(text.as_bytes()) }).await;
        }

        async fn hear(&mut self) -> Option<Frame> {
            loop {
                if let Some(frame) = self.decoder.decode(&mut self.input).unwrap() {
                    return Some(frame);
                }
                if self.io.read_buf(&mut self.input).await.unwrap() == 0 {
                    return None;
                }
            }
        }
    }

    fn reply(stream: u32) -> Option<Frame> {
        Some(Frame::SynReply { stream, fin: false, headers: Headers::default() })
    }

    #[tokio::test]
    async fn streams_carry_data_both_ways() {
        let (mut client, mut connection) = pair();
        client.open(1, "one").await;
        client.open(3, "two").await;
        let mut one = connection.accept().await.unwrap();
        let mut two = connection.accept().await.unwrap();
        assert_eq!(two.headers.get("streamtype"), Some("two"));
        assert_eq!((client.hear().await, client.hear().await), (reply(1), reply(3)));

        client.data(3, false, "hello").await;
        client.data(1, true, "bye").await;
        assert_eq!(one.receiver.recv().await, Ok(Some(Bytes::from_static(b"bye"))));
        assert_eq!((one.receiver.recv().await, one.receiver.recv().await), (Ok(None), Ok(None)));
        assert_eq!(two.receiver.recv().await, Ok(Some(Bytes::from_static(b"hello"))));

        one.sender.send(Bytes::from_static(b"answer")).await.unwrap();
        one.sender.finish().await.unwrap();
        let data =
            |fin, text: &'static [u8]| Some(Frame::Data { stream: 1, fin, data: Bytes::from_static(text) });
        assert_eq!((client.hear().await, client.hear().await), (data(false, b"answer"), data(true, b"")));

        client.say(Frame::RstStream { stream: 3, status: status::CANCEL }).await;
        assert_eq!(two.receiver.recv().await, Err(Gone));
        drop(client);
        connection.gone().await;
        assert!(connection.accept().await.is_none());
    }

    #[tokio::test]
    async fn a_client_is_answered_and_told_off() {
        let (mut client, mut connection) = pair();
        client.say(Frame::Settings(vec![])).await;
        client.say(Frame::WindowUpdate { stream: 0, delta: 1 }).await;
        client.say(Frame::Ping(2)).await;
        client.say(Frame::Ping(3)).await;
        assert_eq!(client.hear().await, Some(Frame::Ping(3)));
        client.open(5, "first").await;
        assert_eq!(client.hear().await, reply(5));
        for bad in [5, 3, 8] {
            client.open(bad, "bad").await;
            let reset = Frame::RstStream { stream: bad, status: status::PROTOCOL_ERROR };
            assert_eq!(client.hear().await, Some(reset), "{bad}");
        }
        // For a stream that there never was.
        client.data(99, true, "x").await;
        assert!(connection.accept().await.is_some());
        client.io.write_all(b"\x80\x02\0\x06\0\0\0\x04\0\0\0\x09").await.unwrap();
        connection.gone().await;
    }

    #[tokio::test]
    async fn there_are_only_so_many_streams() {
        let (mut client, mut connection) = pair();
        let mut streams = Vec::new();
        for number in 0..MAX_STREAMS as u32 {
            client.open(2 * number + 1, "x").await;
            streams.push(connection.accept().await.unwrap());
            assert_eq!(client.hear().await, reply(2 * number + 1));
        }
        client.open(9_001, "x").await;
        let refused = Frame::RstStream { stream: 9_001, status: status::REFUSED_STREAM };
        assert_eq!(client.hear().await, Some(refused));
        streams.pop();
        client.open(9_003, "x").await;
        assert_eq!(client.hear().await, reply(9_003));
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_the_client_leaves_or_never_does() {
        for leaves in [true, false] {
            let (mut client, mut connection) = pair();
            client.open(1, "x").await;
            let stream = connection.accept().await.unwrap();
            stream.sender.finish().await.unwrap();
            let finishing = tokio::spawn(connection.finish());
            assert_eq!(client.hear().await, reply(1));
            assert!(matches!(client.hear().await, Some(Frame::Data { fin: true, .. })));
            assert_eq!(client.hear().await, Some(Frame::GoAway { last_good: 1, status: 0 }));
            if leaves {
                drop(client);
            } else {
                assert_eq!(client.hear().await, None);
            }
            finishing.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_silent_are_left() {
        let (mut client, connection) = pair();
        connection.gone().await;
        drop(connection);
        assert_eq!(client.hear().await, None);
    }
}
