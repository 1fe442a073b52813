//! A steady load of requests from a place in the lab, each on a connection of its own.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use seaway_net::netns::NetNs;

/// What is loaded: the Service `web` of three pods, by the pod `client`.
pub(crate) const WEB: &str = include_str!("moving.yaml");

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// When it was begun.
    pub(crate) begun: Instant,
    /// The name of the pod that answered, or why none did.
    pub(crate) answer: Result<String, String>,
}

/// A load that runs until it is stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Vec<Request>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Sends requests from the network namespace of process `pid`, four at a time with `pause` between them.
    pub(crate) fn start(pid: i32, server: SocketAddr, path: &'static str, pause: Duration) -> Self {
        let netns = NetNs::of_process(pid).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(Mutex::new(Vec::new()));
        let threads = (0..4)
            .map(|_| {
                let (netns, stop, done) = (netns.try_clone().unwrap(), stop.clone(), done.clone());
                std::thread::spawn(move || {
                    netns.enter_thread().unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        let answer = request(server, path).map_err(|error| error.to_string());
                        done.lock().unwrap().push(Request { begun, answer });
                        std::thread::sleep(pause);
                    }
                })
            })
            .collect();
        Self { stop, done, threads }
    }

    /// How many requests were answered or failed so far.
    pub(crate) fn count(&self) -> usize {
        self.done.lock().unwrap().len()
    }

    /// Ends it and gives all requests.
    pub(crate) fn stop(self) -> Vec<Request> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let done = self.done.lock().unwrap().clone();
        assert!(done.len() > 20, "the load was only {} requests", done.len());
        done
    }
}

/// The requests that failed, with when since the first and why.
pub(crate) fn failures(requests: &[Request]) -> Vec<String> {
    let first = requests.iter().map(|request| request.begun).min();
    let describe = |request: &Request| {
        let since = first.map(|first| request.begun - first).unwrap_or_default();
        request.answer.as_ref().err().map(|error| format!("{:.3} s: {error}", since.as_secs_f64()))
    };
    requests.iter().filter_map(describe).collect()
}

/// One request on a new connection; the body of the answer.
pub(crate) fn request(server: SocketAddr, path: &str) -> std::io::Result<String> {
    let timeout = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&server, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.trim().to_owned()),
        _ => Err(std::io::Error::other(format!("answered {answer:?}"))),
    }
}

/// An address from text and a port.
pub(crate) fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port)
}
