//! Tables with their sets, maps and chains.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::field::Field;
use super::rule::{Rule, Verdict};
use super::value::{DataType, Value};

/// A table's family (linux/netfilter.h, NFPROTO_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `inet`: IPv4 and IPv6
    Inet,
    /// `ip`
    Ip,
    /// `ip6`
    Ip6,
    /// `bridge`: frames on their way through a bridge, whatever they carry; rules here look at links alone
    Bridge,
}

impl Family {
    /// NFPROTO_* number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
            Self::Bridge => 7,
        }
    }

    /// nft's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Bridge => "bridge",
        }
    }
}

/// Names a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
}

impl TableId {
    /// A table's name.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self { family, name: name.into() }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family.name(), self.name)
    }
}

/// A table as it is wanted, with all that is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its family and name.
    pub id: TableId,
    /// Tied to the netlink socket that makes it: nobody else can change it, and it goes when the socket is closed
    /// (NFT_TABLE_F_OWNER).
    pub owner: bool,
    /// Sets and maps.
    pub sets: Vec<Set>,
    /// Chains.
    pub chains: Vec<Chain>,
}

impl Table {
    /// An empty table.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self { id: TableId::new(family, name), owner: false, sets: Vec::new(), chains: Vec::new() }
    }

    /// Adds a set or map.
    #[must_use]
    pub fn set(mut self, set: Set) -> Self {
        self.sets.push(set);
        self
    }

    /// Adds a chain.
    #[must_use]
    pub fn chain(mut self, chain: Chain) -> Self {
        self.chains.push(chain);
        self
    }
}

/// How a set's key or a map's data is declared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Declaration {
    /// `typeof ip daddr . meta l4proto`
    Typeof(Vec<Field>),
    /// `type ipv4_addr . inet_proto`
    Type(Vec<DataType>),
}

impl Declaration {
    /// The types of the concatenated fields.
    pub fn types(&self) -> Vec<DataType> {
        match self {
            Self::Typeof(fields) => fields.iter().map(|field| field.data_type()).collect(),
            Self::Type(types) => types.clone(),
        }
    }
}

/// What a map gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MapData {
    /// `verdict`
    Verdict,
    /// One value or several concatenated.
    Values(Declaration),
}

/// A set's or map's declaration: everything but its elements.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SetSpec {
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: Declaration,
    /// What it gives, if it is a map.
    pub data: Option<MapData>,
    /// `flags interval`: elements may be ranges
    pub interval: bool,
    /// `flags constant`: elements are fixed once it is used by a rule
    pub constant: bool,
    /// `flags dynamic`: rules add elements. These belong to the kernel: a difference leaves a dynamic set's elements
    /// alone.
    pub dynamic: bool,
    /// `flags timeout`: elements may have timeouts
    pub timeouts: bool,
    /// `timeout`: of elements that have none of their own
    pub default_timeout: Option<Duration>,
    /// `size`: most elements it takes
    pub size: Option<u32>,
    /// Shown by `nft list`.
    pub comment: Option<String>,
}

impl SetSpec {
    /// A set declared with `type`.
    pub fn of_types(name: impl Into<String>, key: impl Into<Vec<DataType>>) -> Self {
        Self::declared(name.into(), Declaration::Type(key.into()))
    }

    /// A set declared with `typeof`.
    pub fn typeof_fields(name: impl Into<String>, key: impl Into<Vec<Field>>) -> Self {
        Self::declared(name.into(), Declaration::Typeof(key.into()))
    }

    fn declared(name: String, key: Declaration) -> Self {
        Self {
            name,
            key,
            data: None,
            interval: false,
            constant: false,
            dynamic: false,
            timeouts: false,
            default_timeout: None,
            size: None,
            comment: None,
        }
    }

    /// Makes it a map that gives verdicts.
    #[must_use]
    pub fn to_verdict(mut self) -> Self {
        self.data = Some(MapData::Verdict);
        self
    }

    /// Makes it a map that gives values declared with `type`.
    #[must_use]
    pub fn to_types(mut self, data: impl Into<Vec<DataType>>) -> Self {
        self.data = Some(MapData::Values(Declaration::Type(data.into())));
        self
    }

    /// Makes it a map that gives values declared with `typeof`.
    #[must_use]
    pub fn to_typeof(mut self, data: impl Into<Vec<Field>>) -> Self {
        self.data = Some(MapData::Values(Declaration::Typeof(data.into())));
        self
    }

    /// `flags interval`
    #[must_use]
    pub fn interval(mut self) -> Self {
        self.interval = true;
        self
    }

