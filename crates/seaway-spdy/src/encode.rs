//! Frames to bytes.

use bytes::{BufMut as _, BytesMut};

use crate::compression::Deflater;
use crate::frame::{FLAG_FIN, FLAG_UNIDIRECTIONAL, Frame, MAX_LENGTH, STREAM_BITS, SpdyError, VERSION, kind};

/// Writes the frames of one direction of one connection.
pub struct Encoder {
    deflater: Deflater,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { deflater: Deflater::new() }
    }
}

impl Encoder {
    /// Appends `frame` to `out`; data longer than a frame holds becomes several.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), SpdyError> {
        match frame {
            Frame::Data { stream, fin, data } => {
                put_data(*stream, *fin, data, out);
                return Ok(());
            }
            Frame::SynStream { stream, associated, priority, fin, unidirectional, headers } => {
                let block = self.deflater.block(headers)?;
                let flags = flag(*fin, FLAG_FIN) | flag(*unidirectional, FLAG_UNIDIRECTIONAL);
                put_head(kind::SYN_STREAM, flags, 10 + block.len(), out);
                out.put_u32(stream & STREAM_BITS);
                out.put_u32(associated & STREAM_BITS);
                out.put_u8(priority << 5);
                out.put_u8(0);
                out.put_slice(&block);
            }
            Frame::SynReply { stream, fin, headers } | Frame::Headers { stream, fin, headers } => {
                let block = self.deflater.block(headers)?;
                let kind =
                    if matches!(frame, Frame::SynReply { .. }) { kind::SYN_REPLY } else { kind::HEADERS };
                put_head(kind, flag(*fin, FLAG_FIN), 4 + block.len(), out);
                out.put_u32(stream & STREAM_BITS);
                out.put_slice(&block);
            }
            Frame::RstStream { stream, status } => put_pair(kind::RST_STREAM, *stream, *status, out),
            Frame::GoAway { last_good, status } => put_pair(kind::GOAWAY, *last_good, *status, out),
            Frame::WindowUpdate { stream, delta } => put_pair(kind::WINDOW_UPDATE, *stream, *delta, out),
            Frame::Ping(id) => {
                put_head(kind::PING, 0, 4, out);
                out.put_u32(*id);
            }
            Frame::Settings(settings) => {
                put_head(kind::SETTINGS, 0, 4 + 8 * settings.len(), out);
                out.put_u32(settings.len() as u32);
                for setting in settings {
                    out.put_u8(setting.flags);
                    out.put_uint(u64::from(setting.id), 3);
                    out.put_u32(setting.value);
                }
            }
        }
        Ok(())
    }
}

fn flag(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

fn put_head(kind: u16, flags: u8, length: usize, out: &mut BytesMut) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u8(flags);
    out.put_uint(length as u64, 3);
}

fn put_pair(kind: u16, stream: u32, value: u32, out: &mut BytesMut) {
    put_head(kind, 0, 8, out);
    out.put_u32(stream & STREAM_BITS);
    out.put_u32(value);
}

fn put_data(stream: u32, fin: bool, data: &[u8], out: &mut BytesMut) {
    let mut rest = data;
    loop {
        let (now, later) = rest.split_at(rest.len().min(MAX_LENGTH));
        rest = later;
        out.put_u32(stream & STREAM_BITS);
        out.put_u8(flag(fin && rest.is_empty(), FLAG_FIN));
        out.put_uint(now.len() as u64, 3);
        out.put_slice(now);
        if rest.is_empty() {
            return;
        }
    }
}
