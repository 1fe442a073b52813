//! What a kube-proxy that ran here before left in the kernel: found, and removed once Seaway's own rules are in force.
//!
//! | mode | what it leaves |
//! | --- | --- |
//! | nftables | tables `ip kube-proxy` and `ip6 kube-proxy` |
//! | iptables | chains `KUBE-…` in `nat`, `filter` and `mangle` and the jumps to them, in nf_tables or in legacy tables |
//! | ipvs | IPVS services, link `kube-ipvs0`, IP sets `KUBE-…`, and chains as above |
//!
//! Both translate at once while both are there: the first to see a new connection's first packet decides, and an established one
//! keeps what was decided, whose rules ever made it. So first Seaway's rules come, then these go, table by table with no moment
//! in between, and no connection notices. Connection tracking is not touched. IPVS alone keeps connections of its own:
//! their services stay until they end.
//!
//! No program is called. What is not kube-proxy's stays: see `names`. Its kernel parameters stay, too: others may rely on
//! `route_localnet`, and nobody knows what they were before.

mod decide;
mod iptables;
mod ipvs;
mod names;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use seaway_net::netlink::NetlinkError;
use seaway_net::nft::{NftError, TableId};
use seaway_net::xtables::XtablesError;

pub use takeover::{CleanupKubeProxy, Takeover, UnknownPolicy};

/// Why leftovers cannot be found or removed.
#[derive(Debug, thiserror::Error)]
pub enum LeftoversError {
    /// nf_tables.
    #[error("kube-proxy's leftovers in nf_tables: {0}")]
    Nft(#[from] NftError),
    /// Legacy tables of iptables.
    #[error("kube-proxy's leftovers in iptables' legacy tables: {0}")]
    Legacy(#[from] XtablesError),
    /// IPVS, IP sets, links.
    #[error("kube-proxy's leftovers of its IPVS mode: {0}")]
    Ipvs(#[from] NetlinkError),
}

/// What one part of the search or removal comes to.
type Part<T> = Result<T, LeftoversError>;

/// kube-proxy's chains in one of iptables' tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `nf_tables` or `legacy`: what `iptables --version` says.
    pub kind: &'static str,
    /// The table.
    pub table: TableId,
    /// The chains.
    pub chains: BTreeSet<String>,
    /// The number of rules in others' chains that jump to them.
    pub jumps: usize,
    /// Chains of its that stay, and why.
    pub kept: BTreeMap<String, String>,
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More names than this are not read.
        const SHOWN: usize = 3;
        let Self { kind, table, chains, jumps, .. } = self;
        let shown: Vec<&str> = chains.iter().take(SHOWN).map(String::as_str).collect();
        let more = if chains.len() > SHOWN { ", …" } else { "" };
        write!(f, "iptables ({kind}), table {table}: {} chains ({}{more})", chains.len(), shown.join(", "))?;
        write!(f, ", {jumps} jumps to them")
    }
}

/// What there is of the IPVS mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpvsState {
    /// The number of IPVS services.
    pub services: usize,
    /// The number of addresses of `kube-ipvs0`; `None` where there is no such link.
    pub link: Option<usize>,
    /// The number of IP sets.
    pub sets: usize,
    /// What connections use still, so that it stays until they end.
    pub waiting: Vec<String>,
}

impl IpvsState {
    fn is_something(&self) -> bool {
        self.services > 0 || self.link.is_some() || self.sets > 0
    }
}

impl fmt::Display for IpvsState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IPVS: {} services", self.services)?;
        if let Some(addresses) = self.link {
            write!(f, ", link {} with {addresses} addresses", names::LINK)?;
        }
        write!(f, ", {} IP sets", self.sets)
    }
}

/// What kube-proxy left, or what was removed of it.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Tables of its nftables mode.
    pub tables: Vec<TableId>,
    /// Chains in iptables' tables.
    pub rules: Vec<Rules>,
    /// The IPVS mode's.
    pub ipvs: Option<IpvsState>,
    /// What could not be looked at, or not removed.
    pub failed: Vec<LeftoversError>,
}

impl Leftovers {
    /// Looks at the calling thread's network namespace and changes nothing.
    pub fn find() -> Self {
        let find_tables = || iptables::find_tables(names::NFTABLES);
        Self::gather(find_tables, [iptables::find_nft, iptables::find_legacy], ipvs::find)
    }

    /// Removes it from the calling thread's network namespace, and tells what was removed. Where there is nothing it does
    /// nothing; a part that fails keeps none of the others from being removed.
    pub fn remove() -> Self {
        let remove_tables = || iptables::remove_tables(names::NFTABLES);
        // IP sets can go only when no rule looks into them.
        Self::gather(remove_tables, [iptables::remove_nft, iptables::remove_legacy], ipvs::remove)
    }

    fn gather(
        tables: impl Fn() -> Part<Vec<TableId>>,
        rules: [fn() -> Part<Vec<Rules>>; 2],
        ipvs: impl Fn() -> Part<Option<IpvsState>>,
    ) -> Self {
        let mut failed = Vec::new();
        let tables = tables().unwrap_or_else(|error| {
            failed.push(error);
            Vec::new()
        });
        let mut all = Vec::new();
        for of_kind in rules {
            match of_kind() {
                Ok(found) => all.extend(found),
                Err(error) => failed.push(error),
            }
        }
        let ipvs = ipvs().unwrap_or_else(|error| {
            failed.push(error);
            None
        });
        Self { tables, rules: all, ipvs, failed }
    }

    /// There is nothing to remove, or nothing was; chains that stay do not count.
    pub fn is_empty(&self) -> bool {
        let nothing = |rules: &Rules| rules.chains.is_empty() && rules.jumps == 0;
        self.tables.is_empty() && self.rules.iter().all(nothing) && self.ipvs.is_none()
    }

    /// Established connections use some of it still: it goes by another call, when they have ended.
    pub fn is_waiting(&self) -> bool {
        self.ipvs.as_ref().is_some_and(|ipvs| !ipvs.waiting.is_empty())
    }
}

impl fmt::Display for Leftovers {
    /// A line for each thing; nothing where there is nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            writeln!(f, "nf_tables: table {table}")?;
        }
        for rules in &self.rules {
            if !rules.chains.is_empty() || rules.jumps > 0 {
                writeln!(f, "{rules}")?;
            }
            for (chain, why) in &rules.kept {
                writeln!(f, "stays: chain {chain} of table {} ({}): {why}", rules.table, rules.kind)?;
            }
        }
        if let Some(ipvs) = &self.ipvs {
            writeln!(f, "{ipvs}")?;
            for what in &ipvs.waiting {
                writeln!(f, "stays until its connections end: {what}")?;
            }
        }
        for error in &self.failed {
            writeln!(f, "failed: {error}")?;
        }
        Ok(())
    }
}

/// Removes Seaway's own service tables from the calling thread's network namespace, in one transaction, and tells which there
/// were.
///
/// Established connections go on as long as anyone else has rules of type nat in the namespace, such as a kube-proxy that runs
/// again: without any, the kernel stops translating. So start kube-proxy first.
///
/// # Errors
/// nf_tables cannot be read, or refuses.
pub fn remove_own() -> Result<Vec<TableId>, LeftoversError> {
    iptables::remove_tables(crate::TABLE)
}
