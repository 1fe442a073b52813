//! Metrics, under CoreDNS's names.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::message::{Query, Transport};

/// A server block, as metrics name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct BlockLabels {
    /// `dns://:53`.
    pub(crate) server: Arc<str>,
    /// The zone.
    pub(crate) zone: Arc<str>,
    /// Always empty: there are no views.
    pub(crate) view: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    server: Arc<str>,
    zone: Arc<str>,
    view: Arc<str>,
    proto: &'static str,
    family: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    server: Arc<str>,
    zone: Arc<str>,
    view: Arc<str>,
    rcode: String,
    plugin: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    server: Arc<str>,
    zone: Arc<str>,
    view: Arc<str>,
    name: &'static str,
}

/// A cache of a server block; `type` is `success` or `denial`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CacheLabels {
    /// `dns://:53`.
    pub(crate) server: Arc<str>,
    /// `success` or `denial`.
    pub(crate) r#type: &'static str,
    /// The cache's zones.
    pub(crate) zones: Arc<str>,
    /// Always empty.
    pub(crate) view: Arc<str>,
}

/// A cache of a server block.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CacheBlockLabels {
    /// `dns://:53`.
    pub(crate) server: Arc<str>,
    /// The cache's zones.
    pub(crate) zones: Arc<str>,
    /// Always empty.
    pub(crate) view: Arc<str>,
}

