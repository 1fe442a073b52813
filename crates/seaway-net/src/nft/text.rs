//! nft's syntax: for dry runs and golden files, and for `nft -f`.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::field::{Direction, FibAddress, Field, NumgenMode, Tuple, ct_state, ct_status};
use super::rule::{Comparison, Learn, NatFlags, NatKind, NatTarget, Reject, Rule, Statement, Verdict};
use super::table::{Base, Chain, Data, Declaration, Element, Family, MapData, Set, SetSpec, Table};
use super::transaction::{Operation, Transaction};
use super::value::{DataType, Value};

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::IpSaddr => "ip saddr",
            Self::IpDaddr => "ip daddr",
            Self::Ip6Saddr => "ip6 saddr",
            Self::Ip6Daddr => "ip6 daddr",
            Self::ThSport => "th sport",
            Self::ThDport => "th dport",
            Self::TcpFlags => "tcp flags",
            Self::L4Proto => "meta l4proto",
            Self::NfProto => "meta nfproto",
            Self::Mark => "meta mark",
            Self::IifName => "iifname",
            Self::OifName => "oifname",
            Self::CtState => "ct state",
            Self::CtStatus => "ct status",
            Self::CtMark => "ct mark",
            Self::CtDirection => "ct direction",
            Self::FibType(FibAddress::Saddr) => "fib saddr type",
            Self::FibType(FibAddress::Daddr) => "fib daddr type",
            Self::FibReversePath => "fib saddr . iif oif",
            Self::SocketMark => "socket mark",
            Self::CtTuple(direction, tuple) => return write_tuple(f, *direction, *tuple),
            Self::Numgen { mode, modulus, offset } => {
                let mode = match mode {
                    NumgenMode::Incremental => "inc",
                    NumgenMode::Random => "random",
                };
                write!(f, "numgen {mode} mod {modulus}")?;
                return if *offset == 0 { Ok(()) } else { write!(f, " offset {offset}") };
            }
        };
        f.write_str(text)
    }
}

fn write_tuple(f: &mut Formatter<'_>, direction: Direction, tuple: Tuple) -> fmt::Result {
    let direction = match direction {
        Direction::Original => "original",
        Direction::Reply => "reply",
    };
    let tuple = match tuple {
        Tuple::IpSaddr => "ip saddr",
        Tuple::IpDaddr => "ip daddr",
        Tuple::Ip6Saddr => "ip6 saddr",
        Tuple::Ip6Daddr => "ip6 daddr",
        Tuple::Protocol => "protocol",
        Tuple::ProtoSrc => "proto-src",
        Tuple::ProtoDst => "proto-dst",
    };
    write!(f, "ct {direction} {tuple}")
}

/// Several things with ` . ` between them, as in nft's concatenations.
struct Concatenated<'a, T>(&'a [T]);

impl<T: Display> Display for Concatenated<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, field) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" . ")?;
            }
            field.fmt(f)?;
        }
        Ok(())
    }
}

impl Display for DataType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Continue => f.write_str("continue"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        })
    }
}

