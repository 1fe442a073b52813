//! nf_tables without a kernel: same trait, same refusals.

use std::collections::BTreeMap;

use super::Nft;
use super::diff::{chain_of, chain_of_data, set_of};
use super::encode::Batch;
use super::error::{NftError, Subject};
use super::observed::{Observed, ObservedChain, ObservedRule, ObservedSet};
use super::rule::{Rule, Statement};
use super::table::{Element, Elements, SetSpec, TableId};
#[cfg(doc)]
use super::transaction::Object;
use super::transaction::{Operation, Transaction};
use super::value::Value;

/// Tables in memory that take and refuse transactions as the kernel does.
#[derive(Debug, Default)]
pub struct Fake {
    tables: BTreeMap<TableId, State>,
    generation: u32,
    handle: u64,
    /// The transactions committed so far, empty ones left out.
    pub committed: Vec<Transaction>,
    refused: Vec<(TableId, String, i32)>,
}

/// A table, and its rules as they were written.
#[derive(Debug, Clone)]
struct State {
    observed: Observed,
    /// By handle.
    rules: BTreeMap<u64, Rule>,
}

/// The index of the refused operation's element, and the errno.
type Refusal = (usize, i32);

impl Fake {
    /// No tables at all.
    pub fn new() -> Self {
        Self { generation: 1, ..Self::default() }
    }

    /// Deletes everything, as `nft flush ruleset` would.
    pub fn flush_ruleset(&mut self) {
        self.tables.clear();
        self.generation += 1;
    }

    /// From now on refuses, with this errno, to add what prints as an [`Object`] that begins with `object`:
    /// `element of set services: 10.96.0.7 . tcp . 80`.
    pub fn refuse(&mut self, table: &TableId, object: &str, errno: i32) {
        self.refused.push((table.clone(), object.to_owned(), errno));
    }

    /// Refuses no object any more but for the kernel's own reasons.
    pub fn refuse_nothing(&mut self) {
        self.refused.clear();
    }

    /// The first object of an operation that is refused by [`Fake::refuse`].
    fn refusal(&self, table: &TableId, operation: &Operation) -> Option<Refusal> {
        if self.refused.is_empty() || operation.verb() != "add" {
            return None;
        }
        let objects = match operation {
            Operation::AddElements(_, elements) => elements.len(),
            _ => 1,
        };
        (0..objects).find_map(|index| {
            let object = operation.object(index).to_string();
            let refused = self.refused.iter().find(|(of, text, _)| of == table && object.starts_with(text));
            refused.map(|(.., errno)| (index, *errno))
        })
    }

    fn apply(
        &mut self,
        state: &mut Option<State>,
        id: &TableId,
        operation: &Operation,
    ) -> Result<(), Refusal> {
        if let Some(refusal) = self.refusal(id, operation) {
            return Err(refusal);
        }
        match operation {
            Operation::AddTable { owner } => {
                state.get_or_insert_with(|| State::new(id, *owner));
                return Ok(());
            }
            Operation::DeleteTable => {
                return state.take().map(|_| ()).ok_or((0, libc::ENOENT));
            }
            _ => {}
        }
        let state = state.as_mut().ok_or((usize::MAX, libc::ENOENT))?;
        if let Operation::AddRule { chain, rule } = operation {
            self.handle += 1;
            return state.add_rule(chain, rule, self.handle);
        }
        state.apply(operation)
    }
}

impl Nft for Fake {
    fn read_table(&mut self, table: &TableId) -> Result<Option<Observed>, NftError> {
        Ok(self.tables.get(table).map(|state| {
            let mut observed = state.observed.clone();
            // As from the kernel, elements of dynamic sets are not read.
            for set in observed.sets.values_mut().filter(|set| set.is_dynamic()) {
                set.elements.clear();
            }
            observed
        }))
    }