/// An upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct UpstreamLabels {
    /// Always `forward`.
    pub(crate) proxy_name: &'static str,
    /// Its address.
    pub(crate) to: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamReplyLabels {
    proxy_name: &'static str,
    to: Arc<str>,
    rcode: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
    revision: &'static str,
    goversion: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabels {
    hash: &'static str,
    value: String,
}

/// CoreDNS's buckets for times: 0.25 ms, doubled 15 times.
fn times() -> Histogram {
    Histogram::new(exponential_buckets(0.00025, 2.0, 16))
}

/// CoreDNS's buckets for sizes.
fn sizes() -> Histogram {
    Histogram::new([0., 100., 200., 300., 400., 511., 1023., 2047., 4095., 8291., 16e3, 32e3, 48e3, 64e3])
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics of the process.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    responses: Family<ResponseLabels, Counter>,
    duration: Histograms<BlockLabels>,
    request_size: Histograms<BlockLabels>,
    response_size: Histograms<BlockLabels>,
    plugins: Family<PluginLabels, Gauge>,
    pub(crate) panics: Counter,
    pub(crate) cache_hits: Family<CacheLabels, Counter>,
    pub(crate) cache_misses: Family<CacheBlockLabels, Counter>,
    pub(crate) cache_requests: Family<CacheBlockLabels, Counter>,
    pub(crate) cache_prefetches: Family<CacheBlockLabels, Counter>,
    pub(crate) cache_stale: Family<CacheBlockLabels, Counter>,
    pub(crate) cache_entries: Family<CacheLabels, Gauge>,
    upstream_duration: Histograms<UpstreamReplyLabels>,
    pub(crate) upstream_errors: Family<UpstreamLabels, Counter>,
    pub(crate) health_failures: Family<UpstreamLabels, Counter>,
    pub(crate) all_upstreams_down: Counter,
    pub(crate) rejected_concurrent: Counter,
    pub(crate) reload_failed: Counter,
    reload_version: Family<VersionLabels, Gauge>,
    pub(crate) programming: Histograms<[(&'static str, &'static str); 1]>,
    pub(crate) api_connected: Gauge,
    pub(crate) api_last_contact: Gauge<f64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        macro_rules! metric {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let times = times as fn() -> Histogram;
        let sizes = sizes as fn() -> Histogram;
        let programming = (|| Histogram::new(exponential_buckets(0.001, 2.0, 20))) as fn() -> Histogram;
        let build = Family::<BuildLabels, Gauge>::default();
        build
            .get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION"), revision: "", goversion: "" })
            .set(1);
        registry.register("coredns_build_info", "What answers in CoreDNS's place", build);
        Self {
            requests: metric!("coredns_dns_requests", "Queries", Family::default()),
            responses: metric!("coredns_dns_responses", "Replies by response code", Family::default()),
            duration: metric!(
                "coredns_dns_request_duration_seconds",
                "Time from a query to its reply",
                Family::new_with_constructor(times)
            ),
            request_size: metric!(
                "coredns_dns_request_size_bytes",
                "Sizes of queries",
                Family::new_with_constructor(sizes)
            ),
            response_size: metric!(
                "coredns_dns_response_size_bytes",
                "Sizes of replies",
                Family::new_with_constructor(sizes)
            ),
            plugins: metric!("coredns_plugin_enabled", "Plugins in use", Family::default()),
            panics: metric!("coredns_panics", "Queries that made the server panic", Counter::default()),
            cache_hits: metric!("coredns_cache_hits", "Replies from the cache", Family::default()),
            cache_misses: metric!(
                "coredns_cache_misses",
                "Queries that the cache had nothing for",
                Family::default()
            ),
            cache_requests: metric!(
                "coredns_cache_requests",
                "Queries that the cache was asked",
                Family::default()
            ),
            cache_prefetches: metric!(
                "coredns_cache_prefetch",
                "Entries that were renewed before their end",
                Family::default()
            ),
            cache_stale: metric!("coredns_cache_served_stale", "Replies that had run out", Family::default()),
            cache_entries: metric!("coredns_cache_entries", "Entries in the cache", Family::default()),
            upstream_duration: metric!(
                "coredns_proxy_request_duration_seconds",
                "Time until an upstream's reply",
                Family::new_with_constructor(times)
            ),
            upstream_errors: metric!(
                "seaway_dns_upstream_errors",
                "Queries that an upstream did not answer",
                Family::default()
            ),
            health_failures: metric!(
                "coredns_proxy_healthcheck_failures",
                "Failed health checks of an upstream",
                Family::default()
            ),
            all_upstreams_down: metric!(
                "coredns_forward_healthcheck_broken",
                "Queries for which all upstreams were down",
                Counter::default()
            ),
            rejected_concurrent: metric!(
                "coredns_forward_max_concurrent_rejects",
                "Queries refused because of max_concurrent",
                Counter::default()
            ),
            reload_failed: metric!(
                "coredns_reload_failed",
                "Corefiles that could not be used",
                Counter::default()
            ),
            reload_version: metric!(
                "coredns_reload_version_info",
                "The Corefile in force",
                Family::default()
            ),
            programming: metric!(
                "coredns_kubernetes_dns_programming_duration_seconds",
                "Time from the news of a change to its answers",
                Family::new_with_constructor(programming)
            ),
            api_connected: metric!(
                "seaway_dns_kubernetes_api_connected",
                "1 while all watches of the API server stand",
                Gauge::default()
            ),
            api_last_contact: metric!(
                "seaway_dns_kubernetes_api_last_contact_timestamp_seconds",
                "When the API server was last heard of",
                Gauge::<f64, AtomicU64>::default()
            ),
            registry,
        }
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    /// Notes an answered query down.
    pub(crate) fn answered(&self, block: &BlockLabels, query: &Query, answer: &Answered) {
        let BlockLabels { server, zone, view } = block.clone();
        let family = if query.client.ip().to_canonical().is_ipv4() { "1" } else { "2" };
        let proto = match query.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        let request = RequestLabels {
            server: server.clone(),
            zone: zone.clone(),
            view: view.clone(),
            proto,
            family,
            r#type: type_label(query.record_type),
        };
        self.requests.get_or_create(&request).inc();
        let rcode = rcode_label(answer.code);
        self.responses.get_or_create(&ResponseLabels { server, zone, view, rcode, plugin: "" }).inc();
        self.duration.get_or_create(block).observe(answer.duration.as_secs_f64());
        self.request_size.get_or_create(block).observe(float(query.size));
        self.response_size.get_or_create(block).observe(float(answer.size));
    }

    /// Notes down that a server block has the plugin `name`.
    pub(crate) fn enabled(&self, block: &BlockLabels, name: &'static str) {
        let BlockLabels { server, zone, view } = block.clone();
        self.plugins.get_or_create(&PluginLabels { server, zone, view, name }).set(1);
    }

    /// Notes an upstream's reply down.
    pub(crate) fn upstream_answered(&self, to: &Arc<str>, code: ResponseCode, duration: Duration) {
        let labels = UpstreamReplyLabels { proxy_name: "forward", to: to.clone(), rcode: rcode_label(code) };
        self.upstream_duration.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    /// Notes down which Corefile is in force; `hash` is its SHA-512.
    pub(crate) fn loaded(&self, hash: &str) {
        self.reload_version.clear();
        let labels = VersionLabels { hash: "sha512", value: hash.to_owned() };
        self.reload_version.get_or_create(&labels).set(1);
    }
}

/// What of a reply metrics and logs want to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    /// The response code.
    pub(crate) code: ResponseCode,
    /// Octets of the reply.
    pub(crate) size: usize,
    /// Time since the query came.
    pub(crate) duration: Duration,
}

fn float(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::MAX, f64::from)
}

/// The code's name as operators know it.
pub(crate) fn rcode_label(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::BADVERS => "BADVERS",
        other => return u16::from(other).to_string(),
    }
    .to_owned()
}

/// The types that CoreDNS counts by name; all others are one, so that a client can't make up time series.
fn type_label(record_type: RecordType) -> &'static str {
    match record_type {
        RecordType::A => "A",
        RecordType::AAAA => "AAAA",
        RecordType::CNAME => "CNAME",
        RecordType::MX => "MX",
        RecordType::NS => "NS",
        RecordType::PTR => "PTR",
        RecordType::SOA => "SOA",
        RecordType::SRV => "SRV",
        RecordType::TXT => "TXT",
        RecordType::HTTPS => "HTTPS",
        RecordType::SVCB => "SVCB",
        RecordType::NAPTR => "NAPTR",
        RecordType::ANY => "ANY",
        RecordType::AXFR => "AXFR",
        RecordType::IXFR => "IXFR",
        _ => "other",
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
