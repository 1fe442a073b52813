//! The annotation `service.kubernetes.io/topology-mode: Auto`: endpoints shared out to zones by the zones' processors, so that no
//! endpoint gets much more than its part (KEP-2433).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForZone};

use super::Group;

/// The annotation, and the name that it had before.
const ANNOTATIONS: [&str; 2] =
    ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];
/// Label of a node: its zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Nodes with one of these labels are not counted: pods of users do not run there.
const CONTROL_PLANE: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// How much more than its part an endpoint may get.
const OVERLOAD: f64 = 0.2;

/// Whether the Service asks for it; the annotation goes before `trafficDistribution`.
pub fn is_asked_for(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let value = ANNOTATIONS.iter().find_map(|name| annotations?.get(*name));
    value.is_some_and(|value| value.eq_ignore_ascii_case("auto"))
}

/// The part of the cluster's processors that each zone has; `None` where a node does not say its zone, or there are fewer
/// than two.
pub fn shares<'a>(nodes: impl Iterator<Item = &'a Node>) -> Option<BTreeMap<String, f64>> {
    let mut zones: BTreeMap<String, f64> = BTreeMap::new();
    for node in nodes {
        let labels = node.metadata.labels.as_ref();
        let has = |name: &str| labels.is_some_and(|labels| labels.contains_key(name));
        let ready = crate::controllers::node_health::condition(node, "Ready");
        if CONTROL_PLANE.iter().any(|name| has(name)) || ready.is_none_or(|ready| ready.status != "True") {
            continue;
        }
        let cpus = node.status.as_ref()?.allocatable.as_ref()?.get("cpu")?;
        *zones.entry(labels?.get(ZONE)?.clone()).or_default() += processors(&cpus.0)?;
    }
    let total: f64 = zones.values().sum();
    (zones.len() > 1 && total > 0.0).then(|| {
        zones.values_mut().for_each(|cpus| *cpus /= total);
        zones
    })
}

/// `4`, or `1500m`.
fn processors(text: &str) -> Option<f64> {
    match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<f64>().ok().map(|m| m / 1000.0),
        None => text.parse().ok(),
    }
}

/// Gives the ready endpoints of each family hints, or none where they cannot be shared out fairly.
pub(super) fn assign(groups: &mut [Group], shares: Option<&BTreeMap<String, f64>>) {
    for family in ["IPv4", "IPv6"] {
        let of_family = groups.iter_mut().filter(|group| group.address_type == family);
        let mut endpoints: Vec<&mut Endpoint> =
            of_family.flat_map(|group| &mut group.endpoints).filter(|endpoint| is_ready(endpoint)).collect();
        let zones = shares.and_then(|shares| share_out(&endpoints, shares));
        for (at, endpoint) in endpoints.iter_mut().enumerate() {
            endpoint.hints = zones.as_ref().and_then(|zones| zones.get(at)).map(|zone| EndpointHints {
                for_zones: Some(vec![ForZone { name: zone.clone() }]),
                for_nodes: None,
            });
        }
    }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
}

/// The zone of each endpoint: its own, or one that has too few.
fn share_out(endpoints: &[&mut Endpoint], shares: &BTreeMap<String, f64>) -> Option<Vec<String>> {
    let total = endpoints.len();
    if total < shares.len() {
        return None;
    }
    let mut zones: Vec<String> =
        endpoints.iter().map(|endpoint| endpoint.zone.clone()).collect::<Option<_>>()?;
    let desired = |zone: &str| shares.get(zone).map_or(0.0, |share| share * total as f64);
    let least = |zone: &str| (desired(zone) / (1.0 + OVERLOAD)).ceil() as usize;
    if shares.keys().map(|zone| least(zone)).sum::<usize>() > total {
        return None;
    }
    let count = |zones: &[String], zone: &str| zones.iter().filter(|own| *own == zone).count();
    for zone in shares.keys() {
        while count(&zones, zone) < least(zone) {
            // From where there are most beyond what is wanted there, and not fewer than the least afterwards.
            let surplus = |other: &str| count(&zones, other) as f64 - desired(other);
            let spare = |other: &str| count(&zones, other) > least(other);
            let at = (0..total)
                .filter(|at| zones[*at] != *zone && spare(&zones[*at]))
                .max_by(|a, b| surplus(&zones[*a]).total_cmp(&surplus(&zones[*b])).then(b.cmp(a)))?;
            zones[at].clone_from(zone);
        }
    }
    Some(zones)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::discovery::v1::EndpointConditions;

    fn hints(zones: &[&str], shares: &[(&str, f64)]) -> Vec<String> {
        let endpoint = |zone: &&str| Endpoint {
            zone: (!zone.is_empty()).then(|| (*zone).to_owned()),
            conditions: Some(EndpointConditions { ready: Some(true), ..Default::default() }),
            ..Default::default()
        };
        let endpoints = zones.iter().map(endpoint).collect();
        let mut groups = [Group { address_type: "IPv6", ports: Vec::new(), endpoints }];
        let shares = shares.iter().map(|(zone, share)| ((*zone).to_owned(), *share)).collect();
        assign(&mut groups, Some(&shares));
        let of = |endpoint: &Endpoint| {
            endpoint.hints.as_ref()?.for_zones.as_ref()?.first().map(|z| z.name.clone())
        };
        groups[0].endpoints.iter().filter_map(of).collect()
    }

    #[test]
    fn endpoints_are_shared_out() {
        let even = [("a", 0.5), ("b", 0.5)];
        assert_eq!(hints(&["a", "b", "a", "b"], &even), ["a", "b", "a", "b"]);
        // A zone without endpoints gets some of the others'.
        assert_eq!(hints(&["a", "a", "a", "a"], &even), ["b", "b", "a", "a"]);
        assert_eq!(hints(&["a", "a", "a", "b"], &[("a", 0.75), ("b", 0.25)]), ["a", "a", "a", "b"]);
        for (zones, shares) in [
            (&["a"][..], &even[..]),                                          // fewer than zones
            (&["a", "", "b"], &even),                                         // one does not say
            (&["a", "b", "c"], &[("a", 0.34), ("b", 0.33), ("c", 0.33)][..]), // even
        ] {
            let fair = shares.len() == 3;
            assert_eq!(hints(zones, shares).len(), if fair { 3 } else { 0 }, "{zones:?}");
        }
        // No way to share two among zones that unlike each other.
        assert!(hints(&["a", "b"], &[("a", 0.9), ("b", 0.1)]).is_empty());
    }

    #[test]
    fn processors_are_counted_by_zone() {
        let node = |zone: &str, cpu: &str| -> Node {
            let labels =
                if zone.is_empty() { serde_json::json!({}) } else { serde_json::json!({ ZONE: zone }) };
            serde_json::from_value(serde_json::json!({
                "metadata": {"labels": labels},
                "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": "True"}]},
            }))
            .unwrap()
        };
        let shares = |nodes: &[Node]| shares(nodes.iter());
        let two = shares(&[node("a", "2"), node("b", "1500m"), node("b", "500m")]).unwrap();
        assert_eq!(two, [("a".to_owned(), 0.5), ("b".to_owned(), 0.5)].into());
        assert_eq!(shares(&[node("a", "2"), node("a", "1")]), None);
        assert_eq!(shares(&[node("a", "2"), node("", "1"), node("b", "1")]), None);
    }
}
