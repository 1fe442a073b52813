//! What the probe and its driver say to each other: one JSON value a line.
//!
//! The driver writes a [`Request`]. Then the probe tells an [`Event`] and waits for the line [`GO`], again and again, until it tells
//! [`Event::Done`]. In a probe that goes well the events are:
//!
//! - TCP: `resolved`, `bound`, `connected`, then `response` where HTTP is asked for, `done`;
//! - UDP and ICMP: `resolved`, `bound`, `response`, `done`.
//!
//! After `failed` comes `bound` for the next address, or `done` where none is left.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What the driver writes after each event, as a line of its own, for the next step to begin.
pub const GO: &str = "go";
/// The longest line in bytes, either way.
pub const MAX_LINE: usize = 256 << 10;
/// The most addresses of a name that are told and tried.
pub const MAX_ADDRESSES: usize = 64;
/// The most of an answer's body that is told, in bytes.
pub const MAX_BODY: usize = 4 << 10;
/// The most of an answer that is read, in bytes.
pub const MAX_ANSWER: usize = 64 << 10;
/// The largest [`Http::padding`] in bytes.
pub const MAX_PADDING: usize = 16 << 10;
/// The longest [`Request::timeout_ms`].
pub const MAX_TIMEOUT_MS: u64 = 120_000;
/// The longest [`Request::token`] in bytes: a DNS label (RFC 1035, 2.3.4).
pub const MAX_TOKEN: usize = 63;

/// What to send, and to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// To whom.
    pub target: Target,
    /// How.
    pub protocol: Protocol,
    /// Whose resolver turns the name into addresses.
    pub libc: Libc,
    /// With TCP: the HTTP request to make; absent: connect and close.
    #[serde(default)]
    pub http: Option<Http>,
    /// Marks what is sent, to be found in the packets: 1 to [`MAX_TOKEN`] letters, digits and hyphens.
    pub token: String,
    /// The port to send from (for ICMP: the identifier); absent: one that is free.
    #[serde(default)]
    pub source_port: Option<u16>,
    /// How long each step may take, in milliseconds: at least 1, at most [`MAX_TIMEOUT_MS`].
    pub timeout_ms: u64,
    /// How long the lookup of the name may take, in milliseconds, with the same limits; absent: as long as each other
    /// step.
    #[serde(default)]
    pub lookup_timeout_ms: Option<u64>,
}

/// To whom: a name or an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The name to resolve, as a program in the pod would be given it.
    #[serde(default)]
    pub name: Option<String>,
    /// The address; where given, nothing is resolved.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// The port; for ICMP of no meaning.
    pub port: u16,
}

/// A transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// A connection.
    Tcp,
    /// A datagram and its answer. To port 53: the DNS query `TOKEN.invalid. TXT`; to others the text `echo TOKEN`, to which
    /// agnhost's netexec and any echo server answer.
    Udp,
    /// An echo request with the token as its data.
    Icmp,
}

/// A C library, for its resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Libc {
    /// The GNU C library: what the probe itself is linked with.
    Glibc,
    /// musl, as in Alpine Linux.
    Musl,
}

/// A `GET` over HTTP/1.1 with `Connection: close` and the header `X-Seaway-Trace: TOKEN`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// The header `Host`.
    pub host: String,
    /// The path, with the query.
    pub path: String,
    /// The length of the header `X-Padding` in bytes, 0 for none: large ones make segments of full size.
    #[serde(default)]
    pub padding: usize,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The name is resolved, or is not. Comes with the address where one was given.
    Resolved {
        /// In getaddrinfo's order; the first [`MAX_ADDRESSES`].
        addresses: Vec<IpAddr>,
        /// Why there are none.
        error: Option<ResolveFailure>,
        /// How long it took.
        micros: u64,
    },
    /// A socket has its address; nothing is sent yet.
    Bound {
        /// The source address of the first packet.
        source: IpAddr,
        /// The source port of the first packet; for ICMP the identifier.
        source_port: u16,
        /// To whom it will go.
        destination: IpAddr,
        /// To which port; 0 for ICMP.
        destination_port: u16,
    },
    /// The TCP connection stands.
    Connected {
        /// How long it took.
        micros: u64,
    },
    /// The answer came.
    Response {
        /// HTTP's status code.
        status: Option<u16>,
        /// HTTP's header `Server`.
        server: Option<String>,
        /// The first [`MAX_BODY`] of the answer's body (UDP and ICMP: of its data), as text.
        body: String,
        /// The body's length in bytes, as far as it was read.
        bytes: usize,
        /// How long it took since the request was sent.
        micros: u64,
    },
    /// A step failed; the next address is tried, if there is one.
    Failed {
        /// Which.
        stage: Stage,
        /// The error's name, such as `ECONNREFUSED`; `ETIMEDOUT` also where the step took longer than it may, `EPROTO` for
        /// an answer that makes no sense.
        error: String,
        /// What happened.
        text: String,
        /// How long the step took.
        micros: u64,
    },
    /// The end: an address worked, or none is left.
    Done,
}