impl Display for NatFlags {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut separator = " ";
        for (set, name) in
            [(self.random, "random"), (self.fully_random, "fully-random"), (self.persistent, "persistent")]
        {
            if set {
                write!(f, "{separator}{name}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

/// A rule as it is written in a table of a family: what `reject` says depends on it.
struct InFamily<'a>(&'a Rule, Family);

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        InFamily(self, Family::Inet).fmt(f)
    }
}

impl Display for InFamily<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, statement) in self.0.statements.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            match statement {
                Statement::Reject(reject) => f.write_str(reject_text(*reject, self.1))?,
                statement => statement.fmt(f)?,
            }
        }
        if let Some(comment) = &self.0.comment {
            write!(f, " comment {}", Quoted(comment))?;
        }
        Ok(())
    }
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compare { field, mask, comparison, value } => {
                write_compare(f, *field, mask.as_ref(), *comparison, value)
            }
            Self::Range { field, negate, first, last } => {
                let types = [field.data_type()];
                let not = if *negate { "!= " } else { "" };
                write!(f, "{field} {not}{}-{}", first.typed(&types), last.typed(&types))
            }
            Self::NameBegins { field, negate, prefix } => {
                let not = if *negate { "!= " } else { "" };
                write!(f, "{field} {not}\"{prefix}*\"")
            }
            Self::OneOf { field, negate, values } => {
                let types = [field.data_type()];
                let not = if *negate { "!= " } else { "" };
                let values: Vec<_> = values.iter().map(|value| value.typed(&types).to_string()).collect();
                write!(f, "{field} {not}{{ {} }}", values.join(", "))
            }
            Self::InSet { key, negate, set } => {
                let not = if *negate { "!= " } else { "" };
                write!(f, "{} {not}@{set}", Concatenated(key))
            }
            Self::VerdictMap { key, map } => write!(f, "{} vmap @{map}", Concatenated(key)),
            Self::VerdictOf { field, verdicts } => {
                let types = [field.data_type()];
                let mut before = format!("{field} vmap {{ ");
                for (value, verdict) in verdicts {
                    write!(f, "{before}{} : {verdict}", value.typed(&types))?;
                    ", ".clone_into(&mut before);
                }
                f.write_str(" }")
            }
            Self::Verdict(verdict) => verdict.fmt(f),
            Self::Nat { kind, family, to, flags } => {
                let kind = match kind {
                    NatKind::Source => "snat",
                    NatKind::Destination => "dnat",
                };
                write!(f, "{kind} {} to {to}{flags}", family.name())
            }
            Self::Masquerade { ports, flags } => {
                f.write_str("masquerade")?;
                if let Some((first, last)) = ports {
                    write!(f, " to :{}", Ports(*first, *last))?;
                }
                flags.fmt(f)
            }
            Self::Redirect { port: None } => f.write_str("redirect"),
            Self::Redirect { port: Some(port) } => write!(f, "redirect to :{port}"),
            Self::Counter => f.write_str("counter"),
            Self::Reject(reject) => f.write_str(reject_text(*reject, Family::Inet)),
            Self::NoTrack => f.write_str("notrack"),
            Self::Log { prefix, group } => {
                write!(f, "log prefix {}", Quoted(prefix))?;
                group.map_or(Ok(()), |group| write!(f, " group {group}"))
            }
            Self::Limit { rate, per, burst } => {
                write!(f, "limit rate {rate}/{} burst {burst} packets", unit(*per))
            }
            Self::Learn { operation, set, key, data, timeout } => {
                write_learn(f, *operation, set, key, data, *timeout)
            }
            Self::SetMark(mark) => write!(f, "meta mark set {mark:#010x}"),
            Self::Trace => f.write_str("meta nftrace set 1"),
        }
    }
}

fn write_compare(
    f: &mut Formatter<'_>,
    field: Field,
    mask: Option<&Value>,
    comparison: Comparison,
    value: &Value,
) -> fmt::Result {
    let types = [field.data_type()];
    let operator = match comparison {
        Comparison::Equal => String::new(),
        other => format!("{other} "),
    };
    let Some(mask) = mask else {
        return write!(f, "{field} {operator}{}", value.typed(&types));
    };
    let zero = value.bytes().iter().all(|&byte| byte == 0);
    if let (Some(names), true) = (bit_names(field, mask), zero) {
        return match comparison {
            Comparison::NotEqual => write!(f, "{field} {names}"),
            _ => write!(f, "{field} ! {names}"),
        };
    }
    if let Some(length) = prefix_length(types[0], mask) {
        return write!(f, "{field} {operator}{}/{length}", value.typed(&types));
    }
    let shown = if comparison == Comparison::Equal { "== " } else { operator.as_str() };
    write!(f, "{field} & {} {shown}{}", mask.typed(&types), value.typed(&types))
}

