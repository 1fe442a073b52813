//! `cache [TTL] [ZONES…]`: keeps what other servers said.
//!
//! Answers out of the server's own data (Services, hosts files) are never kept: looking them up costs no more, and a
//! kept denial would outlive the Service's coming.

mod settings;
mod store;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, Record, RecordType};

pub(crate) use settings::Settings;
use store::{Entry, Key, Store};

use crate::explain::{DataOrigin, OriginKind, PluginStatus};
use crate::message::{Origin, Query, Reply};
use crate::metrics::{BlockLabels, CacheBlockLabels, CacheLabels, Metrics};
use crate::name::ZoneName;
use crate::plugin::{Explanation, Next, Outcome, Plugin};

/// What kind of answer a reply is (RFC 2308).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Success,
    Denial,
    ServerFailure,
}

/// What the cache has for a query.
enum Kept {
    /// It holds for that long.
    Fresh(Entry, Kind, Duration),
    /// It has run out.
    Stale(Entry, Kind),
}

/// The plugin.
#[derive(Debug)]
pub(crate) struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    success: Store,
    denial: Store,
    /// Apart from denials, so that a failure does not take the place of what may still be served stale.
    failures: Store,
    metrics: Arc<Metrics>,
    labels: CacheBlockLabels,
}

impl Cache {
    /// An empty cache.
    pub(crate) fn new(settings: Settings, metrics: Arc<Metrics>, block: &BlockLabels) -> Self {
        let zones: Vec<&str> = settings.zones.iter().map(ZoneName::as_str).collect();
        let labels = CacheBlockLabels {
            server: block.server.clone(),
            zones: zones.join(",").into(),
            view: block.view.clone(),
        };
        let success = Store::new(settings.success.capacity);
        let [denial, failures] = [(); 2].map(|()| Store::new(settings.denial.capacity));
        Self(Arc::new(Inner { settings, success, denial, failures, metrics, labels }))
    }
}

impl Plugin for Cache {
    fn name(&self) -> &'static str {
        "cache"
    }

    fn serve<'a>(&'a self, query: &'a Query, next: Next) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            if ZoneName::longest(&self.0.settings.zones, &query.lower).is_none() {
                return next.run(query).await;
            }
            self.0.serve(query, next).await
        })
    }

    fn explain(&self, query: &Query, next: &Next) -> Explanation {
        if ZoneName::longest(&self.0.settings.zones, &query.lower).is_none() {
            return next.explain(query);
        }
        self.0.explain(query, next)
    }

    fn status(&self) -> PluginStatus {
        let stores =
            [("success", &self.0.success), ("denial", &self.0.denial), ("failure", &self.0.failures)];
        let entries = stores.map(|(kind, store)| (kind.to_owned(), store.len()));
        PluginStatus { name: self.name().to_owned(), entries: entries.into(), ..PluginStatus::default() }
    }
}

impl Inner {
    async fn serve(self: &Arc<Self>, query: &Query, next: Next) -> Outcome {
        let now = Instant::now();
        let key = Key::of(query);
        self.metrics.cache_requests.get_or_create(&self.labels).inc();
        match self.find(&key, now) {
            Some(Kept::Fresh(entry, kind, left)) => {
                self.hit(kind);
                self.prefetch(&entry, left, query, &next);
                Ok(entry.reply(&self.settings, left))
            }
            Some(Kept::Stale(entry, kind)) => self.stale(&entry, kind, query, next).await,
            None => {
                self.metrics.cache_misses.get_or_create(&self.labels).inc();
                self.ask(key, query, &next).await
            }
        }
    }

    /// Answers with what has run out: at once, or where there is nothing newer to be had.
    async fn stale(self: &Arc<Self>, entry: &Entry, kind: Kind, query: &Query, next: Next) -> Outcome {
        let key = Key::of(query);
        if self.failed_just_now(&key) {
            // It is not asked again before its failure has run out.
        } else if self.settings.verify_stale {
            match self.ask(key, query, &next).await {
                Ok(reply) if reply.code != ResponseCode::ServFail => return Ok(reply),
                _ => {}
            }
        } else {
            self.renew(entry, query, next);
        }
        self.hit(kind);
        self.metrics.cache_stale.get_or_create(&self.labels).inc();
        Ok(entry.reply(&self.settings, Duration::ZERO))
    }

