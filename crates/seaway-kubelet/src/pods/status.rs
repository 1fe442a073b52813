//! A pod's status from what is known of its containers; pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::slots::{Ended, Role, Slot, State};
use crate::env::Addresses;

/// The scheme of container ids, before `://`.
const RUNTIME: &str = "seaway";

/// What the kubelet knows of a pod.
#[derive(Debug, Clone)]
pub(crate) struct View<'a> {
    pub slots: &'a [Slot],
    pub initialized: bool,
    /// The pod's network is there.
    pub sandbox_ready: bool,
    pub addresses: &'a Addresses,
    pub start_time: Timestamp,
    /// The pod has come to its end: whether it succeeded.
    pub finished: Option<bool>,
    /// It ends because its node shuts down.
    pub shutdown: bool,
}

/// The whole status; `previous` gives the times of conditions that stay and the conditions of others.
pub(crate) fn status(pod: &Pod, view: &View<'_>, previous: Option<&PodStatus>, now: Timestamp) -> PodStatus {
    let (init, apps): (Vec<&Slot>, Vec<&Slot>) = view.slots.iter().partition(|slot| slot.role != Role::App);
    let statuses = |slots: &[&Slot]| slots.iter().map(|slot| container_status(slot)).collect::<Vec<_>>();
    let ips = &view.addresses.pod_ips;
    PodStatus {
        phase: Some(phase(view).to_owned()),
        conditions: Some(conditions(pod, view, previous, now)),
        container_statuses: Some(statuses(&apps)),
        init_container_statuses: (!init.is_empty()).then(|| statuses(&init)),
        host_ip: view.addresses.host_ips.first().cloned(),
        host_ips: Some(view.addresses.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        start_time: Some(Time(view.start_time)),
        qos_class: previous.and_then(|old| old.qos_class.clone()).or_else(|| Some(qos_class(pod).to_owned())),
        observed_generation: pod.metadata.generation,
        reason: view.shutdown.then(|| "Terminated".to_owned()),
        message: view
            .shutdown
            .then(|| "Pod was terminated in response to imminent node shutdown.".to_owned()),
        ..PodStatus::default()
    }
}

/// A pod's addresses in the order of its node's: the first one's family is the primary (kubelet's `--node-ip`), whatever the network
/// plugin's order is.
pub(super) fn primary_first(pod_ips: &[String], host_ips: &[String]) -> Vec<String> {
    let v6 = |ip: &String| ip.contains(':');
    let primary = host_ips.first().map(v6);
    let mut ips = pod_ips.to_vec();
    ips.sort_by_key(|ip| primary.is_some_and(|primary| primary != v6(ip)));
    ips
}

/// The conditions that a kubelet sets.
const OWN: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// The status that was written last, with the conditions that others have set since.
pub(crate) fn with_conditions_of_others(
    written: Option<&PodStatus>,
    seen: Option<&PodStatus>,
) -> Option<PodStatus> {
    let Some(written) = written else { return seen.cloned() };
    let mut status = written.clone();
    let others = seen.iter().flat_map(|seen| seen.conditions.iter().flatten());
    let others = others.filter(|condition| !OWN.contains(&condition.type_.as_str())).cloned();
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| OWN.contains(&condition.type_.as_str()));
    conditions.extend(others);
    Some(status)
}

