//! A running container: its process, its output, those who attach to it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use seaway_net::sandbox::{self, Entry, Namespaces, Running, SandboxError, Signal, Spec, Stdio, WindowSize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};

use crate::logs::{LiveLog, LogWriter, Splitter, Stream};

/// How long the output of a container that has ended is still waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long a container waits for someone who has attached and takes no output.
const LISTENERS_PATIENCE: Duration = Duration::from_secs(10);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Its exit code, or 128 + the signal.
    pub code: i32,
    pub at: Timestamp,
}

/// What a container starts with.
pub(crate) struct Launch {
    pub id: String,
    pub spec: Spec,
    /// Keep stdin open for those who attach.
    pub stdin: bool,
    /// Close stdin when the first who attached leaves.
    pub stdin_once: bool,
    pub log: LogWriter,
}

/// What those who attach read.
pub(crate) type Output = (Stream, Bytes);

/// A container's process.
pub(crate) struct Container {
    pub id: String,
    pub pid: i32,
    pub started: Timestamp,
    pub log: Arc<LiveLog>,
    pub stdin_once: bool,
    running: Mutex<Running>,
    exited: watch::Receiver<Option<Exit>>,
    listeners: Arc<Listeners>,
    stdin: Mutex<Option<mpsc::Sender<Bytes>>>,
    terminal: Option<OwnedFd>,
    spec: Spec,
}

/// A program's descriptors 0 to 2, both ends.
struct Plumbing {
    theirs: Stdio,
    stdin: Option<Box<dyn tokio::io::AsyncWrite + Unpin + Send>>,
    stdout: Box<dyn AsyncRead + Unpin + Send>,
    stderr: Option<Box<dyn AsyncRead + Unpin + Send>>,
    terminal: Option<OwnedFd>,
}

impl Plumbing {
    fn new(stdin: bool, tty: bool, size: Option<WindowSize>) -> io::Result<Self> {
        if tty {
            return Self::terminal(stdin, size);
        }
        let (out_read, out_write) = io::pipe()?;
        let (err_read, err_write) = io::pipe()?;
        let mut plumbing = Self {
            theirs: Stdio { stdin: None, stdout: Some(out_write.into()), stderr: Some(err_write.into()) },
            stdin: None,
            stdout: Box::new(pipe::Receiver::from_owned_fd(out_read.into())?),
            stderr: Some(Box::new(pipe::Receiver::from_owned_fd(err_read.into())?)),
            terminal: None,
        };
        if stdin {
            let (read, write) = io::pipe()?;
            plumbing.theirs.stdin = Some(read.into());
            plumbing.stdin = Some(Box::new(pipe::Sender::from_owned_fd(write.into())?));
        }
        Ok(plumbing)
    }

    fn terminal(stdin: bool, size: Option<WindowSize>) -> io::Result<Self> {
        let pty = sandbox::open_pty(size)?;
        let theirs = Stdio {
            stdin: Some(pty.slave.try_clone()?),
            stdout: Some(pty.slave.try_clone()?),
            stderr: Some(pty.slave),
        };
        let file = |fd: &OwnedFd| Ok::<_, io::Error>(tokio::fs::File::from_std(File::from(fd.try_clone()?)));
        Ok(Self {
            theirs,
            stdin: if stdin { Some(Box::new(file(&pty.master)?)) } else { None },
            stdout: Box::new(file(&pty.master)?),
            stderr: None,
            terminal: Some(pty.master),
        })
    }
}