    /// `flags dynamic,timeout` with a default timeout and a most number of elements, as a set that rules fill needs
    #[must_use]
    pub fn learned(mut self, default_timeout: Duration, size: u32) -> Self {
        self.dynamic = true;
        self.timeouts = true;
        self.default_timeout = Some(default_timeout);
        self.size = Some(size);
        self
    }

    /// `size`
    #[must_use]
    pub fn size(mut self, size: u32) -> Self {
        self.size = Some(size);
        self
    }

    /// The types of the data, if it is a map of values.
    pub fn data_types(&self) -> Option<Vec<DataType>> {
        match &self.data {
            Some(MapData::Values(declaration)) => Some(declaration.types()),
            _ => None,
        }
    }
}

/// What a map's element gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Data {
    /// A verdict.
    Verdict(Verdict),
    /// A value.
    Value(Value),
}

impl From<Verdict> for Data {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

impl From<Value> for Data {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

/// What belongs to a key in a set or map.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Element {
    /// Last value of a range, inclusive, in a set with intervals; `None` where the range is the key alone.
    pub key_end: Option<Value>,
    /// What it gives, in a map.
    pub data: Option<Data>,
    /// Its timeout, when it is not the set's own.
    pub timeout: Option<Duration>,
    /// Shown by `nft list`; at most 127 bytes.
    pub comment: Option<String>,
}

impl Element {
    /// A map's element.
    pub fn data(data: impl Into<Data>) -> Self {
        Self { data: Some(data.into()), ..Self::default() }
    }

    /// An interval's element: up to `end`, inclusive.
    pub fn until(end: Value) -> Self {
        Self { key_end: Some(end), ..Self::default() }
    }
}

/// Elements by their keys (of ranges: their first).
pub type Elements = BTreeMap<Value, Element>;

/// A set or map as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its declaration.
    pub spec: Arc<SetSpec>,
    /// Its elements.
    pub elements: Elements,
}

impl Set {
    /// An empty set.
    pub fn new(spec: impl Into<Arc<SetSpec>>) -> Self {
        Self { spec: spec.into(), elements: Elements::new() }
    }

    /// A set with elements.
    pub fn with(spec: impl Into<Arc<SetSpec>>, elements: impl IntoIterator<Item = (Value, Element)>) -> Self {
        let mut set = Self::new(spec);
        for (key, element) in elements {
            set.insert(key, element);
        }
        set
    }

    /// Puts an element in, in place of one that has the same key.
    pub fn insert(&mut self, key: Value, mut element: Element) {
        if element.key_end.as_ref() == Some(&key) {
            element.key_end = None;
        }
        self.elements.insert(key, element);
    }

    /// Puts a prefix into a set of addresses with intervals.
    pub fn insert_prefix(&mut self, prefix: ipnet::IpNet) {
        self.insert(prefix.network().into(), Element::until(prefix.broadcast().into()));
    }
}

/// Where a base chain is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Base {
    /// Its type.
    pub kind: ChainKind,
    /// The hook.
    pub hook: Hook,
    /// Chains with lower priorities are worked off first.
    pub priority: i32,
    /// What becomes of packets that get to its end: `true` for accept, `false` for drop.
    pub accept: bool,
}

/// A base chain's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainKind {
    /// `filter`
    Filter,
    /// `nat`: sees the first packet of each connection
    Nat,
    /// `route`: looks the route up again when the packet changed
    Route,
}

impl ChainKind {
    /// nft's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }
}

/// A hook (linux/netfilter.h, enum nf_inet_hooks).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Everything that comes in.
    Prerouting,
    /// What is for this machine.
    Input,
    /// What is for others.
    Forward,
    /// What this machine sends.
    Output,
    /// Everything that goes out.
    Postrouting,
}

impl Hook {
    /// The kernel's number.
    pub const fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }

    /// nft's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// Priorities (linux/netfilter_ipv4.h, enum nf_ip_hook_priorities).
pub mod priority {
    /// Before connection tracking.
    pub const RAW: i32 = -300;
    /// Destination translation.
    pub const DSTNAT: i32 = -100;
    /// Filtering.
    pub const FILTER: i32 = 0;
    /// Source translation.
    pub const SRCNAT: i32 = 100;
}

/// A chain as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where it is attached, if it is not just called by other chains.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// A chain that other chains call.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), base: None, rules: Vec::new() }
    }

    /// A chain attached to a hook, that accepts what gets to its end.
    pub fn base(name: impl Into<String>, kind: ChainKind, hook: Hook, priority: i32) -> Self {
        let base = Base { kind, hook, priority, accept: true };
        Self { name: name.into(), base: Some(base), rules: Vec::new() }
    }

    /// Adds a rule at the end.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }
}
