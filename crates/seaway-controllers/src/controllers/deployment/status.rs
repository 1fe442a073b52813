//! A Deployment's status and conditions.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::rolling::{Bounds, wanted, within_reach};
use crate::meta::pod_ready_since;
use crate::object::{Action, Object};

/// Default of `progressDeadlineSeconds`.
const DEFAULT_DEADLINE: i32 = 600;
/// A deadline that means none.
const NO_DEADLINE: i32 = i32::MAX;

fn sum<'a>(sets: impl Iterator<Item = &'a ReplicaSet>, count: fn(&ReplicaSet) -> Option<i32>) -> i32 {
    sets.filter_map(count).map(within_reach).sum()
}

fn present(set: &ReplicaSet) -> Option<i32> {
    set.status.as_ref().map(|s| s.replicas)
}

fn ready(set: &ReplicaSet) -> Option<i32> {
    set.status.as_ref()?.ready_replicas
}

fn available(set: &ReplicaSet) -> Option<i32> {
    set.status.as_ref()?.available_replicas
}

fn terminating(set: &ReplicaSet) -> Option<i32> {
    set.status.as_ref()?.terminating_replicas
}

/// The status, and when to look again for the progress deadline's sake.
pub(super) struct Status {
    pub(super) action: Option<Action>,
    pub(super) again_after: Option<Duration>,
}

/// Whether all pods are of the new revision, there and available, and the spec has been seen.
pub(super) fn complete(deployment: &Deployment, new: Option<&ReplicaSet>, old: &[&ReplicaSet]) -> bool {
    let replicas = wanted(deployment);
    let updated = new.and_then(present).unwrap_or(0);
    let total = updated + sum(old.iter().copied(), present);
    let available = new.and_then(available).unwrap_or(0);
    updated == replicas && total == replicas && available >= replicas
}

/// Counts the ReplicaSets' pods and judges the progress.
pub(super) fn status(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[&ReplicaSet],
    collisions: Option<i32>,
    now: Timestamp,
) -> Status {
    let known = deployment.status.clone().unwrap_or_default();
    let all = || old.iter().copied().chain(new);
    let some = |count: i32| (count > 0).then_some(count);
    let total = sum(all(), present);
    let available_count = sum(all(), available);
    let mut next = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(total),
        updated_replicas: new.and_then(present).and_then(some),
        ready_replicas: some(sum(all(), ready)),
        available_replicas: some(available_count),
        unavailable_replicas: some((wanted(deployment) - available_count).max(0)),
        terminating_replicas: some(sum(all(), terminating)).or(known.terminating_replicas.map(|_| 0)),
        collision_count: collisions,
        conditions: known.conditions.clone(),
    };
    let again_after = judge(deployment, new, old, &known, &mut next, now);
    let changed = next != known;
    let action = changed.then(|| {
        let object = Deployment { status: Some(next), ..deployment.clone() };
        Action::ReplaceStatus(Object::from(object))
    });
    Status { action, again_after }
}

fn judge(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[&ReplicaSet],
    known: &DeploymentStatus,
    next: &mut DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let least = wanted(deployment) - Bounds::of(deployment).max_unavailable;
    let (status, reason, message) = if next.available_replicas.unwrap_or(0) >= least {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(next, "Available", status, reason, message.into(), now, false);

    let spec = deployment.spec.as_ref();
    let deadline = spec.and_then(|spec| spec.progress_deadline_seconds).unwrap_or(DEFAULT_DEADLINE);
    if deadline == NO_DEADLINE {
        next.conditions.iter_mut().for_each(|c| c.retain(|c| c.type_ != "Progressing"));
        return None;
    }
    let paused = spec.and_then(|spec| spec.paused).unwrap_or(false);
    let condition = known.conditions.iter().flatten().find(|c| c.type_ == "Progressing");
    let reason_before = condition.and_then(|c| c.reason.as_deref());
    if paused {
        if reason_before != Some("DeploymentPaused") {
            set(next, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused".into(), now, true);
        }
        return None;
    }
    if reason_before == Some("DeploymentPaused") {
        set(next, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed".into(), now, true);
        return Some(seconds(deadline));
    }
    let whom = match new.and_then(|new| new.metadata.name.as_deref()) {
        Some(name) => format!("ReplicaSet \"{name}\""),
        None => format!("Deployment \"{}\"", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    if complete(deployment, new, old) {
        let message = format!("{whom} has successfully progressed.");
        // Told once; the time of completion stays.
        let told = reason_before == Some("NewReplicaSetAvailable");
        set(next, "Progressing", "True", "NewReplicaSetAvailable", message, now, !told);
        return None;
    }
    let count = |value: Option<i32>| value.unwrap_or(0);
    let fewer_old = |s: &DeploymentStatus| count(s.replicas) - count(s.updated_replicas);
    let progressed = count(next.updated_replicas) > count(known.updated_replicas)
        || fewer_old(next) < fewer_old(known)
        || count(next.ready_replicas) > count(known.ready_replicas)
        || count(next.available_replicas) > count(known.available_replicas);
    let is_new_revision = condition.is_none()
        || deployment.metadata.generation != known.observed_generation
            && reason_before == Some("NewReplicaSetAvailable");
    if progressed || is_new_revision {
        let message = format!("{whom} is progressing.");
        set(next, "Progressing", "True", "ReplicaSetUpdated", message, now, true);
        return Some(seconds(deadline));
    }
    if matches!(reason_before, Some("NewReplicaSetAvailable" | "ProgressDeadlineExceeded")) {
        return None;
    }
    let since = condition.and_then(|c| c.last_update_time.as_ref()).map_or(now, |time| time.0);
    let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    if elapsed >= seconds(deadline) {
        let message = format!("{whom} has timed out progressing.");
        set(next, "Progressing", "False", "ProgressDeadlineExceeded", message, now, true);
        return None;
    }
    Some(seconds(deadline) - elapsed)
}

fn seconds(seconds: i32) -> Duration {
    Duration::from_secs(seconds.max(0).unsigned_abs().into())
}

/// Puts a condition in. Its update time moves with its status or reason, or when `touch` says so.
fn set(
    next: &mut DeploymentStatus,
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
    touch: bool,
) {
    // The API keeps whole seconds.
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let conditions = next.conditions.get_or_insert_default();
    let known = conditions.iter().position(|c| c.type_ == kind);
    let before = known.map(|i| conditions.remove(i));
    let same_status = before.as_ref().is_some_and(|c| c.status == status);
    let same = same_status && before.as_ref().is_some_and(|c| c.reason.as_deref() == Some(reason));
    let then =
        |time: fn(&DeploymentCondition) -> &Option<Time>| before.as_ref().and_then(|c| time(c).clone());
    let condition = DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: then(|c| &c.last_transition_time).filter(|_| same_status).or(Some(now.clone())),
        last_update_time: then(|c| &c.last_update_time).filter(|_| same && !touch).or(Some(now)),
    };
    conditions.insert(known.unwrap_or(conditions.len()), condition);
}

/// Whether a pod has been ready for `min_ready` seconds; if not, how long it still takes, if it is ready.
pub(crate) fn available_in(
    pod: &k8s_openapi::api::core::v1::Pod,
    min_ready: i32,
    now: Timestamp,
) -> Option<Duration> {
    if !crate::meta::pod_ready(pod) {
        return None;
    }
    if min_ready <= 0 {
        return Some(Duration::ZERO);
    }
    let since = pod_ready_since(pod).unwrap_or(now);
    let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    Some(seconds(min_ready).saturating_sub(elapsed))
}
