//! Rules: what to look at and what to do, in order.

use std::time::Duration;

use super::field::Field;
use super::table::Family;
use super::value::Value;

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Let it pass this hook.
    Accept,
    /// Drop it.
    Drop,
    /// Go on with the next rule.
    Continue,
    /// Go back to the chain that jumped here.
    Return,
    /// Go through another chain and come back.
    Jump(String),
    /// Go through another chain and come back to whoever jumped here.
    Goto(String),
}

/// How a field is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// Where a translated address or port comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NatTarget {
    /// `ip daddr . meta l4proto map @NAME`: address, and port when the map's data has one
    Map {
        /// The key to look up.
        key: Vec<Field>,
        /// The map's name.
        map: String,
        /// Whether the map's data is an address and a port, or an address alone.
        port: bool,
    },
    /// Fixed addresses, from `first` to `last`; one address has both the same.
    Addresses {
        /// First address.
        first: std::net::IpAddr,
        /// Last address.
        last: std::net::IpAddr,
        /// First and last port, if the port is translated.
        ports: Option<(u16, u16)>,
    },
}

/// How translation chooses ports and addresses (linux/netfilter/nf_nat.h, NF_NAT_RANGE_*).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct NatFlags {
    /// `random`: port by a hash
    pub random: bool,
    /// `fully-random`: port at random
    pub fully_random: bool,
    /// `persistent`: the same client gets the same address
    pub persistent: bool,
}

impl NatFlags {
    /// `fully-random`
    pub const FULLY_RANDOM: Self = Self { random: false, fully_random: true, persistent: false };
    /// `random`
    pub const RANDOM: Self = Self { random: true, fully_random: false, persistent: false };
}

/// Source or destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NatKind {
    /// `snat`
    Source,
    /// `dnat`
    Destination,
}

/// What a refused sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    /// `with tcp reset`; only for TCP
    TcpReset,
    /// ICMP or ICMPv6 port unreachable, by the packet's family
    PortUnreachable,
    /// ICMP protocol unreachable, which ends an SCTP handshake (RFC 9260, section 10); port unreachable outside of IPv4's
    /// tables: ICMPv6 says so by another type (RFC 4443, section 3.4), which no rule can send
    ProtocolUnreachable,
    /// ICMP or ICMPv6 communication administratively prohibited, by the packet's family
    AdminProhibited,
    /// ICMP host or ICMPv6 address unreachable, by the packet's family
    HostUnreachable,
    /// ICMP or ICMPv6 no route (network unreachable), by the packet's family
    NoRoute,
}

