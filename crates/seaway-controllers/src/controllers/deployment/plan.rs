//! The next step of a Deployment.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::revisions::{is_of_template, new_replica_set, revision, template_hash, update_replica_set};
use super::rolling::{Bounds, Size, grow_new, resize, shrink_old, wanted, within_reach};
use super::{DESIRED_REPLICAS, MAX_REPLICAS, REVISION, status};
use crate::meta::{annotation, claim, controls, deleting, pod_finished, selects};
use crate::object::{Action, Decision, Notice, NoticeKind, Object, Part, Target};

/// What a decision about a Deployment is made from.
pub struct Observed<'a> {
    /// The Deployment.
    pub deployment: &'a Deployment,
    /// The ReplicaSets of its namespace.
    pub replica_sets: &'a [Arc<ReplicaSet>],
    /// The pods of those ReplicaSets.
    pub pods: &'a [Arc<Pod>],
    /// Now.
    pub now: Timestamp,
}

/// Its ReplicaSets, told apart.
struct Sets<'a> {
    new: Option<&'a ReplicaSet>,
    /// Oldest first.
    old: Vec<&'a ReplicaSet>,
}

/// Decides the next step.
pub fn decide(observed: &Observed<'_>) -> Decision {
    let deployment = observed.deployment;
    let Some(spec) = &deployment.spec else { return Decision::none() };
    let claims: Vec<Action> = observed
        .replica_sets
        .iter()
        .filter_map(|set| claim(deployment, selects(&spec.selector, set.metadata.labels.as_ref()), &**set))
        .collect();
    if !claims.is_empty() {
        return claims.into();
    }
    let sets = tell_apart(observed);
    let mut decision = if deleting(deployment) { Decision::none() } else { step(observed, &sets) };
    if let Some(revision) = set_revision(deployment, &sets).filter(|_| !deleting(deployment)) {
        // The status is written in the next round, on the version that this makes.
        decision.actions.push(revision);
        return decision;
    }
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let collisions = if collides(observed, &sets) { Some(collisions.unwrap_or(0) + 1) } else { collisions };
    let status = status::status(deployment, sets.new, &sets.old, collisions, observed.now);
    decision.actions.extend(status.action);
    if let Some(delay) = status.again_after {
        decision.look_again(delay);
    }
    decision
}

fn tell_apart<'a>(observed: &Observed<'a>) -> Sets<'a> {
    let deployment = observed.deployment;
    let mut owned: Vec<&ReplicaSet> = observed
        .replica_sets
        .iter()
        .map(|set| &**set)
        .filter(|set| controls(deployment, &set.metadata))
        .collect();
    owned.sort_by(|a, b| {
        let age = |set: &ReplicaSet| (set.metadata.creation_timestamp.clone(), set.metadata.name.clone());
        age(a).cmp(&age(b))
    });
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    let is_new =
        |set: &&ReplicaSet| !deleting(*set) && template.is_some_and(|template| is_of_template(set, template));
    let new = owned.iter().copied().find(is_new);
    let uid = |set: &ReplicaSet| set.metadata.uid.clone();
    let old = owned.into_iter().filter(|set| new.is_none_or(|new| uid(new) != uid(set))).collect();
    Sets { new, old }
}

fn size_of(set: &ReplicaSet) -> Size {
    let status = set.status.as_ref();
    Size {
        wanted: within_reach(set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)),
        present: within_reach(status.map_or(0, |s| s.replicas)),
        available: within_reach(status.and_then(|s| s.available_replicas).unwrap_or(0)),
        settled: status.and_then(|s| s.observed_generation) == set.metadata.generation,
    }
}

/// The number of the new revision: after the highest of the old ones, or its own if that is higher.
fn new_number(sets: &Sets<'_>) -> i64 {
    let highest = sets.old.iter().map(|set| revision(set)).max().unwrap_or(0);
    sets.new.map(revision).unwrap_or(0).max(highest + 1)
}

