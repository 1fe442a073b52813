//! One GET over HTTP/1.1 (RFC 9112), small enough to know every byte that is sent.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::api::{Event, Http, MAX_ANSWER, MAX_BODY};
use crate::serve::timed_out;

/// An answer, read to its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    status: u16,
    server: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    /// As an event.
    pub(crate) fn event(self, micros: u64) -> Event {
        Event::Response {
            status: Some(self.status),
            server: self.server,
            body: text_of(&self.body),
            bytes: self.body.len(),
            micros,
        }
    }
}

/// The first [`MAX_BODY`] bytes as text.
pub(crate) fn text_of(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(MAX_BODY)]).into_owned()
}

/// Asks and reads the answer to its end, or to [`MAX_ANSWER`].
pub(crate) fn get(mut stream: TcpStream, http: &Http, token: &str, patience: Duration) -> io::Result<Answer> {
    let deadline = Instant::now() + patience;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(request(http, token).as_bytes())?;
    let mut seen = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(timed_out("answer's end", patience));
        }
        stream.set_read_timeout(Some(left))?;
        let read = match stream.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(timed_out("answer's end", patience));
            }
            Err(error) => return Err(error),
        };
        let room = MAX_ANSWER - seen.len();
        seen.extend_from_slice(&buffer[..read.min(room)]);
        let ended = read == 0 || seen.len() == MAX_ANSWER;
        match parse(&seen, ended) {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) if read > 0 => {}
            Ok(None) => {
                let text = format!("the connection ended within the answer, after {} bytes", seen.len());
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            Err(text) => return Err(io::Error::new(io::ErrorKind::InvalidData, text)),
        }
    }
}

fn request(http: &Http, token: &str) -> String {
    let Http { host, path, padding } = http;
    let mut text = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: seaway-trace\r\nX-Seaway-Trace: {token}\r\n"
    );
    if *padding > 0 {
        text += &format!("X-Padding: {}\r\n", "x".repeat(*padding));
    }
    text + "Connection: close\r\n\r\n"
}

/// The answer in `seen`; `None` where there has to be more. `ended`: no more will come, or no more is wanted.
fn parse(seen: &[u8], ended: bool) -> Result<Option<Answer>, String> {
    let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if seen.len() >= MAX_ANSWER { Err("its header has no end".to_owned()) } else { Ok(None) };
    };
    let head = String::from_utf8_lossy(&seen[..end]);
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    let Some(status) = status else {
        return Err(format!(
            "it is not HTTP/1: it begins with {:?}",
            first.chars().take(80).collect::<String>()
        ));
    };
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let header = |wanted: &str| {
        headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    let rest = &seen[end + 4..];
    let cut = seen.len() >= MAX_ANSWER;
    let body = if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        let (body, complete) = dechunk(rest)?;
        (complete || cut).then_some(body)
    } else if let Some(length) = header("content-length") {
        let length: usize = length.parse().map_err(|_| format!("its Content-Length is {length:?}"))?;
        (rest.len() >= length || cut).then(|| rest[..rest.len().min(length)].to_vec())
    } else {
        ended.then(|| rest.to_vec())
    };
    Ok(body.map(|body| Answer { status, server: header("server").map(str::to_owned), body }))
}

/// The data of the chunks (RFC 9112, 7.1) as far as they are there, and whether the last one is.
fn dechunk(mut rest: &[u8]) -> Result<(Vec<u8>, bool), String> {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return Ok((body, false)) };
        let line = String::from_utf8_lossy(&rest[..end]);
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(|_| format!("a chunk's size is {digits:?}"))?;
        if size == 0 {
            return Ok((body, true));
        }
        rest = &rest[end + 2..];
        body.extend_from_slice(&rest[..rest.len().min(size)]);
        match size.checked_add(2).and_then(|after| rest.get(after..)) {
            Some(next) => rest = next,
            None => return Ok((body, false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_byte_of_a_request() {
        let http = Http { host: "web:80".to_owned(), path: "/a?b".to_owned(), padding: 3 };
        assert_eq!(
            request(&http, "tok"),
            "GET /a?b HTTP/1.1\r\nHost: web:80\r\nUser-Agent: seaway-trace\r\nX-Seaway-Trace: tok\r\nX-Padding: xxx\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn answers() {
        let answer = |body: &str| Ok(Some((200, body.to_owned())));
        for (text, ended, expected) in [
            ("", false, Ok(None)),
            ("HTTP/1.1 200 OK\r\n", true, Ok(None)),
            ("HTTP/1.1 200 OK\r\n\r\nab", false, Ok(None)),
            ("HTTP/1.1 200 OK\r\n\r\nab", true, answer("ab")),
            ("HTTP/1.0 200 \r\n\r\n", true, answer("")),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na", true, Ok(None)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabc", false, answer("ab")),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", true, Ok(None)),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
                false,
                answer("abc"),
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab", true, Ok(None)),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                true,
                Err("a chunk's size is \"zz\""),
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", true, Err("its Content-Length is \"-1\"")),
            ("SSH-2.0-x\r\n\r\n", true, Err("it is not HTTP/1: it begins with \"SSH-2.0-x\"")),
        ] {
            let seen = parse(text.as_bytes(), ended)
                .map(|answer| answer.map(|answer| (answer.status, String::from_utf8(answer.body).unwrap())));
            assert_eq!(seen, expected.map_err(str::to_owned), "{text:?}");
        }
        let server = parse(b"HTTP/1.1 404 No\r\nSERVER: nginx \r\n\r\n", true).unwrap().unwrap();
        assert_eq!((server.status, server.server.as_deref()), (404, Some("nginx")));
    }

    /// A whole answer with `body` in chunks of these sizes.
    fn in_chunks(body: &[u8], sizes: &[usize]) -> Vec<u8> {
        let mut text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let mut rest = body;
        for size in sizes.iter().copied().chain([usize::MAX]) {
            let (chunk, after) = rest.split_at(size.min(rest.len()));
            if !chunk.is_empty() {
                text.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                text.extend(chunk);
                text.extend(b"\r\n");
            }
            rest = after;
        }
        text.extend(b"0\r\n\r\n");
        text
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            head in prop::sample::select(vec!["", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]),
            rest in prop::collection::vec(any::<u8>(), 0..200),
            ended: bool,
        ) {
            let _ = parse(&[head.as_bytes(), &rest].concat(), ended);
        }

        #[test]
        fn chunks_are_joined_and_the_end_is_awaited(
            body in prop::collection::vec(any::<u8>(), 0..300),
            sizes in prop::collection::vec(1..50_usize, 0..10),
        ) {
            let text = in_chunks(&body, &sizes);
            let answer = parse(&text, true).unwrap().unwrap();
            prop_assert_eq!(answer.body, body);
            // Without the last chunk's size it is not whole.
            prop_assert_eq!(parse(&text[..text.len() - 5], true), Ok(None));
        }
    }
}
