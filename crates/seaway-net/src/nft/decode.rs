//! Messages of the kernel as observed objects.

use std::collections::BTreeMap;
use std::time::Duration;

use super::observed::{ObservedRule, SetHeader};
use super::rule::Verdict;
use super::table::{Base, ChainKind, Data, Element, Elements, Hook};
use super::uapi::{DATA_VERDICT, EXPR_DATA, chain, data, element, rule, set, set_flag, table, verdict};
use super::userdata;
use super::value::Value;
use crate::netlink::{Attribute, Attributes, NetlinkError};

/// Size of `struct nfgenmsg`, before the attributes.
const GENERIC_HEADER: usize = 4;

/// The attributes of a message.
pub(crate) fn attributes(payload: &[u8]) -> Attributes<'_> {
    Attributes::new(payload.get(GENERIC_HEADER..).unwrap_or_default())
}

/// A table's flags.
pub(crate) fn table_flags(payload: &[u8]) -> Result<u32, NetlinkError> {
    for attribute in attributes(payload) {
        let attribute = attribute?;
        if attribute.kind == table::FLAGS {
            return attribute.be32();
        }
    }
    Ok(0)
}

/// A chain: its table's and own name, and where it is attached.
pub(crate) struct DecodedChain {
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) base: Option<Base>,
    pub(crate) foreign: bool,
}

pub(crate) fn decode_chain(payload: &[u8]) -> Result<DecodedChain, NetlinkError> {
    let mut table = String::new();
    let mut name = String::new();
    let mut hook = None;
    let mut accept = true;
    let mut kind = None;
    for attribute in attributes(payload) {
        let attribute = attribute?;
        match attribute.kind {
            chain::TABLE => table = attribute.string()?,
            chain::NAME => name = attribute.string()?,
            chain::POLICY => accept = attribute.be32()? != 0,
            chain::TYPE => kind = Some(attribute.string()?),
            chain::HOOK => hook = Some(decode_hook(&attribute)?),
            _ => {}
        }
    }
    let Some((number, priority)) = hook else {
        return Ok(DecodedChain { table, name, base: None, foreign: false });
    };
    let kind = match kind.as_deref() {
        Some("filter") => Some(ChainKind::Filter),
        Some("nat") => Some(ChainKind::Nat),
        Some("route") => Some(ChainKind::Route),
        _ => None,
    };
    let hook = match number {
        0 => Some(Hook::Prerouting),
        1 => Some(Hook::Input),
        2 => Some(Hook::Forward),
        3 => Some(Hook::Output),
        4 => Some(Hook::Postrouting),
        _ => None,
    };
    let base = kind.zip(hook).map(|(kind, hook)| Base { kind, hook, priority, accept });
    Ok(DecodedChain { table, name, base, foreign: base.is_none() })
}

fn decode_hook(attribute: &Attribute<'_>) -> Result<(u32, i32), NetlinkError> {
    let mut number = u32::MAX;
    let mut priority = 0;
    for part in attribute.nested() {
        let part = part?;
        match part.kind {
            chain::HOOK_NUMBER => number = part.be32()?,
            chain::HOOK_PRIORITY => priority = part.be32()? as i32,
            _ => {}
        }
    }
    Ok((number, priority))
}

/// A rule with its chain's name.
pub(crate) fn decode_rule(payload: &[u8]) -> Result<(String, ObservedRule), NetlinkError> {
    let mut chain = String::new();
    let mut found = ObservedRule { handle: 0, digest: None, comment: None };
    for attribute in attributes(payload) {
        let attribute = attribute?;
        match attribute.kind {
            rule::CHAIN => chain = attribute.string()?,
            rule::HANDLE => found.handle = attribute.be64()?,
            rule::USERDATA => (found.comment, found.digest) = userdata::read_rule(attribute.value),
            _ => {}
        }
    }
    Ok((chain, found))
}