/// How a rule puts elements into a set (enum nft_dynset_ops).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Learn {
    /// Only when it is not there yet.
    Add,
    /// Also renew its timeout.
    Update,
    /// Take it out.
    Delete,
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Statement {
    /// `ip daddr == 10.0.0.1`, `ct status & dnat != 0`
    Compare {
        /// What is compared.
        field: Field,
        /// Bits that count; all when `None`.
        mask: Option<Value>,
        /// How.
        comparison: Comparison,
        /// With what.
        value: Value,
    },
    /// `th dport 1000-2000`
    Range {
        /// What is compared.
        field: Field,
        /// Match outside of the range instead.
        negate: bool,
        /// First value in the range.
        first: Value,
        /// Last value in the range.
        last: Value,
    },
    /// `iifname "veth*"`: an interface whose name begins so
    NameBegins {
        /// `iifname` or `oifname`.
        field: Field,
        /// Match other interfaces instead.
        negate: bool,
        /// What the name begins with: 1 to 15 bytes.
        prefix: String,
    },
    /// `meta l4proto { tcp, udp }`: one of several values, as an anonymous set of the rule
    OneOf {
        /// What is looked up.
        field: Field,
        /// Match what is not among the values instead.
        negate: bool,
        /// The values.
        values: Vec<Value>,
    },
    /// `ip daddr . th dport @NAME`
    InSet {
        /// What is looked up.
        key: Vec<Field>,
        /// Match what is not in the set instead.
        negate: bool,
        /// The set's name.
        set: String,
    },
    /// `ip daddr . th dport vmap @NAME`
    VerdictMap {
        /// What is looked up.
        key: Vec<Field>,
        /// The map's name.
        map: String,
    },
    /// `numgen random mod 2 vmap { 0 : goto NAME, 1 : goto OTHER }`, as an anonymous map of the rule
    VerdictOf {
        /// What is looked up.
        field: Field,
        /// What becomes of packets with which value.
        verdicts: Vec<(Value, Verdict)>,
    },
    /// `accept`, `jump NAME`
    Verdict(Verdict),
    /// `dnat ip to …`, `snat ip to …`
    Nat {
        /// Source or destination.
        kind: NatKind,
        /// Of which family the address is.
        family: Family,
        /// The new address and port.
        to: NatTarget,
        /// How to choose.
        flags: NatFlags,
    },
    /// `masquerade to :FIRST-LAST fully-random`
    Masquerade {
        /// First and last port to use, any when `None`.
        ports: Option<(u16, u16)>,
        /// How to choose.
        flags: NatFlags,
    },
    /// `redirect to :PORT`
    Redirect {
        /// New port, unchanged when `None`.
        port: Option<u16>,
    },
    /// `counter`
    Counter,
    /// `reject with …`
    Reject(Reject),
    /// `notrack`
    NoTrack,
    /// `log prefix "…"`
    Log {
        /// Text before each line.
        prefix: String,
        /// To a netlink log group instead of the kernel's log.
        group: Option<u16>,
    },
    /// `limit rate RATE/second burst BURST packets`
    Limit {
        /// Packets per `per`.
        rate: u64,
        /// Seconds: 1, 60, 3600, 86400 or 604800.
        per: u64,
        /// Packets beyond the rate.
        burst: u32,
    },
    /// `update @NAME { KEY timeout 3h : DATA }`
    Learn {
        /// Add, update or delete.
        operation: Learn,
        /// The set's or map's name; it needs the `dynamic` flag.
        set: String,
        /// The key.
        key: Vec<Field>,
        /// The data, for a map.
        data: Vec<Field>,
        /// Timeout of the element, if not the set's own.
        timeout: Option<Duration>,
    },
    /// `meta mark set VALUE`
    SetMark(u32),
    /// `meta nftrace set 1`
    Trace,
}

/// A rule: its statements are worked off in order until one does not match or says a verdict.
///
/// ```
/// use seaway_net::nft::{Family, Field, Rule, TCP, UDP, SCTP};
/// let key = [Field::IpDaddr, Field::L4Proto, Field::ThDport, Field::random(10)];
/// let rule = Rule::new().l4proto_in([TCP, UDP, SCTP]).dnat_map(Family::Ip, key, "endpoints");
/// assert_eq!(rule.to_string(),
///     "meta l4proto { tcp, udp, sctp } dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 10 map @endpoints");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What it does, in order.
    pub statements: Vec<Statement>,
    /// Shown by `nft list`; at most 127 bytes.
    pub comment: Option<String>,
}

impl Rule {
    /// A number that stands for the whole rule: it is kept with the rule in the kernel and tells whether the rule there
    /// is this one. FNV-1a (64 bits) of the rule's text, so it is the same in every process and on every machine.
    pub fn digest(&self) -> u64 {
        let offset = 0xcbf2_9ce4_8422_2325;
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        self.to_string().bytes().fold(offset, step)
    }

    /// A rule without statements.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends any statement.
    #[must_use]
    pub fn statement(mut self, statement: Statement) -> Self {
        self.statements.push(statement);
        self
    }

    /// `comment "…"`
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    /// `FIELD == VALUE`
    #[must_use]
    pub fn equal(self, field: Field, value: impl Into<Value>) -> Self {
        self.compare(field, Comparison::Equal, value.into())
    }

    /// `FIELD != VALUE`
    #[must_use]
    pub fn not_equal(self, field: Field, value: impl Into<Value>) -> Self {
        self.compare(field, Comparison::NotEqual, value.into())
    }

    /// `FIELD COMPARISON VALUE`
    #[must_use]
    pub fn compare(self, field: Field, comparison: Comparison, value: Value) -> Self {
        self.statement(Statement::Compare { field, mask: None, comparison, value })
    }

    /// Any of the bits is set, as in `ct status dnat` or `ct state established,related`.
    #[must_use]
    pub fn any_bit(self, field: Field, bits: u32) -> Self {
        self.statement(Statement::Compare {
            field,
            mask: Some(Value::new().number(bits)),
            comparison: Comparison::NotEqual,
            value: Value::new().number(0),
        })
    }

