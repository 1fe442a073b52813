//! Follows API servers. Watches outlive a reload of the Corefile, so that the new one answers at once.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use seaway_kube::{PodScope, ServiceScope, Source, Subscription, Wanted};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Index, Options, PodMode, State};
use crate::metrics::Metrics;

/// Time between two looks at how the watches fare.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// Why the API server cannot be watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// No client can be made.
    #[error("kubernetes: {0}")]
    Connect(#[from] seaway_kube::ConnectError),
    /// The directive's `endpoint` cannot be used.
    #[error("kubernetes: endpoint {endpoint}: {reason}")]
    Endpoint {
        /// The URL.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A directive's view of its cluster, kept up to date as long as it lives.
#[derive(Debug)]
pub(crate) struct Cluster {
    options: Arc<Options>,
    state: Arc<ArcSwapOption<State>>,
    synced: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Cluster {
    /// What the plugin answers from.
    pub(crate) fn state(&self) -> Arc<ArcSwapOption<State>> {
        self.state.clone()
    }

    /// Waits for the first lists, `startup_timeout` at most.
    pub(crate) async fn wait(&self) {
        let mut synced = self.synced.clone();
        let _ = tokio::time::timeout(self.options.startup_timeout, synced.wait_for(|synced| *synced)).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What two directives have to agree on to use the same watches.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Connection {
    kubeconfig: Option<PathBuf>,
    endpoint: Option<String>,
    pods: bool,
}

/// The API servers that are watched.
#[derive(Debug)]
pub(crate) struct Clusters {
    /// `--kubeconfig`; a directive's own goes before it.
    kubeconfig: Option<PathBuf>,
    metrics: Arc<Metrics>,
    known: Mutex<Vec<(Connection, Weak<Source>)>>,
}

impl Clusters {
    pub(crate) fn new(kubeconfig: Option<PathBuf>, metrics: Arc<Metrics>) -> Self {
        Self { kubeconfig, metrics, known: Mutex::default() }
    }

    /// The cluster of `options`, kept up to date from now on.
    pub(crate) async fn follow(&self, options: &Arc<Options>) -> Result<Arc<Cluster>, ClusterError> {
        let source = self.source(options).await?;
        let state = Arc::new(ArcSwapOption::empty());
        let (tell, synced) = watch::channel(false);
        let follower = Follower {
            subscription: source.subscribe(),
            source,
            options: options.clone(),
            state: state.clone(),
            synced: tell,
            metrics: self.metrics.clone(),
        };
        let task = tokio::spawn(follower.run());
        Ok(Arc::new(Cluster { options: options.clone(), state, synced, task }))
    }

    /// Watches that stand already, or new ones.
    async fn source(&self, options: &Options) -> Result<Arc<Source>, ClusterError> {
        let connection = Connection {
            kubeconfig: options.kubeconfig.as_ref().map(PathBuf::from).or(self.kubeconfig.clone()),
            endpoint: options.endpoint.clone(),
            pods: options.pods == PodMode::Verified,
        };
        let there = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|(_, source)| source.strong_count() > 0);
            known.iter().find(|(c, _)| *c == connection).and_then(|(_, source)| source.upgrade())
        };
        if let Some(source) = there {
            return Ok(source);
        }
        let wanted = Wanted {
            services: ServiceScope::All,
            namespaces: true,
            pods: if connection.pods { PodScope::All } else { PodScope::None },
            ..Wanted::default()
        };
        let source = Arc::new(Source::start(connection.client().await?, wanted));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.push((connection, Arc::downgrade(&source)));
        Ok(source)
    }
}

impl Connection {
    async fn client(&self) -> Result<seaway_kube::Client, ClusterError> {
        if let Some(endpoint) = &self.endpoint {
            let bad = |reason: String| ClusterError::Endpoint { endpoint: endpoint.clone(), reason };
            let url = endpoint.parse().map_err(|error| bad(format!("{error}")))?;
            return seaway_kube::Client::try_from(kube::Config::new(url)).map_err(|e| bad(e.to_string()));
        }
        Ok(seaway_kube::connect(self.kubeconfig.as_deref()).await?)
    }
}

struct Follower {
    source: Arc<Source>,
    subscription: Subscription,
    options: Arc<Options>,
    state: Arc<ArcSwapOption<State>>,
    synced: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

impl Follower {
    async fn run(mut self) {
        let mut status = tokio::time::interval(STATUS_EVERY);
        loop {
            tokio::select! {
                update = self.subscription.next() => self.take_in(&update),
                _ = status.tick() => self.report(),
            }
        }
    }

    fn take_in(&self, update: &seaway_kube::Update) {
        let begin = Instant::now();
        let before = self.state.load_full();
        let index = match &before {
            Some(state) => match state.index.updated(&update.snapshot, &update.changes, &self.options) {
                Some(index) => index,
                // What clients would not see does not change the serial.
                None => return,
            },
            None => Index::build(&update.snapshot, &self.options),
        };
        self.state.store(Some(Arc::new(State { index, serial: unix_time() })));
        self.metrics
            .programming
            .get_or_create(&[("service_kind", "all")])
            .observe(begin.elapsed().as_secs_f64());
        if !self.synced.send_replace(true) {
            tracing::info!(target: "plugin/kubernetes", "the API server's first lists have come");
            self.report();
        }
    }

    fn report(&self) {
        let status = self.source.status();
        self.metrics.api_connected.set(i64::from(status.connected));
        let heard = status.kinds.values().filter_map(|kind| kind.last_event).max();
        if let Some(at) = heard {
            self.metrics.api_last_contact.set(at.as_second() as f64);
        }
    }
}

/// Seconds since 1970, as a zone's serial: it wraps around in 2106 as serials do (RFC 1982).
fn unix_time() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() as u32
}
