//! What has been programmed for one family, and the transactions that bring it up to a plan.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use seaway_model::{Backend, NodePlan, ObjectName, PlanDiff, PortPlan, Protocol, ServiceAddress, SetChange};
use seaway_net::nft::{Data, Element, Observed, SetSpec, Table, TableId, Transaction, Value, Verdict};

use crate::quarantine::Quarantine;
use crate::ruleset::{self, IpFamily, NumberedChain, Placed, SetId};
use crate::slots::arrange;

/// Chains that pick one of up to this number of endpoints are always there. To make a chain takes the kernel 13 to 80 ms
/// (measured on 6.18 with 10,000 services), where a change of elements takes one or less; services of ordinary sizes shall not
/// wait for that.
const PREPARED_PICKS: u32 = 16;
/// Other chains that no service uses are kept for the next one that comes by, up to this number.
const MOST_IDLE_CHAINS: usize = 64;

/// The endpoints of each address by index, as the kernel has them, and the chains that they need.
#[derive(Debug)]
pub(crate) struct Programmed {
    family: IpFamily,
    /// The sets' declarations, in the order of `SetId::ALL`.
    specs: Vec<Arc<SetSpec>>,
    ports: HashMap<ServiceAddress, Port>,
    /// How many elements go to each chain; chains without any included.
    chains: BTreeMap<NumberedChain, usize>,
}

/// An address as it is programmed.
#[derive(Clone, Debug)]
struct Port {
    plan: Arc<PortPlan>,
    /// Its endpoints by index.
    slots: Vec<Backend>,
}

/// A transaction, and what will have been programmed when it is committed.
#[derive(Debug)]
pub(crate) struct Step {
    /// The changes.
    pub(crate) transaction: Transaction,
    ports: Vec<(ServiceAddress, Option<Port>)>,
    chains: BTreeMap<NumberedChain, usize>,
}

/// The indices that a table read back gives to endpoints; where one is missing among them stands an endpoint that
/// nobody has. What is not as we write it is left out, so the difference to what is wanted removes it.
pub(crate) fn indices(observed: &Observed, family: IpFamily) -> HashMap<ServiceAddress, Vec<Backend>> {
    let mut found: HashMap<ServiceAddress, BTreeMap<u32, Backend>> = HashMap::new();
    for set in [SetId::Endpoints, SetId::NodePortEndpoints] {
        let elements = observed.sets.get(set.name()).into_iter().flat_map(|set| &set.elements);
        for (key, element) in elements {
            let Some((address, index)) = parse_indexed_key(family, set, key) else { continue };
            let Some(backend) = parse_backend(family, element) else { continue };
            found.entry(address).or_default().insert(index, backend);
        }
    }
    found.into_iter().map(|(address, backends)| (address, without_gaps(family, backends))).collect()
}

/// More gaps than this are not kept: an index far off is not one that we wrote.
const MOST_GAPS: usize = 1024;

fn without_gaps(family: IpFamily, found: BTreeMap<u32, Backend>) -> Vec<Backend> {
    let nobody = Backend { ip: family.unspecified(), port: 0 };
    let most = found.len() + MOST_GAPS;
    let mut slots = Vec::with_capacity(found.len());
    for (index, backend) in found {
        let index = index as usize;
        if index < most {
            slots.resize(index, nobody);
        }
        slots.push(backend);
    }
    slots
}

impl Port {
    fn new(plan: &Arc<PortPlan>, old: &[Backend]) -> Self {
        let slots = arrange(old, &plan.backends, [plan.inside_from, plan.local]);
        Self { plan: plan.clone(), slots }
    }

    fn elements(&self) -> Vec<Placed> {
        ruleset::of_port(&self.plan, &self.slots)
    }
}

