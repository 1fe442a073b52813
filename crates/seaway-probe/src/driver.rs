//! The tracer's side: starts a probe and leads it from step to step.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use seaway_net::sandbox::{self, Credentials, Entry, Namespaces, Running, SandboxError, Stdio};

use crate::api::{Event, GO, MAX_LINE, Request};
use crate::tcp::await_events;
use crate::{BINARY, COMMAND};

/// How much longer than a step's own limit an event may take to come.
const GRACE: Duration = Duration::from_secs(5);

/// Why a probe could not be led on.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It could not be started.
    #[error("cannot start the probe: {0}")]
    Start(#[from] SandboxError),
    /// Its pipes could not be made, read or written.
    #[error("cannot {operation}: {source}")]
    Pipe {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// It ended before it was done; what it had to say of it is on standard error.
    #[error("the probe ended before it was done")]
    Ended,
    /// It did not speak in time.
    #[error("the probe told nothing within {0:?}")]
    Silent(Duration),
    /// It said what can't be understood.
    #[error("the probe said {line:?}, which is no event: {source}")]
    Event {
        /// The line, its first hundred characters.
        line: String,
        /// Why not.
        source: serde_json::Error,
    },
}

/// A probe that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Probe {
    running: Option<Running>,
    input: File,
    output: File,
    read: Vec<u8>,
    patience: Duration,
}

impl Probe {
    /// Starts a probe in the namespaces of process `pid`, with its root and environment, and gives it its request.
    ///
    /// # Errors
    /// [`ProbeError::Start`] where the namespaces can't be joined or have no `seaway`; [`ProbeError::Pipe`].
    pub fn start(pid: i32, request: &Request) -> Result<Self, ProbeError> {
        let (their_input, input) = io::pipe().map_err(pipe_error("make a pipe"))?;
        let (output, their_output) = io::pipe().map_err(pipe_error("make a pipe"))?;
        let entry = Entry {
            label: format!("probe/{}", request.token),
            namespaces: Namespaces::ALL,
            argv: vec![BINARY.to_owned(), COMMAND.to_owned()],
            // getaddrinfo reads LOCALDOMAIN and RES_OPTIONS.
            env: sandbox::environment(pid).map_err(pipe_error("read the process's environment"))?,
            cwd: "/".into(),
            tty: false,
            // The tracer's Ctrl-C is the tracer's to handle.
            new_session: true,
            keep_fds: vec![],
            credentials: Credentials::default(),
        };
        let stdio = Stdio {
            stdin: Some(their_input.into()),
            stdout: Some(their_output.into()),
            stderr: Stdio::inherit().map_err(pipe_error("copy standard error"))?.stderr,
        };
        let running = sandbox::enter(pid, &entry, stdio)?;
        Self::over(input.into(), output.into(), Some(running), request)
    }

    /// Leads a probe at the other ends of two pipes: [`crate::serve`] in a thread or another process.
    ///
    /// # Errors
    /// [`ProbeError::Pipe`] where it can't be written to.
    pub fn over(
        input: OwnedFd,
        output: OwnedFd,
        running: Option<Running>,
        request: &Request,
    ) -> Result<Self, ProbeError> {
        let patience =
            Duration::from_millis(request.timeout_ms.max(request.lookup_timeout_ms.unwrap_or(0))) + GRACE;
        let mut probe =
            Self { running, input: input.into(), output: output.into(), read: Vec::new(), patience };
        let line =
            serde_json::to_string(request).map_err(|error| pipe_error("write the request")(error.into()))?;
        probe.write(&line)?;
        Ok(probe)
    }

    /// The next event. After each but [`Event::Done`] the probe waits for [`Probe::go`].
    ///
    /// # Errors
    /// Any [`ProbeError`]; [`ProbeError::Silent`] where nothing comes for five seconds longer than the request's limit of a step.
    pub fn next_event(&mut self) -> Result<Event, ProbeError> {
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(end) = self.read.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return understand(&line);
            }
            if self.read.len() > MAX_LINE {
                return understand(&self.read);
            }
            let ready = await_events(&self.output, PollFlags::IN, deadline)
                .map_err(pipe_error("wait for the probe"))?;
            if !ready {
                return Err(ProbeError::Silent(self.patience));
            }
            let mut buffer = [0; 8192];
            match self.output.read(&mut buffer) {
                Ok(0) => return Err(ProbeError::Ended),
                Ok(read) => self.read.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(pipe_error("read from the probe")(error)),
            }
        }
    }

    /// Lets the next step begin.
    ///
    /// # Errors
    /// [`ProbeError::Ended`] or [`ProbeError::Pipe`].
    pub fn go(&mut self) -> Result<(), ProbeError> {
        self.write(GO)
    }

    fn write(&mut self, line: &str) -> Result<(), ProbeError> {
        match self.input.write_all(format!("{line}\n").as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ProbeError::Ended),
            other => other.map_err(pipe_error("write to the probe")),
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            // One that has ended is no error, and neither helps here.
            let _ = running.kill(sandbox::Signal::KILL);
            let _ = running.wait();
        }
    }
}

fn understand(line: &[u8]) -> Result<Event, ProbeError> {
    serde_json::from_slice(line).map_err(|source| {
        let line = String::from_utf8_lossy(line).trim_end().chars().take(100).collect();
        ProbeError::Event { line, source }
    })
}

fn pipe_error(operation: &'static str) -> impl Fn(io::Error) -> ProbeError {
    move |source| ProbeError::Pipe { operation, source }
}
