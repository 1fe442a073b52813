//! Tables of others: which chains they attach where, and what their rules may do to a packet.

use std::collections::BTreeMap;

use super::decode::{attributes, decode_chain, decode_verdict};
use super::error::NftError;
use super::kernel::Kernel;
use super::rule::Verdict;
use super::table::{Base, Family, TableId};
use super::uapi::{EXPR_DATA, EXPR_NAME, LIST_ELEM, REG_VERDICT, data, expression, message, rule};
use super::userdata;
use crate::netlink::{Attribute, Message, NetlinkError, retry_dump};

/// A chain of a table that is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherChain {
    /// Its table.
    pub table: TableId,
    /// Its name.
    pub name: String,
    /// Where it is attached; `None` for one that other chains call.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<OtherRule>,
}

/// A rule of such a chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtherRule {
    /// The kernel's handle.
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
    /// What it may do to a packet, in its order: `dnat`, `snat`, `masquerade`, `redirect`, `reject`, a verdict, …; for
    /// iptables' rules the target's name. What only looks at the packet or counts is left out.
    pub actions: Vec<String>,
    /// The chains that its verdicts jump or go to; those of a verdict map's elements are not among them.
    pub targets: Vec<String>,
}

impl Kernel {
    /// All chains of the families `ip`, `ip6` and `inet` whose table is called otherwise than `ours`.
    pub fn others(&mut self, ours: &str) -> Result<Vec<OtherChain>, NftError> {
        let read = retry_dump(|| self.read_others(ours));
        Ok(read.map_err(|error| error.during("read the tables of others".to_owned()))?)
    }

    fn read_others(&mut self, ours: &str) -> Result<Vec<OtherChain>, NetlinkError> {
        let mut chains: BTreeMap<(TableId, String), OtherChain> = BTreeMap::new();
        for family in [Family::Ip, Family::Ip6, Family::Inet] {
            let any = TableId::new(family, "");
            let each = |message: Message<'_>| {
                let found = decode_chain(message.payload)?;
                if found.table != ours {
                    let table = TableId::new(family, found.table);
                    let (key, base) = ((table.clone(), found.name.clone()), found.base);
                    chains.insert(key, OtherChain { table, name: found.name, base, rules: Vec::new() });
                }
                Ok(())
            };
            self.dump(message::GETCHAIN, &any, |_| (), each)?;
            let each = |message: Message<'_>| {
                let (table, chain, rule) = decode_rule(message.payload)?;
                if let Some(chain) = chains.get_mut(&(TableId::new(family, table), chain)) {
                    chain.rules.push(rule);
                }
                Ok(())
            };
            self.dump(message::GETRULE, &any, |_| (), each)?;
        }
        Ok(chains.into_values().collect())
    }
}

/// A rule with the names of its table and chain.
fn decode_rule(payload: &[u8]) -> Result<(String, String, OtherRule), NetlinkError> {
    let (mut table, mut chain) = (String::new(), String::new());
    let mut found = OtherRule::default();
    for attribute in attributes(payload) {
        let attribute = attribute?;
        match attribute.kind {
            rule::TABLE => table = attribute.string()?,
            rule::CHAIN => chain = attribute.string()?,
            rule::HANDLE => found.handle = attribute.be64()?,
            rule::USERDATA => found.comment = userdata::read_rule(attribute.value).0,
            rule::EXPRESSIONS => {
                for listed in attribute.nested() {
                    let listed = listed?;
                    if listed.kind == LIST_ELEM
                        && let Some(action) = decode_action(&listed)?
                    {
                        found.targets.extend(action.target);
                        found.actions.push(action.text);
                    }
                }
            }
            _ => {}
        }
    }
    Ok((table, chain, found))
}

/// What an expression may do to a packet, and the chain that it sends it to.
struct Action {
    text: String,
    target: Option<String>,
}

fn decode_action(listed: &Attribute<'_>) -> Result<Option<Action>, NetlinkError> {
    let (mut name, mut body) = (String::new(), None);
    for part in listed.nested() {
        let part = part?;
        match part.kind {
            EXPR_NAME => name = part.string()?,
            EXPR_DATA => body = Some(part),
            _ => {}
        }
    }
    // The first attribute of a kind within the expression's data.
    let field = |kind: u16| -> Result<Option<Attribute<'_>>, NetlinkError> {
        for part in body.iter().flat_map(Attribute::nested) {
            let part = part?;
            if part.kind == kind {
                return Ok(Some(part));
            }
        }
        Ok(None)
    };
    let to_verdict = |register: u16| -> Result<bool, NetlinkError> {
        let register = field(register)?.map(|register| register.be32()).transpose()?;
        Ok(register == Some(REG_VERDICT))
    };
    let text = match name.as_str() {
        "nat" => {
            let kind = field(expression::NAT_TYPE)?.map(|kind| kind.be32()).transpose()?;
            Some(if kind == Some(expression::NAT_TYPE_DNAT) { "dnat" } else { "snat" }.to_owned())
        }
        "masq" => Some("masquerade".to_owned()),
        "redir" => Some("redirect".to_owned()),
        "reject" | "queue" | "tproxy" | "notrack" | "dup" | "fwd" | "synproxy" => Some(name),
        "lookup" if to_verdict(expression::LOOKUP_REGISTER)? => Some("vmap".to_owned()),
        "immediate" if to_verdict(expression::IMMEDIATE_REGISTER)? => {
            let mut verdict = None;
            for part in field(expression::IMMEDIATE_DATA)?.iter().flat_map(Attribute::nested) {
                let part = part?;
                if part.kind == data::VERDICT {
                    verdict = Some(decode_verdict(&part)?).filter(|verdict| *verdict != Verdict::Continue);
                }
            }
            let Some(verdict) = verdict else { return Ok(None) };
            let text = verdict.to_string();
            let target = match verdict {
                Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
                _ => None,
            };
            return Ok(Some(Action { text, target }));
        }
        "target" => field(expression::TARGET_NAME)?.map(|name| name.string()).transpose()?,
        _ => None,
    };
    Ok(text.map(|text| Action { text, target: None }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_rule(&bytes);
        }
    }
}