impl Programmed {
    /// The whole table that `plan` asks for, where endpoints keep the indices that they have in `old` and the chains
    /// of `observed` that nobody uses stay, within bounds; and what will have been programmed by it. Services in quarantine are
    /// left out.
    pub(crate) fn whole(
        family: IpFamily,
        plan: &NodePlan,
        old: &HashMap<ServiceAddress, Vec<Backend>>,
        observed: Option<&Observed>,
        quarantine: &Quarantine,
    ) -> (Table, Self) {
        let mut table = ruleset::skeleton(family, &plan.egress, &plan.proxy);
        let specs = table.sets.iter().map(|set| set.spec.clone()).collect();
        let mut programmed = Self { family, specs, ports: HashMap::new(), chains: BTreeMap::new() };
        let ports = plan.services.ports().filter(|port| of_family(family, &port.address));
        for port in ports.filter(|port| !quarantine.keeps(&port.service)) {
            let before = old.get(&port.address).map(Vec::as_slice).unwrap_or_default();
            let port = Port::new(port, before);
            for (set, key, element) in port.elements() {
                if let Some(chain) = chain_of(&element) {
                    *programmed.chains.entry(chain).or_default() += 1;
                }
                insert(&mut table, set, key, element);
            }
            programmed.ports.insert(port.plan.address, port);
        }
        for ip in plan.services.cluster_ips().filter(|ip| IpFamily::of(ip) == family) {
            let (key, element) = ruleset::cluster_ip(ip);
            insert(&mut table, SetId::ClusterIps, key, element);
        }
        for ip in plan.services.local_endpoints().filter(|ip| IpFamily::of(ip) == family) {
            let (key, element) = ruleset::hairpin(ip);
            insert(&mut table, SetId::Hairpin, key, element);
        }
        programmed.keep_chains(observed);
        table.chains.extend(programmed.chains.keys().map(|chain| chain.chain(family)));
        (table, programmed)
    }

    /// Chains that no element goes to, but that are there, or shall always be.
    fn keep_chains(&mut self, observed: Option<&Observed>) {
        let there = observed.into_iter().flat_map(|observed| observed.chains.keys());
        let idle: Vec<NumberedChain> = there
            .filter_map(|name| NumberedChain::of_name(name))
            .filter(|chain| !is_prepared(chain) && !self.chains.contains_key(chain))
            .collect();
        if idle.len() <= MOST_IDLE_CHAINS {
            self.chains.extend(idle.into_iter().map(|chain| (chain, 0)));
        }
        for count in 1..=PREPARED_PICKS {
            for node_port in [false, true] {
                let chain = NumberedChain::Pick { node_port, sticky: false, count, from: 0 };
                self.chains.entry(chain).or_default();
            }
        }
    }

    /// The endpoints' indices.
    pub(crate) fn slots(&self) -> HashMap<ServiceAddress, Vec<Backend>> {
        self.ports.iter().map(|(address, port)| (*address, port.slots.clone())).collect()
    }

    /// The declaration of a set.
    pub(crate) fn spec(&self, set: SetId) -> Option<&Arc<SetSpec>> {
        self.specs.get(set as usize)
    }

    /// The changes that `diff` asks for, but for Services in quarantine: elements, and chains for numbers not met before.
    pub(crate) fn step(&self, diff: &PlanDiff, quarantine: &Quarantine) -> Step {
        let mut changes = ElementChanges::default();
        let mut step = Step {
            transaction: Transaction::new(TableId::new(self.family.family(), ruleset::TABLE)),
            ports: Vec::new(),
            chains: self.chains.clone(),
        };
        for change in diff.ports.iter().filter(|change| of_family(self.family, &change.address)) {
            let before = self.ports.get(&change.address);
            let old = before.map(|port| port.slots.as_slice()).unwrap_or_default();
            let after = change.after.as_ref().filter(|plan| !quarantine.keeps(&plan.service));
            let after = after.map(|plan| Port::new(plan, old));
            let placed = |port: Option<&Port>| port.map(Port::elements).unwrap_or_default();
            changes.replace(placed(before), placed(after.as_ref()));
            step.ports.push((change.address, after));
        }
        changes.members(self.family, SetId::ClusterIps, &diff.cluster_ips, ruleset::cluster_ip);
        changes.members(self.family, SetId::Hairpin, &diff.local_endpoints, ruleset::hairpin);
        step.write(self, changes);
        step
    }

