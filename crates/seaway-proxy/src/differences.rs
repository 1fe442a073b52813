//! What a table lacks, or has too much, in words.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;

use seaway_model::{Difference, NodePlan, PlanPart, ServiceAddress};
use seaway_net::nft::{Chain, Data, Element, Observed, ObservedChain, Set, Table, TableId, Value};

use crate::programmed::parse_key;
use crate::ruleset::{IpFamily, NumberedChain, SOURCES, SetId};

/// How the table that is there differs from the one that `plan` asks for; empty just where
/// [`seaway_net::nft::diff`] has nothing to do.
pub(crate) fn of_table(
    family: IpFamily,
    plan: &NodePlan,
    observed: Option<&Observed>,
    want: &Table,
) -> Vec<Difference> {
    let mut teller = Teller { family, plan, id: &want.id, told: Vec::new() };
    let Some(observed) = observed else {
        teller.whole("the table is missing: no Service works and nothing is masqueraded", true, false);
        return teller.told;
    };
    if observed.owner != want.owner {
        teller.whole("the table is tied to another program's socket", true, true);
    }
    if observed.dormant {
        teller.whole("the table is switched off: no Service works and nothing is masqueraded", true, true);
    }
    for set in &want.sets {
        teller.set(observed, set);
    }
    for chain in &want.chains {
        teller.chain(observed, chain);
    }
    let sets: BTreeSet<&str> = want.sets.iter().map(|set| set.spec.name.as_str()).collect();
    for name in observed.sets.keys().filter(|name| !sets.contains(name.as_str())) {
        teller.extra(&format!("set {name}"));
    }
    let chains: BTreeSet<&str> = want.chains.iter().map(|chain| chain.name.as_str()).collect();
    for name in observed.chains.keys().filter(|name| !chains.contains(name.as_str())) {
        teller.extra(&format!("chain {name}"));
    }
    teller.told
}

/// The table is there although neither pods nor Services have the family.
pub(crate) fn of_unused_table(family: IpFamily, plan: &NodePlan, id: &TableId) -> Vec<Difference> {
    let mut teller = Teller { family, plan, id, told: Vec::new() };
    teller.whole(
        "the table is left over: neither pods nor Services have addresses of its family",
        false,
        true,
    );
    teller.told
}

struct Teller<'a> {
    family: IpFamily,
    plan: &'a NodePlan,
    id: &'a TableId,
    told: Vec<Difference>,
}

