//! Connections that last, and many that do not.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use seaway_net::netns::NetNs;

use crate::common::{PATIENCE, eventually};

/// Gives back each byte that it is given, on any number of connections, until the test ends.
pub(crate) struct Talker;

impl Talker {
    pub(crate) fn start(ns: &NetNs, at: SocketAddr) -> Self {
        let listener = ns.run(|| TcpListener::bind(at).unwrap()).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
                });
            }
        });
        Self
    }
}

/// A connection that is kept.
pub(crate) struct Connection(TcpStream);

impl Connection {
    pub(crate) fn open(ns: &NetNs, to: SocketAddr) -> Self {
        Self(ns.run(|| connect(to).unwrap()).unwrap())
    }

    /// Its own address.
    pub(crate) fn local(&self) -> IpAddr {
        self.0.local_addr().unwrap().ip()
    }

    /// A byte there and back.
    pub(crate) fn talk(&mut self, when: &str) {
        let result = talk(&mut self.0);
        let who = (self.0.local_addr(), self.0.peer_addr());
        result.unwrap_or_else(|error| panic!("{when}: {who:?}: {error}"));
    }
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn talk(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut answer = [0];
    stream.write_all(b"s")?;
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"s");
    Ok(())
}

/// New connections one after the other; none may fail.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Flood {
    pub(crate) fn start(ns: &NetNs, to: SocketAddr) -> Self {
        let ns = ns.try_clone().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (made, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let thread = thread::spawn({
            let (stop, made, failed) = (stop.clone(), made.clone(), failed.clone());
            move || {
                ns.enter_thread().unwrap();
                while !stop.load(Ordering::Relaxed) {
                    if connect(to).and_then(|mut stream| talk(&mut stream)).is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    made.fetch_add(1, Ordering::Relaxed);
                    // Far fewer than there are ports.
                    thread::sleep(Duration::from_micros(300));
                }
            }
        });
        Self { stop, made, failed, thread }
    }

    /// Waits until some more connections were made, all of them successful.
    pub(crate) fn goes_on(&self) {
        let before = self.made.load(Ordering::Relaxed);
        eventually("new connections", || self.made.load(Ordering::Relaxed) > before + 30);
        assert_eq!(self.failed.load(Ordering::Relaxed), 0);
    }

    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        assert_eq!(self.failed.load(Ordering::Relaxed), 0, "of {}", self.made.load(Ordering::Relaxed));
    }
}
