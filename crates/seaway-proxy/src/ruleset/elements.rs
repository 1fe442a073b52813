//! The elements that stand for one service address.

use ipnet::IpNet;
use seaway_model::{AddressKind, Backend, Caller, PortPlan, Refusal, ServiceAddress, TrafficPolicy};
use seaway_net::nft::{Element, Value, Verdict};

use super::base::{MASQUERADE_ALL, MASQUERADE_OWN, REFUSE};
use super::{NumberedChain, SetId};

/// An element and where it stands.
pub(crate) type Placed = (SetId, Value, Element);

/// The sets for one of the two sorts of addresses: those that Services have, and the node's own.
struct Sets {
    pick: SetId,
    pick_outside: SetId,
    endpoints: SetId,
    refused: SetId,
    external: SetId,
    sticky: SetId,
    ranged: SetId,
    ranges: SetId,
}

const OF_SERVICE: Sets = Sets {
    pick: SetId::Services,
    pick_outside: SetId::ServicesOutside,
    endpoints: SetId::Endpoints,
    refused: SetId::Refused,
    external: SetId::External,
    sticky: SetId::Sticky,
    ranged: SetId::Ranged,
    ranges: SetId::Ranges,
};

const OF_NODE: Sets = Sets {
    pick: SetId::NodePorts,
    pick_outside: SetId::NodePortsOutside,
    endpoints: SetId::NodePortEndpoints,
    refused: SetId::RefusedNodePorts,
    external: SetId::ExternalNodePorts,
    sticky: SetId::StickyNodePorts,
    ranged: SetId::RangedNodePorts,
    ranges: SetId::NodePortRanges,
};

/// The chains that `port` goes to, one for each caller that it has endpoints for.
fn pick(port: &PortPlan, caller: Caller) -> Option<NumberedChain> {
    let count = u32::try_from(port.candidates(caller).len()).ok().filter(|count| *count > 0)?;
    let inside = caller == Caller::Inside || !port.tells_callers_apart();
    Some(NumberedChain::Pick {
        node_port: port.kind == AddressKind::NodePort,
        sticky: port.affinity.is_some(),
        count,
        from: if inside { u32::try_from(port.inside_from).ok()? } else { 0 },
    })
}

/// The elements of `port`, whose endpoints have the indices that they have in `slots`.
pub(crate) fn of_port(port: &PortPlan, slots: &[Backend]) -> Vec<Placed> {
    let sets = if port.kind == AddressKind::NodePort { &OF_NODE } else { &OF_SERVICE };
    let key = key(&port.address);
    let mut placed = Vec::with_capacity(slots.len() + 3);
    let refused = port.refusal() == Refusal::Reject && slots.is_empty();
    match pick(port, Caller::Inside) {
        Some(chain) => placed.push((sets.pick, key.clone(), chain.element())),
        None if !refused => placed.push((sets.pick, key.clone(), Element::data(Verdict::Drop))),
        // A cluster IP that is not translated is refused as such.
        None if port.kind == AddressKind::ClusterIp => {}
        None => {
            // It ends here, whether or not it is one of the node's own addresses, too.
            if port.kind != AddressKind::NodePort {
                placed.push((sets.pick, key.clone(), Element::data(Verdict::Accept)));
            }
            placed.push((sets.refused, key.clone(), Element::data(Verdict::Goto(REFUSE.to_owned()))));
        }
    }
    if port.tells_callers_apart() && !refused {
        let element =
            pick(port, Caller::Outside).map_or_else(|| Element::data(Verdict::Drop), NumberedChain::element);
        placed.push((sets.pick_outside, key.clone(), element));
    }
    for (index, backend) in (0..).zip(slots) {
        placed.push((sets.endpoints, key.clone().number(index), endpoint(backend)));
    }
    if port.kind.is_external() && !slots.is_empty() {
        let chain = match port.policy {
            TrafficPolicy::Cluster => MASQUERADE_ALL,
            TrafficPolicy::Local => MASQUERADE_OWN,
        };
        placed.push((sets.external, key.clone(), Element::data(Verdict::Goto(chain.to_owned()))));
    }
    if let Some(timeout) = port.affinity.filter(|_| !slots.is_empty()) {
        let learn = NumberedChain::Learn { seconds: timeout.as_secs().max(1) };
        placed.push((sets.sticky, key.clone(), learn.element()));
    }
    if let Some(ranges) = &port.source_ranges {
        placed.push((sets.ranged, key.clone(), Element::default()));
        placed.extend(ranges.iter().map(|range| {
            let (first, last) = range_keys(&key, range);
            let element = if first == last { Element::default() } else { Element::until(last) };
            (sets.ranges, first, element)
        }));
    }
    placed
}

fn range_keys(key: &Value, range: &IpNet) -> (Value, Value) {
    (key.clone().address(range.network()), key.clone().address(range.broadcast()))
}

/// The key of an address in the sets of its sort.
fn key(address: &ServiceAddress) -> Value {
    let key = if address.is_node_port() { Value::new() } else { Value::new().address(address.ip) };
    key.protocol(address.protocol.number()).port(address.port)
}

/// What stands for an endpoint.
fn endpoint(backend: &Backend) -> Element {
    Element::data(Value::new().address(backend.ip).port(backend.port))
}
