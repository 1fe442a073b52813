//! The Node object; pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
    NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::args::KubeletArgs;
use crate::env::Machine;

/// The kubelet's own version: the Kubernetes release whose API it speaks.
pub(crate) const VERSION: &str = "v1.36.0-seaway";
const RUNTIME_VERSION: &str = concat!("seaway://", env!("CARGO_PKG_VERSION"));

/// What the machine says of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct System {
    pub kernel: String,
    pub os_image: String,
    pub machine_id: String,
    pub boot_id: String,
}

/// Kubernetes' name of the processor architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The labels that a kubelet gives its Node, and those of the command line.
pub(crate) fn labels(args: &KubeletArgs) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", args.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    let own = args.node_labels.iter().filter_map(|label| label.split_once('='));
    labels.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    labels
}

/// The Node as it is registered.
pub(crate) fn node(args: &KubeletArgs, status: NodeStatus) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(args.node_name.clone()),
            labels: Some(labels(args)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec::default()),
        status: Some(status),
    }
}

/// Why the node can't run pods yet; the message of its Ready condition.
pub(crate) type NotReady = Option<String>;

/// The Node's status; `old` gives the times of conditions that stay.
pub(crate) fn status(
    args: &KubeletArgs,
    machine: Machine,
    system: &System,
    not_ready: &NotReady,
    old: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let mut addresses: Vec<NodeAddress> = args
        .node_ip
        .iter()
        .map(|ip| NodeAddress { type_: "InternalIP".to_owned(), address: ip.to_string() })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".to_owned(), address: args.node_name.clone() });
    let resources: BTreeMap<String, Quantity> = [
        ("cpu", format!("{}", machine.cpus)),
        ("memory", format!("{}Ki", (machine.memory / 1024.0) as u64)),
        ("pods", args.max_pods.to_string()),
        ("ephemeral-storage", "100Gi".to_owned()),
    ]
    .into_iter()
    .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
    .collect();
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(resources.clone()),
        allocatable: Some(resources),
        conditions: Some(conditions(not_ready, old, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(args.port) }),
        }),
        images: Some(images()),
        node_info: Some(NodeSystemInfo {
            architecture: architecture().to_owned(),
            operating_system: "linux".to_owned(),
            kernel_version: system.kernel.clone(),
            os_image: system.os_image.clone(),
            machine_id: system.machine_id.clone(),
            system_uuid: system.machine_id.clone(),
            boot_id: system.boot_id.clone(),
            container_runtime_version: RUNTIME_VERSION.to_owned(),
            kubelet_version: VERSION.to_owned(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

fn images() -> Vec<ContainerImage> {
    seaway_images::available()
        .map(|image| ContainerImage {
            names: Some(vec![format!("{}:latest", image.name)]),
            size_bytes: Some(0),
        })
        .collect()
}

fn conditions(not_ready: &NotReady, old: Option<&NodeStatus>, now: Timestamp) -> Vec<NodeCondition> {
    let ready = match not_ready {
        None => ("Ready", "True", "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(problem) => ("Ready", "False", "KubeletNotReady", problem.clone()),
    };
    let fine = |kind, reason, message: &str| (kind, "False", reason, message.to_owned());
    let wanted = [
        fine("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        fine("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        fine("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ready,
    ];
    let known = old.and_then(|old| old.conditions.as_deref()).unwrap_or_default();
    let condition = |(kind, status, reason, message): (&str, &str, &str, String)| {
        let before = known.iter().find(|condition| condition.type_ == kind && condition.status == status);
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: before
                .and_then(|before| before.last_transition_time.clone())
                .or(Some(Time(now))),
        }
    };
    wanted.map(condition).to_vec()
}

/// Whether the API says of the Ready condition what the kubelet would say.
pub(crate) fn tells(node: &Node, not_ready: &NotReady) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    let wanted = if not_ready.is_none() { "True" } else { "False" };
    ready.next().is_some_and(|condition| condition.status == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready_at(status: &NodeStatus) -> (String, i64) {
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready").unwrap();
        (ready.status.clone(), ready.last_transition_time.as_ref().unwrap().0.as_second())
    }

    #[test]
    fn transitions_are_timed() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let down: NotReady = Some("cni plugin not initialized".to_owned());
        let first = conditions(&down, None, at(1));
        let first = NodeStatus { conditions: Some(first), ..NodeStatus::default() };
        assert_eq!(ready_at(&first), ("False".into(), 1));
        let second =
            NodeStatus { conditions: Some(conditions(&down, Some(&first), at(2))), ..NodeStatus::default() };
        assert_eq!(ready_at(&second), ("False".into(), 1));
        let third =
            NodeStatus { conditions: Some(conditions(&None, Some(&second), at(3))), ..NodeStatus::default() };
        assert_eq!(ready_at(&third), ("True".into(), 3));
        let node = Node { status: Some(third), ..Node::default() };
        assert!(tells(&node, &None) && !tells(&node, &down));
    }
}
