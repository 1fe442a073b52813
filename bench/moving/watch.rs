//! What the API server says a Service's ready endpoints are, and since when.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;

use crate::common::{Lab, eventually};

/// The names of the pods that were ready endpoints from a moment on.
type Ready = (Instant, BTreeSet<String>);

/// Watches the EndpointSlices of the Service `web`, through `kubectl proxy` on a socket.
pub(crate) struct Watch {
    seen: Arc<Mutex<Vec<Ready>>>,
    proxy: Child,
    socket: PathBuf,
}

impl Watch {
    pub(crate) fn start(lab: &Lab) -> Self {
        let socket = std::env::temp_dir().join(format!("{}.sock", lab.name));
        let mut kubectl = lab.kubectl_command();
        kubectl.args(["proxy", "--unix-socket", socket.to_str().unwrap()]);
        let proxy = kubectl.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut stream = eventually("kubectl proxy listens", || UnixStream::connect(&socket).ok());
        // HTTP/1.0: the events come without a coding around them, a line each.
        stream
            .write_all(
                b"GET /apis/discovery.k8s.io/v1/namespaces/default/endpointslices\
                  ?watch=true&labelSelector=kubernetes.io/service-name%3Dweb HTTP/1.0\r\nHost: localhost\r\n\r\n",
            )
            .unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let list = seen.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let now = Instant::now();
                if let Ok(event) = serde_json::from_str::<Value>(&line) {
                    list.lock().unwrap().push((now, ready(&event["object"])));
                }
            }
        });
        Self { seen, proxy, socket }
    }

    /// Waits until there are `count` ready endpoints, none of them in `without`.
    pub(crate) fn wait(&self, count: usize, without: &BTreeSet<String>) {
        eventually("the endpoints follow", || {
            let now = self.now();
            (now.len() == count && now.is_disjoint(without)).then_some(())
        });
    }

    /// The ready endpoints now.
    pub(crate) fn now(&self) -> BTreeSet<String> {
        self.seen.lock().unwrap().last().map(|(_, ready)| ready.clone()).unwrap_or_default()
    }

    /// Which endpoints were taken out since `begun`.
    pub(crate) fn removed(&self, begun: Instant) -> Vec<Removed> {
        let seen = self.seen.lock().unwrap();
        let mut removed = Vec::new();
        for (n, step) in seen.windows(2).enumerate().filter(|(_, step)| step[1].0 >= begun) {
            for pod in step[0].1.difference(&step[1].1) {
                let back = seen[n + 2..].iter().find(|(_, ready)| ready.contains(pod));
                removed.push(Removed { pod: pod.clone(), at: step[1].0, back: back.map(|(at, _)| *at) });
            }
        }
        removed
    }
}

/// A pod that was taken out of the endpoints.
pub(crate) struct Removed {
    pub(crate) pod: String,
    pub(crate) at: Instant,
    /// When it was put in again.
    pub(crate) back: Option<Instant>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn ready(slice: &Value) -> BTreeSet<String> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints
        .filter(|endpoint| endpoint["conditions"]["ready"] == true)
        .filter_map(|endpoint| endpoint["targetRef"]["name"].as_str().map(str::to_owned))
        .collect()
}