    fn read_elements(&mut self, table: &TableId, set: &str) -> Result<Option<Elements>, NftError> {
        let found = self.tables.get(table).and_then(|state| state.observed.sets.get(set));
        Ok(found.map(|set| set.elements.clone()))
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        if transaction.is_empty() {
            return Ok(());
        }
        // The encoder knows what can be written at all.
        Batch::encode(std::slice::from_ref(transaction))?;
        let mut state = self.tables.get(&transaction.table).cloned();
        // As the kernel does it goes on behind a refusal, to tell of the others.
        let mut refusals = Vec::new();
        for operation in &transaction.operations {
            if let Err((element, errno)) = self.apply(&mut state, &transaction.table, operation) {
                let (table, verb) = (transaction.table.clone(), operation.verb());
                refusals.push((Subject { table, verb, object: operation.object(element) }, errno));
            }
        }
        let mut refusals = refusals.into_iter();
        if let Some((subject, errno)) = refusals.next() {
            let (subject, others) = (Box::new(subject), refusals.len());
            let more = refusals.map(|(subject, _)| subject).collect();
            return Err(NftError::Refused { subject, errno, message: None, others, more });
        }
        match state {
            Some(state) => self.tables.insert(transaction.table.clone(), state),
            None => self.tables.remove(&transaction.table),
        };
        self.generation += 1;
        self.committed.push(transaction.clone());
        Ok(())
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        Ok(self.generation)
    }
}

/// The chains that a statement goes to.
fn targets(statement: &Statement) -> impl Iterator<Item = &str> {
    let (one, several) = match statement {
        Statement::Verdict(verdict) => (Some(verdict), &[][..]),
        Statement::VerdictOf { verdicts, .. } => (None, verdicts.as_slice()),
        _ => (None, &[][..]),
    };
    one.into_iter().chain(several.iter().map(|(_, verdict)| verdict)).filter_map(chain_of)
}

impl State {
    fn new(id: &TableId, owner: bool) -> Self {
        let (sets, chains) = (BTreeMap::new(), BTreeMap::new());
        let observed = Observed { id: id.clone(), owner, dormant: false, sets, chains };
        Self { observed, rules: BTreeMap::new() }
    }

    fn apply(&mut self, operation: &Operation) -> Result<(), Refusal> {
        let missing = (0, libc::ENOENT);
        match operation {
            Operation::AddChain(chain) => {
                if self.observed.chains.contains_key(&chain.name) {
                    return Err((0, libc::EEXIST));
                }
                let made = ObservedChain { base: chain.base, foreign: false, rules: Vec::new() };
                self.observed.chains.insert(chain.name.clone(), made);
            }
            Operation::DeleteChain(name) => {
                let chain = self.observed.chains.get(name).ok_or(missing)?;
                if !chain.rules.is_empty() || self.chain_is_used(name) {
                    return Err((0, libc::EBUSY));
                }
                self.observed.chains.remove(name);
            }
            Operation::FlushChain(name) => {
                let chain = self.observed.chains.get_mut(name).ok_or(missing)?;
                for rule in chain.rules.drain(..) {
                    self.rules.remove(&rule.handle);
                }
            }
            Operation::DeleteRule { chain, handle } => {
                let chain = self.observed.chains.get_mut(chain).ok_or(missing)?;
                let at = chain.rules.iter().position(|rule| rule.handle == *handle).ok_or(missing)?;
                chain.rules.remove(at);
                self.rules.remove(handle);
            }
            Operation::AddSet(spec) => {
                if self.observed.sets.contains_key(&spec.name) {
                    return Err((0, libc::EEXIST));
                }
                let made = ObservedSet { header: spec.header(), elements: Elements::new() };
                self.observed.sets.insert(spec.name.clone(), made);
            }
            Operation::DeleteSet(name) => {
                self.observed.sets.get(name).ok_or(missing)?;
                let used = self
                    .rules
                    .values()
                    .flat_map(|rule| &rule.statements)
                    .any(|statement| set_of(statement) == Some(name.as_str()));
                if used {
                    return Err((0, libc::EBUSY));
                }
                self.observed.sets.remove(name);
            }
            Operation::FlushSet(name) => {
                self.observed.sets.get_mut(name).ok_or(missing)?.elements.clear();
            }
            Operation::AddElements(spec, elements) => {
                self.observed.sets.get(&spec.name).ok_or((usize::MAX, libc::ENOENT))?;
                for (index, (key, element)) in elements.iter().enumerate() {
                    self.add_element(spec, key, element).map_err(|errno| (index, errno))?;
                }
            }
            Operation::DeleteElements(spec, elements) => {
                let set = self.observed.sets.get_mut(&spec.name).ok_or((usize::MAX, libc::ENOENT))?;
                for (index, (key, element)) in elements.iter().enumerate() {
                    let end = element.key_end.as_ref().filter(|end| *end != key);
                    match set.elements.get(key) {
                        Some(found) if found.key_end.as_ref() == end => set.elements.remove(key),
                        _ => return Err((index, libc::ENOENT)),
                    };
                }
            }
            // Handled by the caller.
            Operation::AddTable { .. } | Operation::DeleteTable | Operation::AddRule { .. } => {}
        }
        Ok(())
    }

