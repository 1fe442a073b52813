//! Rules as the kernel's expressions on registers.
//!
//! A concatenation lies in consecutive registers of 4 bytes, from the first on. Nothing lives in a register from one
//! statement to the next.

use super::field::{FibAddress, Field, NumgenMode};
use super::rule::{Comparison, Learn, NatFlags, NatKind, NatTarget, Reject, Statement, Verdict};
use super::table::Family;
use super::uapi::{EXPR_DATA, EXPR_NAME, LIST_ELEM, REG_VERDICT, REG32_00, data, nat_range, verdict};
use super::userdata::{ct_key, meta_key};
use super::value::{DataType, Value};
use crate::netlink::{Writer, align};

/// NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// Writes a rule's expressions.
pub(crate) struct Lowering<'a> {
    writer: &'a mut Writer,
    family: Family,
    /// Numbers in this batch of the rule's anonymous sets, in order.
    anonymous: std::slice::Iter<'a, u32>,
    /// In a table of family inet: which family has been asked for already.
    asked: Option<Family>,
}

/// The name under which every anonymous set is made; the kernel numbers them.
pub(crate) const ANONYMOUS: &str = "__set%d";

impl<'a> Lowering<'a> {
    pub(crate) fn new(writer: &'a mut Writer, family: Family, anonymous: &'a [u32]) -> Self {
        Self { writer, family, anonymous: anonymous.iter(), asked: None }
    }

    fn expression(&mut self, name: &str, body: impl FnOnce(&mut Writer)) {
        self.writer.nested(LIST_ELEM, |writer| {
            writer.string(EXPR_NAME, name);
            writer.nested(EXPR_DATA, body);
        });
    }

    fn bare(&mut self, name: &str) {
        self.writer.nested(LIST_ELEM, |writer| writer.string(EXPR_NAME, name));
    }

