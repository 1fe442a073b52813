//! `forward`: asks other servers.

mod settings;
mod upstream;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use rand::seq::SliceRandom;
use tokio::time::Instant;

use settings::Policy;
pub(crate) use settings::Settings;
use upstream::{ExchangeError, Upstream};

use crate::explain::{DataOrigin, OriginKind, PluginStatus, UpstreamStatus};
use crate::message::{OUR_UDP_SIZE, Origin, Query, Reply, Transport};
use crate::metrics::Metrics;
use crate::plugin::{Explanation, Failure, Next, Outcome, Plugin};

/// How long to go on trying upstreams for one query.
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);

/// The plugin.
#[derive(Debug)]
pub(crate) struct Forward {
    settings: Arc<Settings>,
    upstreams: Vec<Arc<Upstream>>,
    turn: AtomicUsize,
    under_way: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// Counts a query as long as it is under way.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Forward {
    pub(crate) fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        let upstreams = settings.to.iter().map(|to| Arc::new(Upstream::new(*to, metrics.clone()))).collect();
        Self {
            settings: Arc::new(settings),
            upstreams,
            turn: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            metrics,
        }
    }

    fn is_for(&self, query: &Query) -> bool {
        self.settings.from.contains(&query.lower)
            && !self.settings.except.iter().any(|zone| zone.contains(&query.lower))
    }

    fn well<'a>(&self, order: &[&'a Arc<Upstream>]) -> Vec<&'a Arc<Upstream>> {
        order.iter().copied().filter(|upstream| !upstream.is_down(self.settings.max_fails)).collect()
    }

    /// Nobody is asked where all upstreams are down.
    fn fails_fast(&self) -> Option<Failure> {
        let all: Vec<String> = self.upstreams.iter().map(|u| u.address.to_string()).collect();
        let reason = || format!("no healthy upstream among {}", all.join(", "));
        self.settings.fail_fast.then(|| Failure::server("forward", reason()))
    }

    /// The upstreams in the order in which to try them.
    fn order(&self) -> Vec<&Arc<Upstream>> {
        let mut order: Vec<&Arc<Upstream>> = self.upstreams.iter().collect();
        match self.settings.policy {
            Policy::Sequential => {}
            Policy::Random => order.shuffle(&mut rand::rng()),
            Policy::RoundRobin => {
                let first = self.turn.fetch_add(1, Ordering::Relaxed) % order.len().max(1);
                order.rotate_left(first);
            }
        }
        order
    }

    /// Those to try: the ones that are not down, or one of them all if health checks say that all are.
    fn candidates(&self) -> Result<Vec<&Arc<Upstream>>, Failure> {
        let order = self.order();
        let well = self.well(&order);
        if !well.is_empty() {
            return Ok(well);
        }
        self.metrics.all_upstreams_down.inc();
        if let Some(failure) = self.fails_fast() {
            return Err(failure);
        }
        Ok(order.into_iter().take(1).collect())
    }

    async fn ask(&self, query: &Query) -> Outcome {
        let under_way = self.under_way.fetch_add(1, Ordering::Relaxed);
        let _guard = UnderWay(&self.under_way);
        if self.settings.max_concurrent > 0 && under_way >= self.settings.max_concurrent {
            self.metrics.rejected_concurrent.inc();
            return Err(Failure {
                code: ResponseCode::Refused,
                plugin: "forward",
                reason: format!("max_concurrent {} queries are under way", self.settings.max_concurrent),
            });
        }
        let deadline = Instant::now() + GIVE_UP_AFTER;
        let mut reasons: Vec<String> = Vec::new();
        let mut last = None;
        let mut candidates = self.candidates()?;
        // A packet may have been lost: who was silent is asked once more.
        for _ in 0..2 {
            let mut silent = Vec::new();
            for upstream in candidates {
                match tokio::time::timeout_at(deadline, self.ask_one(upstream, query)).await {
                    Err(_) => {
                        reasons.push(format!("gave up after {GIVE_UP_AFTER:?} with {}", upstream.address));
                        return last.ok_or_else(|| Failure::server("forward", reasons.join("; ")));
                    }
                    Ok(Ok(reply)) if self.settings.failover.contains(&u16::from(reply.code)) => {
                        last = Some(reply);
                    }
                    Ok(Ok(reply)) => return Ok(reply),
                    Ok(Err(error)) => {
                        if matches!(error, ExchangeError::Timeout { .. }) {
                            silent.push(upstream);
                        }
                        reasons.push(error.to_string());
                        upstream.check_until_well(&self.settings);
                    }
                }
            }
            candidates = silent;
        }
        last.ok_or_else(|| Failure::server("forward", reasons.join("; ")))
    }

    async fn ask_one(&self, upstream: &Upstream, query: &Query) -> Result<Reply, ExchangeError> {
        let message = upstream_query(query);
        let tcp = self.settings.force_tcp || (query.transport == Transport::Tcp && !self.settings.prefer_udp);
        let reply = upstream.exchange(&message, tcp, &self.settings).await?;
        Ok(Reply {
            code: reply.response_code,
            authoritative: reply.authoritative,
            recursion_available: reply.recursion_available,
            authentic_data: reply.authentic_data,
            truncated: reply.truncation,
            answers: reply.answers,
            authorities: reply.authorities,
            additionals: reply.additionals,
            origin: Origin::Remote,
        })
    }
}

/// The query as we ask it: the client's question and flags, a number of our own.
fn upstream_query(query: &Query) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = query.recursion_desired;
    message.metadata.checking_disabled = query.checking_disabled;
    message.metadata.authentic_data = query.authentic_data;
    message.add_query(Question::query(query.name.clone(), query.record_type));
    if let Some(client) = query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(OUR_UDP_SIZE).set_dnssec_ok(client.dnssec_ok);
        message.set_edns(edns);
    }
    message
}

impl Plugin for Forward {
    fn name(&self) -> &'static str {
        "forward"
    }

    fn serve<'a>(&'a self, query: &'a Query, next: Next) -> BoxFuture<'a, Outcome> {
        Box::pin(
            async move { if self.is_for(query) { self.ask(query).await } else { next.run(query).await } },
        )
    }

    fn explain(&self, query: &Query, next: &Next) -> Explanation {
        if !self.is_for(query) {
            return next.explain(query);
        }
        let all: Vec<&Arc<Upstream>> = self.upstreams.iter().collect();
        let well = self.well(&all);
        let asked = if well.is_empty() { &all } else { &well };
        let to = asked.iter().map(|upstream| upstream.address).collect();
        let failure = if well.is_empty() { self.fails_fast() } else { None };
        let origin = DataOrigin { to, ..DataOrigin::of(OriginKind::Forward) };
        let (known, plugin) = (Vec::new(), self.name());
        Explanation { outcome: failure.map(Err), known, origin, plugin, alias: None }
    }

    fn status(&self) -> PluginStatus {
        let upstreams = self.upstreams.iter().map(|upstream| UpstreamStatus {
            address: upstream.address,
            failed_checks: upstream.failed_checks(),
            down: upstream.is_down(self.settings.max_fails),
        });
        let name = self.name().to_owned();
        PluginStatus { name, upstreams: upstreams.collect(), ..PluginStatus::default() }
    }
}
