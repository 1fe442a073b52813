//! Writing a pod's status to the API: the latest, once, until it is there.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// The first and the longest wait before a failed write is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Publishes one pod's status in the background.
pub(crate) struct Publisher {
    wanted: watch::Sender<(u64, Option<PodStatus>)>,
    done: watch::Receiver<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Publisher {
    pub(crate) fn start(client: Client, pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let api = Api::namespaced(client, meta.namespace.as_deref().unwrap_or_default());
        let (name, uid) = (meta.name.clone().unwrap_or_default(), meta.uid.clone().unwrap_or_default());
        let (wanted, wishes) = watch::channel((0, None));
        let (finished, done) = watch::channel(0);
        let task = tokio::spawn(write_all(api, name, uid, wishes, finished));
        Self { wanted, done, _task: AbortOnDropHandle::new(task) }
    }

    /// Asks for `status` to be written; one that was not written yet is left out.
    pub(crate) fn publish(&self, status: PodStatus) {
        self.wanted.send_modify(|(number, wanted)| {
            *number += 1;
            *wanted = Some(status);
        });
    }

    /// Waits until the API has the last status, or has no such pod any more.
    pub(crate) async fn flushed(&mut self) {
        let number = self.wanted.borrow().0;
        // The task ends only with `self`.
        let _ = self.done.wait_for(|done| *done >= number).await;
    }
}

async fn write_all(
    api: Api<Pod>,
    name: String,
    uid: String,
    mut wishes: watch::Receiver<(u64, Option<PodStatus>)>,
    finished: watch::Sender<u64>,
) {
    let mut wait = RETRY.0;
    while wishes.changed().await.is_ok() {
        loop {
            let (number, status) = wishes.borrow_and_update().clone();
            let Some(status) = status else { break };
            match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch(&uid, &status))).await
            {
                Ok(_) => {
                    wait = RETRY.0;
                    finished.send_replace(number);
                    break;
                }
                // The pod is gone, or another one of the same name is there: nobody waits for this status.
                Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409 | 422) => {
                    tracing::debug!(name, uid, message = answer.message, "a status was refused");
                    finished.send_replace(number);
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, name, "writing a pod's status");
                    // A newer status is worth an attempt at once.
                    tokio::select! {
                        () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY.1),
                        changed = wishes.changed() => if changed.is_err() { return },
                    }
                    wishes.mark_changed();
                }
            }
        }
    }
}

/// A merge patch that holds for this very pod, and clears what the status no longer has.
fn patch(uid: &str, status: &PodStatus) -> Value {
    let mut fields = json!({"reason": null, "message": null, "podIP": null, "podIPs": null, "initContainerStatuses": null});
    if let (Some(fields), Ok(Value::Object(known))) = (fields.as_object_mut(), serde_json::to_value(status)) {
        fields.extend(known);
    }
    json!({"metadata": {"uid": uid}, "status": fields})
}
