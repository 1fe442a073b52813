//! A table's entries as the kernel has them: one after the other, chains marked by entries of their own.

use std::collections::{BTreeMap, BTreeSet};

use super::Family;

/// Hooks that a table can have (NF_INET_NUMHOOKS), with the names of their chains.
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// Size of `struct xt_entry_target`, before the target's own data.
const TARGET: usize = 32;
/// Where the target's name is in it, and the name's length (XT_EXTENSION_MAXNAMELEN).
const TARGET_NAME: (usize, usize) = (2, 29);
/// Length of an error target's text, which is a user chain's name (XT_FUNCTION_MAXNAMELEN).
const ERROR_NAME: usize = 30;
/// XT_STANDARD_TARGET and XT_ERROR_TARGET
const STANDARD: &[u8] = b"";
const ERROR: &[u8] = b"ERROR";
/// The verdict ACCEPT as a standard target has it: -NF_ACCEPT - 1.
const ACCEPT: i32 = -2;

/// Where things are in an entry.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// `target_offset`; `next_offset` follows it.
    target_offset: usize,
    /// Size of the entry's fixed part.
    header: usize,
}

impl Layout {
    const fn of(family: Family) -> Self {
        match family {
            // struct ipt_entry: struct ipt_ip (84), nfcache (4), offsets, comefrom (4), counters (16)
            Family::V4 => Self { target_offset: 88, header: 112 },
            // struct ip6t_entry: struct ip6t_ip6 (136), likewise, counters aligned to 8
            Family::V6 => Self { target_offset: 140, header: 168 },
        }
    }
}

/// A block of entries that is not as the kernel makes them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("legacy table {table}: at byte {offset}: {detail}")]
pub struct MalformedTable {
    /// The table.
    pub table: String,
    /// Where in its entries.
    pub offset: usize,
    /// What is wrong.
    pub detail: String,
}

/// What an entry is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// Begins a user chain.
    Head,
    /// A rule of the chain with this number.
    Rule,
    /// A chain's last entry: a built-in one's policy, a user chain's way back.
    Foot,
    /// The table's last entry.
    End,
}

/// Where an entry's standard target sends packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// To the entry at this offset, the first of a chain.
    To(usize),
    /// To the next entry: a rule without a target.
    Next,
    /// Accept, drop, return, …
    Final(i32),
}

#[derive(Debug, Clone)]
struct Entry {
    offset: usize,
    length: usize,
    /// Where its target is, from the entry's start.
    target: usize,
    verdict: Option<Verdict>,
    role: Role,
    /// Index of its chain; of the last entry, one past the last chain.
    chain: usize,
}

/// A chain of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Its policy, if it is attached to a hook.
    pub builtin: Option<Policy>,
    /// Of each rule, in order, the chain that it jumps or goes to.
    pub targets: Vec<Option<String>>,
}

/// What becomes of packets that no rule of a built-in chain decides on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// They go on.
    Accept,
    /// They do not.
    Drop,
}

/// Names, numbers and entries of a table.
#[derive(Debug, Clone)]
pub struct Table {
    pub(super) family: Family,
    pub(super) name: String,
    pub(super) valid_hooks: u32,
    pub(super) hook_entry: [u32; 5],
    pub(super) underflow: [u32; 5],
    pub(super) bytes: Vec<u8>,
    entries: Vec<Entry>,
    chains: Vec<Chain>,
}

/// What is to be taken out of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cut {
    /// Chains, with their rules.
    pub chains: BTreeSet<String>,
    /// Rules of other chains, by chain and index.
    pub rules: BTreeSet<(String, usize)>,
}

/// A table, and for each of its entries the number of the entry in the table that it was made from.
#[derive(Debug, Clone)]
pub(super) struct Remaining {
    pub(super) table: Table,
    pub(super) origins: Vec<usize>,
}

impl Table {
    /// Reads a table's entries. Every offset in them is checked.
    ///
    /// # Errors
    /// The entries are not such as the kernel gives.
    pub fn parse(
        family: Family,
        name: &str,
        valid_hooks: u32,
        hook_entry: [u32; 5],
        underflow: [u32; 5],
        bytes: Vec<u8>,
    ) -> Result<Self, MalformedTable> {
        let (entries, chains) = (Vec::new(), Vec::new());
        let name = name.to_owned();
        let mut table = Self { family, name, valid_hooks, hook_entry, underflow, bytes, entries, chains };
        table.split()?;
        table.assign()?;
        table.name_targets()?;
        Ok(table)
    }