    pub(crate) fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Compare { field, mask, comparison, value } => {
                self.compare(*field, mask.as_ref(), *comparison, value);
            }
            Statement::Range { field, negate, first, last } => self.range(*field, *negate, first, last),
            Statement::NameBegins { field, negate, prefix } => {
                self.load(&[*field]);
                let comparison = if *negate { Comparison::NotEqual } else { Comparison::Equal };
                self.cmp(REG32_00, comparison, prefix.as_bytes());
            }
            Statement::OneOf { field, negate, .. } => {
                self.load(&[*field]);
                let id = self.anonymous.next().copied();
                self.lookup(ANONYMOUS, id, None, *negate);
            }
            Statement::InSet { key, negate, set } => {
                self.load(key);
                self.lookup(set, None, None, *negate);
            }
            Statement::VerdictOf { field, .. } => {
                self.load(&[*field]);
                let id = self.anonymous.next().copied();
                self.lookup(ANONYMOUS, id, Some(REG_VERDICT), false);
            }
            Statement::VerdictMap { key, map } => {
                self.load(key);
                self.lookup(map, None, Some(REG_VERDICT), false);
            }
            Statement::Verdict(verdict) => self.expression("immediate", |writer| {
                writer.be32(1, REG_VERDICT);
                writer.nested(2, |writer| write_verdict(writer, verdict));
            }),
            Statement::Nat { kind, family, to, flags } => self.nat(*kind, *family, to, *flags),
            Statement::Masquerade { ports, flags } => self.masquerade(*ports, *flags),
            Statement::Redirect { port } => self.redirect(*port),
            Statement::Counter => self.bare("counter"),
            Statement::Reject(reject) => self.reject(*reject),
            Statement::NoTrack => self.bare("notrack"),
            Statement::Log { prefix, group } => self.expression("log", |writer| {
                if let Some(group) = group {
                    writer.attribute(1, &group.to_be_bytes());
                }
                writer.string(2, prefix);
            }),
            Statement::Limit { rate, per, burst } => self.expression("limit", |writer| {
                writer.be64(1, *rate);
                writer.be64(2, *per);
                writer.be32(3, *burst);
                writer.be32(4, 0);
                writer.be32(5, 0);
            }),
            Statement::Learn { operation, set, key, data, timeout } => {
                self.learn(*operation, set, key, data, timeout.map(|timeout| timeout.as_millis() as u64));
            }
            Statement::SetMark(mark) => self.set_meta(3, &mark.to_ne_bytes()),
            Statement::Trace => self.set_meta(12, &[1]),
        }
    }

    /// Loads fields into consecutive registers from the first on.
    fn load(&mut self, fields: &[Field]) {
        self.ask_families(fields);
        self.load_at(REG32_00, fields);
    }

    /// Loads fields into consecutive registers; gives the register after them.
    fn load_at(&mut self, mut register: u32, fields: &[Field]) -> u32 {
        for field in fields {
            self.load_field(*field, register);
            register += (align(field.data_type().length()) / 4) as u32;
        }
        register
    }

    /// In a table for both families, an address of the header is there only in packets of its family.
    fn ask_families(&mut self, fields: &[Field]) {
        for field in fields {
            let family = match field {
                Field::IpSaddr | Field::IpDaddr => Family::Ip,
                Field::Ip6Saddr | Field::Ip6Daddr => Family::Ip6,
                _ => continue,
            };
            if self.family == Family::Inet && self.asked != Some(family) {
                self.load_field(Field::NfProto, REG32_00);
                self.cmp(REG32_00, Comparison::Equal, &[family.number()]);
                self.asked = Some(family);
            }
        }
    }

    fn load_field(&mut self, field: Field, register: u32) {
        match field {
            Field::IpSaddr => self.payload(register, NETWORK_HEADER, 12, 4),
            Field::IpDaddr => self.payload(register, NETWORK_HEADER, 16, 4),
            Field::Ip6Saddr => self.payload(register, NETWORK_HEADER, 8, 16),
            Field::Ip6Daddr => self.payload(register, NETWORK_HEADER, 24, 16),
            Field::ThSport => self.payload(register, TRANSPORT_HEADER, 0, 2),
            Field::ThDport => self.payload(register, TRANSPORT_HEADER, 2, 2),
            Field::TcpFlags => self.payload(register, TRANSPORT_HEADER, 13, 1),
            Field::L4Proto | Field::NfProto | Field::Mark | Field::IifName | Field::OifName => {
                if let Some(key) = meta_key(field) {
                    self.expression("meta", |writer| {
                        writer.be32(2, key);
                        writer.be32(1, register);
                    });
                }
            }
            Field::CtState | Field::CtStatus | Field::CtMark | Field::CtDirection | Field::CtTuple(..) => {
                if let Some((key, direction)) = ct_key(field) {
                    self.expression("ct", |writer| {
                        writer.be32(2, key);
                        writer.be32(1, register);
                        if let Some(direction) = direction {
                            writer.attribute(3, &[direction]);
                        }
                    });
                }
            }
            Field::Numgen { mode, modulus, offset } => self.expression("numgen", |writer| {
                writer.be32(1, register);
                writer.be32(2, modulus);
                writer.be32(3, u32::from(mode == NumgenMode::Random));
                writer.be32(4, offset);
            }),
            // NFT_FIB_RESULT_ADDRTYPE of NFTA_FIB_F_SADDR or _DADDR
            Field::FibType(FibAddress::Saddr) => self.fib(register, 3, 1),
            Field::FibType(FibAddress::Daddr) => self.fib(register, 3, 2),
            // NFT_FIB_RESULT_OIF of NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF
            Field::FibReversePath => self.fib(register, 1, 9),
            // NFT_SOCKET_MARK
            Field::SocketMark => self.expression("socket", |writer| {
                writer.be32(1, 1);
                writer.be32(2, register);
            }),
        }
    }

    fn payload(&mut self, register: u32, base: u32, offset: u32, length: u32) {
        self.expression("payload", |writer| {
            writer.be32(1, register);
            writer.be32(2, base);
            writer.be32(3, offset);
            writer.be32(4, length);
        });
    }

    fn fib(&mut self, register: u32, result: u32, flags: u32) {
        self.expression("fib", |writer| {
            writer.be32(3, flags);
            writer.be32(2, result);
            writer.be32(1, register);
        });
    }

    fn cmp(&mut self, register: u32, comparison: Comparison, value: &[u8]) {
        let operation = match comparison {
            Comparison::Equal => 0,
            Comparison::NotEqual => 1,
            Comparison::Less => 2,
            Comparison::LessOrEqual => 3,
            Comparison::Greater => 4,
            Comparison::GreaterOrEqual => 5,
        };
        self.expression("cmp", |writer| {
            writer.be32(1, register);
            writer.be32(2, operation);
            writer.nested(3, |writer| writer.attribute(data::VALUE, value));
        });
    }

    fn compare(&mut self, field: Field, mask: Option<&Value>, comparison: Comparison, value: &Value) {
        self.load(&[field]);
        let kind = field.data_type();
        if let Some(mask) = mask {
            let mask = exact(mask, kind);
            self.expression("bitwise", |writer| {
                writer.be32(1, REG32_00);
                writer.be32(2, REG32_00);
                writer.be32(6, 0);
                writer.be32(3, mask.len() as u32);
                writer.nested(4, |writer| writer.attribute(data::VALUE, mask));
                writer.nested(5, |writer| writer.attribute(data::VALUE, &vec![0; mask.len()]));
            });
        }
        let ordered = !matches!(comparison, Comparison::Equal | Comparison::NotEqual);
        let value = if ordered { self.big_endian(kind, value) } else { exact(value, kind).to_vec() };
        self.cmp(REG32_00, comparison, &value);
    }

    /// The kernel compares byte by byte: numbers in the machine's order must be turned around first.
    fn big_endian(&mut self, kind: DataType, value: &Value) -> Vec<u8> {
        let mut bytes = exact(value, kind).to_vec();
        if matches!(kind, DataType::Mark | DataType::Integer) {
            self.expression("byteorder", |writer| {
                writer.be32(1, REG32_00);
                writer.be32(2, REG32_00);
                writer.be32(3, 1); // NFT_BYTEORDER_HTON
                writer.be32(4, 4);
                writer.be32(5, 4);
            });
            if cfg!(target_endian = "little") {
                bytes.reverse();
            }
        }
        bytes
    }

    fn range(&mut self, field: Field, negate: bool, first: &Value, last: &Value) {
        self.load(&[field]);
        let kind = field.data_type();
        let first = self.big_endian(kind, first);
        let mut last = exact(last, kind).to_vec();
        if matches!(kind, DataType::Mark | DataType::Integer) && cfg!(target_endian = "little") {
            last.reverse();
        }
        if !negate {
            self.cmp(REG32_00, Comparison::GreaterOrEqual, &first);
            self.cmp(REG32_00, Comparison::LessOrEqual, &last);
            return;
        }
        self.expression("range", |writer| {
            writer.be32(1, REG32_00);
            writer.be32(2, 1); // NFT_RANGE_NEQ
            writer.nested(3, |writer| writer.attribute(data::VALUE, &first));
            writer.nested(4, |writer| writer.attribute(data::VALUE, &last));
        });
    }

    fn lookup(&mut self, set: &str, id: Option<u32>, destination: Option<u32>, negate: bool) {
        self.expression("lookup", |writer| {
            writer.be32(2, REG32_00);
            if let Some(destination) = destination {
                writer.be32(3, destination);
            }
            writer.string(1, set);
            if let Some(id) = id {
                writer.be32(4, id);
            }
            writer.be32(5, u32::from(negate)); // NFT_LOOKUP_F_INV
        });
    }

    fn immediate(&mut self, register: u32, value: &[u8]) {
        self.expression("immediate", |writer| {
            writer.be32(1, register);
            writer.nested(2, |writer| writer.attribute(data::VALUE, value));
        });
    }

    fn set_meta(&mut self, key: u32, value: &[u8]) {
        self.immediate(REG32_00, value);
        self.expression("meta", |writer| {
            writer.be32(2, key);
            writer.be32(3, REG32_00);
        });
    }

    fn nat(&mut self, kind: NatKind, family: Family, to: &NatTarget, flags: NatFlags) {
        let address = if family == Family::Ip6 { 4 } else { 1 };
        // Registers of the lowest and highest address and port.
        let (low, high, ports) = match to {
            NatTarget::Map { key, map, port } => {
                self.load(key);
                self.lookup(map, None, Some(REG32_00), false);
                let port = port.then_some(REG32_00 + address);
                (REG32_00, None, port.map(|port| (port, None)))
            }
            NatTarget::Addresses { first, last, ports } => {
                let (first_value, last_value) = (Value::from(*first), Value::from(*last));
                self.immediate(REG32_00, first_value.bytes());
                let high = (first != last).then_some(REG32_00 + address);
                if let Some(high) = high {
                    self.immediate(high, last_value.bytes());
                }
                let ports = ports.map(|ports| self.ports(REG32_00 + 2 * address, ports));
                (REG32_00, high, ports)
            }
        };
        self.expression("nat", |writer| {
            writer.be32(1, u32::from(kind == NatKind::Destination));
            writer.be32(2, u32::from(family.number()));
            writer.be32(3, low);
            if let Some(high) = high {
                writer.be32(4, high);
            }
            if let Some((low, high)) = ports {
                writer.be32(5, low);
                if let Some(high) = high {
                    writer.be32(6, high);
                }
            }
            write_nat_flags(writer, 7, flags);
        });
    }

    /// Puts ports into registers; gives the registers of the lowest and, if it is another, the highest.
    fn ports(&mut self, register: u32, (first, last): (u16, u16)) -> (u32, Option<u32>) {
        self.immediate(register, &first.to_be_bytes());
        if first == last {
            return (register, None);
        }
        self.immediate(register + 1, &last.to_be_bytes());
        (register, Some(register + 1))
    }

    fn masquerade(&mut self, ports: Option<(u16, u16)>, flags: NatFlags) {
        let ports = ports.map(|ports| self.ports(REG32_00, ports));
        self.expression("masq", |writer| {
            write_nat_flags(writer, 1, flags);
            if let Some((low, high)) = ports {
                writer.be32(2, low);
                writer.be32(3, high.unwrap_or(low));
            }
        });
    }

    fn redirect(&mut self, port: Option<u16>) {
        let port = port.map(|port| self.ports(REG32_00, (port, port)).0);
        self.expression("redir", |writer| {
            if let Some(port) = port {
                writer.be32(1, port);
            }
        });
    }

    fn reject(&mut self, reject: Reject) {
        let (kind, code) = reject_code(self.family, reject);
        self.expression("reject", |writer| {
            writer.be32(1, kind);
            writer.attribute(2, &[code]);
        });
    }

    fn learn(&mut self, operation: Learn, set: &str, key: &[Field], data: &[Field], timeout: Option<u64>) {
        self.ask_families(key);
        self.ask_families(data);
        let data_register = self.load_at(REG32_00, key);
        self.load_at(data_register, data);
        let operation = match operation {
            Learn::Add => 0,
            Learn::Update => 1,
            Learn::Delete => 2,
        };
        self.expression("dynset", |writer| {
            writer.be32(4, REG32_00);
            if !data.is_empty() {
                writer.be32(5, data_register);
            }
            writer.be32(3, operation);
            if let Some(timeout) = timeout {
                writer.be64(6, timeout);
            }
            writer.string(1, set);
        });
    }
}