fn hash_of(deployment: &Deployment) -> String {
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    deployment.spec.as_ref().map(|spec| template_hash(&spec.template, collisions)).unwrap_or_default()
}

/// Whether the name of the new ReplicaSet is taken by something else.
fn collides(observed: &Observed<'_>, sets: &Sets<'_>) -> bool {
    if sets.new.is_some() || deleting(observed.deployment) {
        return false;
    }
    let name = new_replica_set(observed.deployment, &hash_of(observed.deployment), 0, 0).metadata.name;
    observed.replica_sets.iter().any(|set| set.metadata.name == name && !deleting(&**set))
}

fn step(observed: &Observed<'_>, sets: &Sets<'_>) -> Decision {
    let deployment = observed.deployment;
    let spec = deployment.spec.as_ref();
    let paused = spec.and_then(|spec| spec.paused).unwrap_or(false);
    let mut decision = Decision::none();
    if paused || was_resized(deployment, sets) {
        decision.actions = resized(observed, sets);
        return decision;
    }
    if collides(observed, sets) {
        return decision;
    }
    let recreate = spec
        .and_then(|spec| spec.strategy.as_ref())
        .is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate"));
    decision.actions = if recreate { recreated(observed, sets) } else { rolled(deployment, sets) };
    decision.actions.extend(clean_up(deployment, sets));
    decision
}

/// Whether the Deployment was given another size since its ReplicaSets were sized.
fn was_resized(deployment: &Deployment, sets: &Sets<'_>) -> bool {
    let replicas = wanted(deployment).to_string();
    sets.new.iter().chain(&sets.old).any(|set| {
        size_of(set).wanted > 0
            && annotation(&set.metadata, DESIRED_REPLICAS).is_some_and(|desired| desired != replicas)
    })
}

/// Sizes the ReplicaSets of a Deployment that is paused or was resized, without going on with an update.
fn resized(observed: &Observed<'_>, sets: &Sets<'_>) -> Vec<Action> {
    let deployment = observed.deployment;
    let replicas = wanted(deployment);
    let all: Vec<&ReplicaSet> = sets.old.iter().copied().chain(sets.new).collect();
    let active: Vec<&ReplicaSet> = all.iter().copied().filter(|set| size_of(set).wanted > 0).collect();
    if active.len() <= 1 {
        let one = active.first().copied().or(sets.new).or_else(|| all.last().copied());
        return one.map(|set| sized(deployment, sets, set, replicas)).unwrap_or_default();
    }
    if let Some(new) = sets.new {
        let size = size_of(new);
        if size.wanted == replicas && size.available >= replicas {
            let old = sets.old.iter().filter(|set| size_of(set).wanted > 0);
            return old.flat_map(|set| sized(deployment, sets, set, 0)).collect();
        }
    }
    let bounds = Bounds::of(deployment);
    let allowed = if replicas > 0 { replicas + bounds.max_surge } else { 0 };
    let sizes: Vec<i32> = active.iter().map(|set| size_of(set).wanted).collect();
    let before: Vec<i32> = active
        .iter()
        .map(|set| annotation(&set.metadata, MAX_REPLICAS).and_then(|text| text.parse().ok()).unwrap_or(0))
        .collect();
    let next = resize(allowed, &sizes, &before);
    active.iter().zip(next).flat_map(|(set, size)| sized(deployment, sets, set, size)).collect()
}

/// One round of a rolling update: first more of the new, and if there is no room, fewer of the old.
fn rolled(deployment: &Deployment, sets: &Sets<'_>) -> Vec<Action> {
    let (replicas, bounds) = (wanted(deployment), Bounds::of(deployment));
    let old: Vec<Size> = sets.old.iter().map(|set| size_of(set)).collect();
    let new = sets.new.map_or(Size { settled: true, ..Size::default() }, size_of);
    let size = grow_new(replicas, bounds, new, &old);
    let mut actions = new_or_sized(deployment, sets, size);
    let grew = sets.new.is_none_or(|new| size_of(new).wanted != size);
    if grew && size > 0 {
        return actions;
    }
    for (set, size) in sets.old.iter().zip(shrink_old(replicas, bounds, new, &old)) {
        if size_of(set).wanted != size {
            actions.extend(sized(deployment, sets, set, size));
        }
    }
    actions
}

