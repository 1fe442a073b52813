//! What is known of a pod's containers, and what to do next; pure.

use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// `spec.restartPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Always,
    OnFailure,
    Never,
}

impl Policy {
    pub(crate) fn of(spec: &PodSpec) -> Self {
        match spec.restart_policy.as_deref() {
            Some("OnFailure") => Self::OnFailure,
            Some("Never") => Self::Never,
            _ => Self::Always,
        }
    }
}

/// What a container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with restartPolicy Always: the next one starts when it has started.
    Sidecar,
    App,
}

/// How a container's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub code: i32,
    pub reason: String,
    pub message: Option<String>,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub container_id: Option<String>,
}

/// A container's state, as its status tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Waiting { reason: String, message: Option<String> },
    Running { since: Timestamp },
    Ended(Ended),
}

/// One container of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub name: String,
    pub image: String,
    pub role: Role,
    pub state: State,
    pub last: Option<Ended>,
    pub restarts: i32,
    /// What its readiness probe says; true without one.
    pub probed_ready: bool,
    /// What its startup probe and postStart hook say; true without them.
    pub probed_started: bool,
    pub container_id: Option<String>,
    /// It must not start before.
    pub not_before: Option<Instant>,
    /// It can't ever start.
    pub blocked: bool,
}

impl Slot {
    pub(crate) fn running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Runs, and says that it started.
    pub(crate) fn started(&self) -> bool {
        self.running() && self.probed_started
    }

    /// As the status's `ready`: an init container is ready when it has done its work.
    pub(crate) fn ready(&self) -> bool {
        match self.role {
            Role::Init => matches!(&self.state, State::Ended(ended) if ended.code == 0),
            Role::Sidecar | Role::App => self.started() && self.probed_ready,
        }
    }

    /// Its last run's end, whether it waits to run again or not.
    pub(crate) fn last_end(&self) -> Option<&Ended> {
        match &self.state {
            State::Ended(ended) => Some(ended),
            State::Waiting { .. } => self.last.as_ref(),
            State::Running { .. } => None,
        }
    }

    /// Whether a run that ended with `code` is followed by another.
    pub(crate) fn runs_again(&self, code: i32, policy: Policy) -> bool {
        match self.role {
            Role::Sidecar => true,
            Role::Init => code != 0 && policy != Policy::Never,
            Role::App => match policy {
                Policy::Always => true,
                Policy::OnFailure => code != 0,
                Policy::Never => false,
            },
        }
    }

    /// Its end, if that is final. What waits runs (again), however its last run ended: init containers do after their node.
    fn finished(&self, policy: Policy) -> Option<&Ended> {
        let State::Ended(end) = &self.state else { return None };
        (!self.runs_again(end.code, policy)).then_some(end)
    }
}

/// The containers of `pod`, none of them started; init containers first.
pub(crate) fn slots_of(pod: &Pod) -> Vec<Slot> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let waits_for = |first: bool| if first { "ContainerCreating" } else { "PodInitializing" };
    let slot = |container: &Container, role, reason: &str| Slot {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        role,
        state: State::Waiting { reason: reason.to_owned(), message: None },
        last: None,
        restarts: 0,
        probed_ready: container.readiness_probe.is_none(),
        probed_started: container.startup_probe.is_none(),
        container_id: None,
        not_before: None,
        blocked: false,
    };
    let mut slots = Vec::new();
    for container in init {
        let role =
            if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init };
        slots.push(slot(container, role, waits_for(false)));
    }
    slots.extend(
        spec.containers.iter().map(|container| slot(container, Role::App, waits_for(init.is_empty()))),
    );
    slots
}

/// What to do now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Containers to start, by index.
    pub start: Vec<usize>,
    /// When to plan again, if nothing happens before.
    pub wake: Option<Instant>,
    /// The pod has come to its end: whether it succeeded.
    pub finished: Option<bool>,
    /// All init containers have done their part.
    pub initialized: bool,
}

impl Plan {
    /// Starts `slot` if it may start now, else notes when.
    fn start_or_wait(&mut self, index: usize, slot: &Slot, now: Instant) {
        match slot.not_before.filter(|at| *at > now) {
            _ if slot.blocked => {}
            Some(at) => self.wake = Some(self.wake.map_or(at, |wake| wake.min(at))),
            None => self.start.push(index),
        }
    }
}