/// As kubelet's: Pending until every container has run, terminal when none runs or will run again.
fn phase(view: &View<'_>) -> &'static str {
    match view.finished {
        Some(true) => return "Succeeded",
        Some(false) => return "Failed",
        None if !view.initialized => return "Pending",
        None => {}
    }
    let never_ran = |slot: &&Slot| slot.role == Role::App && !slot.running() && slot.last_end().is_none();
    if view.slots.iter().any(|slot| never_ran(&slot)) { "Pending" } else { "Running" }
}

fn conditions(pod: &Pod, view: &View<'_>, previous: Option<&PodStatus>, now: Timestamp) -> Vec<PodCondition> {
    let old = previous.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let finished = view.finished.is_some();
    let unready: Vec<&str> = view
        .slots
        .iter()
        .filter(|slot| slot.role != Role::Init && !slot.ready())
        .map(|slot| slot.name.as_str())
        .collect();
    let uninitialized: Vec<&str> = view
        .slots
        .iter()
        .filter(|slot| {
            slot.role == Role::Init && !slot.ready() || slot.role == Role::Sidecar && !slot.started()
        })
        .map(|slot| slot.name.as_str())
        .collect();
    let containers = if view.finished == Some(true) {
        Err(("PodCompleted", String::new()))
    } else if view.finished == Some(false) {
        Err(("PodFailed", String::new()))
    } else if unready.is_empty() {
        Ok(())
    } else {
        Err(("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" "))))
    };
    let initialized = if view.initialized || view.finished == Some(true) {
        Ok(())
    } else {
        Err((
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", uninitialized.join(" ")),
        ))
    };
    let ready = containers.clone().and_then(|()| gates(pod, old));
    let network = if view.sandbox_ready && !finished { Ok(()) } else { Err(("", String::new())) };
    // No new connections for what is about to end.
    let ready = if view.shutdown { ready.and(Err(("PodFailed", String::new()))) } else { ready };
    let mut conditions: Vec<PodCondition> = [
        ("PodReadyToStartContainers", network),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", Ok(())),
    ]
    .into_iter()
    .map(|(kind, outcome)| condition(pod, kind, outcome, old, now))
    .collect();
    let others = old.iter().filter(|condition| !conditions.iter().any(|own| own.type_ == condition.type_));
    let others: Vec<PodCondition> = others.cloned().collect();
    conditions.extend(others);
    conditions
}

/// Readiness gates: conditions that others set.
fn gates(pod: &Pod, old: &[PodCondition]) -> Result<(), (&'static str, String)> {
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    for gate in gates {
        let met =
            old.iter().any(|condition| condition.type_ == gate.condition_type && condition.status == "True");
        if !met {
            let problem = format!(
                "corresponding condition of pod readiness gate {:?} does not exist.",
                gate.condition_type
            );
            return Err(("ReadinessGatesNotReady", problem));
        }
    }
    Ok(())
}

fn condition(
    pod: &Pod,
    kind: &str,
    outcome: Result<(), (&'static str, String)>,
    old: &[PodCondition],
    now: Timestamp,
) -> PodCondition {
    let status = if outcome.is_ok() { "True" } else { "False" };
    let before = old.iter().find(|condition| condition.type_ == kind);
    let kept = before
        .filter(|before| before.status == status)
        .and_then(|before| before.last_transition_time.clone());
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    let (reason, message) = match outcome {
        Ok(()) => (None, None),
        Err((reason, message)) => (text(reason.to_owned()), text(message)),
    };
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason,
        message,
        last_transition_time: Some(kept.unwrap_or(Time(now))),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    }
}

fn container_status(slot: &Slot) -> ContainerStatus {
    let id = |id: &String| format!("{RUNTIME}://{id}");
    let known_image = seaway_images::find(&slot.image).is_some();
    ContainerStatus {
        name: slot.name.clone(),
        image: slot.image.clone(),
        image_id: if known_image { format!("{RUNTIME}://builtin/{}", slot.image) } else { String::new() },
        container_id: slot.container_id.as_ref().map(id),
        ready: slot.ready(),
        started: Some(slot.started()),
        restart_count: slot.restarts,
        state: Some(container_state(&slot.state)),
        last_state: Some(slot.last.as_ref().map(terminated).unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

fn container_state(state: &State) -> ContainerState {
    match state {
        State::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting { reason: Some(reason.clone()), message: message.clone() }),
            ..ContainerState::default()
        },
        State::Running { since } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(*since)) }),
            ..ContainerState::default()
        },
        State::Ended(ended) => terminated(ended),
    }
}

