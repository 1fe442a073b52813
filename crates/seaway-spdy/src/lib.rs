//! SPDY/3.1 as far as Kubernetes' `exec`, `attach` and `port-forward` use it (draft-mbelshe-httpbis-spdy-00 and its 3.1).
//!
//! [`Decoder`] and [`Encoder`] turn bytes into [`Frame`]s and back and do no I/O; [`Connection`] is the server's side of a
//! connection, which accepts the client's streams.
//!
//! Kubernetes' clients neither keep to flow control windows nor send WINDOW_UPDATE, so there are none here: a stream whose
//! data nobody takes holds up its connection once [`connection`]'s small buffer for it is full.

mod compression;
pub mod connection;
mod decode;
mod dictionary;
mod encode;
mod frame;

pub use connection::{Connection, Gone, Receiver, Sender, Stream};
pub use decode::Decoder;
pub use encode::Encoder;
pub use frame::{Frame, Headers, Setting, SpdyError, status};
