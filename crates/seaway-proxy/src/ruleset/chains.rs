//! Chains of which there are as many as the plan's numbers call for: those that pick an endpoint, and those that learn where
//! a client was sent.

use std::fmt;
use std::time::Duration;

use seaway_net::nft::{
    Chain, Element, Field, Learn, NatFlags, NatKind, NatTarget, Rule, SCTP, Statement, TCP, Tuple, UDP,
    Verdict,
};

use super::{IpFamily, SetId};

/// What the names of the chains that pick an endpoint begin with.
const PICK: &str = "pick";
/// What the names of the chains that learn begin with.
const LEARN: &str = "learn_";

/// A chain that the plan's numbers call for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum NumberedChain {
    /// Sends a packet to one of the endpoints with the indices `from` to `from + count - 1`.
    Pick {
        /// The endpoints are those of a node port.
        node_port: bool,
        /// A client goes where it went before.
        sticky: bool,
        /// How many.
        count: u32,
        /// The first one's index.
        from: u32,
    },
    /// Remembers for so many seconds where a client was sent.
    Learn {
        /// Seconds.
        seconds: u64,
    },
}

impl fmt::Display for NumberedChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pick { node_port, sticky, count, from } => {
                let kind = if *node_port { "_node" } else { "" };
                let sticky = if *sticky { "_sticky" } else { "" };
                write!(f, "{PICK}{kind}{sticky}_{count}")?;
                if *from > 0 { write!(f, "_from_{from}") } else { Ok(()) }
            }
            Self::Learn { seconds } => write!(f, "{LEARN}{seconds}"),
        }
    }
}

impl NumberedChain {
    /// The chain called `name`, if it is one of these.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let found = match name.strip_prefix(LEARN) {
            Some(seconds) => Self::Learn { seconds: seconds.parse().ok()? },
            None => {
                let rest = name.strip_prefix(PICK)?;
                let (rest, node_port) = without(rest, "_node");
                let (rest, sticky) = without(rest, "_sticky");
                let numbers = rest.strip_prefix('_')?;
                let (count, from) = numbers.split_once("_from_").unwrap_or((numbers, "0"));
                Self::Pick { node_port, sticky, count: count.parse().ok()?, from: from.parse().ok()? }
            }
        };
        // A name that means the same in another spelling is not ours.
        (found.to_string() == name).then_some(found)
    }

    /// What stands in a map for going there.
    pub(crate) fn element(self) -> Element {
        Element::data(Verdict::Goto(self.to_string()))
    }

    /// The chain with its rules.
    pub(crate) fn chain(self, family: IpFamily) -> Chain {
        let chain = Chain::new(self.to_string());
        let rules = match self {
            Self::Pick { node_port, sticky, count, from } => pick(family, node_port, sticky, count, from),
            Self::Learn { seconds } => vec![learn(family, seconds)],
        };
        rules.into_iter().fold(chain, Chain::rule)
    }
}

fn without<'a>(text: &'a str, prefix: &str) -> (&'a str, bool) {
    text.strip_prefix(prefix).map_or((text, false), |rest| (rest, true))
}

/// numgen writes into the last register of the key, so one lookup picks the endpoint and no packet mark is used. A commit can
/// fall between the lookup that led here and this one: then the endpoint with the number drawn may be gone. Therefore it is
/// looked for endpoint 0, which exists as long as any does, and then the packet is dropped: nothing passes untranslated.
fn pick(family: IpFamily, node_port: bool, sticky: bool, count: u32, from: u32) -> Vec<Rule> {
    let dnat = |key: Vec<Field>, map: SetId| {
        Rule::new().l4proto_in([TCP, UDP, SCTP]).statement(Statement::Nat {
            kind: NatKind::Destination,
            family: family.family(),
            to: NatTarget::Map { key, map: map.name().to_owned(), port: true },
            flags: NatFlags::default(),
        })
    };
    let (fields, map) = if node_port {
        (super::NODE_PORT_FIELDS.to_vec(), SetId::NodePortEndpoints)
    } else {
        (super::service_fields(family).to_vec(), SetId::Endpoints)
    };
    let draw = |number: Field| {
        let mut key = fields.clone();
        key.push(number);
        dnat(key, map)
    };
    let mut rules = Vec::new();
    if sticky {
        rules.push(dnat(super::affinity_fields(family).to_vec(), SetId::Affinity));
    }
    rules.push(draw(Field::random_from(from, count)));
    if count > 1 || from > 0 {
        rules.push(draw(Field::random(1)));
    }
    rules.push(Rule::new().drop());
    rules
}

fn learn(family: IpFamily, seconds: u64) -> Rule {
    Rule::new().l4proto_in([TCP, UDP, SCTP]).statement(Statement::Learn {
        operation: Learn::Update,
        set: SetId::Affinity.name().to_owned(),
        key: vec![
            family.original_saddr(),
            family.original_daddr(),
            Field::L4Proto,
            Field::original(Tuple::ProtoDst),
        ],
        data: vec![family.daddr(), Field::ThDport],
        timeout: Some(Duration::from_secs(seconds)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let pick = |node_port, sticky, count, from| NumberedChain::Pick { node_port, sticky, count, from };
        let cases = [
            ("pick_3", Some(pick(false, false, 3, 0))),
            ("pick_3_from_2", Some(pick(false, false, 3, 2))),
            ("pick_node_10", Some(pick(true, false, 10, 0))),
            ("pick_sticky_1", Some(pick(false, true, 1, 0))),
            ("pick_node_sticky_7_from_1", Some(pick(true, true, 7, 1))),
            ("learn_10800", Some(NumberedChain::Learn { seconds: 10800 })),
            ("pick_", None),
            ("pick_03", None),
            ("pick_3_from_0", None),
            ("pick_sticky_node_3", None),
            ("prerouting", None),
            ("learn_", None),
        ];
        for (name, expected) in cases {
            assert_eq!(NumberedChain::of_name(name), expected, "{name}");
            if let Some(chain) = expected {
                assert_eq!(chain.to_string(), name);
            }
        }
    }
}