    /// `step` has been committed.
    pub(crate) fn committed(&mut self, step: Step) {
        for (address, port) in step.ports {
            match port {
                Some(port) => self.ports.insert(address, port),
                None => self.ports.remove(&address),
            };
        }
        self.chains = step.chains;
    }
}

impl Step {
    fn count(&mut self, changes: &ElementChanges) {
        for change in changes.sets.values() {
            for chain in change.removed.iter().filter_map(|(_, element)| chain_of(element)) {
                if let Some(users) = self.chains.get_mut(&chain) {
                    *users = users.saturating_sub(1);
                }
            }
            for chain in change.added.iter().filter_map(|(_, element)| chain_of(element)) {
                *self.chains.entry(chain).or_default() += 1;
            }
        }
    }

    /// Chains are there before the elements that lead to them, and elements are gone before their chains.
    fn write(&mut self, programmed: &Programmed, changes: ElementChanges) {
        self.count(&changes);
        for chain in self.chains.keys().filter(|chain| !programmed.chains.contains_key(chain)) {
            let chain = chain.chain(programmed.family);
            self.transaction.add_chain(&chain);
            for rule in chain.rules {
                self.transaction.add_rule(&chain.name, rule);
            }
        }
        for (set, change) in changes.sets {
            let Some(spec) = programmed.spec(set) else { continue };
            for (key, element) in change.removed {
                self.transaction.delete_element(spec, key, element);
            }
            for (key, element) in change.added {
                self.transaction.add_element(spec, key, element);
            }
        }
        let idle: Vec<NumberedChain> = self
            .chains
            .iter()
            .filter(|(chain, users)| !is_prepared(chain) && **users == 0)
            .map(|(chain, _)| *chain)
            .collect();
        if idle.len() > MOST_IDLE_CHAINS {
            for chain in idle {
                self.chains.remove(&chain);
                self.transaction.flush_chain(chain.to_string());
                self.transaction.delete_chain(chain.to_string());
            }
        }
    }
}

fn is_prepared(chain: &NumberedChain) -> bool {
    matches!(chain, NumberedChain::Pick { sticky: false, count, from: 0, .. } if *count <= PREPARED_PICKS)
}

/// The Services whose elements go to a chain.
pub(crate) fn users(plan: &NodePlan, chain: NumberedChain) -> impl Iterator<Item = &ObjectName> {
    let uses = move |port: &&Arc<PortPlan>| {
        Port::new(port, &[]).elements().iter().any(|(.., element)| chain_of(element) == Some(chain))
    };
    plan.services.ports().filter(uses).map(|port| &port.service)
}

/// The chain that an element goes to, if it is one that plans call for.
fn chain_of(element: &Element) -> Option<NumberedChain> {
    match &element.data {
        Some(Data::Verdict(Verdict::Goto(name))) => NumberedChain::of_name(name),
        _ => None,
    }
}

/// Elements of one set that go and come.
#[derive(Debug, Default)]
struct ElementChange {
    removed: Vec<(Value, Element)>,
    added: Vec<(Value, Element)>,
}

#[derive(Debug, Default)]
struct ElementChanges {
    sets: BTreeMap<SetId, ElementChange>,
}

impl ElementChanges {
    /// Addresses that a set of them gained and lost, as far as they are of `family`.
    fn members(
        &mut self,
        family: IpFamily,
        set: SetId,
        change: &SetChange,
        element: fn(IpAddr) -> (Value, Element),
    ) {
        let of_family = |ips: &BTreeSet<IpAddr>| {
            ips.iter().filter(|ip| IpFamily::of(ip) == family).map(|ip| element(*ip)).collect::<Vec<_>>()
        };
        let elements = self.sets.entry(set).or_default();
        elements.removed.extend(of_family(&change.removed));
        elements.added.extend(of_family(&change.added));
    }

