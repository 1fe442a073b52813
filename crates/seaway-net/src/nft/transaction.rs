//! A list of changes to one table that the kernel makes all at once or not at all.

use std::fmt;
use std::sync::Arc;

use super::rule::Rule;
use super::table::{Chain, Element, Elements, Set, SetSpec, Table, TableId};
use super::value::Value;

/// One change to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Makes the table; fine if it is there already.
    AddTable {
        /// Tied to the socket that makes it.
        owner: bool,
    },
    /// Takes the table away with all that is in it; refused (not found) if it is not there.
    DeleteTable,
    /// Makes an empty chain.
    AddChain(Chain),
    /// Takes away a chain that has no rules.
    DeleteChain(String),
    /// Takes all rules out of a chain.
    FlushChain(String),
    /// Adds a rule at the end of a chain.
    AddRule {
        /// The chain's name.
        chain: String,
        /// The rule.
        rule: Rule,
    },
    /// Takes a rule out of a chain.
    DeleteRule {
        /// The chain's name.
        chain: String,
        /// The kernel's handle of the rule.
        handle: u64,
    },
    /// Makes an empty set or map.
    AddSet(Arc<SetSpec>),
    /// Takes away a set that no rule uses, with its elements.
    DeleteSet(String),
    /// Takes all elements out of a set.
    FlushSet(String),
    /// Puts elements into a set; refused if one is there already with other data.
    AddElements(Arc<SetSpec>, Vec<(Value, Element)>),
    /// Takes elements out of a set; refused (not found) if one is not there.
    DeleteElements(Arc<SetSpec>, Vec<(Value, Element)>),
}

/// Changes to one table, made in order and all at once.
///
/// Names must be there when they are used: chains before the elements and rules that go to them, sets before the
/// rules that look into them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The table that is changed.
    pub table: TableId,
    /// The changes.
    pub operations: Vec<Operation>,
}

impl Transaction {
    /// A transaction without changes.
    pub fn new(table: TableId) -> Self {
        Self { table, operations: Vec::new() }
    }

    /// Makes the whole table, which must not be there yet or be empty.
    pub fn create(table: &Table) -> Self {
        let mut transaction = Self::new(table.id.clone());
        transaction.push(Operation::AddTable { owner: table.owner });
        transaction.fill(table);
        transaction
    }

    /// Makes the whole table in place of one that may be there, with no moment between the two.
    pub fn replace(table: &Table) -> Self {
        let mut transaction = Self::new(table.id.clone());
        // Adding it first makes the deletion legal whether or not it was there.
        transaction.push(Operation::AddTable { owner: false });
        transaction.push(Operation::DeleteTable);
        transaction.push(Operation::AddTable { owner: table.owner });
        transaction.fill(table);
        transaction
    }

    /// Takes a table away, whether or not it is there.
    pub fn remove(table: TableId) -> Self {
        let mut transaction = Self::new(table);
        transaction.push(Operation::AddTable { owner: false });
        transaction.push(Operation::DeleteTable);
        transaction
    }

    fn fill(&mut self, table: &Table) {
        for chain in &table.chains {
            self.add_chain(chain);
        }
        for set in &table.sets {
            self.add_set(set);
        }
        for chain in &table.chains {
            for rule in &chain.rules {
                self.add_rule(&chain.name, rule.clone());
            }
        }
    }

    /// The same changes with one element in each operation: where one is refused it can be told which, by any kernel, and
    /// each of several that are refused.
    #[must_use]
    pub fn one_by_one(self) -> Self {
        let split = |operation| match operation {
            Operation::AddElements(spec, elements) => {
                let one = |element| Operation::AddElements(Arc::clone(&spec), vec![element]);
                elements.into_iter().map(one).collect()
            }
            Operation::DeleteElements(spec, elements) => {
                let one = |element| Operation::DeleteElements(Arc::clone(&spec), vec![element]);
                elements.into_iter().map(one).collect()
            }
            other => vec![other],
        };
        Self { table: self.table, operations: self.operations.into_iter().flat_map(split).collect() }
    }

