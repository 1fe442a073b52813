//! `/metrics`: a few of kube-apiserver's, by their names.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VerbLabels {
    verb: String,
}

/// What a request was, for its metrics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) verb: &'static str,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
}

/// The server's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<VerbLabels, Histogram, fn() -> Histogram>,
    watches: Gauge<i64, AtomicI64>,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let mut registry = Registry::default();
        let requests = Family::default();
        // prometheus-client adds `_total` to a counter's name.
        registry.register(
            "apiserver_request",
            "Counter of apiserver requests broken out for each verb, group, version, resource and code",
            requests.clone(),
        );
        let durations: Family<_, _, fn() -> Histogram> = Family::new_with_constructor(|| {
            Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0])
        });
        registry.register(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds for each verb",
            durations.clone(),
        );
        let watches = Gauge::default();
        registry.register("apiserver_longrunning_requests", "Number of active watches", watches.clone());
        Metrics { registry, requests, durations, watches }
    }

    /// Counts an answered request.
    pub(crate) fn answered(&self, asked: &Asked, code: u16, took: Duration) {
        let verb = asked.verb.to_uppercase();
        self.requests
            .get_or_create(&RequestLabels {
                verb: verb.clone(),
                group: asked.group.clone(),
                version: asked.version.clone(),
                resource: asked.resource.clone(),
                subresource: asked.subresource.clone(),
                code: code.to_string(),
            })
            .inc();
        if asked.verb != "watch" {
            self.durations.get_or_create(&VerbLabels { verb }).observe(took.as_secs_f64());
        }
    }

    /// Counts a watch for as long as what is returned lives.
    pub(crate) fn watching(self: &Arc<Self>) -> Watching {
        self.watches.inc();
        Watching(self.clone())
    }

    /// The exposition format's text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }
}

/// A watch that goes on.
pub(crate) struct Watching(Arc<Metrics>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.watches.dec();
    }
}