fn terminated(ended: &Ended) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: ended.code,
            reason: Some(ended.reason.clone()),
            message: ended.message.clone(),
            started_at: ended.started.map(Time),
            finished_at: ended.finished.map(Time),
            container_id: ended.container_id.as_ref().map(|id| format!("{RUNTIME}://{id}")),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

/// The end of a run that the API tells of: the reverse of what [`status`] writes.
pub(crate) fn ended_in(state: &ContainerState) -> Option<Ended> {
    let terminated = state.terminated.as_ref()?;
    let id =
        terminated.container_id.as_deref().and_then(|id| id.split_once("://")).map(|(_, id)| id.to_owned());
    Some(Ended {
        code: terminated.exit_code,
        reason: terminated.reason.clone().unwrap_or_default(),
        message: terminated.message.clone(),
        started: terminated.started_at.as_ref().map(|time| time.0),
        finished: terminated.finished_at.as_ref().map(|time| time.0),
        container_id: id,
    })
}

/// Guaranteed where each container's limits are its requests, BestEffort where there are neither, else Burstable.
fn qos_class(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let containers: Vec<&Container> = all_containers(spec).collect();
    let has_any = |container: &&Container| {
        container.resources.as_ref().is_some_and(|resources| {
            let named = [&resources.limits, &resources.requests];
            named.iter().any(|map| {
                map.iter().flat_map(|map| map.keys()).any(|name| name == "cpu" || name == "memory")
            })
        })
    };
    let guaranteed = |container: &&Container| {
        let Some(resources) = &container.resources else { return false };
        ["cpu", "memory"].iter().all(|name| {
            let limit = resources.limits.as_ref().and_then(|limits| limits.get(*name));
            let request = resources.requests.as_ref().and_then(|requests| requests.get(*name));
            limit.is_some() && request.is_none_or(|request| Some(request) == limit)
        })
    };
    if !containers.iter().any(has_any) {
        "BestEffort"
    } else if containers.iter().all(guaranteed) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::slots::slots_of;
    use super::*;

    #[test]
    fn the_nodes_primary_family_comes_first() {
        let texts = |all: &[&str]| all.iter().map(|ip| (*ip).to_owned()).collect::<Vec<_>>();
        let pod = texts(&["10.244.0.2", "fd00::2"]);
        for (host, expected) in [
            (&["172.18.0.11", "fd00::11"][..], ["10.244.0.2", "fd00::2"]),
            (&["fd00::11", "172.18.0.11"], ["fd00::2", "10.244.0.2"]),
            (&[], ["10.244.0.2", "fd00::2"]),
        ] {
            assert_eq!(primary_first(&pod, &texts(host)), expected, "{host:?}");
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
    }

    fn summary(status: &PodStatus) -> String {
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let flags: Vec<&str> = conditions.iter().map(|condition| &condition.status[..1]).collect();
        format!("{} {}", status.phase.as_deref().unwrap_or_default(), flags.concat())
    }

    fn ended(code: i32) -> State {
        State::Ended(Ended {
            code,
            reason: "Completed".into(),
            message: None,
            started: None,
            finished: None,
            container_id: None,
        })
    }

    #[test]
    fn a_shutdown_says_so() {
        let pod = pod(json!({"containers": [{"name": "a"}]}));
        let mut slots = slots_of(&pod);
        slots[0].state = State::Running { since: at(1) };
        let addresses = Addresses::default();
        for (finished, expected) in [(None, "Running TTFTT"), (Some(false), "Failed FTFFT")] {
            let view = View {
                slots: &slots,
                initialized: true,
                sandbox_ready: true,
                addresses: &addresses,
                start_time: at(0),
                finished,
                shutdown: true,
            };
            let status = status(&pod, &view, None, at(5));
            assert_eq!(summary(&status), expected);
            assert_eq!(status.reason.as_deref(), Some("Terminated"));
        }
    }

    /// Conditions in order: network, Initialized, Ready, ContainersReady, PodScheduled.
    #[test]
    fn phases_and_conditions() {
        let addresses = Addresses { pod_ips: vec!["10.0.0.2".into()], host_ips: vec!["172.18.0.11".into()] };
        let pod =
            pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]}));
        let running = || State::Running { since: at(1) };
        let waiting = || State::Waiting { reason: "PodInitializing".into(), message: None };
        for (init, a, b, initialized, sandbox, finished, expected) in [
            (waiting(), waiting(), waiting(), false, false, None, "Pending FFFFT"),
            (running(), waiting(), waiting(), false, true, None, "Pending TFFFT"),
            (ended(0), waiting(), waiting(), true, true, None, "Pending TTFFT"),
            (ended(0), running(), waiting(), true, true, None, "Pending TTFFT"),
            (ended(0), running(), running(), true, true, None, "Running TTTTT"),
            (ended(0), ended(1), running(), true, true, None, "Running TTFFT"),
            (ended(0), ended(0), ended(0), true, false, Some(true), "Succeeded FTFFT"),
            (ended(1), waiting(), waiting(), false, false, Some(false), "Failed FFFFT"),
        ] {
            let mut slots = slots_of(&pod);
            for (slot, state) in slots.iter_mut().zip([init, a, b]) {
                slot.state = state;
            }
            let view = View {
                slots: &slots,
                initialized,
                sandbox_ready: sandbox,
                addresses: &addresses,
                start_time: at(0),
                finished,
                shutdown: false,
            };
            assert_eq!(summary(&status(&pod, &view, None, at(5))), expected);
        }
    }

    #[test]
    fn times_change_with_the_condition_only() {
        let pod = pod(
            json!({"containers": [{"name": "a", "readinessProbe": {}}], "readinessGates": [{"conditionType": "x/gate"}]}),
        );
        let mut slots = slots_of(&pod);
        slots[0].state = State::Running { since: at(1) };
        let addresses = Addresses::default();
        let ready_of = |slots: &[Slot], previous: Option<&PodStatus>, now| {
            let view = View {
                slots,
                initialized: true,
                sandbox_ready: true,
                addresses: &addresses,
                start_time: at(0),
                finished: None,
                shutdown: false,
            };
            status(&pod, &view, previous, at(now))
        };
        let condition = |status: &PodStatus, kind: &str| {
            let found = status
                .conditions
                .iter()
                .flatten()
                .find(|condition| condition.type_ == kind)
                .cloned()
                .unwrap();
            (found.status, found.last_transition_time.unwrap().0.as_second(), found.reason)
        };
        let first = ready_of(&slots, None, 10);
        assert_eq!(
            condition(&first, "ContainersReady"),
            ("False".into(), 10, Some("ContainersNotReady".into()))
        );
        slots[0].probed_ready = true;
        let mut second = ready_of(&slots, Some(&first), 20);
        assert_eq!(condition(&second, "ContainersReady"), ("True".into(), 20, None));
        assert_eq!(condition(&second, "Ready"), ("False".into(), 10, Some("ReadinessGatesNotReady".into())));
        assert_eq!(condition(&second, "Initialized").1, 10);
        let gate = PodCondition { type_: "x/gate".into(), status: "True".into(), ..PodCondition::default() };
        second.conditions.as_mut().unwrap().push(gate);
        let third = ready_of(&slots, Some(&second), 30);
        assert_eq!(condition(&third, "Ready"), ("True".into(), 30, None));
        assert!(third.conditions.unwrap().iter().any(|condition| condition.type_ == "x/gate"));
    }

    #[test]
    fn classes_of_service() {
        for (resources, expected) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), "Burstable"),
        ] {
            let pod = pod(json!({"containers": [{"name": "a", "resources": resources}]}));
            assert_eq!(qos_class(&pod), expected, "{resources}");
        }
    }
}