    fn failed_just_now(&self, key: &Key) -> bool {
        self.failures.get(key).is_some_and(|failure| failure.expires > Instant::now())
    }

    fn explain(&self, query: &Query, next: &Next) -> Explanation {
        let key = Key::of(query);
        let (entry, kind, left) = match self.find(&key, Instant::now()) {
            None => return self.explain_next(query, next),
            Some(Kept::Fresh(entry, kind, left)) => (entry, kind, left),
            Some(Kept::Stale(entry, kind)) => {
                if self.settings.verify_stale && !self.failed_just_now(&key) {
                    let newer = self.explain_next(query, next);
                    let fails = |outcome: &Outcome| match outcome {
                        Ok(reply) => reply.code == ResponseCode::ServFail,
                        Err(_) => true,
                    };
                    if !newer.outcome.as_ref().is_some_and(fails) {
                        return newer;
                    }
                }
                (entry, kind, Duration::ZERO)
            }
        };
        let origin = DataOrigin {
            ttl_left: Some(left.as_secs()),
            negative: Some(kind != Kind::Success),
            ..DataOrigin::of(OriginKind::Cache)
        };
        Explanation::answer("cache", origin, Ok(entry.reply(&self.settings, left)))
    }

    /// What [`Self::ask`] would come to.
    fn explain_next(&self, query: &Query, next: &Next) -> Explanation {
        let mut explanation = next.explain(query);
        if let Some(Ok(reply)) = &mut explanation.outcome
            && let Some((kind, ttl)) = self.worth(query, reply)
        {
            self.pass_on(reply, kind, ttl);
        }
        explanation
    }

    /// A reply that is kept says how long.
    fn pass_on(&self, reply: &mut Reply, kind: Kind, ttl: Duration) {
        if !self.settings.keep_ttl && kind != Kind::ServerFailure {
            cap_ttls(reply, ttl);
        }
    }

    /// What holds, else what may be served although it has run out, else that there was a failure.
    fn find(&self, key: &Key, now: Instant) -> Option<Kept> {
        let kinds = [(&self.success, Kind::Success), (&self.denial, Kind::Denial)];
        let mut stale = None;
        for (entry, kind) in kinds.into_iter().filter_map(|(store, kind)| Some((store.get(key)?, kind))) {
            let left = entry.expires.saturating_duration_since(now);
            if !left.is_zero() {
                return Some(Kept::Fresh(entry, kind, left));
            }
            if now < entry.expires + self.settings.serve_stale {
                stale = stale.or(Some(Kept::Stale(entry, kind)));
            }
        }
        stale.or_else(|| {
            let failure = self.failures.get(key)?;
            let left = failure.expires.saturating_duration_since(now);
            (!left.is_zero()).then_some(Kept::Fresh(failure, Kind::ServerFailure, left))
        })
    }

    /// Asks the next plugin and keeps what it says.
    async fn ask(&self, key: Key, query: &Query, next: &Next) -> Outcome {
        let mut reply = next.run(query).await?;
        if let Some((kind, ttl)) = self.worth(query, &reply) {
            let entry = Entry::new(reply.clone(), ttl, Instant::now());
            match kind {
                Kind::Success => {
                    self.denial.remove(&key);
                    self.success.put(key, entry);
                }
                Kind::Denial => {
                    self.success.remove(&key);
                    self.denial.put(key, entry);
                }
                Kind::ServerFailure => self.failures.put(key, entry),
            }
            self.count_entries();
            self.pass_on(&mut reply, kind, ttl);
        }
        Ok(reply)
    }

