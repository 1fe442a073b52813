//! What the cloud knows of a node that is not heard of: its machine is switched off, or gone for good.
//!
//! As cloud-controller-manager's node lifecycle controller does it: a taint for a machine that is off, deletion of the Node whose
//! machine is gone. While a node is Ready, nobody asks the cloud.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Taint};
use serde::Deserialize;
use serde_json::json;

use super::node_health::condition;
use crate::meta::deleting;
use crate::object::{Action, Decision, Notice, NoticeKind, Part, Target};

/// Taint of a node whose machine is off.
pub const SHUTDOWN: &str = "node.cloudprovider.kubernetes.io/shutdown";
/// How often the cloud is asked about a node that is not Ready.
const PERIOD: Duration = Duration::from_secs(1);

/// How a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Instance {
    /// It has power.
    Running,
    /// It is switched off.
    Stopped,
    /// It is gone for good.
    Terminated,
}

/// The machine of the node `name`, by the file in which the cloud keeps them: name to [`Instance`], as JSON. `None` for one that
/// the cloud does not know.
///
/// # Errors
/// The file cannot be read.
pub fn look(file: &Path, name: &str) -> std::io::Result<Option<Instance>> {
    let all: HashMap<String, Instance> = serde_json::from_slice(&std::fs::read(file)?)?;
    Ok(all.get(name).copied())
}

/// Whether the cloud has to be asked.
pub fn is_silent(node: &Node) -> bool {
    !deleting(node) && condition(node, "Ready").is_none_or(|ready| ready.status != "True")
}

/// Decides about a node; `machine` is given where the cloud was asked.
pub fn decide(node: &Node, machine: Option<Instance>) -> Decision {
    if deleting(node) {
        return Decision::none();
    }
    if !is_silent(node) {
        return taint(node, false).into_iter().collect::<Vec<_>>().into();
    }
    if machine == Some(Instance::Terminated) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let notice = Notice::new(
            node,
            NoticeKind::Normal,
            "cloud-node-lifecycle-controller",
            "DeletingNode",
            format!("Deleting node {name} because it does not exist in the cloud provider"),
        );
        return vec![Action::Notify(notice), Action::Delete(Target::of(node), None)].into();
    }
    let wanted = machine == Some(Instance::Stopped);
    // The taint stays until the node is Ready again.
    let mut decision: Decision =
        wanted.then(|| taint(node, true)).flatten().into_iter().collect::<Vec<_>>().into();
    decision.look_again(PERIOD);
    decision
}

/// Sets the taint or takes it away; `None` where it is so already.
fn taint(node: &Node, wanted: bool) -> Option<Action> {
    let known: &[Taint] = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    if known.iter().any(|taint| taint.key == SHUTDOWN) == wanted {
        return None;
    }
    let mut next: Vec<Taint> = known.iter().filter(|taint| taint.key != SHUTDOWN).cloned().collect();
    if wanted {
        next.push(Taint { key: SHUTDOWN.into(), effect: "NoSchedule".into(), ..Taint::default() });
    }
    Some(Action::Patch(Target::unchanged(node), Part::Main, json!({"spec": {"taints": next}})))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: &str, taints: &[&str]) -> Node {
        let taints: Vec<_> = taints.iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "n"},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn the_taint_says_that_the_machine_is_off() {
        use Instance::{Running, Stopped};
        for (ready, taints, machine, expected) in [
            ("True", &["mine"][..], None, None),
            ("True", &["mine", SHUTDOWN], None, Some(vec!["mine"])),
            ("Unknown", &["mine"], Some(Running), None),
            ("Unknown", &["mine"], Some(Stopped), Some(vec!["mine", SHUTDOWN])),
            ("Unknown", &[SHUTDOWN], Some(Stopped), None),
            // It boots: until it is Ready, the taint stays.
            ("Unknown", &[SHUTDOWN], Some(Running), None),
            ("Unknown", &[], None, None),
        ] {
            let decision = decide(&node(ready, taints), machine);
            let keys = decision.actions.first().map(|action| {
                let Action::Patch(_, _, patch) = action else { panic!("{action:?}") };
                let taints = patch["spec"]["taints"].as_array().unwrap();
                taints.iter().map(|taint| taint["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
            });
            let expected = expected.map(|keys| keys.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(keys, expected, "{ready} {taints:?} {machine:?}");
            assert_eq!(decision.again_after.is_some(), ready != "True", "{ready}");
        }
    }

    #[test]
    fn a_machine_that_is_gone_takes_its_node_along() {
        let gone = Some(Instance::Terminated);
        let decision = decide(&node("Unknown", &[]), gone);
        assert!(matches!(decision.actions[..], [Action::Notify(_), Action::Delete(..)]), "{decision:?}");
        assert!(decide(&node("True", &[]), gone).actions.is_empty(), "it is heard of");
    }

    #[test]
    fn the_file_tells() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("instances.json");
        std::fs::write(&file, r#"{"a": "running", "b": "terminated"}"#).unwrap();
        assert_eq!(look(&file, "a").unwrap(), Some(Instance::Running));
        assert_eq!(look(&file, "b").unwrap(), Some(Instance::Terminated));
        assert_eq!(look(&file, "c").unwrap(), None);
        std::fs::write(&file, "?").unwrap();
        assert!(look(&file, "a").is_err());
    }
}