    /// The same changes in several transactions, none of which adds more than `most` elements (but at least one). What
    /// comes behind the last element stays together with it: of [`Transaction::create`] all the rules.
    #[must_use]
    pub fn in_stages(self, most: usize) -> Vec<Self> {
        let most = most.max(1);
        let mut stages = vec![Self::new(self.table.clone())];
        let mut room = most;
        for operation in self.operations {
            let Operation::AddElements(spec, mut elements) = operation else {
                if let Some(stage) = stages.last_mut() {
                    stage.push(operation);
                }
                continue;
            };
            while !elements.is_empty() {
                if room == 0 {
                    stages.push(Self::new(self.table.clone()));
                    room = most;
                }
                let later = elements.split_off(room.min(elements.len()));
                room -= elements.len();
                if let Some(stage) = stages.last_mut() {
                    stage.push(Operation::AddElements(Arc::clone(&spec), elements));
                }
                elements = later;
            }
        }
        stages
    }

    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Appends a change.
    pub fn push(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// Makes a chain, without its rules.
    pub fn add_chain(&mut self, chain: &Chain) {
        let empty = Chain { name: chain.name.clone(), base: chain.base, rules: Vec::new() };
        self.push(Operation::AddChain(empty));
    }

    /// Takes away a chain that has no rules and that nothing goes to.
    pub fn delete_chain(&mut self, name: impl Into<String>) {
        self.push(Operation::DeleteChain(name.into()));
    }

    /// Adds a rule at the end of a chain.
    pub fn add_rule(&mut self, chain: impl Into<String>, rule: Rule) {
        self.push(Operation::AddRule { chain: chain.into(), rule });
    }

    /// Takes all rules out of a chain.
    pub fn flush_chain(&mut self, name: impl Into<String>) {
        self.push(Operation::FlushChain(name.into()));
    }

    /// Makes a set or map with its elements.
    pub fn add_set(&mut self, set: &Set) {
        self.push(Operation::AddSet(Arc::clone(&set.spec)));
        self.add_elements(&set.spec, &set.elements);
    }

    /// Takes away a set that no rule uses.
    pub fn delete_set(&mut self, name: impl Into<String>) {
        self.push(Operation::DeleteSet(name.into()));
    }

    /// Puts elements into a set.
    pub fn add_elements(&mut self, set: &Arc<SetSpec>, elements: &Elements) {
        if !elements.is_empty() {
            let elements = elements.iter().map(|(key, element)| (key.clone(), element.clone())).collect();
            self.push(Operation::AddElements(Arc::clone(set), elements));
        }
    }

    /// Puts one element into a set.
    pub fn add_element(&mut self, set: &Arc<SetSpec>, key: Value, element: Element) {
        if let Some(Operation::AddElements(last, elements)) = self.operations.last_mut()
            && Arc::ptr_eq(last, set)
        {
            elements.push((key, element));
            return;
        }
        self.push(Operation::AddElements(Arc::clone(set), vec![(key, element)]));
    }

    /// Takes one element out of a set; of `element` only the end of a range counts.
    pub fn delete_element(&mut self, set: &Arc<SetSpec>, key: Value, element: Element) {
        if let Some(Operation::DeleteElements(last, elements)) = self.operations.last_mut()
            && Arc::ptr_eq(last, set)
        {
            elements.push((key, element));
            return;
        }
        self.push(Operation::DeleteElements(Arc::clone(set), vec![(key, element)]));
    }

    /// Puts an element in place of the one with the same key, with no moment between the two.
    pub fn replace_element(&mut self, set: &Arc<SetSpec>, key: Value, old: Element, new: Element) {
        self.delete_element(set, key.clone(), old);
        self.add_element(set, key, new);
    }
}

/// What an operation is about, as errors name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Object {
    /// The table itself.
    Table,
    /// A chain.
    Chain(String),
    /// A rule of a chain.
    Rule {
        /// The chain's name.
        chain: String,
        /// The rule in nft's syntax, or its handle.
        rule: String,
    },
    /// A set or map.
    Set(String),
    /// An element of a set or map.
    Element {
        /// The set's name.
        set: String,
        /// The element in nft's syntax.
        element: String,
    },
    /// The transaction as a whole.
    Transaction,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table => f.write_str("table"),
            Self::Chain(name) => write!(f, "chain {name}"),
            Self::Rule { chain, rule } => write!(f, "rule of chain {chain}: {rule}"),
            Self::Set(name) => write!(f, "set {name}"),
            Self::Element { set, element } => write!(f, "element of set {set}: {element}"),
            Self::Transaction => f.write_str("transaction"),
        }
    }
}

impl Operation {
    /// `add`, `delete` or `flush`.
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::AddTable { .. }
            | Self::AddChain(_)
            | Self::AddRule { .. }
            | Self::AddSet(_)
            | Self::AddElements(..) => "add",
            Self::DeleteTable
            | Self::DeleteChain(_)
            | Self::DeleteRule { .. }
            | Self::DeleteSet(_)
            | Self::DeleteElements(..) => "delete",
            Self::FlushChain(_) | Self::FlushSet(_) => "flush",
        }
    }

    /// What it is about; of several elements, the one at `element`.
    pub fn object(&self, element: usize) -> Object {
        match self {
            Self::AddTable { .. } | Self::DeleteTable => Object::Table,
            Self::AddChain(chain) => Object::Chain(chain.name.clone()),
            Self::DeleteChain(name) | Self::FlushChain(name) => Object::Chain(name.clone()),
            Self::AddRule { chain, rule } => Object::Rule { chain: chain.clone(), rule: rule.to_string() },
            Self::DeleteRule { chain, handle } => {
                Object::Rule { chain: chain.clone(), rule: format!("handle {handle}") }
            }
            Self::AddSet(spec) => Object::Set(spec.name.clone()),
            Self::DeleteSet(name) | Self::FlushSet(name) => Object::Set(name.clone()),
            Self::AddElements(spec, elements) | Self::DeleteElements(spec, elements) => {
                match elements.get(element) {
                    Some((key, element)) => Object::Element {
                        set: spec.name.clone(),
                        element: spec.element_text(key, element).to_string(),
                    },
                    None => Object::Set(spec.name.clone()),
                }
            }
        }
    }
}
