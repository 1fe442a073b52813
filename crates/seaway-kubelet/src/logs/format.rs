//! The CRI log format: `TIME STREAM P|F TEXT`, one line each.

use jiff::Timestamp;

/// A container's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A longer line is written in parts, all but the last marked `P`.
pub(crate) const MAX_PART: usize = 16 * 1024;

/// Turns one stream's bytes into log lines.
#[derive(Debug)]
pub(crate) struct Splitter {
    stream: Stream,
    pending: Vec<u8>,
}

impl Splitter {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Appends to `out` the lines that `chunk` completes.
    pub(crate) fn push(&mut self, mut chunk: &[u8], now: Timestamp, out: &mut Vec<u8>) {
        while !chunk.is_empty() {
            let room = MAX_PART - self.pending.len();
            let window = &chunk[..chunk.len().min(room)];
            if let Some(end) = window.iter().position(|&byte| byte == b'\n') {
                self.pending.extend_from_slice(&window[..end]);
                self.flush(now, b'F', out);
                chunk = &chunk[end + 1..];
            } else {
                self.pending.extend_from_slice(window);
                chunk = &chunk[window.len()..];
                if self.pending.len() == MAX_PART {
                    self.flush(now, b'P', out);
                }
            }
        }
    }

    /// Appends what is left when the stream ends without a newline.
    pub(crate) fn finish(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.flush(now, b'F', out);
        }
    }

    fn flush(&mut self, now: Timestamp, tag: u8, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{now:.9} {} {} ", self.stream.name(), tag as char).as_bytes());
        out.append(&mut self.pending);
        out.push(b'\n');
    }
}

/// One line of a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub time: &'a str,
    pub partial: bool,
    pub text: &'a [u8],
}

impl Line<'_> {
    pub(crate) fn at(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Reads one line, without its newline; `None` for what is no log line.
pub(crate) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |&byte| byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let (_stream, tag) = (fields.next()?, fields.next()?);
    Some(Line { time, partial: tag == b"P", text: fields.next()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at() -> Timestamp {
        "2026-11-21T12:00:00.5Z".parse().unwrap()
    }

    #[test]
    fn lines_are_framed() {
        let mut splitter = Splitter::new(Stream::Stdout);
        let mut out = Vec::new();
        splitter.push(b"one\ntw", at(), &mut out);
        splitter.push(b"o\n\nthree", at(), &mut out);
        splitter.finish(at(), &mut out);
        let text = String::from_utf8(out).unwrap();
        let stamp = "2026-11-21T12:00:00.500000000Z stdout F";
        assert_eq!(text, format!("{stamp} one\n{stamp} two\n{stamp} \n{stamp} three\n"));
    }

    #[test]
    fn long_lines_come_in_parts() {
        let mut splitter = Splitter::new(Stream::Stderr);
        let mut out = Vec::new();
        let mut long = vec![b'x'; MAX_PART + 10];
        long.push(b'\n');
        splitter.push(&long, at(), &mut out);
        let lines: Vec<_> = out
            .split(|&byte| byte == b'\n')
            .filter_map(parse)
            .map(|line| (line.partial, line.text.len()))
            .collect();
        assert_eq!(lines, [(true, MAX_PART), (false, 10)]);
    }

    #[test]
    fn what_is_no_line_is_nothing() {
        for text in ["", "x", "a b", "a b F"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        let line = parse(b"2026-11-21T12:00:00.5Z stdout F a b").unwrap();
        assert_eq!((line.text, line.partial, line.at()), (&b"a b"[..], false, Some(at())));
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let mut splitter = Splitter::new(Stream::Stdout);
            let mut out = Vec::new();
            for chunk in &chunks {
                splitter.push(chunk, at(), &mut out);
            }
            splitter.finish(at(), &mut out);
            let mut read = Vec::new();
            for line in out.split(|&byte| byte == b'\n').filter_map(parse) {
                read.extend_from_slice(line.text);
                if !line.partial {
                    read.push(b'\n');
                }
            }
            let mut written = chunks.concat();
            if !written.is_empty() && written.last() != Some(&b'\n') {
                written.push(b'\n');
            }
            prop_assert_eq!(read, written);
        }
    }
}