    fn add_rule(&mut self, chain: &str, rule: &Rule, handle: u64) -> Result<(), Refusal> {
        for statement in &rule.statements {
            if let Some(set) = set_of(statement)
                && !self.observed.sets.contains_key(set)
            {
                return Err((0, libc::ENOENT));
            }
            for target in targets(statement) {
                self.check_target(target).map_err(|errno| (0, errno))?;
            }
        }
        let found = self.observed.chains.get_mut(chain).ok_or((0, libc::ENOENT))?;
        let (digest, comment) = (Some(rule.digest()), rule.comment.clone());
        found.rules.push(ObservedRule { handle, digest, comment });
        self.rules.insert(handle, rule.clone());
        Ok(())
    }

    /// Verdicts go to chains that are there and are not attached to a hook.
    fn check_target(&self, name: &str) -> Result<(), i32> {
        match self.observed.chains.get(name) {
            None => Err(libc::ENOENT),
            Some(chain) if chain.base.is_some() => Err(libc::EOPNOTSUPP),
            Some(_) => Ok(()),
        }
    }

    fn chain_is_used(&self, name: &str) -> bool {
        let by_rule = self.rules.values().flat_map(|rule| &rule.statements).any(
            |statement| matches!(statement, Statement::Verdict(verdict) if chain_of(verdict) == Some(name)),
        );
        let mut elements = self.observed.sets.values().flat_map(|set| set.elements.values());
        by_rule || elements.any(|element| chain_of_data(element.data.as_ref()) == Some(name))
    }

    fn add_element(&mut self, spec: &SetSpec, key: &Value, element: &Element) -> Result<(), i32> {
        if let Some(target) = chain_of_data(element.data.as_ref()) {
            self.check_target(target)?;
        }
        let set = self.observed.sets.get_mut(&spec.name).ok_or(libc::ENOENT)?;
        let mut element = element.clone();
        element.key_end.take_if(|end| end == key);
        let end = element.key_end.as_ref().unwrap_or(key);
        if let Some(found) = set.elements.get(key) {
            let same = found.data == element.data && found.key_end == element.key_end;
            return if same { Ok(()) } else { Err(libc::EEXIST) };
        }
        let before = set.elements.range(..key).next_back();
        let after = set.elements.range(key..).next();
        let overlaps = spec.interval
            && (before.is_some_and(|(start, found)| found.key_end.as_ref().unwrap_or(start) >= key)
                || after.is_some_and(|(start, _)| start <= end));
        if overlaps {
            return Err(libc::EEXIST);
        }
        if spec.size.is_some_and(|size| set.elements.len() >= size as usize) {
            return Err(libc::ENFILE);
        }
        set.elements.insert(key.clone(), element);
        Ok(())
    }
}