/// Names of the bits of a connection's state or status, with commas.
fn bit_names(field: Field, mask: &Value) -> Option<String> {
    let names: &[(u32, &str)] = match field.data_type() {
        DataType::CtState => &[
            (ct_state::INVALID, "invalid"),
            (ct_state::ESTABLISHED, "established"),
            (ct_state::RELATED, "related"),
            (ct_state::NEW, "new"),
            (ct_state::UNTRACKED, "untracked"),
        ],
        DataType::CtStatus => &[
            (ct_status::EXPECTED, "expected"),
            (ct_status::SEEN_REPLY, "seen-reply"),
            (ct_status::ASSURED, "assured"),
            (ct_status::CONFIRMED, "confirmed"),
            (ct_status::SNAT, "snat"),
            (ct_status::DNAT, "dnat"),
            (ct_status::DYING, "dying"),
        ],
        _ => return None,
    };
    let bits = u32::from_ne_bytes(mask.bytes().try_into().ok()?);
    let known: Vec<_> = names.iter().filter(|(bit, _)| bits & bit != 0).collect();
    let all = known.iter().fold(0, |all, (bit, _)| all | bit);
    (all == bits).then(|| known.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(","))
}

/// The prefix length that an address mask stands for.
fn prefix_length(kind: DataType, mask: &Value) -> Option<u32> {
    if !matches!(kind, DataType::Ipv4Addr | DataType::Ipv6Addr) {
        return None;
    }
    let ones = mask.bytes().iter().map(|byte| byte.count_ones()).sum();
    let leading = mask
        .bytes()
        .iter()
        .position(|&byte| byte != 0xff)
        .map_or(ones, |index| 8 * index as u32 + mask.bytes()[index].leading_ones());
    (ones == leading).then_some(ones)
}

fn write_learn(
    f: &mut Formatter<'_>,
    operation: Learn,
    set: &str,
    key: &[Field],
    data: &[Field],
    timeout: Option<Duration>,
) -> fmt::Result {
    let verb = match operation {
        Learn::Add => "add",
        Learn::Update => "update",
        Learn::Delete => "delete",
    };
    write!(f, "{verb} @{set} {{ {}", Concatenated(key))?;
    if let Some(timeout) = timeout {
        write!(f, " timeout {}", Time(timeout))?;
    }
    if !data.is_empty() {
        write!(f, " : {}", Concatenated(data))?;
    }
    f.write_str(" }")
}

fn reject_text(reject: Reject, family: Family) -> &'static str {
    match (reject, family) {
        (Reject::TcpReset, _) => "reject with tcp reset",
        (Reject::PortUnreachable | Reject::ProtocolUnreachable, Family::Inet | Family::Bridge) => {
            "reject with icmpx port-unreachable"
        }
        (Reject::AdminProhibited, Family::Inet | Family::Bridge) => "reject with icmpx admin-prohibited",
        (Reject::HostUnreachable, Family::Inet | Family::Bridge) => "reject with icmpx host-unreachable",
        (Reject::NoRoute, Family::Inet | Family::Bridge) => "reject with icmpx no-route",
        (Reject::ProtocolUnreachable, Family::Ip) => "reject with icmp prot-unreachable",
        (Reject::PortUnreachable, Family::Ip) => "reject with icmp port-unreachable",
        (Reject::AdminProhibited, Family::Ip) => "reject with icmp admin-prohibited",
        (Reject::HostUnreachable, Family::Ip) => "reject with icmp host-unreachable",
        (Reject::NoRoute, Family::Ip) => "reject with icmp net-unreachable",
        (Reject::PortUnreachable | Reject::ProtocolUnreachable, Family::Ip6) => {
            "reject with icmpv6 port-unreachable"
        }
        (Reject::AdminProhibited, Family::Ip6) => "reject with icmpv6 admin-prohibited",
        (Reject::HostUnreachable, Family::Ip6) => "reject with icmpv6 addr-unreachable",
        (Reject::NoRoute, Family::Ip6) => "reject with icmpv6 no-route",
    }
}

