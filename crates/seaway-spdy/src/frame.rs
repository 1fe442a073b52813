//! What goes over a connection.

use bytes::Bytes;

/// The version in control frames; SPDY/3.1 changed flow control alone and left it at 3.
pub(crate) const VERSION: u16 = 3;
/// The flag of a sender's last frame on a stream.
pub(crate) const FLAG_FIN: u8 = 0x01;
/// The flag of a stream on which the other side sends nothing.
pub(crate) const FLAG_UNIDIRECTIONAL: u8 = 0x02;
/// A frame's length has 24 bits.
pub(crate) const MAX_LENGTH: usize = (1 << 24) - 1;
/// A stream's number has 31 bits, the highest one being something else.
pub(crate) const STREAM_BITS: u32 = 0x7fff_ffff;

/// Control frames' types (section 2.6).
pub(crate) mod kind {
    pub(crate) const SYN_STREAM: u16 = 1;
    pub(crate) const SYN_REPLY: u16 = 2;
    pub(crate) const RST_STREAM: u16 = 3;
    pub(crate) const SETTINGS: u16 = 4;
    pub(crate) const PING: u16 = 6;
    pub(crate) const GOAWAY: u16 = 7;
    pub(crate) const HEADERS: u16 = 8;
    pub(crate) const WINDOW_UPDATE: u16 = 9;
}

/// Why a stream is reset (section 2.6.3).
pub mod status {
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// The stream was refused before anything was done with it.
    pub const REFUSED_STREAM: u32 = 3;
    /// The stream is no longer needed.
    pub const CANCEL: u32 = 5;
}

/// Names in lower case with their values, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The value of `name` (in lower case).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// One entry of SETTINGS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Whether it is to be kept, or was.
    pub flags: u8,
    /// Which one, in 24 bits.
    pub id: u32,
    /// Its value.
    pub value: u32,
}

/// A frame. Of a data frame on the wire a decoder makes as many as it gets pieces of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the draft's own names")]
pub enum Frame {
    SynStream {
        stream: u32,
        associated: u32,
        /// 0 is the highest, 7 the lowest.
        priority: u8,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    },
    SynReply {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    RstStream {
        stream: u32,
        status: u32,
    },
    Settings(Vec<Setting>),
    Ping(u32),
    GoAway {
        last_good: u32,
        status: u32,
    },
    Headers {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    Data {
        stream: u32,
        fin: bool,
        data: Bytes,
    },
}

/// Why bytes are not SPDY, or not what is taken here. The connection is of no use afterwards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    /// Another protocol, or another version.
    #[error("a control frame of version {0}, where SPDY/3.1 has {VERSION}")]
    Version(u16),
    /// A control frame that is longer than any that makes sense.
    #[error("a control frame of {length} bytes; at most {limit} are taken")]
    FrameTooLong {
        /// What its head says.
        length: usize,
        /// What is taken.
        limit: usize,
    },
    /// A frame that ends before its fields do, or goes on after them.
    #[error("a {0} frame of the wrong length")]
    Length(&'static str),
    /// A header block that does not decompress.
    #[error("a header block that does not decompress")]
    Compression,
    /// A header block that decompresses to more than is taken.
    #[error("a header block of more than {0} bytes")]
    HeadersTooLong(usize),
    /// A header block whose lengths do not add up, or whose text is no text.
    #[error("a header block that is not made of names and values")]
    Headers,
}
