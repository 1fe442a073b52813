//! Why a node cannot take a pod.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodAffinityTerm, Taint,
};

use super::resources::{Amounts, allocatable, requests};
use crate::controllers::eviction::pod_tolerates;
use crate::controllers::node_health::wanted_taints;
use crate::meta::{Labels, requirement_matches, selects};

/// A node with its pods.
pub struct NodeView<'a> {
    /// The node.
    pub node: &'a Node,
    /// Its name.
    pub name: &'a str,
    /// The pods on it that have not ended.
    pub pods: Vec<&'a Pod>,
}

/// What speaks against this node first, if anything does. `all` are all nodes, for affinity to other pods.
pub(super) fn reason_against(pod: &Pod, view: &NodeView<'_>, all: &[NodeView<'_>]) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(taint) = untolerated(pod, view.node) {
        return Some(taint);
    }
    if !node_matches(pod, view.node) {
        return Some("node(s) didn't match Pod's node affinity/selector".into());
    }
    if let Some(short) = short_of(pod, view) {
        return Some(short);
    }
    if ports_taken(pod, view) {
        return Some("node(s) didn't have free ports for the requested pod ports".into());
    }
    let affinity = spec.affinity.as_ref();
    let required = affinity.and_then(|a| a.pod_affinity.as_ref());
    let required = required.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref());
    if !required.unwrap_or_default().iter().all(|term| has_company(pod, term, view, all)) {
        return Some("node(s) didn't match pod affinity rules".into());
    }
    if anti_terms(pod).any(|term| meets(pod, term, view, all, |_| true)) {
        return Some("node(s) didn't match pod anti-affinity rules".into());
    }
    if is_shunned(pod, view, all) {
        return Some("node(s) didn't satisfy existing pods anti-affinity rules".into());
    }
    None
}

/// The first taint that keeps the pod away: those that the node has, and those that its conditions will bring.
fn untolerated(pod: &Pod, node: &Node) -> Option<String> {
    let coming = wanted_taints(node).into_iter().map(|(key, effect)| Taint {
        key: key.into(),
        effect: effect.into(),
        ..Taint::default()
    });
    let has = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).cloned();
    let mut keeps_away =
        has.chain(coming).filter(|t| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute"));
    let taint = keeps_away.find(|taint| !pod_tolerates(pod, taint))?;
    if taint.key == crate::controllers::node_health::UNSCHEDULABLE {
        return Some("node(s) were unschedulable".into());
    }
    let value = taint.value.unwrap_or_default();
    Some(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key))
}

/// Whether the node is one that the pod's nodeSelector and required node affinity allow.
pub fn node_matches(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let none = Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.clone().unwrap_or_default();
    let fields: Labels = [("metadata.name".to_owned(), name)].into();
    let fits = |term: &NodeSelectorTerm| {
        let holds = |of: &Option<Vec<NodeSelectorRequirement>>, labels: &Labels| {
            of.iter().flatten().all(|r| {
                requirement_matches(&r.operator, &r.key, r.values.as_deref().unwrap_or_default(), labels)
            })
        };
        // A term without any requirement matches nothing.
        let empty = |of: &Option<Vec<NodeSelectorRequirement>>| of.as_ref().is_none_or(Vec::is_empty);
        !(empty(&term.match_expressions) && empty(&term.match_fields))
            && holds(&term.match_expressions, labels)
            && holds(&term.match_fields, &fields)
    };
    selected && required.is_none_or(|required| required.node_selector_terms.iter().any(fits))
}

