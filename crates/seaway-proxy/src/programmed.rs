//! What has been programmed for one family, and the transactions that bring it up to a plan.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use seaway_model::{Backend, NodePlan, PlanDiff, PortPlan, Protocol, ServiceAddress};
use seaway_net::nft::{Data, Element, Observed, SetSpec, Table, TableId, Transaction, Value};

use crate::ruleset::{self, IpFamily};
use crate::slots::arrange;

/// Chains `pick_<N>` up to this number of endpoints are always there. To make a chain takes the kernel 13 to 80 ms (measured
/// on 6.18 with 10,000 services), where a change of elements takes one or less; services of ordinary sizes shall not
/// wait for that.
const PREPARED_PICKS: u32 = 16;
/// Larger ones that no service uses are kept for the next one that comes by, up to this number.
const MOST_IDLE_PICKS: usize = 64;

/// The endpoints of each address by index, as the kernel has them, and the chains that they need.
#[derive(Debug)]
pub(crate) struct Programmed {
    family: IpFamily,
    specs: Specs,
    slots: HashMap<ServiceAddress, Vec<Backend>>,
    /// How many addresses use the chain for so many endpoints; chains without any included.
    picks: BTreeMap<u32, usize>,
}

/// The declarations of the sets whose elements change.
#[derive(Debug)]
struct Specs {
    services: Arc<SetSpec>,
    endpoints: Arc<SetSpec>,
    cluster_ips: Arc<SetSpec>,
    hairpin: Arc<SetSpec>,
}

/// A transaction, and what will have been programmed when it is committed.
#[derive(Debug)]
pub(crate) struct Step {
    /// The changes.
    pub(crate) transaction: Transaction,
    slots: Vec<(ServiceAddress, Vec<Backend>)>,
    picks: BTreeMap<u32, usize>,
}

