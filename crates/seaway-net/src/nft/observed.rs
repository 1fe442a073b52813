//! A table as the kernel has it.

use std::collections::BTreeMap;

use super::table::{Base, Elements, TableId};

/// A table as read back.
///
/// Rules come back as digests of what was written (kept in the rule's user data), not as statements: a table is owned
/// whole, so a rule is either one of ours or to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Its family and name.
    pub id: TableId,
    /// Tied to a socket.
    pub owner: bool,
    /// Switched off: packets pass it by.
    pub dormant: bool,
    /// Sets and maps by name, without the anonymous ones of rules.
    pub sets: BTreeMap<String, ObservedSet>,
    /// Chains by name.
    pub chains: BTreeMap<String, ObservedChain>,
}

/// A set or map as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedSet {
    /// Its declaration as the kernel keeps it.
    pub header: SetHeader,
    /// Its elements; those of a dynamic set are not read.
    pub elements: Elements,
}

impl ObservedSet {
    /// Rules add its elements.
    pub fn is_dynamic(&self) -> bool {
        self.header.flags & super::uapi::set_flag::EVAL != 0
    }
}

/// A set's declaration in the kernel's terms (attributes of NFT_MSG_NEWSET).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetHeader {
    /// NFT_SET_* flags.
    pub flags: u32,
    /// nft's number of the key's type; the kernel only keeps it.
    pub key_type: u32,
    /// Length of the key in bytes.
    pub key_length: u32,
    /// nft's number of the data's type, or NFT_DATA_VERDICT.
    pub data_type: u32,
    /// Length of the data in bytes, 0 for verdicts.
    pub data_length: u32,
    /// Default timeout in milliseconds, 0 for none.
    pub timeout: u64,
    /// Most elements, 0 for any number.
    pub size: u32,
    /// What nft keeps for itself: byte order, `typeof` expressions, comment.
    pub user_data: Vec<u8>,
}

/// A chain as read back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedChain {
    /// Where it is attached; `None` also stands for an attachment that is none of ours, see `foreign`.
    pub base: Option<Base>,
    /// It is attached in a way that [`Base`] cannot express, so it was not made by us.
    pub foreign: bool,
    /// Its rules, in order.
    pub rules: Vec<ObservedRule>,
}

/// A rule as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedRule {
    /// The kernel's handle.
    pub handle: u64,
    /// Digest of the rule as it was written, if we wrote it.
    pub digest: Option<u64>,
    /// Its comment.
    pub comment: Option<String>,
}