impl Display for NatTarget {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map { key, map, .. } => write!(f, "{} map @{map}", Concatenated(key)),
            Self::Addresses { first, last, ports } => {
                let bracket = first.is_ipv6() && ports.is_some();
                let (open, close) = if bracket { ("[", "]") } else { ("", "") };
                write!(f, "{open}{first}{close}")?;
                if last != first {
                    write!(f, "-{open}{last}{close}")?;
                }
                ports.map_or(Ok(()), |(first, last)| write!(f, ":{}", Ports(first, last)))
            }
        }
    }
}

struct Ports(u16, u16);

impl Display for Ports {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { write!(f, "{}", self.0) } else { write!(f, "{}-{}", self.0, self.1) }
    }
}

/// A quoted string; nft knows no escapes, so quotation marks and line breaks become something else.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('"', "'").replace(['\n', '\r'], " "))
    }
}

/// A time in nft's syntax: `1h30m`.
struct Time(Duration);

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
            if rest >= size {
                write!(f, "{}{name}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

fn unit(seconds: u64) -> &'static str {
    match seconds {
        60 => "minute",
        3600 => "hour",
        86_400 => "day",
        604_800 => "week",
        _ => "second",
    }
}

impl Display for Declaration {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Typeof(fields) => write!(f, "{}", Concatenated(fields)),
            Self::Type(types) => write!(f, "{}", Concatenated(types)),
        }
    }
}

impl SetSpec {
    const fn keyword(&self) -> &'static str {
        if self.data.is_some() { "map" } else { "set" }
    }

    /// An element of this set in nft's syntax.
    pub fn element_text<'a>(&self, key: &'a Value, element: &'a Element) -> ElementText<'a> {
        ElementText {
            key_types: self.key.types(),
            data_types: self.data_types().unwrap_or_default(),
            key,
            element,
        }
    }

    /// The declaration, a line each.
    fn write_lines(&self, f: &mut Formatter<'_>, indent: &str) -> fmt::Result {
        let keyword = match self.key {
            Declaration::Typeof(_) => "typeof",
            Declaration::Type(_) => "type",
        };
        write!(f, "{indent}{keyword} {}", self.key)?;
        match &self.data {
            None => writeln!(f)?,
            Some(MapData::Verdict) => writeln!(f, " : verdict")?,
            Some(MapData::Values(data)) => writeln!(f, " : {data}")?,
        }
        if let Some(size) = self.size {
            writeln!(f, "{indent}size {size}")?;
        }
        let flags: Vec<_> = [
            (self.constant, "constant"),
            (self.dynamic, "dynamic"),
            (self.interval, "interval"),
            (self.timeouts, "timeout"),
        ]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect();
        if !flags.is_empty() {
            writeln!(f, "{indent}flags {}", flags.join(","))?;
        }
        if let Some(timeout) = self.default_timeout {
            writeln!(f, "{indent}timeout {}", Time(timeout))?;
        }
        if let Some(comment) = &self.comment {
            writeln!(f, "{indent}comment {}", Quoted(comment))?;
        }
        Ok(())
    }
}

/// An element with the types that say how to print it; see [`SetSpec::element_text`].
#[derive(Debug)]
pub struct ElementText<'a> {
    key_types: Vec<DataType>,
    data_types: Vec<DataType>,
    key: &'a Value,
    element: &'a Element,
}

impl Display for ElementText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key.typed_range(self.element.key_end.as_ref(), &self.key_types))?;
        if let Some(timeout) = self.element.timeout {
            write!(f, " timeout {}", Time(timeout))?;
        }
        if let Some(comment) = &self.element.comment {
            write!(f, " comment {}", Quoted(comment))?;
        }
        match &self.element.data {
            None => Ok(()),
            Some(Data::Verdict(verdict)) => write!(f, " : {verdict}"),
            Some(Data::Value(value)) => write!(f, " : {}", value.typed(&self.data_types)),
        }
    }
}