/// A value cut to its type's length.
fn exact(value: &Value, kind: DataType) -> &[u8] {
    let bytes = value.bytes();
    &bytes[..kind.length().min(bytes.len())]
}

/// enum nft_reject_types and the ICMP, ICMPv6 or NFT_REJECT_ICMPX_* code.
fn reject_code(family: Family, reject: Reject) -> (u32, u8) {
    const ICMP: u32 = 0;
    const TCP_RST: u32 = 1;
    const ICMPX: u32 = 2;
    match (family, reject) {
        (_, Reject::TcpReset) => (TCP_RST, 0),
        (Family::Inet | Family::Bridge, Reject::NoRoute) => (ICMPX, 0),
        (Family::Inet | Family::Bridge, Reject::PortUnreachable | Reject::ProtocolUnreachable) => (ICMPX, 1),
        (Family::Inet | Family::Bridge, Reject::HostUnreachable) => (ICMPX, 2),
        (Family::Inet | Family::Bridge, Reject::AdminProhibited) => (ICMPX, 3),
        (Family::Ip, Reject::NoRoute) => (ICMP, 0),
        (Family::Ip, Reject::HostUnreachable) => (ICMP, 1),
        (Family::Ip, Reject::ProtocolUnreachable) => (ICMP, 2),
        (Family::Ip, Reject::PortUnreachable) => (ICMP, 3),
        (Family::Ip, Reject::AdminProhibited) => (ICMP, 13),
        (Family::Ip6, Reject::NoRoute) => (ICMP, 0),
        (Family::Ip6, Reject::AdminProhibited) => (ICMP, 1),
        (Family::Ip6, Reject::HostUnreachable) => (ICMP, 3),
        (Family::Ip6, Reject::PortUnreachable | Reject::ProtocolUnreachable) => (ICMP, 4),
    }
}

fn write_nat_flags(writer: &mut Writer, attribute: u16, flags: NatFlags) {
    let mut bits = 0;
    for (set, bit) in [
        (flags.random, nat_range::PROTO_RANDOM),
        (flags.fully_random, nat_range::PROTO_RANDOM_FULLY),
        (flags.persistent, nat_range::PERSISTENT),
    ] {
        if set {
            bits |= bit;
        }
    }
    if bits != 0 {
        writer.be32(attribute, bits);
    }
}

/// Writes a verdict as data, in a nest opened by the caller.
pub(crate) fn write_verdict(writer: &mut Writer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (verdict::ACCEPT, None),
        Verdict::Drop => (verdict::DROP, None),
        Verdict::Continue => (verdict::CONTINUE, None),
        Verdict::Return => (verdict::RETURN, None),
        Verdict::Jump(chain) => (verdict::JUMP, Some(chain)),
        Verdict::Goto(chain) => (verdict::GOTO, Some(chain)),
    };
    writer.nested(data::VERDICT, |writer| {
        writer.be32(data::VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            writer.string(data::VERDICT_CHAIN, chain);
        }
    });
}
