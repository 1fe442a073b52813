//! What makes of the table that is there the table that is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::observed::{Observed, ObservedChain, ObservedSet};
use super::rule::{NatTarget, Rule, Statement, Verdict};
use super::table::{Chain, Data, Set, Table};
use super::transaction::{Operation, Transaction};

/// The transaction that makes `want` of `have`; empty when there is nothing to do.
///
/// Elements that changed are deleted and added in the one transaction, so there is no moment without them. Elements of
/// dynamic sets are left alone as long as the set stays. A table that cannot be changed into the wanted one (a chain
/// is attached elsewhere, the owner flag differs), or that is switched off, is replaced as a whole.
pub fn diff(have: Option<&Observed>, want: &Table) -> Transaction {
    let Some(have) = have else { return Transaction::create(want) };
    if have.owner != want.owner || have.dormant || reattached(have, want) {
        return Transaction::replace(want);
    }
    let remade = remade_sets(have, want);
    let mut transaction = Transaction::new(want.id.clone());
    let rules = rule_changes(have, want, &remade);
    // An order that the kernel takes: what refers goes before what is referred to, and comes after it.
    for change in &rules {
        delete_rules(&mut transaction, change);
    }
    for chain in &want.chains {
        if !have.chains.contains_key(&chain.name) {
            transaction.add_chain(chain);
        }
    }
    delete_sets_and_elements(&mut transaction, have, want, &remade);
    add_sets_and_elements(&mut transaction, have, want, &remade);
    for change in &rules {
        for rule in change.add {
            transaction.add_rule(change.chain, rule.clone());
        }
    }
    let wanted: BTreeSet<&str> = want.chains.iter().map(|chain| chain.name.as_str()).collect();
    for name in have.chains.keys().filter(|name| !wanted.contains(name.as_str())) {
        transaction.delete_chain(name);
    }
    transaction
}

/// A chain is there, but is attached elsewhere.
fn reattached(have: &Observed, want: &Table) -> bool {
    want.chains.iter().any(|chain| {
        have.chains.get(&chain.name).is_some_and(|found| found.foreign || found.base != chain.base)
    })
}

/// Names of the sets that are there with another declaration, so must be made anew.
fn remade_sets<'a>(have: &Observed, want: &'a Table) -> BTreeSet<&'a str> {
    want.sets
        .iter()
        .filter(|set| have.sets.get(&set.spec.name).is_some_and(|found| !set.spec.is_declaration_of(found)))
        .map(|set| set.spec.name.as_str())
        .collect()
}

/// What changes in one chain.
struct RuleChange<'a> {
    chain: &'a str,
    /// Handles of the rules to be deleted; all when `flush`.
    delete: Vec<u64>,
    flush: bool,
    /// Rules to be added at the end.
    add: &'a [Rule],
}

fn rule_changes<'a>(have: &'a Observed, want: &'a Table, remade: &BTreeSet<&str>) -> Vec<RuleChange<'a>> {
    let mut changes = Vec::new();
    let wanted: BTreeMap<&str, &Chain> =
        want.chains.iter().map(|chain| (chain.name.as_str(), chain)).collect();
    for (name, found) in &have.chains {
        if !wanted.contains_key(name.as_str()) && !found.rules.is_empty() {
            changes.push(RuleChange { chain: name, delete: Vec::new(), flush: true, add: &[] });
        }
    }
    let empty = ObservedChain::default();
    for chain in &want.chains {
        let found = have.chains.get(&chain.name).unwrap_or(&empty);
        let keep = found
            .rules
            .iter()
            .zip(&chain.rules)
            .take_while(|(found, rule)| found.digest == Some(rule.digest()) && !uses(rule, remade))
            .count();
        let delete: Vec<u64> = found.rules[keep..].iter().map(|rule| rule.handle).collect();
        let add = &chain.rules[keep..];
        if !delete.is_empty() || !add.is_empty() {
            let flush = keep == 0 && !delete.is_empty();
            changes.push(RuleChange { chain: &chain.name, delete, flush, add });
        }
    }
    changes
}

fn delete_rules(transaction: &mut Transaction, change: &RuleChange<'_>) {
    if change.flush {
        transaction.flush_chain(change.chain);
        return;
    }
    for handle in &change.delete {
        transaction.push(Operation::DeleteRule { chain: change.chain.to_owned(), handle: *handle });
    }
}

/// Whether a rule looks into one of the sets.
fn uses(rule: &Rule, sets: &BTreeSet<&str>) -> bool {
    !sets.is_empty() && rule.statements.iter().filter_map(set_of).any(|name| sets.contains(name))
}

/// The named set that a statement uses.
pub(crate) fn set_of(statement: &Statement) -> Option<&str> {
    match statement {
        Statement::InSet { set, .. } | Statement::Learn { set, .. } => Some(set),
        Statement::VerdictMap { map, .. } | Statement::Nat { to: NatTarget::Map { map, .. }, .. } => {
            Some(map)
        }
        _ => None,
    }
}

/// The chain that a verdict goes to.
pub(crate) fn chain_of(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
        _ => None,
    }
}

/// The chain that an element's data goes to.
pub(crate) fn chain_of_data(data: Option<&Data>) -> Option<&str> {
    match data {
        Some(Data::Verdict(verdict)) => chain_of(verdict),
        _ => None,
    }
}

fn delete_sets_and_elements(
    transaction: &mut Transaction,
    have: &Observed,
    want: &Table,
    remade: &BTreeSet<&str>,
) {
    let wanted: BTreeMap<&str, &Set> = want.sets.iter().map(|set| (set.spec.name.as_str(), set)).collect();
    for (name, found) in &have.sets {
        match wanted.get(name.as_str()) {
            Some(set) if !remade.contains(name.as_str()) => delete_elements(transaction, found, set),
            _ => transaction.delete_set(name),
        }
    }
}

fn delete_elements(transaction: &mut Transaction, found: &ObservedSet, set: &Set) {
    if set.spec.dynamic {
        return;
    }
    let gone: Vec<_> = found
        .elements
        .iter()
        .filter(|(key, element)| set.elements.get(*key) != Some(*element))
        .map(|(key, element)| (key.clone(), element.clone()))
        .collect();
    if !gone.is_empty() {
        transaction.push(Operation::DeleteElements(Arc::clone(&set.spec), gone));
    }
}

fn add_sets_and_elements(
    transaction: &mut Transaction,
    have: &Observed,
    want: &Table,
    remade: &BTreeSet<&str>,
) {
    for set in &want.sets {
        let found = match have.sets.get(&set.spec.name) {
            Some(found) if !remade.contains(set.spec.name.as_str()) => found,
            _ => {
                transaction.add_set(set);
                continue;
            }
        };
        if set.spec.dynamic {
            continue;
        }
        let new: Vec<_> = set
            .elements
            .iter()
            .filter(|(key, element)| found.elements.get(*key) != Some(*element))
            .map(|(key, element)| (key.clone(), element.clone()))
            .collect();
        if !new.is_empty() {
            transaction.push(Operation::AddElements(Arc::clone(&set.spec), new));
        }
    }
}