impl Container {
    /// Starts the container; it is started when this returns.
    pub(crate) async fn start(launch: Launch) -> Result<Arc<Self>, SandboxError> {
        let Launch { id, spec, stdin, stdin_once, log } = launch;
        let failed = |source| SandboxError::Shim {
            label: spec.label.clone(),
            operation: "make its pipes".into(),
            source,
        };
        let plumbing = Plumbing::new(stdin, spec.tty, None).map_err(failed)?;
        let Plumbing { theirs, stdin, stdout, stderr, terminal } = plumbing;
        let kept = spec.clone();
        let running = blocking(&kept.label, move || sandbox::spawn(&spec, theirs)).await?;
        let exit_fd = running.wait_fd().try_clone_to_owned().map_err(failed_to_wait(&kept.label))?;

        let listeners = Arc::new(Listeners::default());
        let (exit_sender, exited) = watch::channel(None);
        let live = log.live();
        let pump = tokio::spawn(pump(stdout, stderr, log, listeners.clone()));
        let container = Arc::new(Self {
            id,
            pid: running.pid(),
            started: Timestamp::now(),
            log: live,
            stdin_once,
            running: Mutex::new(running),
            exited,
            listeners,
            stdin: Mutex::new(stdin.map(feed)),
            terminal,
            spec: kept,
        });
        let waiting = container.clone();
        tokio::spawn(async move {
            let code = wait(&waiting.running, exit_fd).await;
            let at = Timestamp::now();
            // Whoever holds the pipe open beyond the container's end is not waited for.
            let _ = tokio::time::timeout(LAST_WORDS, pump).await;
            waiting.stdin.lock().take();
            exit_sender.send_replace(Some(Exit { code, at }));
        });
        Ok(container)
    }

    /// Sends a signal to process 1 of the container.
    pub(crate) fn kill(&self, signal: Signal) {
        if let Err(error) = self.running.lock().kill(signal) {
            tracing::warn!(%error, container = self.id, "sending a signal");
        }
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exited.borrow()
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&self) -> Exit {
        let mut exited = self.exited.clone();
        let exit = exited.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        // The sender ends without a word only with the runtime.
        exit.unwrap_or(Exit { code: 137, at: Timestamp::now() })
    }

    /// What it writes from now on.
    pub(crate) fn listen(&self) -> mpsc::Receiver<Output> {
        self.listeners.add()
    }

    /// Its standard input, where it has one that is open.
    pub(crate) fn stdin(&self) -> Option<mpsc::Sender<Bytes>> {
        self.stdin.lock().clone()
    }

    /// Closes its standard input once what was sent is written.
    pub(crate) fn close_stdin(&self) {
        self.stdin.lock().take();
    }

    /// Sets its terminal's size, where it has one.
    pub(crate) fn resize(&self, size: WindowSize) {
        if let Some(terminal) = &self.terminal {
            // A terminal that is gone needs no size.
            let _ = sandbox::set_window_size(terminal.as_fd(), size);
        }
    }
}

/// A further process in a container.
pub(crate) struct Exec {
    pub stdin: Option<mpsc::Sender<Bytes>>,
    pub output: mpsc::Receiver<Output>,
    terminal: Option<OwnedFd>,
    running: Arc<Mutex<Running>>,
    exited: watch::Receiver<Option<i32>>,
}

impl Exec {
    /// Starts `argv` in `container`.
    pub(crate) async fn start(
        container: &Container,
        argv: Vec<String>,
        stdin: bool,
        tty: bool,
    ) -> Result<Self, SandboxError> {
        let spec = &container.spec;
        let label = format!("{}/exec", spec.label);
        let mut env = spec.env.clone();
        if tty && !env.iter().any(|(name, _)| name == "TERM") {
            env.push(("TERM".to_owned(), "xterm".to_owned()));
        }
        let entry = Entry {
            label: label.clone(),
            namespaces: Namespaces::ALL,
            argv,
            env,
            cwd: spec.cwd.clone(),
            tty,
            new_session: true,
            keep_fds: Vec::new(),
            credentials: spec.credentials.clone(),
        };
        let failed =
            |source| SandboxError::Shim { label: label.clone(), operation: "make its pipes".into(), source };
        let plumbing = Plumbing::new(stdin, tty, None).map_err(failed)?;
        let Plumbing { theirs, stdin, stdout, stderr, terminal } = plumbing;
        let target = container.pid;
        let running = blocking(&label, move || sandbox::enter(target, &entry, theirs)).await?;
        let exit_fd = running.wait_fd().try_clone_to_owned().map_err(failed_to_wait(&label))?;
        let (sender, output) = mpsc::channel(16);
        tokio::spawn(forward(stdout, Stream::Stdout, sender.clone()));
        if let Some(stderr) = stderr {
            tokio::spawn(forward(stderr, Stream::Stderr, sender));
        }
        let (exit_sender, exited) = watch::channel(None);
        let running = Arc::new(Mutex::new(running));
        let waiting = running.clone();
        tokio::spawn(async move {
            let code = wait(&waiting, exit_fd).await;
            exit_sender.send_replace(Some(code));
        });
        Ok(Self { stdin: stdin.map(feed), output, terminal, running, exited })
    }