fn short_of(pod: &Pod, view: &NodeView<'_>) -> Option<String> {
    // A node that does not say what it has is taken to have enough.
    let has = allocatable(view.node)?;
    let count = i128::try_from(view.pods.len()).unwrap_or(i128::MAX / 1000);
    if has.get("pods").is_some_and(|most| (count + 1) * 1000 > *most) {
        return Some("Too many pods".into());
    }
    let asks = requests(pod);
    let mut taken = Amounts::new();
    for (name, amount) in view.pods.iter().flat_map(|pod| requests(pod)) {
        *taken.entry(name).or_default() += amount;
    }
    let of = |amounts: &Amounts, name: &String| amounts.get(name).copied().unwrap_or(0);
    let short = |name: &&String| asks[*name] > 0 && of(&taken, name) + asks[*name] > of(&has, name);
    asks.keys().find(short).map(|name| format!("Insufficient {name}"))
}

fn ports_taken(pod: &Pod, view: &NodeView<'_>) -> bool {
    let any = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
    let wants = host_ports(pod);
    let taken: Vec<_> = view.pods.iter().flat_map(|pod| host_ports(pod)).collect();
    wants.iter().any(|(ip, protocol, port)| {
        taken.iter().any(|(other, p, n)| port == n && protocol == p && (any(ip) || any(other) || ip == other))
    })
}

fn host_ports(pod: &Pod) -> Vec<(&str, &str, i32)> {
    let ports = pod.spec.iter().flat_map(|spec| &spec.containers).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|port| *port > 0)?;
            Some((p.host_ip.as_deref().unwrap_or_default(), p.protocol.as_deref().unwrap_or("TCP"), port))
        })
        .collect()
}

fn anti_terms(pod: &Pod) -> impl Iterator<Item = &PodAffinityTerm> {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let anti = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    anti.into_iter()
        .flat_map(|anti| anti.required_during_scheduling_ignored_during_execution.iter().flatten())
}

/// Whether the term, which is `owner`'s, is about this pod.
fn is_about(owner: &Pod, term: &PodAffinityTerm, pod: &Pod) -> bool {
    let namespaces = term.namespaces.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let here = match (namespaces.is_empty(), &term.namespace_selector) {
        (true, None) => owner.metadata.namespace == pod.metadata.namespace,
        // An empty selector means every namespace; others would need the namespaces' labels.
        (_, Some(selector)) if *selector == Default::default() => true,
        _ => namespaces.contains(&namespace),
    };
    here && term.label_selector.as_ref().is_some_and(|s| selects(s, pod.metadata.labels.as_ref()))
}

fn domain<'a>(node: &'a Node, key: &str) -> Option<&'a String> {
    node.metadata.labels.as_ref()?.get(key)
}

/// Whether a pod that the term is about and `counts` accepts runs in the node's domain.
fn meets(
    owner: &Pod,
    term: &PodAffinityTerm,
    view: &NodeView<'_>,
    all: &[NodeView<'_>],
    counts: impl Fn(&Pod) -> bool,
) -> bool {
    let Some(here) = domain(view.node, &term.topology_key) else { return false };
    all.iter()
        .filter(|other| domain(other.node, &term.topology_key) == Some(here))
        .any(|other| other.pods.iter().any(|pod| counts(pod) && is_about(owner, term, pod)))
}

/// Whether a required affinity holds. The first pod of a group that seeks its own kind may go anywhere.
fn has_company(pod: &Pod, term: &PodAffinityTerm, view: &NodeView<'_>, all: &[NodeView<'_>]) -> bool {
    if domain(view.node, &term.topology_key).is_none() {
        return false;
    }
    let anywhere = all.iter().any(|other| other.pods.iter().any(|other| is_about(pod, term, other)));
    meets(pod, term, view, all, |_| true) || (!anywhere && is_about(pod, term, pod))
}

/// Whether a pod in one of the node's domains has an anti-affinity against this one.
fn is_shunned(pod: &Pod, view: &NodeView<'_>, all: &[NodeView<'_>]) -> bool {
    all.iter().any(|other| {
        other.pods.iter().any(|there| {
            anti_terms(there).any(|term| {
                let (here, of_other) =
                    (domain(view.node, &term.topology_key), domain(other.node, &term.topology_key));
                here.is_some() && here == of_other && is_about(there, term, pod)
            })
        })
    })
}