/// Plans the next step; `initialized` is what the last plan said.
pub(crate) fn plan(slots: &[Slot], policy: Policy, initialized: bool, now: Instant) -> Plan {
    let mut plan = Plan { initialized, ..Plan::default() };
    for (index, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.role != Role::App) {
        match slot.role {
            Role::Sidecar if slot.running() => {
                if !slot.started() && !initialized {
                    return plan;
                }
            }
            Role::Init if initialized || slot.running() => {
                if slot.running() {
                    return plan;
                }
            }
            _ => match slot.finished(policy) {
                Some(end) if end.code == 0 => {}
                Some(_) => {
                    plan.finished = Some(false);
                    return plan;
                }
                None => {
                    plan.start_or_wait(index, slot, now);
                    if !initialized {
                        return plan;
                    }
                }
            },
        }
    }
    plan.initialized = true;
    let mut codes = Vec::new();
    let mut apps = 0;
    for (index, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.role == Role::App) {
        apps += 1;
        if slot.running() {
            continue;
        }
        match slot.finished(policy) {
            Some(end) => codes.push(end.code),
            None => plan.start_or_wait(index, slot, now),
        }
    }
    if codes.len() == apps {
        plan.finished = Some(codes.iter().all(|code| *code == 0));
        plan.start.clear();
        plan.wake = None;
    }
    plan
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    /// One word a container: role `i`, `s` or `a`; then `w`aiting, `r`unning, `u`nstarted but running, `h`eld, `b`locked, or an exit code.
    fn slots(words: &str, later: Instant) -> Vec<Slot> {
        let slot = |word: &str| {
            let (role, state) = word.split_at(1);
            let role = match role {
                "i" => Role::Init,
                "s" => Role::Sidecar,
                _ => Role::App,
            };
            let pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c"}]}})).unwrap();
            let mut slot = slots_of(&pod).remove(0);
            slot.role = role;
            match state {
                "w" => {}
                "r" => slot.state = State::Running { since: Timestamp::UNIX_EPOCH },
                "u" => {
                    slot.state = State::Running { since: Timestamp::UNIX_EPOCH };
                    slot.probed_started = false;
                }
                "h" => slot.not_before = Some(later),
                "b" => slot.blocked = true,
                code => {
                    slot.state = State::Ended(Ended {
                        code: code.parse().unwrap(),
                        reason: String::new(),
                        message: None,
                        started: None,
                        finished: None,
                        container_id: None,
                    });
                }
            }
            slot
        };
        words.split_whitespace().map(slot).collect()
    }

    #[test]
    fn the_next_step() {
        use Policy::{Always, Never, OnFailure};
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        for (words, policy, initialized, start, wakes, finished) in [
            ("aw", Always, false, &[0][..], false, None),
            ("aw aw", Always, false, &[0, 1], false, None),
            ("ar aw", Always, true, &[1], false, None),
            ("ar ah", Always, true, &[], true, None),
            ("ar ab", Always, true, &[], false, None),
            ("a0", Always, true, &[0], false, None),
            ("a0", OnFailure, true, &[], false, Some(true)),
            ("a1", OnFailure, true, &[0], false, None),
            ("a1 a0", Never, true, &[], false, Some(false)),
            ("a0 ar", Never, true, &[], false, None),
            ("a0 a0", Never, true, &[], false, Some(true)),
            ("iw aw", Always, false, &[0], false, None),
            ("ir aw", Always, false, &[], false, None),
            ("i0 iw aw", Always, false, &[1], false, None),
            ("i0 i0 aw", Always, false, &[2], false, None),
            ("i1 aw", Always, false, &[0], false, None),
            ("i1 aw", Never, false, &[], false, Some(false)),
            ("ih aw", Always, false, &[], true, None),
            ("ib aw", Always, false, &[], false, None),
            ("sw aw", Always, false, &[0], false, None),
            ("su aw", Always, false, &[], false, None),
            ("sr iw aw", Always, false, &[1], false, None),
            ("sr i0 aw", Always, false, &[2], false, None),
            ("s1 ar", Always, true, &[0], false, None),
            ("su i0 aw", Always, true, &[2], false, None),
            ("sr a0", Never, true, &[], false, Some(true)),
        ] {
            let plan = plan(&slots(words, later), policy, initialized, now);
            assert_eq!(plan.start, start, "{words} {policy:?}");
            assert_eq!(plan.wake.is_some(), wakes, "{words} {policy:?}");
            assert_eq!(plan.finished, finished, "{words} {policy:?}");
        }
    }
}