    /// Waits for its end; the exit code, or 128 + the signal.
    pub(crate) fn ended(&self) -> impl Future<Output = i32> + Send + use<> {
        let mut exited = self.exited.clone();
        async move {
            let code = exited.wait_for(Option::is_some).await.ok().and_then(|code| *code);
            // The sender ends without a word only with the runtime.
            code.unwrap_or(137)
        }
    }

    pub(crate) fn resize(&self, size: WindowSize) {
        if let Some(terminal) = &self.terminal {
            // A terminal that is gone needs no size.
            let _ = sandbox::set_window_size(terminal.as_fd(), size);
        }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if self.exited.borrow().is_none()
            && let Err(error) = self.running.lock().kill(Signal::KILL)
        {
            tracing::warn!(%error, "ending a process that has no one to talk to");
        }
    }
}

/// Runs a command in a container and collects up to `limit` bytes of its output; an error where it can't run or takes too long.
pub(crate) async fn run_in(
    container: &Container,
    command: Vec<String>,
    timeout: Duration,
    limit: usize,
) -> Result<(i32, Vec<u8>), String> {
    let shown = format!("{command:?}");
    let running = async {
        let mut exec =
            Exec::start(container, command, false, false).await.map_err(|error| error.to_string())?;
        let mut collected = Vec::new();
        while let Some((_, chunk)) = exec.output.recv().await {
            let room = limit.saturating_sub(collected.len());
            collected.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
        Ok((exec.ended().await, collected))
    };
    let late = || Err(format!("command {shown} timed out after {} s", timeout.as_secs_f64()));
    tokio::time::timeout(timeout, running).await.unwrap_or_else(|_| late())
}

/// Runs something that waits for the kernel on a thread that may.
async fn blocking<T: Send + 'static>(
    label: &str,
    f: impl FnOnce() -> Result<T, SandboxError> + Send + 'static,
) -> Result<T, SandboxError> {
    let operation = "run on a thread of its own".to_owned();
    let lost =
        |error| SandboxError::Shim { label: label.to_owned(), operation, source: io::Error::other(error) };
    tokio::task::spawn_blocking(f).await.map_err(lost)?
}

fn failed_to_wait(label: &str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::Shim { label: label.to_owned(), operation: "wait for its end".into(), source }
}

/// Waits until the process behind `fd` has ended, and reaps it.
async fn wait(running: &Mutex<Running>, fd: OwnedFd) -> i32 {
    #[expect(
        deprecated,
        reason = "unsound only for descriptors that their owner closes early, which an OwnedFd can't be; the other is unsafe"
    )]
    let registered = AsyncFd::with_interest(fd, Interest::READABLE);
    let Ok(fd) = registered else {
        tracing::error!("no readiness for a pidfd: the container counts as killed");
        return 137;
    };
    loop {
        if let Ok(Some(code)) = running.lock().try_wait() {
            return code;
        }
        match fd.readable().await {
            Ok(mut ready) => match running.lock().try_wait() {
                Ok(Some(code)) => return code,
                Ok(None) => ready.clear_ready(),
                Err(_) => return 137,
            },
            Err(_) => return 137,
        }
    }
}

