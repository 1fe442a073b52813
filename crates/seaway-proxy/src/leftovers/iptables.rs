//! The iptables mode, and what the IPVS mode has in iptables: in nf_tables and in legacy tables.

use seaway_net::nft::{Family, Kernel, NftError, Operation, OtherChain, TableId, Transaction};
use seaway_net::xtables::{self, Cut, Policy, Xtables};

use super::decide::{Chain, Decision, decide};
use super::{LeftoversError, Rules, names};

/// How often others' changes may come in between.
const TRIES: usize = 8;
const FAMILIES: [(Family, xtables::Family); 2] =
    [(Family::Ip, xtables::Family::V4), (Family::Ip6, xtables::Family::V6)];

/// A table of iptables' and what is kube-proxy's in it; `None` where that is nothing, and nothing stays either.
fn rules(kind: &'static str, family: Family, table: &str, decision: Decision) -> Option<Rules> {
    let Decision { chains, jumps, kept } = decision;
    let nothing = chains.is_empty() && jumps.is_empty() && kept.is_empty();
    let table = TableId::new(family, table);
    (!nothing).then_some(Rules { kind, table, chains, jumps: jumps.len(), kept })
}

/// The chains of one of iptables' tables.
fn of_table<'a>(chains: &'a [OtherChain], id: &TableId) -> Vec<&'a OtherChain> {
    chains.iter().filter(|chain| chain.table == *id).collect()
}

fn decide_nft(id: &TableId, chains: &[&OtherChain]) -> Decision {
    let views: Vec<_> = chains
        .iter()
        .map(|chain| Chain {
            name: &chain.name,
            builtin: chain.base.is_some(),
            drops: chain.base.is_some_and(|base| !base.accept),
            rules: chain.rules.iter().map(|rule| rule.targets.iter().map(String::as_str).collect()).collect(),
        })
        .collect();
    decide(&id.name, &views)
}

/// What there is in nf_tables, one family's tables after the other's.
fn decisions_nft(kernel: &mut Kernel) -> Result<Vec<(TableId, Decision, Transaction)>, NftError> {
    let chains = kernel.others("")?;
    let mut all = Vec::new();
    for (family, _) in FAMILIES {
        for name in names::TABLES {
            let id = TableId::new(family, name);
            let chains = of_table(&chains, &id);
            let decision = decide_nft(&id, &chains);
            let transaction = transaction(&id, &decision, &chains);
            all.push((id, decision, transaction));
        }
    }
    Ok(all)
}

/// First the jumps, then all rules, then the chains: none is deleted while another goes to it.
fn transaction(id: &TableId, decision: &Decision, chains: &[&OtherChain]) -> Transaction {
    let mut transaction = Transaction::new(id.clone());
    for (name, index) in &decision.jumps {
        let chain = chains.iter().find(|chain| chain.name == *name);
        if let Some(rule) = chain.and_then(|chain| chain.rules.get(*index)) {
            transaction.push(Operation::DeleteRule { chain: name.clone(), handle: rule.handle });
        }
    }
    for chain in &decision.chains {
        transaction.flush_chain(chain);
    }
    for chain in &decision.chains {
        transaction.delete_chain(chain);
    }
    transaction
}

pub(super) fn find_nft() -> Result<Vec<Rules>, LeftoversError> {
    let decisions = decisions_nft(&mut Kernel::open()?)?;
    Ok(decisions
        .into_iter()
        .filter_map(|(id, found, _)| rules("nf_tables", id.family, &id.name, found))
        .collect())
}

/// Removes it, each family's in one transaction; tells what it was, and what stays.
pub(super) fn remove_nft() -> Result<Vec<Rules>, LeftoversError> {
    let mut kernel = Kernel::open()?;
    let mut tries = 0;
    loop {
        tries += 1;
        let decisions = decisions_nft(&mut kernel)?;
        let commit = FAMILIES.iter().try_for_each(|(family, _)| {
            let of_family = decisions.iter().filter(|(id, ..)| id.family == *family);
            let transactions: Vec<_> = of_family.map(|(.., transaction)| transaction.clone()).collect();
            kernel.commit_all(&transactions)
        });
        match commit {
            Ok(()) => {
                let all = decisions.into_iter();
                return Ok(all
                    .filter_map(|(id, found, _)| rules("nf_tables", id.family, &id.name, found))
                    .collect());
            }
            // Someone took a rule away, or put one in, since it was read.
            Err(error) if tries < TRIES && (error.not_found() || error.busy() || error.retry()) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn decide_legacy(table: &xtables::Table) -> Decision {
    let views: Vec<_> = table
        .chains()
        .iter()
        .map(|chain| Chain {
            name: &chain.name,
            builtin: chain.builtin.is_some(),
            drops: chain.builtin == Some(Policy::Drop),
            rules: chain.targets.iter().map(|target| target.iter().map(String::as_str).collect()).collect(),
        })
        .collect();
    decide(table.name(), &views)
}

/// Does something with each legacy table that kube-proxy writes to and that is there.
fn each_legacy(
    mut each: impl FnMut(&Xtables, &str) -> Result<Decision, LeftoversError>,
) -> Result<Vec<Rules>, LeftoversError> {
    let mut all = Vec::new();
    for (family, legacy) in FAMILIES {
        let Some(tables) = Xtables::open(legacy)? else { continue };
        let there = tables.names()?;
        for name in names::TABLES.into_iter().filter(|name| there.contains(*name)) {
            all.extend(rules("legacy", family, name, each(&tables, name)?));
        }
    }
    Ok(all)
}

pub(super) fn find_legacy() -> Result<Vec<Rules>, LeftoversError> {
    each_legacy(|tables, name| Ok(decide_legacy(&tables.read(name)?)))
}

/// Removes it, each table's at once; tells what it was, and what stays.
pub(super) fn remove_legacy() -> Result<Vec<Rules>, LeftoversError> {
    each_legacy(|tables, name| {
        let mut decision = decide_legacy(&tables.read(name)?);
        // Only where there is something to do the lock is asked for.
        if !decision.is_empty() {
            tables.cut(name, |table| {
                decision = decide_legacy(table);
                Cut { chains: decision.chains.clone(), rules: decision.jumps.clone() }
            })?;
        }
        Ok(decision)
    })
}

/// The tables `ip NAME` and `ip6 NAME`, those of them that there are.
fn existing(kernel: &mut Kernel, name: &str) -> Result<Vec<TableId>, NftError> {
    let mut found = Vec::new();
    for (family, _) in FAMILIES {
        let id = TableId::new(family, name);
        if kernel.has_table(&id)? {
            found.push(id);
        }
    }
    Ok(found)
}

pub(super) fn find_tables(name: &str) -> Result<Vec<TableId>, LeftoversError> {
    Ok(existing(&mut Kernel::open()?, name)?)
}

/// Removes them, all at once; tells which there were.
pub(super) fn remove_tables(name: &str) -> Result<Vec<TableId>, LeftoversError> {
    let mut kernel = Kernel::open()?;
    let found = existing(&mut kernel, name)?;
    let transactions: Vec<_> = found.iter().cloned().map(Transaction::remove).collect();
    kernel.commit_all(&transactions)?;
    Ok(found)
}
