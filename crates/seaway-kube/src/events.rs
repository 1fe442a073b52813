//! Events: what happens to objects, in the API for people to read.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;

/// client-go's spam filter: this many events an object at once, and one more every five minutes.
const BURST: f64 = 25.0;
const REFILL_EVERY: Duration = Duration::from_secs(300);
/// Events of the same object, reason and message are one event with a count, if no more than this apart.
const AGGREGATE_FOR: Duration = Duration::from_secs(600);
/// Objects and events remembered; beyond it the oldest are forgotten.
const MEMORY: usize = 4096;
/// Events that wait to be sent; more are dropped, since nobody may be held up by them.
const QUEUE: usize = 1024;

/// Normal or worth a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Something is wrong.
    Warning,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

#[derive(Debug, Clone)]
struct Incident {
    about: ObjectReference,
    severity: Severity,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// Takes events and sends them in the background.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Incident>,
}

impl Recorder {
    /// For the events of `component` on `node`. Must be called inside a tokio runtime.
    pub fn start(client: Client, component: &'static str, node: String) -> Self {
        let (queue, incidents) = mpsc::channel(QUEUE);
        let reporter = Reporter { component, node };
        tokio::spawn(send_all(client, reporter, incidents));
        Self { queue }
    }

    /// Says something about an object, which is told from others by its uid. Repeats are one event with a count.
    pub fn record(
        &self,
        about: ObjectReference,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let mut message = message.into();
        tracing::info!(object = about.name, reason, message);
        if message.len() > 1024 {
            let end = (0..=1024).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(end);
        }
        // A full queue means that the API server is not there to be told.
        let _ = self.queue.try_send(Incident { about, severity, reason, message, at: Timestamp::now() });
    }
}

/// What becomes of an event.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// A new event of this name.
    Create(String),
    /// The event of this name has happened this often.
    Count(String, i32),
    /// Too many of this object.
    Drop,
}

/// An event's object, the part of it, the reason and the message.
type Key = (String, String, &'static str, String);

#[derive(Default)]
struct Correlator {
    /// The event's name, how often it happened, and when last.
    seen: HashMap<Key, (String, i32, Instant)>,
    budgets: HashMap<String, (f64, Instant)>,
    made: u64,
}

impl Correlator {
    fn judge(&mut self, incident: &Incident, now: Instant) -> Verdict {
        self.forget(now);
        let object = incident.about.uid.clone().unwrap_or_default();
        let (budget, last) = self.budgets.entry(object.clone()).or_insert((BURST, now));
        (*budget, *last) = (refilled(*budget, *last, now), now);
        if *budget < 1.0 {
            return Verdict::Drop;
        }
        *budget -= 1.0;
        let field = incident.about.field_path.clone().unwrap_or_default();
        let key = (object, field, incident.reason, incident.message.clone());
        if let Some((name, count, last)) = self.seen.get_mut(&key) {
            (*count, *last) = (*count + 1, now);
            return Verdict::Count(name.clone(), *count);
        }
        self.made += 1;
        let stamp = incident.at.as_nanosecond() as u64;
        let name = format!(
            "{}.{:x}",
            incident.about.name.as_deref().unwrap_or_default(),
            stamp.wrapping_add(self.made)
        );
        self.seen.insert(key, (name.clone(), 1, now));
        Verdict::Create(name)
    }

    fn forget(&mut self, now: Instant) {
        if self.seen.len() > MEMORY {
            self.seen.retain(|_, (_, _, last)| now.duration_since(*last) < AGGREGATE_FOR);
        }
        if self.seen.len() > MEMORY {
            self.seen.clear();
        }
        if self.budgets.len() > MEMORY {
            self.budgets.retain(|_, (budget, last)| refilled(*budget, *last, now) < BURST);
        }
        if self.budgets.len() > MEMORY {
            self.budgets.clear();
        }
    }
}

/// What a budget of `at` is `now`.
fn refilled(budget: f64, at: Instant, now: Instant) -> f64 {
    (budget + now.duration_since(at).as_secs_f64() / REFILL_EVERY.as_secs_f64()).min(BURST)
}

/// Who tells.
struct Reporter {
    component: &'static str,
    node: String,
}

async fn send_all(client: Client, reporter: Reporter, mut incidents: mpsc::Receiver<Incident>) {
    let mut correlator = Correlator::default();
    while let Some(incident) = incidents.recv().await {
        let namespace = incident.about.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        let result = match correlator.judge(&incident, Instant::now()) {
            Verdict::Drop => continue,
            Verdict::Create(name) => create(&api, &reporter, &incident, name, 1).await,
            Verdict::Count(name, count) => {
                let patch = json!({"count": count, "lastTimestamp": Time(incident.at)});
                match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {
                        create(&api, &reporter, &incident, name, count).await
                    }
                    other => other.map(drop),
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, reason = incident.reason, "sending an event");
        }
    }
}

async fn create(
    api: &Api<Event>,
    reporter: &Reporter,
    incident: &Incident,
    name: String,
    count: i32,
) -> kube::Result<()> {
    let mut event = Event {
        involved_object: incident.about.clone(),
        reason: Some(incident.reason.to_owned()),
        message: Some(incident.message.clone()),
        type_: Some(incident.severity.name().to_owned()),
        source: Some(EventSource {
            component: Some(reporter.component.to_owned()),
            host: Some(reporter.node.clone()),
        }),
        reporting_component: Some(reporter.component.to_owned()),
        reporting_instance: Some(reporter.node.clone()),
        first_timestamp: Some(Time(incident.at)),
        last_timestamp: Some(Time(incident.at)),
        count: Some(count),
        ..Event::default()
    };
    event.metadata.name = Some(name);
    event.metadata.namespace = Some(incident.about.namespace.clone().unwrap_or_else(|| "default".to_owned()));
    api.create(&PostParams::default(), &event).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incident(uid: &str, message: &str) -> Incident {
        let about =
            ObjectReference { name: Some("web".into()), uid: Some(uid.into()), ..ObjectReference::default() };
        Incident {
            about,
            severity: Severity::Warning,
            reason: "BackOff",
            message: message.to_owned(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn repeats_are_counted_and_floods_are_cut() {
        let mut correlator = Correlator::default();
        let now = Instant::now();
        let Verdict::Create(name) = correlator.judge(&incident("a", "x"), now) else { panic!("must be new") };
        assert_eq!(correlator.judge(&incident("a", "x"), now), Verdict::Count(name.clone(), 2));
        assert!(
            matches!(correlator.judge(&incident("a", "y"), now), Verdict::Create(other) if other != name)
        );
        for _ in 0..22 {
            assert_ne!(correlator.judge(&incident("a", "x"), now), Verdict::Drop);
        }
        assert_eq!(correlator.judge(&incident("a", "x"), now), Verdict::Drop);
        assert!(matches!(correlator.judge(&incident("b", "x"), now), Verdict::Create(_)));
        assert_eq!(correlator.judge(&incident("a", "x"), now + REFILL_EVERY), Verdict::Count(name, 25));
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let mut correlator = Correlator::default();
        let now = Instant::now();
        for pod in 0..3 * MEMORY {
            for message in ["x", "y", "z"] {
                correlator.judge(&incident(&pod.to_string(), message), now);
            }
        }
        assert!(correlator.seen.len() <= MEMORY + 1 && correlator.budgets.len() <= MEMORY + 1);
        // A flood still is one after others have been forgotten for their age.
        for _ in 0..30 {
            correlator.judge(&incident("flood", "x"), now);
        }
        assert_eq!(correlator.judge(&incident("flood", "x"), now), Verdict::Drop);
    }
}