/// The comment that `iptables-nft` gave a rule: a match of its own among the expressions (linux/netfilter/xt_comment.h).
pub(crate) fn compatible_comment(payload: &[u8]) -> Result<Option<String>, NetlinkError> {
    // enum nft_match_attributes
    const MATCH_NAME: u16 = 1;
    const MATCH_INFO: u16 = 3;
    for attribute in attributes(payload) {
        let attribute = attribute?;
        if attribute.kind != rule::EXPRESSIONS {
            continue;
        }
        for expression in attribute.nested() {
            let (mut name, mut info) = (None, None);
            for part in expression?.nested() {
                let part = part?;
                if part.kind != EXPR_DATA {
                    continue;
                }
                for field in part.nested() {
                    let field = field?;
                    match field.kind {
                        MATCH_NAME => name = Some(field.value),
                        MATCH_INFO => info = Some(field),
                        _ => {}
                    }
                }
            }
            if name.is_some_and(|name| name.starts_with(b"comment\0")) {
                return Ok(info.and_then(|info| info.string().ok()));
            }
        }
    }
    Ok(None)
}

/// A set's name, declaration and, from kernels that tell it, number of elements.
pub(crate) struct DecodedSet {
    pub(crate) name: String,
    pub(crate) header: SetHeader,
    pub(crate) count: Option<u32>,
}

pub(crate) fn decode_set(payload: &[u8]) -> Result<DecodedSet, NetlinkError> {
    let mut name = String::new();
    let mut count = None;
    let mut header = SetHeader {
        flags: 0,
        key_type: 0,
        key_length: 0,
        data_type: 0,
        data_length: 0,
        timeout: 0,
        size: 0,
        user_data: Vec::new(),
    };
    for attribute in attributes(payload) {
        let attribute = attribute?;
        match attribute.kind {
            set::NAME => name = attribute.string()?,
            set::FLAGS => header.flags = attribute.be32()?,
            set::KEY_TYPE => header.key_type = attribute.be32()?,
            set::KEY_LEN => header.key_length = attribute.be32()?,
            set::DATA_TYPE => header.data_type = attribute.be32()?,
            set::DATA_LEN => header.data_length = attribute.be32()?,
            set::TIMEOUT => header.timeout = attribute.be64()?,
            set::USERDATA => header.user_data = attribute.value.to_vec(),
            set::COUNT => count = Some(attribute.be32()?),
            set::DESC => {
                for part in attribute.nested() {
                    let part = part?;
                    if part.kind == set::DESC_SIZE {
                        header.size = part.be32()?;
                    }
                }
            }
            _ => {}
        }
    }
    // Of verdicts the kernel gives the size of its own structure, which is nobody's business.
    if header.data_type == DATA_VERDICT {
        header.data_length = 0;
    }
    Ok(DecodedSet { name, header, count })
}

/// Collects a set's elements from the messages of a dump.
pub(crate) struct ElementsDecoder {
    /// Intervals come as where they start and where the next thing starts.
    halves: bool,
    key_length: usize,
    elements: Elements,
    ends: Vec<Value>,
}

impl ElementsDecoder {
    pub(crate) fn new(header: &SetHeader) -> Self {
        let halves = header.flags & set_flag::INTERVAL != 0 && header.flags & set_flag::CONCAT == 0;
        let key_length = header.key_length as usize;
        Self { halves, key_length, elements: BTreeMap::new(), ends: Vec::new() }
    }

    pub(crate) fn message(&mut self, payload: &[u8]) -> Result<(), NetlinkError> {
        for attribute in attributes(payload) {
            let attribute = attribute?;
            if attribute.kind == element::LIST_ELEMENTS {
                for listed in attribute.nested() {
                    self.element(&listed?)?;
                }
            }
        }
        Ok(())
    }

    fn element(&mut self, listed: &Attribute<'_>) -> Result<(), NetlinkError> {
        let mut key = None;
        let mut flags = 0;
        let mut found = Element::default();
        for part in listed.nested() {
            let part = part?;
            match part.kind {
                element::KEY => key = Some(decode_value(&part)?),
                element::KEY_END => found.key_end = Some(decode_value(&part)?),
                element::FLAGS => flags = part.be32()?,
                element::DATA => found.data = Some(decode_data(&part)?),
                element::TIMEOUT => found.timeout = Some(Duration::from_millis(part.be64()?)),
                element::USERDATA => found.comment = userdata::read_element(part.value),
                _ => {}
            }
        }
        let Some(key) = key else { return Ok(()) };
        if flags & element::F_INTERVAL_END != 0 {
            self.ends.push(key);
            return Ok(());
        }
        if found.key_end.as_ref() == Some(&key) {
            found.key_end = None;
        }
        self.elements.insert(key, found);
        Ok(())
    }