/// An element's state.
enum Found<'a> {
    Missing(&'a Element),
    Other(&'a Element, &'a Element),
    Extra(&'a Element),
}

impl Teller<'_> {
    fn whole(&mut self, what: &str, planned: bool, actual: bool) {
        let there = |is: bool, text: &str| is.then(|| text.to_owned());
        self.told.push(Difference {
            part: PlanPart::Services,
            object: format!("table {}", self.id),
            address: None,
            what: what.to_owned(),
            kernel: format!("table {}", self.id),
            planned: there(planned, "the table as planned"),
            actual: there(actual, "another one"),
        });
    }

    fn extra(&mut self, name: &str) {
        self.told.push(Difference {
            part: PlanPart::Services,
            object: format!("table {}", self.id),
            address: None,
            what: "something that is not Seaway's is in its table".to_owned(),
            kernel: format!("{name} of table {}", self.id),
            planned: None,
            actual: Some(name.to_owned()),
        });
    }

    fn set(&mut self, observed: &Observed, set: &Set) {
        let name = set.spec.name.as_str();
        let found = observed.sets.get(name);
        if !found.is_some_and(|found| set.spec.is_declaration_of(found)) {
            self.told.push(Difference {
                part: part_of_set(name),
                object: format!("table {}", self.id),
                address: None,
                what: match found {
                    Some(_) => "a set or map is declared otherwise",
                    None => "a set or map is missing",
                }
                .to_owned(),
                kernel: format!("set {name} of table {}", self.id),
                planned: Some(format!("{} elements", set.elements.len())),
                actual: found.map(|found| format!("{} elements", found.elements.len())),
            });
        }
        let Some(found) = found else { return };
        for (key, wanted) in &set.elements {
            match found.elements.get(key) {
                Some(actual) if actual == wanted => {}
                Some(actual) => self.element(set, key, Found::Other(wanted, actual)),
                None => self.element(set, key, Found::Missing(wanted)),
            }
        }
        for (key, actual) in found.elements.iter().filter(|(key, _)| !set.elements.contains_key(*key)) {
            self.element(set, key, Found::Extra(actual));
        }
    }

    fn element(&mut self, set: &Set, key: &Value, found: Found<'_>) {
        let name = set.spec.name.as_str();
        let (planned, actual) = match found {
            Found::Missing(wanted) => (Some(wanted), None),
            Found::Other(wanted, actual) => (Some(wanted), Some(actual)),
            Found::Extra(actual) => (None, Some(actual)),
        };
        let bare = Element {
            key_end: planned.or(actual).and_then(|element| element.key_end.clone()),
            ..Element::default()
        };
        let key_text = set.spec.element_text(key, &bare).to_string();
        let shown = |element: &Element| match &element.data {
            Some(Data::Verdict(verdict)) => verdict.to_string(),
            Some(Data::Value(value)) => {
                let text = value.typed(&set.spec.data_types().unwrap_or_default()).to_string();
                text.replace(" . ", ":")
            }
            None => set.spec.element_text(key, element).to_string(),
        };
        let Some(id) = SetId::of_name(name) else { return };
        let address = parse_key(self.family, id, key).map(|(address, _)| address);
        let (planned, actual) = (planned.map(shown), actual.map(shown));
        let what = what_of_element(id, address.as_ref(), &key_text, planned.as_deref(), actual.as_deref());
        self.told.push(Difference {
            part: part_of_set(name),
            object: self.object(id, address.as_ref(), &key_text),
            address,
            what,
            kernel: format!("element {key_text} of {name} in table {}", self.id),
            planned,
            actual,
        });
    }

    fn object(&self, set: SetId, address: Option<&ServiceAddress>, key_text: &str) -> String {
        if let Some(address) = address {
            return match self.plan.services.port(address) {
                Some(port) if port.port_name.is_empty() => format!("Service {}", port.service),
                Some(port) => format!("Service {} port {}", port.service, port.port_name),
                None => format!("address {address}"),
            };
        }
        if set == SetId::ClusterIps {
            let ip = key_text.parse::<IpAddr>().ok();
            let of_ip = self.plan.services.ports().find(|port| Some(port.address.ip) == ip);
            return of_ip
                .map_or_else(|| format!("address {key_text}"), |port| format!("Service {}", port.service));
        }
        match set {
            SetId::Hairpin => format!("endpoint {}", key_text.split(" . ").next().unwrap_or_default()),
            _ => format!("network {key_text}"),
        }
    }

    fn chain(&mut self, observed: &Observed, chain: &Chain) {
        let kernel = format!("chain {} of table {}", chain.name, self.id);
        let place = |what: &str, planned: Option<String>, actual: Option<String>| Difference {
            part: part_of_chain(&chain.name),
            object: format!("table {}", self.id),
            address: None,
            what: what.to_owned(),
            kernel: kernel.clone(),
            planned,
            actual,
        };
        let attached =
            |base: Option<&dyn Display>| base.map_or("attached nowhere".to_owned(), ToString::to_string);
        let wanted = attached(chain.base.as_ref().map(|base| base as &dyn Display));
        let Some(found) = observed.chains.get(&chain.name) else {
            self.told.push(place("a chain is missing", Some(wanted), None));
            return;
        };
        if found.foreign || found.base != chain.base {
            let actual = if found.foreign {
                "attached otherwise".to_owned()
            } else {
                attached(found.base.as_ref().map(|base| base as &dyn Display))
            };
            self.told.push(place("a chain is attached elsewhere", Some(wanted), Some(actual)));
        }
        self.rules(chain, found);
    }

    fn rules(&mut self, chain: &Chain, found: &ObservedChain) {
        let wanted: Vec<u64> = chain.rules.iter().map(|rule| rule.digest()).collect();
        let there: Vec<u64> = found.rules.iter().filter_map(|rule| rule.digest).collect();
        let (missing, extra) = (surplus(&wanted, &there), surplus(&there, &wanted));
        let told_before = self.told.len();
        for (rule, digest) in chain.rules.iter().zip(&wanted) {
            if missing.contains(digest) {
                let why = rule.comment.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
                self.rule(chain, &format!("a rule is missing{why}"), Some(rule.to_string()), None);
            }
        }
        for rule in &found.rules {
            if rule.digest.is_none_or(|digest| extra.contains(&digest)) {
                let comment =
                    rule.comment.as_ref().map(|text| format!(" comment \"{text}\"")).unwrap_or_default();
                let actual = format!("handle {}{comment}", rule.handle);
                self.rule(chain, "a rule that is not Seaway's is in its chain", None, Some(actual));
            }
        }
        if self.told.len() == told_before && wanted != there {
            let list = |digests: &[u64]| {
                let at = |digest| wanted.iter().position(|wanted| wanted == digest).map_or(0, |at| at + 1);
                digests.iter().map(|digest| at(digest).to_string()).collect::<Vec<_>>().join(", ")
            };
            let (planned, actual) = (list(&wanted), list(&there));
            self.rule(chain, "rules are in another order, or there twice", Some(planned), Some(actual));
        }
    }

    fn rule(&mut self, chain: &Chain, what: &str, planned: Option<String>, actual: Option<String>) {
        let object = match NumberedChain::of_name(&chain.name) {
            Some(NumberedChain::Pick { count: 1, .. }) => "all Services with 1 endpoint".to_owned(),
            Some(NumberedChain::Pick { count, .. }) => format!("all Services with {count} endpoints"),
            Some(NumberedChain::Learn { seconds }) => format!("all Services with affinity for {seconds} s"),
            None if part_of_chain(&chain.name) == PlanPart::Egress => "masquerade".to_owned(),
            None => "all Services".to_owned(),
        };
        self.told.push(Difference {
            part: part_of_chain(&chain.name),
            object,
            address: None,
            what: what.to_owned(),
            kernel: format!("chain {} of table {}", chain.name, self.id),
            planned,
            actual,
        });
    }
}