impl Display for Base {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let policy = if self.accept { "accept" } else { "drop" };
        let (kind, hook) = (self.kind.name(), self.hook.name());
        write!(f, "type {kind} hook {hook} priority {}; policy {policy};", self.priority)
    }
}

impl Display for Set {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\t{} {} {{", self.spec.keyword(), self.spec.name)?;
        self.spec.write_lines(f, "\t\t")?;
        let mut before = "\t\telements = { ";
        for (key, element) in &self.elements {
            write!(f, "{before}{}", self.spec.element_text(key, element))?;
            before = ",\n\t\t             ";
        }
        if !self.elements.is_empty() {
            f.write_str(" }\n")?;
        }
        f.write_str("\t}\n")
    }
}

fn write_chain(f: &mut Formatter<'_>, chain: &Chain, family: Family) -> fmt::Result {
    writeln!(f, "\tchain {} {{", chain.name)?;
    if let Some(base) = &chain.base {
        writeln!(f, "\t\t{base}")?;
    }
    for rule in &chain.rules {
        writeln!(f, "\t\t{}", InFamily(rule, family))?;
    }
    f.write_str("\t}\n")
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {{", self.id)?;
        if self.owner {
            f.write_str("\tflags owner\n\n")?;
        }
        let mut separator = "";
        for set in &self.sets {
            write!(f, "{separator}{set}")?;
            separator = "\n";
        }
        for chain in &self.chains {
            f.write_str(separator)?;
            write_chain(f, chain, self.id.family)?;
            separator = "\n";
        }
        f.write_str("}\n")
    }
}

impl Display for Transaction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for operation in &self.operations {
            self.write_operation(f, operation)?;
        }
        Ok(())
    }
}

impl Transaction {
    fn write_operation(&self, f: &mut Formatter<'_>, operation: &Operation) -> fmt::Result {
        let table = &self.table;
        match operation {
            Operation::AddTable { owner: false } => writeln!(f, "add table {table}"),
            Operation::AddTable { owner: true } => writeln!(f, "add table {table} {{ flags owner; }}"),
            Operation::DeleteTable => writeln!(f, "delete table {table}"),
            Operation::AddChain(chain) => match &chain.base {
                None => writeln!(f, "add chain {table} {}", chain.name),
                Some(base) => writeln!(f, "add chain {table} {} {{ {base} }}", chain.name),
            },
            Operation::DeleteChain(name) => writeln!(f, "delete chain {table} {name}"),
            Operation::FlushChain(name) => writeln!(f, "flush chain {table} {name}"),
            Operation::AddRule { chain, rule } => {
                writeln!(f, "add rule {table} {chain} {}", InFamily(rule, table.family))
            }
            Operation::DeleteRule { chain, handle } => {
                writeln!(f, "delete rule {table} {chain} handle {handle}")
            }
            Operation::AddSet(spec) => {
                writeln!(f, "add {} {table} {} {{", spec.keyword(), spec.name)?;
                spec.write_lines(f, "\t")?;
                f.write_str("}\n")
            }
            Operation::DeleteSet(name) => writeln!(f, "delete set {table} {name}"),
            Operation::FlushSet(name) => writeln!(f, "flush set {table} {name}"),
            Operation::AddElements(spec, elements) | Operation::DeleteElements(spec, elements) => {
                let verb = operation.verb();
                let mut before = format!("{verb} element {table} {} {{ ", spec.name);
                for (key, element) in elements {
                    write!(f, "{before}{}", spec.element_text(key, element))?;
                    ", ".clone_into(&mut before);
                }
                f.write_str(" }\n")
            }
        }
    }
}
