//! The probe itself: one step after the other.

use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::api::{Event, GO, MAX_LINE, Protocol, Request, ResolveFailure, Stage};
use crate::{datagram, errno, resolve, tcp};

/// Serves one request: see [`crate::api`]. Ends early, and well, where `input` ends.
///
/// # Errors
/// What was read is not a request, or not [`GO`] where that is due; reading or writing failed.
pub fn serve(input: impl BufRead, output: impl Write) -> io::Result<()> {
    let mut driver = Driver { input, output };
    let Some(line) = driver.line()? else { return Ok(()) };
    let request: Request = serde_json::from_str(&line)?;
    match probe(&request, &mut driver) {
        Err(Stop::Ended) => Ok(()),
        Err(Stop::Io(error)) => Err(error),
        Ok(()) => driver.tell(&Event::Done),
    }
}

fn probe(request: &Request, driver: &mut impl Steps) -> Result<(), Stop> {
    if let Err(problem) = request.check() {
        let problem = io::Error::new(io::ErrorKind::InvalidInput, problem);
        return driver.step(&failed(Stage::Request, &problem, Instant::now()));
    }
    for address in resolved(request, driver)? {
        let worked = match request.protocol {
            Protocol::Tcp => tcp::attempt(request, address, driver)?,
            Protocol::Udp | Protocol::Icmp => datagram::attempt(request, address, driver)?,
        };
        if worked {
            break;
        }
    }
    Ok(())
}

/// The addresses to try, which it tells.
fn resolved(request: &Request, driver: &mut impl Steps) -> Result<Vec<SocketAddr>, Stop> {
    let begun = Instant::now();
    let outcome = match (&request.target.address, &request.target.name) {
        (Some(address), _) => Ok(vec![SocketAddr::new(*address, 0)]),
        (None, name) => resolve::addresses(request, name.as_deref().unwrap_or_default()),
    };
    let micros = micros_since(begun);
    let (mut found, error): (Vec<SocketAddr>, Option<ResolveFailure>) = match outcome {
        Ok(found) => (found, None),
        Err(error) => (vec![], Some(error)),
    };
    found.iter_mut().for_each(|address| address.set_port(request.target.port));
    let addresses: Vec<IpAddr> = found.iter().map(SocketAddr::ip).collect();
    driver.step(&Event::Resolved { addresses, error, micros })?;
    Ok(found)
}

/// Why a probe ends before its end.
pub(crate) enum Stop {
    /// The driver closed its side.
    Ended,
    /// It can't be read from or written to, or said something else.
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Whom to tell what a step came to, and who says when the next one begins.
pub(crate) trait Steps {
    /// Tells `event` and waits for the word.
    fn step(&mut self, event: &Event) -> Result<(), Stop>;
}

struct Driver<R, W> {
    input: R,
    output: W,
}

impl<R: BufRead, W: Write> Driver<R, W> {
    fn tell(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.output.write_all(&line)?;
        self.output.flush()
    }

    /// The next line; `None` at the end, also one within a line.
    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        self.input.by_ref().take(limit).read_line(&mut line)?;
        if line.len() == MAX_LINE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a line is longer than {MAX_LINE} bytes"),
            ));
        }
        Ok(line.strip_suffix('\n').map(str::to_owned))
    }
}

impl<R: BufRead, W: Write> Steps for Driver<R, W> {
    fn step(&mut self, event: &Event) -> Result<(), Stop> {
        self.tell(event)?;
        match self.line()? {
            None => Err(Stop::Ended),
            Some(line) if line == GO => Ok(()),
            Some(line) => {
                let text = format!("{line:?} came where {GO:?} was due");
                Err(io::Error::new(io::ErrorKind::InvalidData, text).into())
            }
        }
    }
}

/// `error` as an event of a step that began at `begun`.
pub(crate) fn failed(stage: Stage, error: &io::Error, begun: Instant) -> Event {
    Event::Failed { stage, error: errno::name(error), text: error.to_string(), micros: micros_since(begun) }
}

/// The error of a step that took longer than it may.
pub(crate) fn timed_out(what: &str, timeout: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no {what} within {} ms", timeout.as_millis()))
}

pub(crate) fn micros_since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// How long the lookup of the name may take.
pub(crate) fn lookup_patience(request: &Request) -> Duration {
    Duration::from_millis(request.lookup_timeout_ms.unwrap_or(request.timeout_ms))
}

/// How long a step of the request may take.
pub(crate) fn patience(request: &Request) -> Duration {
    Duration::from_millis(request.timeout_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(input: &str) -> (io::Result<()>, String) {
        let mut output = Vec::new();
        let result = serve(input.as_bytes(), &mut output);
        (result, String::from_utf8(output).unwrap())
    }

    const REQUEST: &str = r#"{"target":{"address":"127.0.0.1","port":1},"protocol":"tcp","libc":"glibc","token":"t","timeout_ms":1000}"#;
    const RESOLVED: &str = r#"{"event":"resolved","addresses":["127.0.0.1"],"error":null,"micros":"#;

    #[test]
    fn ends_where_its_input_ends() {
        for input in ["", "{", REQUEST] {
            let (result, output) = told(input);
            assert!(result.is_ok() && output.is_empty(), "{input}: {output}");
        }
        for input in [format!("{REQUEST}\n"), format!("{REQUEST}\ng")] {
            let (result, output) = told(&input);
            assert!(
                result.is_ok() && output.starts_with(RESOLVED) && output.lines().count() == 1,
                "{output}"
            );
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for input in ["{}\n".to_owned(), format!("{REQUEST}\nstop\n"), "x".repeat(MAX_LINE + 1)] {
            let error = told(&input).0.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }

    #[test]
    fn a_request_that_makes_no_sense_fails() {
        let (result, output) = told(&format!("{}\ngo\n", REQUEST.replace("\"t\"", "\"\"")));
        let failed = r#"{"event":"failed","stage":"request","error":"EINVAL","text":"token \"\": "#;
        assert!(result.is_ok() && output.starts_with(failed), "{output}");
        assert!(output.ends_with("\n{\"event\":\"done\"}\n"), "{output}");
    }
}
