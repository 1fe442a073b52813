//! Bytes to frames.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::compression::Inflater;
use crate::frame::{FLAG_FIN, FLAG_UNIDIRECTIONAL, Frame, STREAM_BITS, Setting, SpdyError, VERSION, kind};

/// The largest control frame that is taken.
const MAX_CONTROL_BYTES: usize = 64 << 10;
/// Every frame begins with as many bytes.
const HEAD_BYTES: usize = 8;

/// Reads the frames of one direction of one connection.
pub struct Decoder {
    inflater: Inflater,
    /// The data frame of which not all has come.
    begun: Option<Begun>,
}

struct Begun {
    stream: u32,
    fin: bool,
    left: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflater: Inflater::new(), begun: None }
    }
}

impl Decoder {
    /// Takes the next frame out of `input`; `None` where more bytes must come first. Data is handed out as it comes, so no more
    /// than a control frame is ever waited for. After an error the connection is of no use.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        loop {
            if let Some(begun) = &mut self.begun {
                let data = input.split_to(begun.left.min(input.len())).freeze();
                if data.is_empty() && begun.left > 0 {
                    return Ok(None);
                }
                begun.left -= data.len();
                let (stream, fin) = (begun.stream, begun.fin && begun.left == 0);
                if begun.left == 0 {
                    self.begun = None;
                }
                return Ok(Some(Frame::Data { stream, fin, data }));
            }
            let Some(head) = input.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
            let (first, rest) = (be(&head[..4]), be(&head[4..]));
            let (flags, length) = ((rest >> 24) as u8, (rest & 0x00ff_ffff) as usize);
            if first & !STREAM_BITS == 0 {
                input.advance(HEAD_BYTES);
                self.begun = Some(Begun { stream: first, fin: flags & FLAG_FIN != 0, left: length });
                continue;
            }
            let version = (first >> 16) as u16 & 0x7fff;
            if version != VERSION {
                return Err(SpdyError::Version(version));
            }
            if length > MAX_CONTROL_BYTES {
                return Err(SpdyError::FrameTooLong { length, limit: MAX_CONTROL_BYTES });
            }
            if input.len() < HEAD_BYTES + length {
                return Ok(None);
            }
            input.advance(HEAD_BYTES);
            let body = input.split_to(length).freeze();
            // Types that are not known are passed over (section 2.2.1).
            if let Some(frame) = self.control(first as u16, flags, body)? {
                return Ok(Some(frame));
            }
        }
    }

    fn control(&mut self, kind: u16, flags: u8, body: Bytes) -> Result<Option<Frame>, SpdyError> {
        let fin = flags & FLAG_FIN != 0;
        let frame = match kind {
            kind::SYN_STREAM => {
                let (head, block) = split(&body, 10, "SYN_STREAM")?;
                Frame::SynStream {
                    stream: be(&head[..4]) & STREAM_BITS,
                    associated: be(&head[4..8]) & STREAM_BITS,
                    priority: head[8] >> 5,
                    fin,
                    unidirectional: flags & FLAG_UNIDIRECTIONAL != 0,
                    headers: self.inflater.headers(block)?,
                }
            }
            kind::SYN_REPLY => {
                let (head, block) = split(&body, 4, "SYN_REPLY")?;
                Frame::SynReply {
                    stream: be(head) & STREAM_BITS,
                    fin,
                    headers: self.inflater.headers(block)?,
                }
            }
            kind::HEADERS => {
                let (head, block) = split(&body, 4, "HEADERS")?;
                Frame::Headers { stream: be(head) & STREAM_BITS, fin, headers: self.inflater.headers(block)? }
            }
            kind::RST_STREAM => {
                let (stream, status) = pair(&body, "RST_STREAM")?;
                Frame::RstStream { stream, status }
            }
            kind::GOAWAY => {
                let (last_good, status) = pair(&body, "GOAWAY")?;
                Frame::GoAway { last_good, status }
            }
            kind::WINDOW_UPDATE => {
                let (stream, delta) = pair(&body, "WINDOW_UPDATE")?;
                Frame::WindowUpdate { stream, delta: delta & STREAM_BITS }
            }
            kind::PING => Frame::Ping(be(exactly(&body, 4, "PING")?)),
            kind::SETTINGS => settings(&body)?,
            _ => return Ok(None),
        };
        Ok(Some(frame))
    }
}

