//! Header blocks: one zlib stream per direction for a connection's whole life, primed with the dictionary (section 2.6.10.1).

use bytes::{Buf as _, BufMut as _};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::dictionary::DICTIONARY;
use crate::frame::{Headers, SpdyError};

/// The most that a header block may decompress to.
pub(crate) const MAX_HEADER_BYTES: usize = 64 << 10;
/// How much room is made at a time.
const STEP: usize = 4 << 10;

/// Reads header blocks.
pub(crate) struct Inflater(Decompress);

impl Inflater {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The headers in the connection's next block. An error is final: what follows depends on it.
    pub(crate) fn headers(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut plain = Vec::with_capacity(STEP);
        let begin = self.0.total_in();
        loop {
            let consumed = (self.0.total_in() - begin) as usize;
            let before = (consumed, plain.len());
            match self.0.decompress_vec(&block[consumed..], &mut plain, FlushDecompress::Sync) {
                Ok(Status::Ok | Status::BufError) => {}
                Ok(Status::StreamEnd) => return Err(SpdyError::Compression),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| SpdyError::Compression)?;
                    continue;
                }
                Err(_) => return Err(SpdyError::Compression),
            }
            let consumed = (self.0.total_in() - begin) as usize;
            if plain.len() > MAX_HEADER_BYTES {
                return Err(SpdyError::HeadersTooLong(MAX_HEADER_BYTES));
            }
            if plain.len() == plain.capacity() {
                plain.reserve(STEP);
            } else if consumed == block.len() {
                return Ok(plain);
            } else if (consumed, plain.len()) == before {
                return Err(SpdyError::Compression);
            }
        }
    }
}

/// Writes header blocks.
pub(crate) struct Deflater(Compress);

impl Deflater {
    pub(crate) fn new() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        // It fails for a stream that has begun, which this one has not; without it peers understand the stream, too.
        let _ = deflate.set_dictionary(&DICTIONARY);
        Self(deflate)
    }

    /// The next header block.
    pub(crate) fn block(&mut self, headers: &Headers) -> Result<Vec<u8>, SpdyError> {
        let plain = plain(headers);
        let mut block = Vec::with_capacity(plain.len() + 64);
        let begin = self.0.total_in();
        loop {
            let consumed = (self.0.total_in() - begin) as usize;
            self.0
                .compress_vec(&plain[consumed..], &mut block, FlushCompress::Sync)
                .map_err(|_| SpdyError::Compression)?;
            let consumed = (self.0.total_in() - begin) as usize;
            if consumed == plain.len() && block.len() < block.capacity() {
                return Ok(block);
            }
            block.reserve(STEP);
        }
    }
}

fn plain(headers: &Headers) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u32(headers.0.len() as u32);
    for text in headers.0.iter().flat_map(|(name, value)| [name, value]) {
        bytes.put_u32(text.len() as u32);
        bytes.put_slice(text.as_bytes());
    }
    bytes
}

fn parse(mut bytes: &[u8]) -> Result<Headers, SpdyError> {
    let count = bytes.try_get_u32().map_err(|_| SpdyError::Headers)?;
    let mut headers = Headers::default();
    for _ in 0..count {
        let (name, value) = (text(&mut bytes)?, text(&mut bytes)?);
        headers.0.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    if bytes.is_empty() { Ok(headers) } else { Err(SpdyError::Headers) }
}

fn text<'a>(bytes: &mut &'a [u8]) -> Result<&'a str, SpdyError> {
    let length = bytes.try_get_u32().map_err(|_| SpdyError::Headers)? as usize;
    let (text, rest) = bytes.split_at_checked(length).ok_or(SpdyError::Headers)?;
    *bytes = rest;
    std::str::from_utf8(text).map_err(|_| SpdyError::Headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn blocks_share_one_stream() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let mut lengths = Vec::new();
        for _ in 0..3 {
            let sent = headers(&[("streamtype", "stdout"), ("user-agent", "x")]);
            let block = deflater.block(&sent).unwrap();
            lengths.push(block.len());
            assert_eq!(inflater.headers(&block).unwrap(), sent);
        }
        assert!(lengths[1] < lengths[0], "the second one repeats the first: {lengths:?}");
    }

    #[test]
    fn a_small_block_does_not_become_a_large_one() {
        for (size, fits) in
            [(1_000, true), (MAX_HEADER_BYTES - 100, true), (MAX_HEADER_BYTES, false), (5_000_000, false)]
        {
            let block = Deflater::new().block(&headers(&[("a", &"x".repeat(size))])).unwrap();
            let read = Inflater::new().headers(&block);
            assert_eq!(read.is_ok(), fits, "{size}");
        }
    }

    #[test]
    fn lengths_must_add_up() {
        let good = plain(&headers(&[("a", "b")]));
        assert!(parse(&good).is_ok());
        for (bytes, what) in [
            (&good[..good.len() - 1], "cut"),
            (&[&good[..], b"x"].concat(), "longer"),
            (b"\0\0\0\x01\xff\xff\xff\xffa", "a length beyond the end"),
            (b"\xff\xff\xff\xff", "a count beyond the end"),
            (b"\0\0\0\x01\0\0\0\x01\xff\0\0\0\0", "no text"),
            (b"", "nothing"),
        ] {
            assert_eq!(parse(bytes), Err(SpdyError::Headers), "{what}");
        }
    }
}