    /// Asks for what comes after `entry`, in the background; once at a time, however many ask for it meanwhile.
    fn renew(self: &Arc<Self>, entry: &Entry, query: &Query, next: Next) {
        if !entry.begin_renewal() {
            return;
        }
        let (inner, entry, query) = (self.clone(), entry.clone(), query.clone());
        tokio::spawn(async move {
            let _ = inner.ask(Key::of(&query), &query, &next).await;
            entry.end_renewal();
        });
    }

    /// What kind of answer it is and how long to keep it; `None` for what is not to be kept.
    fn worth(&self, query: &Query, reply: &Reply) -> Option<(Kind, Duration)> {
        if reply.origin == Origin::Local || reply.truncated {
            return None;
        }
        let kind = kind_of(reply)?;
        let (limits, disabled) = match kind {
            Kind::Success => (&self.settings.success, &self.settings.no_success),
            Kind::Denial => (&self.settings.denial, &self.settings.no_denial),
            Kind::ServerFailure => {
                let ttl = self.settings.servfail;
                return (!ttl.is_zero()).then_some((kind, ttl));
            }
        };
        if limits.capacity == 0 || disabled.iter().any(|zone| zone.contains(&query.lower)) {
            return None;
        }
        let ttl = Duration::from_secs(least_ttl(reply, kind).into());
        let ttl = ttl.max(limits.least).min(limits.most);
        (!ttl.is_zero()).then_some((kind, ttl))
    }

    fn prefetch(self: &Arc<Self>, entry: &Entry, left: Duration, query: &Query, next: &Next) {
        let settings = &self.settings;
        if settings.prefetch_amount == 0
            || left.as_secs_f64() > entry.ttl.as_secs_f64() * settings.prefetch_share
        {
            return;
        }
        if entry.asked_often(settings.prefetch_amount, settings.prefetch_window) {
            self.metrics.cache_prefetches.get_or_create(&self.labels).inc();
            self.renew(entry, query, next.clone());
        }
    }

    fn hit(&self, kind: Kind) {
        let kind = if kind == Kind::Success { "success" } else { "denial" };
        self.metrics.cache_hits.get_or_create(&self.typed(kind)).inc();
    }

    fn count_entries(&self) {
        let sizes = [("success", self.success.len()), ("denial", self.denial.len() + self.failures.len())];
        for (kind, size) in sizes {
            let entries = i64::try_from(size).unwrap_or(i64::MAX);
            self.metrics.cache_entries.get_or_create(&self.typed(kind)).set(entries);
        }
    }

    fn typed(&self, kind: &'static str) -> CacheLabels {
        let CacheBlockLabels { server, zones, view } = self.labels.clone();
        CacheLabels { server, r#type: kind, zones, view }
    }
}

/// What kind of answer it is; `None` for one that must not be kept (RFC 2308, section 5: a denial without SOA).
fn kind_of(reply: &Reply) -> Option<Kind> {
    let soa = reply.authorities.iter().any(|r| r.record_type() == RecordType::SOA);
    match reply.code {
        ResponseCode::NoError if !reply.answers.is_empty() && !soa => Some(Kind::Success),
        // A CNAME may stand before a denial.
        ResponseCode::NoError | ResponseCode::NXDomain if soa => Some(Kind::Denial),
        ResponseCode::ServFail => Some(Kind::ServerFailure),
        _ => None,
    }
}

/// The shortest time that a part of it is good for, in seconds.
fn least_ttl(reply: &Reply, kind: Kind) -> u32 {
    let records = reply.answers.iter().chain(&reply.authorities).chain(&reply.additionals);
    let times = records.map(|record| match &record.data {
        RData::SOA(soa) if kind == Kind::Denial => record.ttl.min(soa.minimum),
        _ => record.ttl,
    });
    times.min().unwrap_or(0)
}

fn cap_ttls(reply: &mut Reply, ttl: Duration) {
    let ttl = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
    reply.records_mut().for_each(|record: &mut Record| record.ttl = ttl);
}

#[cfg(test)]
mod tests;