fn settings(body: &[u8]) -> Result<Frame, SpdyError> {
    let (count, entries) = split(body, 4, "SETTINGS")?;
    if be(count) as usize != entries.len() / 8 || entries.len() % 8 != 0 {
        return Err(SpdyError::Length("SETTINGS"));
    }
    let setting =
        |entry: &[u8]| Setting { flags: entry[0], id: be(&entry[..4]) & 0x00ff_ffff, value: be(&entry[4..]) };
    Ok(Frame::Settings(entries.chunks_exact(8).map(setting).collect()))
}

fn be(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

fn split<'a>(body: &'a [u8], at: usize, what: &'static str) -> Result<(&'a [u8], &'a [u8]), SpdyError> {
    body.split_at_checked(at).ok_or(SpdyError::Length(what))
}

fn exactly<'a>(body: &'a [u8], length: usize, what: &'static str) -> Result<&'a [u8], SpdyError> {
    if body.len() == length { Ok(body) } else { Err(SpdyError::Length(what)) }
}

/// A stream's number and another one.
fn pair(body: &[u8], what: &'static str) -> Result<(u32, u32), SpdyError> {
    let body = exactly(body, 8, what)?;
    Ok((be(&body[..4]) & STREAM_BITS, be(&body[4..])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encode::Encoder;
    use crate::frame::Headers;

    fn all(mut input: BytesMut) -> Result<Vec<Frame>, SpdyError> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        while let Some(frame) = decoder.decode(&mut input)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Bytes as the draft lays them out.
    #[test]
    fn frames_of_the_draft() {
        let data = |fin, text: &'static str| Frame::Data {
            stream: 5,
            fin,
            data: Bytes::from_static(text.as_bytes()),
        };
        for (bytes, expected) in [
            (&b"\0\0\0\x05\0\0\0\x02hi"[..], Ok(vec![data(false, "hi")])),
            (b"\0\0\0\x05\x01\0\0\0", Ok(vec![data(true, "")])),
            (b"\0\0\0\x05\x01\0\0\x03hi", Ok(vec![data(false, "hi")])),
            (
                b"\x80\x03\0\x03\0\0\0\x08\0\0\0\x05\0\0\0\x03",
                Ok(vec![Frame::RstStream { stream: 5, status: 3 }]),
            ),
            (b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x09", Ok(vec![Frame::Ping(9)])),
            (
                b"\x80\x03\0\x07\0\0\0\x08\0\0\0\x05\0\0\0\0",
                Ok(vec![Frame::GoAway { last_good: 5, status: 0 }]),
            ),
            (
                b"\x80\x03\0\x09\0\0\0\x08\0\0\0\x05\0\0\x10\0",
                Ok(vec![Frame::WindowUpdate { stream: 5, delta: 4096 }]),
            ),
            (
                b"\x80\x03\0\x04\0\0\0\x0c\0\0\0\x01\x01\0\0\x07\0\0\0\x09",
                Ok(vec![Frame::Settings(vec![Setting { flags: 1, id: 7, value: 9 }])]),
            ),
            // A type that is not known, and one that is.
            (b"\x80\x03\0\x63\0\0\0\x02xx\x80\x03\0\x06\0\0\0\x04\0\0\0\x09", Ok(vec![Frame::Ping(9)])),
            (b"\x80\x03\0\x06\0\0\0\x04\0\0", Ok(vec![])),
            (b"\x80\x02\0\x06\0\0\0\x04\0\0\0\x09", Err(SpdyError::Version(2))),
            (b"\x80\x03\0\x06\0\0\0\x03\0\0\0", Err(SpdyError::Length("PING"))),
            (b"\x80\x03\0\x04\0\0\0\x04\xff\xff\xff\xff", Err(SpdyError::Length("SETTINGS"))),
            (b"\x80\x03\0\x01\0\0\0\x02\0\0", Err(SpdyError::Length("SYN_STREAM"))),
            (b"\x80\x03\0\x02\0\0\0\x06\0\0\0\x01no", Err(SpdyError::Compression)),
            (b"\x80\x03\0\x01\0\x01\0\x01", Err(SpdyError::FrameTooLong { length: 65_537, limit: 65_536 })),
        ] {
            assert_eq!(all(BytesMut::from(bytes)), expected, "{bytes:?}");
        }
    }

    #[test]
    fn long_data_becomes_several_frames() {
        let data = Bytes::from(vec![7; (1 << 24) + 5]);
        let mut out = BytesMut::new();
        Encoder::default()
            .encode(&Frame::Data { stream: 1, fin: true, data: data.clone() }, &mut out)
            .unwrap();
        let frames = all(out).unwrap();
        let fins: Vec<(usize, bool)> = frames
            .iter()
            .map(|frame| match frame {
                Frame::Data { fin, data, .. } => (data.len(), *fin),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(fins, [((1 << 24) - 1, false), (6, true)]);
    }

    fn stream() -> impl Strategy<Value = u32> {
        0..=STREAM_BITS
    }

    fn headers() -> impl Strategy<Value = Headers> {
        proptest::collection::vec(("[a-z-]{0,12}", "\\PC{0,40}"), 0..6).prop_map(Headers)
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let setting = (any::<u8>(), 0..1_u32 << 24, any::<u32>());
        let setting = setting.prop_map(|(flags, id, value)| Setting { flags, id, value });
        prop_oneof![
            (stream(), stream(), 0..8_u8, any::<bool>(), any::<bool>(), headers()).prop_map(
                |(stream, associated, priority, fin, unidirectional, headers)| Frame::SynStream {
                    stream,
                    associated,
                    priority,
                    fin,
                    unidirectional,
                    headers
                }
            ),
            (stream(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::SynReply {
                stream,
                fin,
                headers
            }),
            (stream(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::Headers {
                stream,
                fin,
                headers
            }),
            (stream(), any::<u32>()).prop_map(|(stream, status)| Frame::RstStream { stream, status }),
            (stream(), any::<u32>()).prop_map(|(last_good, status)| Frame::GoAway { last_good, status }),
            (stream(), stream()).prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
            any::<u32>().prop_map(Frame::Ping),
            proptest::collection::vec(setting, 0..5).prop_map(Frame::Settings),
            (stream(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..300))
                .prop_map(|(stream, fin, data)| Frame::Data { stream, fin, data: data.into() }),
        ]
    }

    /// Puts pieces of one data frame together again; an encoder writes none without data that are not its last.
    fn joined(frames: Vec<Frame>) -> Vec<Frame> {
        let mut joined: Vec<Frame> = Vec::new();
        for frame in frames {
            if let Frame::Data { stream, fin, data } = &frame
                && let Some(Frame::Data { stream: last, fin: open @ false, data: begun }) = joined.last_mut()
                && last == stream
            {
                (*open, *begun) = (*fin, Bytes::from([&begun[..], data].concat()));
            } else {
                joined.push(frame);
            }
        }
        joined
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_however_it_is_cut(frames in proptest::collection::vec(frame(), 0..12), cut in 1..400_usize) {
            let mut encoder = Encoder::default();
            let mut bytes = BytesMut::new();
            for frame in &frames {
                encoder.encode(frame, &mut bytes).unwrap();
            }
            let mut decoder = Decoder::default();
            let (mut input, mut read) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                input.extend_from_slice(piece);
                while let Some(frame) = decoder.decode(&mut input).unwrap() {
                    read.push(frame);
                }
            }
            prop_assert!(input.is_empty());
            prop_assert_eq!(joined(read), joined(frames));
        }

        #[test]
        fn nonsense_is_no_panic_and_no_memory(bytes in proptest::collection::vec(any::<u8>(), 0..200), head in 0..10_u16) {
            let mut input = BytesMut::from(&[&[0x80, 3][..], &head.to_be_bytes(), &[0, 0, 0, 100], &bytes].concat()[..]);
            let mut decoder = Decoder::default();
            for _ in 0..300 {
                match decoder.decode(&mut input) {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }
}
