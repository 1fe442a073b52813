//! The Node object's annotations by which other nodes learn how to reach this one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use seaway_kube::{Client, Subscription};
use seaway_model::Snapshot;
use tokio::sync::watch;

use crate::part::{Outcome, until};
use crate::status::Shared;

/// The name in status.
const PART: &str = "annotations";
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Annotations and their values.
type Annotations = BTreeMap<String, String>;

/// Where a part says what the Node object is to have.
#[derive(Clone, Debug)]
pub(crate) struct Announcement {
    wanted: watch::Sender<Annotations>,
}

impl Announcement {
    pub(crate) fn new() -> Self {
        Self { wanted: watch::Sender::new(Annotations::new()) }
    }

    /// These annotations, from now on.
    pub(crate) fn set(&self, annotations: Annotations) {
        self.wanted.send_if_modified(|current| {
            let changed = *current != annotations;
            *current = annotations;
            changed
        });
    }

    /// Keeps the Node object's annotations as wanted, for ever, whoever changes them.
    pub(crate) async fn keep(self, client: Client, mut updates: Subscription, shared: Arc<Shared>) {
        let nodes: Api<Node> = Api::all(client);
        let mut wanted = self.wanted.subscribe();
        let mut snapshot = Arc::<Snapshot>::default();
        let mut retry = FIRST_RETRY;
        // What was asked for last, and when to ask for the same again.
        let mut asked: Option<(Annotations, Instant)> = None;
        loop {
            tokio::select! {
                update = updates.next() => snapshot = update.snapshot,
                Ok(()) = wanted.changed() => {}
                () = until(asked.as_ref().map(|(_, again)| *again)) => {}
            }
            let missing = missing(&wanted.borrow_and_update(), &shared.node, &snapshot);
            if missing.is_empty() {
                (retry, asked) = (FIRST_RETRY, None);
                continue;
            }
            let started = Instant::now();
            // The watch shows the patched object some time after the answer: other changes must not have it patched again.
            if asked.as_ref().is_some_and(|(same, again)| *same == missing && started < *again) {
                continue;
            }
            let patch = serde_json::json!({ "metadata": { "annotations": &missing } });
            let patched = nodes.patch(&shared.node, &PatchParams::default(), &Patch::Merge(patch)).await;
            let outcome = match patched {
                Ok(_) => {
                    tracing::info!(annotations = ?missing, "announced");
                    Ok(Outcome { full: false, operations: missing.len() })
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot annotate the Node object");
                    Err(error.to_string())
                }
            };
            asked = Some((missing, Instant::now() + retry));
            retry = (retry * 2).min(LAST_RETRY);
            shared.with_part(PART, |part| part.end(snapshot.generation, started.elapsed(), &outcome));
        }
    }
}

/// What of `wanted` the Node object lacks; nothing where there is no such object yet.
fn missing(wanted: &Annotations, node: &str, snapshot: &Snapshot) -> Annotations {
    let Some(node) = snapshot.nodes.get(node) else { return Annotations::new() };
    let lacks = |(name, value): &(&String, &String)| node.annotations.get(*name) != Some(value);
    wanted.iter().filter(lacks).map(|(name, value)| (name.clone(), value.clone())).collect()
}