/// One round of the strategy `Recreate`: the new pods come when the old ones have ended.
fn recreated(observed: &Observed<'_>, sets: &Sets<'_>) -> Vec<Action> {
    let deployment = observed.deployment;
    let active: Vec<_> = sets.old.iter().filter(|set| size_of(set).wanted > 0).collect();
    if !active.is_empty() {
        return active.into_iter().flat_map(|set| sized(deployment, sets, set, 0)).collect();
    }
    let of_old = |pod: &Pod| sets.old.iter().any(|set| controls(*set, &pod.metadata));
    if observed.pods.iter().any(|pod| of_old(pod) && !pod_finished(pod)) {
        return Vec::new();
    }
    new_or_sized(deployment, sets, wanted(deployment))
}

fn new_or_sized(deployment: &Deployment, sets: &Sets<'_>, size: i32) -> Vec<Action> {
    match sets.new {
        Some(new) => sized(deployment, sets, new, size),
        None => {
            let set = new_replica_set(deployment, &hash_of(deployment), new_number(sets), size);
            let name = set.metadata.name.clone().unwrap_or_default();
            let mut actions = vec![Action::Create(Object::from(set))];
            actions.extend((size > 0).then(|| scaled(deployment, &name, 0, size)));
            actions
        }
    }
}

/// The actions that give a ReplicaSet this size.
fn sized(deployment: &Deployment, sets: &Sets<'_>, set: &ReplicaSet, size: i32) -> Vec<Action> {
    let is_new = sets.new.is_some_and(|new| new.metadata.uid == set.metadata.uid);
    let number = is_new.then(|| new_number(sets));
    let before = size_of(set).wanted;
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let notice = (before != size).then(|| scaled(deployment, name, before, size));
    update_replica_set(deployment, set, number, size).into_iter().chain(notice).collect()
}

fn scaled(deployment: &Deployment, name: &str, before: i32, size: i32) -> Action {
    let direction = if size > before { "up" } else { "down" };
    let from = if before == 0 && size > 0 { String::new() } else { format!(" from {before}") };
    let message = format!("Scaled {direction} replica set {name}{from} to {size}");
    Action::Notify(Notice::new(
        deployment,
        NoticeKind::Normal,
        "deployment-controller",
        "ScalingReplicaSet",
        message,
    ))
}

/// The Deployment carries its newest revision's number. It is written by way of the status, which makes no new generation.
fn set_revision(deployment: &Deployment, sets: &Sets<'_>) -> Option<Action> {
    let number = match sets.new {
        Some(_) => new_number(sets),
        // It is being created now.
        None => return None,
    }
    .to_string();
    if annotation(&deployment.metadata, REVISION) == Some(number.as_str()) {
        return None;
    }
    let patch = json!({"metadata": {"annotations": {REVISION: number}}});
    Some(Action::Patch(Target::of(deployment), Part::Status, patch))
}

/// Deletes the oldest of the ReplicaSets that are empty and beyond the history's limit.
fn clean_up(deployment: &Deployment, sets: &Sets<'_>) -> Vec<Action> {
    if !status::complete(deployment, sets.new, &sets.old) {
        return Vec::new();
    }
    let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
    let mut kept: Vec<&ReplicaSet> = sets.old.iter().copied().filter(|set| !deleting(*set)).collect();
    kept.sort_by_key(|set| revision(set));
    let surplus = kept.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    let empty = |set: &&&ReplicaSet| {
        let size = size_of(set);
        size.wanted == 0 && size.present == 0
    };
    kept.iter().take(surplus).filter(empty).map(|set| Action::Delete(Target::unchanged(*set), None)).collect()
}