/// The indices that a table read back gives to endpoints; where one is missing among them stands an endpoint that
/// nobody has. What is not as we write it is left out, so the difference to what is wanted removes it.
pub(crate) fn indices(observed: &Observed, family: IpFamily) -> HashMap<ServiceAddress, Vec<Backend>> {
    let mut found: HashMap<ServiceAddress, BTreeMap<u32, Backend>> = HashMap::new();
    let elements = observed.sets.get(ruleset::ENDPOINTS).into_iter().flat_map(|set| &set.elements);
    for (key, element) in elements {
        let Some((address, index)) = parse_endpoint_key(family, key) else { continue };
        let Some(backend) = parse_endpoint_data(family, element) else { continue };
        found.entry(address).or_default().insert(index, backend);
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

impl Programmed {
    /// The whole table that `plan` asks for, where endpoints keep the indices that they have in `old` and the chains
    /// of `observed` that nobody uses stay, within bounds; and what will have been programmed by it.
    pub(crate) fn whole(
        family: IpFamily,
        plan: &NodePlan,
        old: &HashMap<ServiceAddress, Vec<Backend>>,
        observed: Option<&Observed>,
    ) -> (Table, Self) {
        let mut table = ruleset::skeleton(family, &plan.egress);
        let specs = Specs::of(&table);
        let mut programmed = Self { family, specs, slots: HashMap::new(), picks: BTreeMap::new() };
        for port in
            plan.services.ports().filter(|port| of_family(family, &port.address) && !port.backends.is_empty())
        {
            let before = old.get(&port.address).map(Vec::as_slice).unwrap_or_default();
            let slots = arrange(before, &port.backends, port.local);
            let count = count(&slots);
            *programmed.picks.entry(count).or_default() += 1;
            insert(
                &mut table,
                ruleset::SERVICES,
                ruleset::service_key(&port.address),
                ruleset::service_data(count),
            );
            for (index, backend) in (0..).zip(&slots) {
                let key = ruleset::endpoint_key(&port.address, index);
                insert(&mut table, ruleset::ENDPOINTS, key, ruleset::endpoint_data(backend));
            }
            programmed.slots.insert(port.address, slots);
        }
        for ip in plan.services.cluster_ips().filter(|ip| IpFamily::of(ip) == family) {
            insert(&mut table, ruleset::CLUSTER_IPS, Value::from(ip), Element::default());
        }
        for ip in plan.services.local_endpoints().filter(|ip| IpFamily::of(ip) == family) {
            insert(&mut table, ruleset::HAIRPIN, ruleset::hairpin_key(ip), Element::default());
        }
        let there = observed.into_iter().flat_map(|observed| observed.chains.keys());
        let idle: Vec<u32> = there
            .filter_map(|name| ruleset::pick_count(name))
            .filter(|count| *count > PREPARED_PICKS && !programmed.picks.contains_key(count))
            .collect();
        if idle.len() <= MOST_IDLE_PICKS {
            programmed.picks.extend(idle.into_iter().map(|count| (count, 0)));
        }
        for count in 1..=PREPARED_PICKS {
            programmed.picks.entry(count).or_default();
        }
        table.chains.extend(programmed.picks.keys().map(|count| ruleset::pick_chain(family, *count)));
        (table, programmed)
    }

    /// The endpoints' indices.
    pub(crate) fn slots(&self) -> &HashMap<ServiceAddress, Vec<Backend>> {
        &self.slots
    }

    /// The changes that `diff` asks for: elements, and chains for numbers of endpoints not met before.
    pub(crate) fn step(&self, diff: &PlanDiff) -> Step {
        let mut changes = ElementChanges::default();
        let mut step = Step {
            transaction: Transaction::new(TableId::new(self.family.family(), ruleset::TABLE)),
            slots: Vec::new(),
            picks: self.picks.clone(),
        };
        for change in diff.ports.iter().filter(|change| of_family(self.family, &change.address)) {
            let old = self.slots.get(&change.address).map(Vec::as_slice).unwrap_or_default();
            let new = change
                .after
                .as_deref()
                .map_or_else(Vec::new, |port: &PortPlan| arrange(old, &port.backends, port.local));
            if new != old {
                changes.move_endpoints(&change.address, old, &new);
                step.count_picks(count(old), count(&new));
                step.slots.push((change.address, new));
            }
        }
        for ip in diff.cluster_ips.removed.iter().filter(|ip| IpFamily::of(ip) == self.family) {
            changes.cluster_ips.removed.push((Value::from(*ip), Element::default()));
        }
        for ip in diff.cluster_ips.added.iter().filter(|ip| IpFamily::of(ip) == self.family) {
            changes.cluster_ips.added.push((Value::from(*ip), Element::default()));
        }
        for ip in diff.local_endpoints.removed.iter().filter(|ip| IpFamily::of(ip) == self.family) {
            changes.hairpin.removed.push((ruleset::hairpin_key(*ip), Element::default()));
        }
        for ip in diff.local_endpoints.added.iter().filter(|ip| IpFamily::of(ip) == self.family) {
            changes.hairpin.added.push((ruleset::hairpin_key(*ip), Element::default()));
        }
        step.write(self, changes);
        step
    }

    /// `step` has been committed.
    pub(crate) fn committed(&mut self, step: Step) {
        for (address, slots) in step.slots {
            if slots.is_empty() {
                self.slots.remove(&address);
            } else {
                self.slots.insert(address, slots);
            }
        }
        self.picks = step.picks;
    }
}

impl Specs {
    fn of(table: &Table) -> Self {
        let spec = |name: &str| match table.sets.iter().find(|set| set.spec.name == name) {
            Some(set) => set.spec.clone(),
            None => Arc::new(SetSpec::of_types(name, [])),
        };
        Self {
            services: spec(ruleset::SERVICES),
            endpoints: spec(ruleset::ENDPOINTS),
            cluster_ips: spec(ruleset::CLUSTER_IPS),
            hairpin: spec(ruleset::HAIRPIN),
        }
    }
}

impl Step {
    fn count_picks(&mut self, old: u32, new: u32) {
        if old > 0
            && let Some(users) = self.picks.get_mut(&old)
        {
            *users = users.saturating_sub(1);
        }
        if new > 0 {
            *self.picks.entry(new).or_default() += 1;
        }
    }

    /// Chains are there before the elements that lead to them, and elements are gone before their chains.
    fn write(&mut self, programmed: &Programmed, changes: ElementChanges) {
        let family = programmed.family;
        for count in self.picks.keys().filter(|count| !programmed.picks.contains_key(count)) {
            let chain = ruleset::pick_chain(family, *count);
            self.transaction.add_chain(&chain);
            for rule in chain.rules {
                self.transaction.add_rule(&chain.name, rule);
            }
        }
        let specs = &programmed.specs;
        let sets = [
            (&specs.services, changes.services),
            (&specs.endpoints, changes.endpoints),
            (&specs.cluster_ips, changes.cluster_ips),
            (&specs.hairpin, changes.hairpin),
        ];
        for (spec, change) in sets {
            for (key, element) in change.removed {
                self.transaction.delete_element(spec, key, element);
            }
            for (key, element) in change.added {
                self.transaction.add_element(spec, key, element);
            }
        }
        let idle: Vec<u32> = self
            .picks
            .iter()
            .filter(|(count, users)| **count > PREPARED_PICKS && **users == 0)
            .map(|(count, _)| *count)
            .collect();
        if idle.len() > MOST_IDLE_PICKS {
            for count in idle {
                self.picks.remove(&count);
                self.transaction.flush_chain(ruleset::pick_name(count));
                self.transaction.delete_chain(ruleset::pick_name(count));
            }
        }
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
    services: ElementChange,
    endpoints: ElementChange,
    cluster_ips: ElementChange,
    hairpin: ElementChange,
}

impl ElementChanges {
    fn move_endpoints(&mut self, address: &ServiceAddress, old: &[Backend], new: &[Backend]) {
        let longest = old.len().max(new.len());
        for (index, at) in (0..longest).zip(0_u32..) {
            let (before, after) = (old.get(index), new.get(index));
            if before == after {
                continue;
            }
            let key = ruleset::endpoint_key(address, at);
            if let Some(backend) = before {
                self.endpoints.removed.push((key.clone(), ruleset::endpoint_data(backend)));
            }
            if let Some(backend) = after {
                self.endpoints.added.push((key, ruleset::endpoint_data(backend)));
            }
        }
        let (before, after) = (count(old), count(new));
        if before == after {
            return;
        }
        if before > 0 {
            self.services.removed.push((ruleset::service_key(address), ruleset::service_data(before)));
        }
        if after > 0 {
            self.services.added.push((ruleset::service_key(address), ruleset::service_data(after)));
        }
    }
}

fn of_family(family: IpFamily, address: &ServiceAddress) -> bool {
    IpFamily::of(&address.ip) == family
}

/// The number of endpoints as numgen takes it; nobody has more than 2³².
fn count(slots: &[Backend]) -> u32 {
    u32::try_from(slots.len()).unwrap_or(u32::MAX)
}

fn insert(table: &mut Table, set: &str, key: Value, element: Element) {
    if let Some(set) = table.sets.iter_mut().find(|candidate| candidate.spec.name == set) {
        set.insert(key, element);
    }
}

pub(crate) fn parse_endpoint_key(family: IpFamily, key: &Value) -> Option<(ServiceAddress, u32)> {
    let (address, index) = parse_service_key(family, key)?;
    Some((address, u32::from_ne_bytes(index.try_into().ok()?)))
}

/// The service address that a key begins with, and the rest of the key.
pub(crate) fn parse_service_key(family: IpFamily, key: &Value) -> Option<(ServiceAddress, &[u8])> {
    let (ip, rest) = parse_ip(family, key.bytes())?;
    let (protocol, rest) = rest.split_first_chunk::<4>()?;
    let (port, rest) = rest.split_first_chunk::<4>()?;
    let protocol = Protocol::from_number(protocol[0])?;
    Some((ServiceAddress { ip, protocol, port: u16::from_be_bytes([port[0], port[1]]) }, rest))
}

fn parse_endpoint_data(family: IpFamily, element: &Element) -> Option<Backend> {
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
            for family in IpFamily::BOTH {
                let _ = parse_endpoint_key(family, &Value::from_bytes(&key));
                let _ = parse_endpoint_data(family, &Element::data(Value::from_bytes(&data)));
            }
        }
    }
}