    /// None of the bits is set, as in `ct status ! dnat`.
    #[must_use]
    pub fn no_bit(self, field: Field, bits: u32) -> Self {
        self.statement(Statement::Compare {
            field,
            mask: Some(Value::new().number(bits)),
            comparison: Comparison::Equal,
            value: Value::new().number(0),
        })
    }

    /// The address is (or, with `negate`, is not) in the prefix.
    #[must_use]
    pub fn in_prefix(self, field: Field, prefix: ipnet::IpNet, negate: bool) -> Self {
        let comparison = if negate { Comparison::NotEqual } else { Comparison::Equal };
        let mask = (prefix.prefix_len() < prefix.max_prefix_len()).then(|| prefix.netmask().into());
        self.statement(Statement::Compare { field, mask, comparison, value: prefix.network().into() })
    }

    /// `iifname "PREFIX*"`, or with `negate` `iifname != "PREFIX*"`
    #[must_use]
    pub fn name_begins(self, field: Field, prefix: impl Into<String>, negate: bool) -> Self {
        self.statement(Statement::NameBegins { field, negate, prefix: prefix.into() })
    }

    /// `meta l4proto PROTOCOL`
    #[must_use]
    pub fn l4proto(self, protocol: u8) -> Self {
        self.equal(Field::L4Proto, Value::new().protocol(protocol))
    }

    /// `meta l4proto { … }`
    #[must_use]
    pub fn l4proto_in(self, protocols: impl IntoIterator<Item = u8>) -> Self {
        let values = protocols.into_iter().map(|protocol| Value::new().protocol(protocol)).collect();
        self.statement(Statement::OneOf { field: Field::L4Proto, negate: false, values })
    }

    /// `KEY @SET`
    #[must_use]
    pub fn in_set(self, key: impl Into<Vec<Field>>, set: impl Into<String>) -> Self {
        self.statement(Statement::InSet { key: key.into(), negate: false, set: set.into() })
    }

    /// `KEY != @SET`
    #[must_use]
    pub fn not_in_set(self, key: impl Into<Vec<Field>>, set: impl Into<String>) -> Self {
        self.statement(Statement::InSet { key: key.into(), negate: true, set: set.into() })
    }

    /// `KEY vmap @MAP`
    #[must_use]
    pub fn vmap(self, key: impl Into<Vec<Field>>, map: impl Into<String>) -> Self {
        self.statement(Statement::VerdictMap { key: key.into(), map: map.into() })
    }

    /// `dnat FAMILY to KEY map @MAP`, the map giving address and port
    #[must_use]
    pub fn dnat_map(self, family: Family, key: impl Into<Vec<Field>>, map: impl Into<String>) -> Self {
        self.statement(Statement::Nat {
            kind: NatKind::Destination,
            family,
            to: NatTarget::Map { key: key.into(), map: map.into(), port: true },
            flags: NatFlags::default(),
        })
    }

    /// `masquerade FLAGS`
    #[must_use]
    pub fn masquerade(self, flags: NatFlags) -> Self {
        self.statement(Statement::Masquerade { ports: None, flags })
    }

    /// `counter`
    #[must_use]
    pub fn counter(self) -> Self {
        self.statement(Statement::Counter)
    }

    /// `reject with …`
    #[must_use]
    pub fn reject(self, reject: Reject) -> Self {
        self.statement(Statement::Reject(reject))
    }

    /// A verdict.
    #[must_use]
    pub fn verdict(self, verdict: Verdict) -> Self {
        self.statement(Statement::Verdict(verdict))
    }

    /// `accept`
    #[must_use]
    pub fn accept(self) -> Self {
        self.verdict(Verdict::Accept)
    }

    /// `drop`
    #[must_use]
    pub fn drop(self) -> Self {
        self.verdict(Verdict::Drop)
    }

    /// `return`
    #[must_use]
    pub fn return_(self) -> Self {
        self.verdict(Verdict::Return)
    }

    /// `jump CHAIN`
    #[must_use]
    pub fn jump(self, chain: impl Into<String>) -> Self {
        self.verdict(Verdict::Jump(chain.into()))
    }

    /// `goto CHAIN`
    #[must_use]
    pub fn goto(self, chain: impl Into<String>) -> Self {
        self.verdict(Verdict::Goto(chain.into()))
    }
}