    /// How many different keys have come so far; of intervals in halves, `None`.
    pub(crate) fn count(&self) -> Option<usize> {
        (!self.halves).then_some(self.elements.len())
    }

    /// The elements, with halves of intervals put together.
    pub(crate) fn finish(mut self) -> Elements {
        if !self.halves {
            return self.elements;
        }
        self.ends.sort_unstable();
        let mut ends = self.ends.iter().peekable();
        for (start, element) in &mut self.elements {
            while ends.next_if(|end| *end <= start).is_some() {}
            // Without an end: up to the highest value.
            let last = match ends.next() {
                Some(end) => end.stepped(self.key_length, false),
                None => Some(Value::from_bytes(&vec![0xff; self.key_length])),
            };
            element.key_end = last.filter(|last| last != start);
        }
        self.elements
    }
}

fn decode_value(attribute: &Attribute<'_>) -> Result<Value, NetlinkError> {
    for part in attribute.nested() {
        let part = part?;
        if part.kind == data::VALUE {
            return Ok(Value::from_bytes(part.value));
        }
    }
    Ok(Value::new())
}

fn decode_data(attribute: &Attribute<'_>) -> Result<Data, NetlinkError> {
    for part in attribute.nested() {
        let part = part?;
        if part.kind == data::VERDICT {
            return decode_verdict(&part).map(Data::Verdict);
        }
    }
    decode_value(attribute).map(Data::Value)
}

/// A verdict's number, and the chain that it leads to; empty for none.
pub(crate) fn verdict_parts(nest: &Attribute<'_>) -> Result<(i32, String), NetlinkError> {
    let (mut code, mut chain) = (0, String::new());
    for part in nest.nested() {
        let part = part?;
        match part.kind {
            data::VERDICT_CODE => code = part.be32()? as i32,
            data::VERDICT_CHAIN => chain = part.string()?,
            _ => {}
        }
    }
    Ok((code, chain))
}

pub(crate) fn decode_verdict(attribute: &Attribute<'_>) -> Result<Verdict, NetlinkError> {
    let (code, chain) = verdict_parts(attribute)?;
    Ok(match code {
        verdict::ACCEPT => Verdict::Accept,
        verdict::DROP => Verdict::Drop,
        verdict::RETURN => Verdict::Return,
        verdict::JUMP => Verdict::Jump(chain),
        verdict::GOTO => Verdict::Goto(chain),
        _ => Verdict::Continue,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::arbitrary;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (table_flags(&bytes), decode_chain(&bytes).is_ok(), decode_rule(&bytes));
            let _ = decode_set(&bytes).is_ok();
        }

        #[test]
        fn any_attributes_are_read_without_panic(
            payload in arbitrary::payload(GENERIC_HEADER),
            flags in any::<u32>(),
            key_length in 0..70_u32,
        ) {
            let _ = (table_flags(&payload), decode_chain(&payload).is_ok(), decode_rule(&payload));
            if let Ok(mut set) = decode_set(&payload) {
                (set.header.flags, set.header.key_length) = (flags, key_length);
                let mut decoder = ElementsDecoder::new(&set.header);
                let _ = decoder.message(&payload);
                let _ = (decoder.count(), decoder.finish());
            }
        }

        #[test]
        fn any_elements_are_read_without_panic(
            keys in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..9), 0..2u32), 0..20),
            key_length in 0..70u32,
        ) {
            let mut writer = crate::netlink::Writer::default();
            writer.bytes(&[0; GENERIC_HEADER]);
            writer.nested(element::LIST_ELEMENTS, |writer| {
                for (key, flags) in &keys {
                    writer.nested(1, |writer| {
                        writer.nested(element::KEY, |writer| writer.attribute(data::VALUE, key));
                        writer.be32(element::FLAGS, *flags);
                    });
                }
            });
            let header = SetHeader {
                flags: set_flag::INTERVAL,
                key_type: 7,
                key_length,
                data_type: 0,
                data_length: 0,
                timeout: 0,
                size: 0,
                user_data: Vec::new(),
            };
            let mut decoder = ElementsDecoder::new(&header);
            decoder.message(writer.as_slice()).unwrap();
            let _ = decoder.finish();
        }
    }
}