/// Writes what it is sent until the sender is gone, then closes.
fn feed(mut stdin: Box<dyn tokio::io::AsyncWrite + Unpin + Send>) -> mpsc::Sender<Bytes> {
    let (sender, mut chunks) = mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        while let Some(chunk) = chunks.recv().await {
            if stdin.write_all(&chunk).await.is_err() || stdin.flush().await.is_err() {
                return;
            }
        }
    });
    sender
}

/// The next bytes; `None` at the end. A terminal whose other end is closed reads as EIO.
async fn next_chunk(from: &mut (dyn AsyncRead + Unpin + Send), buffer: &mut [u8]) -> Option<Bytes> {
    match from.read(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(length) => Some(Bytes::copy_from_slice(&buffer[..length])),
    }
}

async fn forward(mut from: Box<dyn AsyncRead + Unpin + Send>, stream: Stream, to: mpsc::Sender<Output>) {
    let mut buffer = vec![0; 32 * 1024];
    while let Some(chunk) = next_chunk(&mut *from, &mut buffer).await {
        if to.send((stream, chunk)).await.is_err() {
            return;
        }
    }
}

/// Those who attach to a container. It waits for them, as for anyone who reads a program's output, but not for long.
#[derive(Default)]
struct Listeners {
    senders: Mutex<Vec<mpsc::Sender<Output>>>,
}

impl Listeners {
    fn add(&self) -> mpsc::Receiver<Output> {
        let (sender, receiver) = mpsc::channel(16);
        self.senders.lock().push(sender);
        receiver
    }

    /// Tells all of them; who has gone, or takes nothing for long, is told no more.
    async fn tell(&self, output: Output) {
        let senders = self.senders.lock().clone();
        for sender in senders {
            if sender.send_timeout(output.clone(), LISTENERS_PATIENCE).await.is_err() {
                self.senders.lock().retain(|other| !other.same_channel(&sender));
            }
        }
    }
}

/// Carries a container's output to its log and to those who attach.
async fn pump(
    stdout: Box<dyn AsyncRead + Unpin + Send>,
    stderr: Option<Box<dyn AsyncRead + Unpin + Send>>,
    mut log: LogWriter,
    listeners: Arc<Listeners>,
) {
    let (sender, mut chunks) = mpsc::channel(16);
    tokio::spawn(forward(stdout, Stream::Stdout, sender.clone()));
    if let Some(stderr) = stderr {
        tokio::spawn(forward(stderr, Stream::Stderr, sender));
    } else {
        drop(sender);
    }
    let mut splitters = (Splitter::new(Stream::Stdout), Splitter::new(Stream::Stderr));
    let mut lines = Vec::new();
    let mut write = |lines: &mut Vec<u8>| {
        if let Err(error) = log.append(lines) {
            tracing::warn!(%error, "writing a container's log");
        }
        lines.clear();
    };
    while let Some((stream, chunk)) = chunks.recv().await {
        let splitter = if stream == Stream::Stdout { &mut splitters.0 } else { &mut splitters.1 };
        splitter.push(&chunk, Timestamp::now(), &mut lines);
        write(&mut lines);
        listeners.tell((stream, chunk)).await;
    }
    splitters.0.finish(Timestamp::now(), &mut lines);
    splitters.1.finish(Timestamp::now(), &mut lines);
    write(&mut lines);
    listeners.senders.lock().clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn listeners_miss_nothing_and_hold_up_little() {
        let listeners = Arc::new(Listeners::default());
        let (mut slow, deaf, gone) = (listeners.add(), listeners.add(), listeners.add());
        drop(gone);
        let telling = tokio::spawn({
            let listeners = listeners.clone();
            async move {
                for byte in 0..100_u8 {
                    listeners.tell((Stream::Stdout, vec![byte].into())).await;
                }
                listeners.senders.lock().len()
            }
        });
        for byte in 0..100_u8 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert_eq!(slow.recv().await, Some((Stream::Stdout, vec![byte].into())));
        }
        assert_eq!(telling.await.unwrap(), 1, "the slow one alone is left");
        drop(deaf);
    }
}