/// Why getaddrinfo gave no address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveFailure {
    /// The error's name, such as `EAI_NONAME`; `TIMEOUT` where it took longer than it may, `UNAVAILABLE` where the resolver
    /// could not be run.
    pub code: String,
    /// What the C library says of it.
    pub text: String,
}

/// A step that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Reading the request: it makes no sense.
    Request,
    /// Choosing the source: there is no route, no address, or the port is taken.
    Bind,
    /// Connecting over TCP.
    Connect,
    /// Sending the HTTP request and reading its answer.
    Response,
    /// Waiting for the answer to a datagram.
    Answer,
}

impl Request {
    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// The field, its value and what it may be.
    pub fn check(&self) -> Result<(), String> {
        let token_is_good = (1..=MAX_TOKEN).contains(&self.token.len())
            && self.token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let visible = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !token_is_good {
            return Err(format!("token {:?}: 1 to {MAX_TOKEN} letters, digits or hyphens", self.token));
        }
        if !(1..=MAX_TIMEOUT_MS).contains(&self.timeout_ms) {
            return Err(format!("timeout_ms {}: 1 to {MAX_TIMEOUT_MS}", self.timeout_ms));
        }
        if let Some(limit) = self.lookup_timeout_ms.filter(|limit| !(1..=MAX_TIMEOUT_MS).contains(limit)) {
            return Err(format!("lookup_timeout_ms {limit}: 1 to {MAX_TIMEOUT_MS}"));
        }
        match &self.target {
            Target { name: None, address: None, .. } => {
                return Err("target: neither name nor address".to_owned());
            }
            Target { name: Some(name), .. } if name.contains('\0') => {
                return Err(format!("target.name {name:?}: has a NUL"));
            }
            _ => {}
        }
        let Some(http) = &self.http else { return Ok(()) };
        if self.protocol != Protocol::Tcp {
            return Err("http: needs the protocol tcp".to_owned());
        }
        if !visible(&http.host) {
            return Err(format!("http.host {:?}: visible ASCII characters only", http.host));
        }
        if !visible(&http.path) || !http.path.starts_with('/') {
            return Err(format!("http.path {:?}: / and visible ASCII characters only", http.path));
        }
        if http.padding > MAX_PADDING {
            return Err(format!("http.padding {}: at most {MAX_PADDING}", http.padding));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            target: Target { name: Some("web".to_owned()), address: None, port: 80 },
            protocol: Protocol::Tcp,
            libc: Libc::Glibc,
            http: Some(Http { host: "web".to_owned(), path: "/".to_owned(), padding: 0 }),
            token: "t-1".to_owned(),
            source_port: None,
            timeout_ms: 1000,
            lookup_timeout_ms: None,
        }
    }

    #[test]
    fn the_wire_form() {
        let text = r#"{"target":{"name":"web","port":80},"protocol":"tcp","libc":"glibc","http":{"host":"web","path":"/"},"token":"t-1","timeout_ms":1000}"#;
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request());
        assert_eq!(serde_json::to_string(&Event::Done).unwrap(), r#"{"event":"done"}"#);
        let failed = Event::Failed {
            stage: Stage::Connect,
            error: "ECONNREFUSED".into(),
            text: "refused".into(),
            micros: 7,
        };
        assert_eq!(
            serde_json::to_string(&failed).unwrap(),
            r#"{"event":"failed","stage":"connect","error":"ECONNREFUSED","text":"refused","micros":7}"#
        );
    }

    #[test]
    fn requests_that_make_no_sense() {
        type Change = fn(&mut Request);
        let cases: [(Change, &str); 10] = [
            (|request| request.token.clear(), "token"),
            (|request| request.token = "a b".to_owned(), "token"),
            (|request| request.token = "a".repeat(64), "token"),
            (|request| request.timeout_ms = 0, "timeout_ms"),
            (|request| request.lookup_timeout_ms = Some(0), "lookup_timeout_ms"),
            (|request| request.target.name = None, "target"),
            (|request| request.target.name = Some("a\0b".to_owned()), "target.name"),
            (|request| request.protocol = Protocol::Udp, "http"),
            (|request| request.http.as_mut().unwrap().host = "a\r\nb".to_owned(), "http.host"),
            (|request| request.http.as_mut().unwrap().path = "index".to_owned(), "http.path"),
        ];
        assert_eq!(request().check(), Ok(()));
        for (change, field) in cases {
            let mut request = request();
            change(&mut request);
            let problem = request.check().unwrap_err();
            assert!(problem.starts_with(field), "{problem}");
        }
    }
}
