//! What an earlier kubelet wrote of a pod that it ran; its containers ended with it.

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use super::slots::{Ended, Policy, Role, Slot, State};
use super::status::ended_in;

/// Takes over restart counts and last states; true where the pod's init containers have nothing to do any more.
pub(crate) fn restore(slots: &mut [Slot], old: &PodStatus, policy: Policy) -> bool {
    let all = old.init_container_statuses.iter().flatten().chain(old.container_statuses.iter().flatten());
    let by_name = |name: &str| all.clone().find(|status| status.name == name);
    for slot in slots.iter_mut() {
        let Some(status) = by_name(&slot.name) else { continue };
        slot.restarts = status.restart_count;
        slot.last = status.last_state.as_ref().and_then(ended_in);
        let Some(ended) = last_run(status) else { continue };
        if slot.runs_again(ended.code, policy) {
            slot.last = Some(ended);
        } else {
            slot.container_id = ended.container_id.clone();
            slot.state = State::Ended(ended);
        }
    }
    let works = slots.iter().any(|slot| slot.role == Role::App && !matches!(slot.state, State::Ended(_)));
    if !works {
        return true;
    }
    // The pod's network is a new one, so its init containers set it up once more.
    for slot in slots.iter_mut().filter(|slot| slot.role == Role::Init) {
        if let State::Ended(ended) = &slot.state
            && ended.code == 0
        {
            slot.last = Some(ended.clone());
            slot.state = State::Waiting { reason: "PodInitializing".to_owned(), message: None };
        }
    }
    false
}

/// How the run that the status tells of ended; one that ran ended with its kubelet.
fn last_run(status: &ContainerStatus) -> Option<Ended> {
    let state = status.state.as_ref()?;
    if let Some(running) = &state.running {
        let id =
            status.container_id.as_deref().and_then(|id| id.split_once("://")).map(|(_, id)| id.to_owned());
        return Some(Ended {
            code: 137,
            reason: "ContainerStatusUnknown".to_owned(),
            message: Some("the container ended with the kubelet that ran it".to_owned()),
            started: running.started_at.as_ref().map(|time| time.0),
            finished: Some(jiff::Timestamp::now()),
            container_id: id,
        });
    }
    ended_in(state)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::slots::{self, slots_of};
    use super::*;

    #[test]
    fn what_ran_runs_again_if_its_policy_says_so() {
        let pod = serde_json::from_value(json!({"spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]}})).unwrap();
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        let done = json!({"terminated": {"exitCode": 0, "containerID": "seaway://x"}});
        let of = |name: &str, state: &serde_json::Value| json!({"name": name, "image": "", "imageID": "", "ready": true, "restartCount": 2, "state": state});
        for (a, b, policy, expected, initialized) in [
            (&running, &running, Policy::Always, "ww", false),
            (&running, &done, Policy::OnFailure, "we", false),
            (&running, &done, Policy::Never, "ee", true),
            (&done, &done, Policy::OnFailure, "ee", true),
        ] {
            let old: PodStatus = serde_json::from_value(json!({
                "initContainerStatuses": [of("i", &done)], "containerStatuses": [of("a", a), of("b", b)]
            }))
            .unwrap();
            let mut slots = slots_of(&pod);
            assert_eq!(restore(&mut slots, &old, policy), initialized);
            let states: String = slots[1..]
                .iter()
                .map(|slot| if matches!(slot.state, State::Ended(_)) { 'e' } else { 'w' })
                .collect();
            assert_eq!(states, expected, "{policy:?}");
            assert!(slots.iter().all(|slot| slot.restarts == 2));
            assert_eq!(matches!(slots[0].state, State::Waiting { .. }), !initialized);
            if !initialized {
                let plan = slots::plan(&slots, policy, initialized, std::time::Instant::now());
                assert_eq!(
                    (plan.start, plan.initialized),
                    (vec![0], false),
                    "the init container comes first"
                );
            }
        }
    }
}