    /// Its name: `nat`, `filter`, …
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its chains, built-in ones first.
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// The number of its entries as the kernel counts them.
    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    fn wrong<T>(&self, offset: usize, detail: impl Into<String>) -> Result<T, MalformedTable> {
        Err(MalformedTable { table: self.name.clone(), offset, detail: detail.into() })
    }

    /// Finds where each entry begins and what its target is.
    fn split(&mut self) -> Result<(), MalformedTable> {
        let layout = Layout::of(self.family);
        let mut offset = 0;
        while offset < self.bytes.len() {
            let rest = &self.bytes[offset..];
            let (Some(target), Some(length)) =
                (ne16(rest, layout.target_offset), ne16(rest, layout.target_offset + 2))
            else {
                return self.wrong(offset, "cut off");
            };
            let Some(entry) = rest.get(..length).filter(|_| length >= layout.header + TARGET) else {
                return self.wrong(offset, format!("an entry cannot have {length} bytes here"));
            };
            let size = entry.get(target..).and_then(|target| ne16(target, 0)).unwrap_or(0);
            if target < layout.header || size < TARGET || target + size > length {
                return self.wrong(offset, format!("a target of {size} bytes at {target}"));
            }
            let verdict = match target_name(&entry[target..]) {
                STANDARD => match ne32(&entry[target..target + size], TARGET) {
                    None => return self.wrong(offset, "a standard target without a verdict"),
                    Some(verdict) => Some(match (verdict as i32, verdict as usize) {
                        (number @ ..0, _) => Verdict::Final(number),
                        (_, to) if to == offset + length => Verdict::Next,
                        (_, to) => Verdict::To(to),
                    }),
                },
                _ => None,
            };
            self.entries.push(Entry { offset, length, target, verdict, role: Role::Rule, chain: 0 });
            offset += length;
        }
        Ok(())
    }

    /// The text of an error target.
    fn error_name(&self, entry: &Entry) -> Option<&[u8]> {
        let bytes = self.bytes.get(entry.offset..entry.offset + entry.length)?;
        let target = bytes.get(entry.target..)?;
        let size = ne16(target, 0)?;
        let name = target.get(TARGET..size.min(TARGET + ERROR_NAME))?;
        (target_name(target) == ERROR).then(|| until_zero(name))
    }

    /// Says of each entry which chain it belongs to and as what.
    fn assign(&mut self) -> Result<(), MalformedTable> {
        let hooks: BTreeMap<usize, usize> = (0..HOOKS.len())
            .filter(|hook| self.valid_hooks & (1 << hook) != 0)
            .map(|hook| (self.hook_entry[hook] as usize, hook))
            .collect();
        let last = self.entries.len().wrapping_sub(1);
        let mut begun = 0;
        for index in 0..self.entries.len() {
            let entry = self.entries[index].clone();
            let heading = self.error_name(&entry).map(|name| String::from_utf8_lossy(name).into_owned());
            let hook = hooks.get(&entry.offset).copied();
            let role = match (heading, hook) {
                (Some(_), None) if index == last => Role::End,
                (Some(name), None) => {
                    self.chains.push(Chain { name, builtin: None, targets: Vec::new() });
                    Role::Head
                }
                (None, Some(hook)) => {
                    begun += 1;
                    let builtin = Some(Policy::Accept);
                    self.chains.push(Chain { name: HOOKS[hook].to_owned(), builtin, targets: Vec::new() });
                    Role::Rule
                }
                (Some(_), Some(_)) => return self.wrong(entry.offset, "a hook's chain begins with an error"),
                (None, None) if self.chains.is_empty() => {
                    return self.wrong(entry.offset, "a rule before any chain");
                }
                (None, None) => Role::Rule,
            };
            self.entries[index].role = role;
            self.entries[index].chain = self.chains.len().saturating_sub(1);
        }
        if begun != hooks.len() || self.valid_hooks.count_ones() as usize != begun {
            return self.wrong(0, "a hook's chain begins at no entry");
        }
        if !self.entries.last().is_some_and(|entry| entry.role == Role::End) {
            return self.wrong(self.bytes.len(), "no last entry");
        }
        self.assign_feet()
    }