    /// What differs between an address's elements `before` and `after`.
    fn replace(&mut self, before: Vec<Placed>, after: Vec<Placed>) {
        let mut left: BTreeMap<(SetId, Value), Element> =
            before.into_iter().map(|(set, key, element)| ((set, key), element)).collect();
        for (set, key, element) in after {
            let old = left.remove(&(set, key.clone()));
            if old.as_ref() == Some(&element) {
                continue;
            }
            let change = self.sets.entry(set).or_default();
            if let Some(old) = old {
                change.removed.push((key.clone(), old));
            }
            change.added.push((key, element));
        }
        for ((set, key), element) in left {
            self.sets.entry(set).or_default().removed.push((key, element));
        }
    }
}

fn of_family(family: IpFamily, address: &ServiceAddress) -> bool {
    IpFamily::of(&address.ip) == family
}

fn insert(table: &mut Table, set: SetId, key: Value, element: Element) {
    if let Some(set) = ruleset::set_of(table, set) {
        set.insert(key, element);
    }
}

/// The service address that a key of `set` begins with, and the rest of the key.
pub(crate) fn parse_key(family: IpFamily, set: SetId, key: &Value) -> Option<(ServiceAddress, &[u8])> {
    let (ip, rest) = if set.has_service_key() {
        parse_ip(family, key.bytes())?
    } else if set.has_node_port_key() {
        (family.unspecified(), key.bytes())
    } else {
        return None;
    };
    let (protocol, port, rest) = parse_transport(rest)?;
    Some((ServiceAddress { ip, protocol, port }, rest))
}

/// The same of an endpoint's key: the rest is its index.
pub(crate) fn parse_indexed_key(family: IpFamily, set: SetId, key: &Value) -> Option<(ServiceAddress, u32)> {
    let (address, index) = parse_key(family, set, key)?;
    Some((address, u32::from_ne_bytes(index.try_into().ok()?)))
}

/// The client that `affinity` remembers, and what it called.
pub(crate) fn parse_client(family: IpFamily, key: &Value) -> Option<(IpAddr, ServiceAddress)> {
    let (client, rest) = parse_ip(family, key.bytes())?;
    let (ip, rest) = parse_ip(family, rest)?;
    let (protocol, port, _) = parse_transport(rest)?;
    Some((client, ServiceAddress { ip, protocol, port }))
}

fn parse_transport(bytes: &[u8]) -> Option<(Protocol, u16, &[u8])> {
    let (protocol, rest) = bytes.split_first_chunk::<4>()?;
    let (port, rest) = rest.split_first_chunk::<4>()?;
    let protocol = Protocol::from_number(protocol[0])?;
    Some((protocol, u16::from_be_bytes([port[0], port[1]]), rest))
}

/// The endpoint that an element stands for.
pub(crate) fn parse_backend(family: IpFamily, element: &Element) -> Option<Backend> {
    let Some(Data::Value(value)) = &element.data else { return None };
    let (ip, port) = parse_ip(family, value.bytes())?;
    Some(Backend { ip, port: u16::from_be_bytes(*port.first_chunk::<2>()?) })
}

fn parse_ip(family: IpFamily, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
    let (address, rest) = bytes.split_at_checked(family.address_length())?;
    let ip = match family {
        IpFamily::V4 => Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?).into(),
        IpFamily::V6 => Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?).into(),
    };
    Some((ip, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_element_is_read_without_panic(key in prop::collection::vec(any::<u8>(), 0..40), data in prop::collection::vec(any::<u8>(), 0..40)) {
            let key = Value::from_bytes(&key);
            for family in IpFamily::BOTH {
                for set in SetId::ALL {
                    let _ = parse_indexed_key(family, set, &key);
                }
                let _ = parse_client(family, &key);
                let _ = parse_backend(family, &Element::data(Value::from_bytes(&data)));
            }
        }
    }
}