/// The members of `one` that `other` lacks.
fn surplus(one: &[u64], other: &[u64]) -> BTreeSet<u64> {
    one.iter().filter(|digest| !other.contains(digest)).copied().collect()
}

fn part_of_set(name: &str) -> PlanPart {
    if SetId::of_name(name).is_some_and(SetId::is_egress) { PlanPart::Egress } else { PlanPart::Services }
}

fn part_of_chain(name: &str) -> PlanPart {
    if name == "postrouting" || name == SOURCES { PlanPart::Egress } else { PlanPart::Services }
}

/// What it means for an element to be missing, to stand for something else, or to be there without being planned.
fn what_of_element(
    set: SetId,
    address: Option<&ServiceAddress>,
    key: &str,
    planned: Option<&str>,
    actual: Option<&str>,
) -> String {
    let address = address.map_or_else(|| key.to_owned(), ToString::to_string);
    let told = |missing: &str, other: &str, extra: &str| match (planned, actual) {
        (Some(_), None) => missing.to_owned(),
        (Some(_), Some(_)) => other.to_owned(),
        (None, _) => extra.to_owned(),
    };
    let of_address =
        |missing: &str, other: &str, extra: &str| format!("{address} {}", told(missing, other, extra));
    let network = |missing: &str, extra: &str| told(missing, missing, extra);
    match set {
        SetId::Services | SetId::NodePorts => of_address(
            "is not translated",
            "goes to another chain than planned",
            "is translated although no Service has it",
        ),
        SetId::ServicesOutside | SetId::NodePortsOutside => of_address(
            "treats callers from outside as it treats pods",
            "goes to another chain than planned for callers from outside",
            "treats callers from outside otherwise than pods",
        ),
        SetId::Endpoints | SetId::NodePortEndpoints => match (planned, actual) {
            (Some(planned), None) => format!("endpoint {planned} of {address} is missing"),
            (Some(planned), Some(actual)) => format!("endpoint {planned} of {address} points to {actual}"),
            (None, actual) => {
                format!("{address} has endpoint {}, which it should not", actual.unwrap_or_default())
            }
        },
        SetId::Refused | SetId::RefusedNodePorts => of_address(
            "has no endpoint and does not refuse its callers",
            "has no endpoint and refuses its callers otherwise than planned",
            "refuses callers although it has endpoints",
        ),
        SetId::External | SetId::ExternalNodePorts => of_address(
            "does not masquerade its callers",
            "masquerades other callers than planned",
            "masquerades its callers although no Service has it",
        ),
        SetId::Sticky | SetId::StickyNodePorts => of_address(
            "does not learn where its clients go",
            "learns for another time where its clients go",
            "learns where its clients go although it has no affinity",
        ),
        SetId::Affinity => {
            of_address("has forgotten a client", "has another endpoint for a client", "knows a client")
        }
        SetId::Ranged | SetId::RangedNodePorts => of_address(
            "lets in every source",
            "lets in other sources than planned",
            "asks for its callers' sources although it has no source ranges",
        ),
        SetId::Ranges | SetId::NodePortRanges => of_address(
            "does not let in a source range",
            "lets in another source range than planned",
            "lets in a source range that it should not",
        ),
        SetId::ClusterIps if planned.is_some() => {
            format!("{key} is not known as a cluster IP: ports that no Service has are not rejected")
        }
        SetId::ClusterIps => format!("{key} is taken for a cluster IP"),
        SetId::Hairpin => network(
            "the endpoint cannot reach itself through its Service",
            "the address is taken for an endpoint of this node",
        ),
        SetId::LocalSources => network(
            "callers from the network are not taken for pods",
            "callers from the network are taken for pods",
        ),
        SetId::NodePortNetworks => network(
            "node ports are not reached at the node's addresses in the network",
            "node ports are reached at the node's addresses in the network",
        ),
        SetId::ServiceNetworks => network(
            "packets to addresses of the network that no Service has are not dropped",
            "packets to addresses of the network are dropped although no cluster IP is taken from it",
        ),
        SetId::PodNetworks => network(
            "the pod network is not known as one: nothing from it is masqueraded",
            "the network is taken for one of pods",
        ),
        SetId::NodePodNetworks => {
            network("the network is not known as this node's", "the network is taken for this node's")
        }
        SetId::NonMasquerade => network(
            "packets to the network are masqueraded although they should not",
            "packets to the network are not masqueraded although they should",
        ),
    }
}