    /// Each chain's last entry is its policy, which for built-in ones the kernel also tells by `underflow`.
    fn assign_feet(&mut self) -> Result<(), MalformedTable> {
        for index in 1..self.entries.len() {
            let ends = match self.entries[index].role {
                Role::Head | Role::End => true,
                _ => self.entries[index].chain != self.entries[index - 1].chain,
            };
            if !ends {
                continue;
            }
            let foot = self.entries[index - 1].clone();
            let (Role::Rule, Some(Verdict::Final(verdict))) = (&foot.role, foot.verdict) else {
                return self.wrong(foot.offset, "a chain that does not end with a verdict");
            };
            let chain = &mut self.chains[foot.chain];
            if let Some(policy) = &mut chain.builtin {
                let hook = HOOKS.iter().position(|name| *name == chain.name);
                if hook.is_none_or(|hook| self.underflow[hook] as usize != foot.offset) {
                    return self.wrong(foot.offset, "a built-in chain that does not end with its policy");
                }
                *policy = if verdict == ACCEPT { Policy::Accept } else { Policy::Drop };
            }
            self.entries[index - 1].role = Role::Foot;
        }
        Ok(())
    }

    /// Finds the names of the chains that rules go to.
    fn name_targets(&mut self) -> Result<(), MalformedTable> {
        let heads: BTreeMap<usize, usize> =
            self.heads().map(|head| (head.offset + head.length, head.chain)).collect();
        for index in 0..self.entries.len() {
            let entry = self.entries[index].clone();
            let target = match entry.verdict {
                Some(Verdict::To(offset)) => match heads.get(&offset) {
                    Some(chain) => Some(self.chains[*chain].name.clone()),
                    None => {
                        return self.wrong(entry.offset, format!("a jump to {offset}, where no chain is"));
                    }
                },
                _ => None,
            };
            if entry.role == Role::Rule {
                self.chains[entry.chain].targets.push(target);
            }
        }
        Ok(())
    }

    /// The entries that begin user chains.
    fn heads(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.role == Role::Head)
    }

    /// The table without what `cut` names; what it names in vain is passed over.
    ///
    /// # Errors
    /// A rule that stays goes to a chain that does not.
    pub(super) fn without(&self, cut: &Cut) -> Result<Remaining, MalformedTable> {
        let kept = self.kept(cut);
        // Where each entry that stays comes to be.
        let mut moved = BTreeMap::new();
        let mut end = 0;
        for entry in kept.iter().map(|index| &self.entries[*index]) {
            moved.insert(entry.offset, end);
            end += entry.length;
        }
        // Jumps go to what follows a chain's head, which may be another entry from now on.
        let chains: BTreeMap<usize, usize> = self
            .heads()
            .filter_map(|head| Some((head.offset + head.length, moved.get(&head.offset)? + head.length)))
            .collect();
        let mut bytes = Vec::with_capacity(end);
        for entry in kept.iter().map(|index| &self.entries[*index]) {
            let at = bytes.len();
            bytes.extend_from_slice(&self.bytes[entry.offset..entry.offset + entry.length]);
            let verdict = match entry.verdict {
                Some(Verdict::Next) => at + entry.length,
                Some(Verdict::To(offset)) => match chains.get(&offset) {
                    Some(to) => *to,
                    None => return self.wrong(entry.offset, "it goes to a chain that is to be removed"),
                },
                _ => continue,
            };
            let place = at + entry.target + TARGET;
            bytes[place..place + 4].copy_from_slice(&(verdict as u32).to_ne_bytes());
        }
        let place = |offset: u32| moved.get(&(offset as usize)).map_or(0, |at| *at as u32);
        // A chain's first entry may be a rule that goes: then the chain begins with the next one that stays.
        let first = |offset: u32| moved.range(offset as usize..).next().map_or(0, |(_, at)| *at as u32);
        let table = Self::parse(
            self.family,
            &self.name,
            self.valid_hooks,
            self.hook_entry.map(first),
            self.underflow.map(place),
            bytes,
        )?;
        Ok(Remaining { table, origins: kept })
    }

    /// Indices of the entries that stay.
    fn kept(&self, cut: &Cut) -> Vec<usize> {
        let mut kept = Vec::new();
        let mut rule = 0;
        let mut chain = usize::MAX;
        for (index, entry) in self.entries.iter().enumerate() {
            if entry.chain != chain {
                (rule, chain) = (0, entry.chain);
            }
            let Some(of) = self.chains.get(entry.chain).filter(|_| entry.role != Role::End) else {
                kept.push(index);
                continue;
            };
            let gone = match entry.role {
                _ if of.builtin.is_none() && cut.chains.contains(&of.name) => true,
                Role::Rule => cut.rules.contains(&(of.name.clone(), rule)),
                _ => false,
            };
            rule += usize::from(entry.role == Role::Rule);
            if !gone {
                kept.push(index);
            }
        }
        kept
    }
}

/// A target's name.
fn target_name(target: &[u8]) -> &[u8] {
    let (at, length) = TARGET_NAME;
    until_zero(target.get(at..at + length).unwrap_or_default())
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

fn ne16(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes).map(usize::from)
}

fn ne32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests;
