//! Jobs, as far as a lab needs them: pods until enough have succeeded, `parallelism` at a time, and an end after
//! `backoffLimit` failures. No indexed completion, deadline, suspension or pod failure policy.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::controllers::replica_set::pod_of;
use crate::meta::{controls, count, deleting, pod_active, pod_phase, pod_ready, some};
use crate::object::{Action, Decision, Object, Target};

/// Default of `backoffLimit`.
const DEFAULT_BACKOFF_LIMIT: i32 = 6;
/// The most pods that are created in one round; the next one follows when they are seen.
const BURST: i32 = 500;

/// What a decision about a Job is made from.
pub struct Observed<'a> {
    /// The Job.
    pub job: &'a Job,
    /// The pods that it controls.
    pub pods: &'a [Arc<Pod>],
    /// Now.
    pub now: Timestamp,
}

/// Decides the next writes.
pub fn decide(observed: &Observed<'_>) -> Decision {
    let job = observed.job;
    let Some(spec) = &job.spec else { return Decision::none() };
    let known = job.status.clone().unwrap_or_default();
    let ended = known
        .conditions
        .iter()
        .flatten()
        .any(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True");
    if ended || deleting(job) {
        return Decision::none();
    }
    let pods: Vec<&Pod> =
        observed.pods.iter().map(|p| &**p).filter(|pod| controls(job, &pod.metadata)).collect();
    let phase = |name: &str| count(pods.iter().filter(|pod| pod_phase(pod) == name).count());
    let active: Vec<&Pod> = pods.iter().copied().filter(|pod| pod_active(pod)).collect();
    let (succeeded, failed) = (phase("Succeeded"), phase("Failed"));
    let parallelism = spec.parallelism.unwrap_or(1);
    let now = Time(Timestamp::from_second(observed.now.as_second()).unwrap_or(observed.now));
    let mut status = JobStatus {
        active: some(count(active.len())),
        ready: Some(count(active.iter().filter(|pod| pod_ready(pod)).count())),
        succeeded: some(succeeded),
        failed: some(failed),
        start_time: known.start_time.clone().or(Some(now.clone())),
        ..known.clone()
    };
    let condition = |kind: &str, reason: &str, message: &str| JobCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
    };
    // Without `completions`, one success is enough, and the rest may end in its own time.
    let complete = match spec.completions {
        Some(wanted) => succeeded >= wanted,
        None => succeeded > 0 && active.is_empty(),
    };
    let mut decision = Decision::none();
    if failed > spec.backoff_limit.unwrap_or(DEFAULT_BACKOFF_LIMIT) {
        decision.actions.extend(active.iter().map(|pod| Action::Delete(Target::of(*pod), None)));
        let reason =
            condition("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit");
        status.conditions.get_or_insert_default().push(reason);
        status.active = None;
    } else if complete {
        let message = "Reached expected number of succeeded pods";
        status.conditions.get_or_insert_default().push(condition("Complete", "CompletionsReached", message));
        status.completion_time = Some(now.clone());
    } else {
        let wanted = match spec.completions {
            Some(wanted) => (wanted - succeeded).min(parallelism),
            None if succeeded > 0 => count(active.len()),
            None => parallelism,
        };
        let missing = (wanted - count(active.len())).min(BURST);
        let create = || Action::Create(Object::from(pod_of(job, &spec.template)));
        decision.actions.extend((0..missing).map(|_| create()));
        let surplus = usize::try_from(-missing).unwrap_or(0);
        decision.actions.extend(active.iter().take(surplus).map(|p| Action::Delete(Target::of(*p), None)));
    }
    if status != known {
        let object = Job { status: Some(status), ..job.clone() };
        decision.actions.push(Action::ReplaceStatus(Object::from(object)));
    }
    decision
}
