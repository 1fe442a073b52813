//! What is wrong with a Service, told where its owner looks: as an event on it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::Api;
use seaway_kube::{Client, Recorder, Severity};
use seaway_model::{NodePlan, ObjectName, ServiceAddress};
use tokio::sync::mpsc;

use crate::status::Shared;

/// Troubles that wait to be told; more are dropped, since nobody may be held up by them.
const QUEUE: usize = 256;
/// The same trouble of the same Service is told again after this time.
const AGAIN: Duration = Duration::from_secs(300);
/// Troubles remembered; beyond it the older ones are forgotten.
const MEMORY: usize = 4096;

/// A Service's trouble: whose, which, and in words.
type Trouble = (ObjectName, &'static str, String);

/// Takes troubles, which are told in the background.
#[derive(Clone, Debug)]
pub(crate) struct Troubles {
    queue: mpsc::Sender<Trouble>,
}

impl Troubles {
    /// Events come from `component`.
    pub(crate) fn start(client: Client, component: &'static str, node: String) -> Self {
        let (queue, troubles) = mpsc::channel(QUEUE);
        let recorder = Recorder::start(client.clone(), component, node);
        tokio::spawn(tell_all(client, recorder, troubles));
        Self { queue }
    }

    /// Something is wrong with `service`. Repeats within minutes are left out.
    pub(crate) fn tell(&self, service: ObjectName, reason: &'static str, message: String) {
        let _ = self.queue.try_send((service, reason, message));
    }
}

/// What was told, and when.
#[derive(Debug, Default)]
struct Told {
    at: HashMap<Trouble, Instant>,
}

impl Told {
    /// `trouble` is new, or so old that it is to be told again.
    fn is_news(&mut self, trouble: &Trouble, now: Instant) -> bool {
        if self.at.len() >= MEMORY {
            self.at.retain(|_, at| now.duration_since(*at) < AGAIN);
        }
        if self.at.len() >= MEMORY {
            self.at.clear();
        }
        let news = self.at.get(trouble).is_none_or(|at| now.duration_since(*at) >= AGAIN);
        if news {
            self.at.insert(trouble.clone(), now);
        }
        news
    }
}

async fn tell_all(client: Client, recorder: Recorder, mut troubles: mpsc::Receiver<Trouble>) {
    let mut told = Told::default();
    while let Some(trouble) = troubles.recv().await {
        if !told.is_news(&trouble, Instant::now()) {
            continue;
        }
        let (service, reason, message) = trouble;
        tracing::warn!(%service, reason, "{message}");
        // Who describes a Service is shown the events with its uid.
        let services: Api<Service> = Api::namespaced(client.clone(), &service.namespace);
        let uid = match services.get_metadata_opt(&service.name).await {
            Ok(Some(found)) => found.metadata.uid,
            Ok(None) => {
                tracing::debug!(%service, "gone before its trouble could be told");
                continue;
            }
            // A role that was made for kube-proxy may not read a single Service: its events have no better uid.
            Err(error) => {
                tracing::debug!(%service, %error, "its uid is not to be had");
                Some(service.to_string())
            }
        };
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(service.namespace.to_string()),
            name: Some(service.name.to_string()),
            uid,
            ..ObjectReference::default()
        };
        recorder.record(about, Severity::Warning, reason, message);
    }
}

/// Tells of Services that ask for an address that another one has, for ever.
pub(crate) async fn tell_conflicts(shared: Arc<Shared>, troubles: Troubles) {
    let mut plans = shared.plans();
    let mut known = BTreeSet::new();
    while plans.changed().await.is_ok() {
        let Some(plan) = plans.borrow_and_update().clone() else { continue };
        let waiting = waiting(&plan);
        for (service, address, owner) in waiting.difference(&known) {
            let message = format!("{address} is not served for this Service: Service {owner} has it");
            troubles.tell(service.clone(), "AddressInUse", message);
        }
        known = waiting;
    }
}

/// Who waits for which address, and who has it.
fn waiting(plan: &NodePlan) -> BTreeSet<(ObjectName, ServiceAddress, ObjectName)> {
    let owner = |address| plan.services.port(address).map(|port| port.service.clone());
    plan.services
        .waiting()
        .filter_map(|(address, service)| Some((service.clone(), *address, owner(address)?)))
        .filter(|(service, _, owner)| service != owner)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_wait() {
        let mut told = Told::default();
        let now = Instant::now();
        let trouble = |name: &str| (ObjectName::new("default", name), "AddressInUse", "x".to_owned());
        assert!(told.is_news(&trouble("a"), now));
        assert!(!told.is_news(&trouble("a"), now + AGAIN / 2));
        assert!(told.is_news(&trouble("b"), now));
        assert!(told.is_news(&trouble("a"), now + AGAIN));
        for number in 0..2 * MEMORY {
            told.is_news(&trouble(&number.to_string()), now);
        }
        assert!(told.at.len() <= MEMORY);
    }
}
