//! Transactions as one netlink batch, and the way back from a refused message to the operation.

use std::sync::Arc;

use super::check::{DataLayout, ElementLayout, check_name, check_rule, check_set, lengths};
use super::error::{NftError, Subject};
use super::lower::{ANONYMOUS, Lowering, write_verdict};
use super::rule::{Rule, Statement};
use super::table::{Chain, Data, Element, MapData, SetSpec, TableId};
use super::transaction::{Operation, Transaction};
use super::uapi::{
    DATA_VERDICT, LIST_ELEM, NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, SUBSYSTEM, chain, data, element,
    message, rule, set, set_flag, table,
};
use super::userdata;
use super::value::{DataType, Value};
use crate::netlink::{Attributes, Writer, align};

const CREATE: u16 = libc::NLM_F_CREATE as u16;
const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;
/// NLM_F_NONREC (linux/netlink.h): refuse to delete what still has contents.
const NOT_RECURSIVE: u16 = 0x100;

/// Elements are written into one message until its list has this many bytes; an attribute cannot have more than 65535,
/// and one element never has more than 1,000.
const ELEMENTS_LIMIT: usize = 64_000;

/// Where a message of the batch comes from.
#[derive(Debug, Clone, Copy)]
struct Origin {
    /// Index of the transaction.
    transaction: usize,
    /// Index of the operation.
    operation: usize,
    /// Index of the operation's first element in the message.
    element: usize,
    /// Where the message starts in the batch.
    start: usize,
}

/// Transactions as they are sent: all of them are made, or none.
#[derive(Debug)]
pub(crate) struct Batch {
    writer: Writer,
    first_sequence: u32,
    origins: Vec<Origin>,
}

impl Batch {
    /// Encodes transactions, with sequence numbers from 1 on.
    pub(crate) fn encode(transactions: &[Transaction]) -> Result<Self, NftError> {
        let unnamed = TableId::new(super::Family::Inet, "");
        let first = transactions.first().map_or(&unnamed, |transaction| &transaction.table);
        let mut encoder = Encoder::new(first, transactions.iter().map(capacity).sum());
        encoder.boundary(NFNL_MSG_BATCH_BEGIN);
        for (at, transaction) in transactions.iter().enumerate() {
            (encoder.table, encoder.transaction) = (&transaction.table, at);
            for (index, operation) in transaction.operations.iter().enumerate() {
                encoder.operation = index;
                encoder.operation(operation).map_err(|(element, reason)| NftError::Invalid {
                    subject: Box::new(subject(transaction, operation, element)),
                    reason,
                })?;
            }
        }
        // Success is silent unless asked for: the last change answers for all.
        encoder.writer.add_flags(libc::NLM_F_ACK as u16);
        encoder.boundary(NFNL_MSG_BATCH_END);
        Ok(Self { writer: encoder.writer, first_sequence: 1, origins: encoder.origins })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.writer.as_slice()
    }

    /// How many sequence numbers it takes, boundaries included.
    pub(crate) fn messages(&self) -> u32 {
        self.origins.len() as u32 + 2
    }

    /// Moves all sequence numbers so that the first is `first`.
    pub(crate) fn number_from(&mut self, first: u32) {
        self.writer.renumber(first);
        self.first_sequence = first;
    }

    /// The sequence number of the message that is acknowledged.
    pub(crate) fn last_sequence(&self) -> u32 {
        self.first_sequence + self.origins.len() as u32
    }

    /// What the refused message with this sequence number was about; `offset` is the kernel's hint at the attribute.
    pub(crate) fn subject(
        &self,
        transactions: &[Transaction],
        sequence: u32,
        offset: Option<u32>,
    ) -> Option<Subject> {
        let index = sequence.wrapping_sub(self.first_sequence).wrapping_sub(1) as usize;
        let Some(origin) = self.origins.get(index) else {
            let table = transactions.first()?.table.clone();
            return Some(Subject { table, verb: "commit", object: super::Object::Transaction });
        };
        let transaction = transactions.get(origin.transaction)?;
        let end = self.origins.get(index + 1).map_or(self.writer.len(), |next| next.start);
        let bytes = &self.bytes()[origin.start..end];
        let within = match offset {
            Some(offset) => element_at(bytes, offset as usize),
            // Without a hint it can only be said which element when the message has but one.
            None => element_at(bytes, bytes.len()).filter(|last| *last == 0),
        };
        let element = within.map(|within| origin.element + within);
        let operation = transaction.operations.get(origin.operation)?;
        Some(subject(transaction, operation, element.unwrap_or(usize::MAX)))
    }
}

fn subject(transaction: &Transaction, operation: &Operation, element: usize) -> Subject {
    Subject { table: transaction.table.clone(), verb: operation.verb(), object: operation.object(element) }
}

/// Which element's attributes in a message reach to `offset`, counted from 0.
fn element_at(bytes: &[u8], offset: usize) -> Option<usize> {
    const HEADERS: usize = 16 + 4;
    let mut at = HEADERS;
    for attribute in Attributes::new(bytes.get(HEADERS..)?).flatten() {
        if attribute.kind != element::LIST_ELEMENTS {
            at += 4 + align(attribute.value.len());
            continue;
        }
        at += 4;
        let mut index = None;
        for listed in attribute.nested().flatten() {
            if at > offset {
                break;
            }
            at += 4 + align(listed.value.len());
            let closes = listed.nested().flatten().any(|part| {
                part.kind == element::FLAGS
                    && part.be32().is_ok_and(|flags| flags & element::F_INTERVAL_END != 0)
            });
            if !closes {
                index = Some(index.map_or(0, |index| index + 1));
            }
        }
        return index;
    }
    None
}

/// A guess at the bytes that a transaction takes.
fn capacity(transaction: &Transaction) -> usize {
    let elements: usize = transaction
        .operations
        .iter()
        .map(|operation| match operation {
            Operation::AddElements(_, elements) | Operation::DeleteElements(_, elements) => elements.len(),
            _ => 4,
        })
        .sum();
    256 + 96 * elements
}

/// The index of the operation's element that is wrong, and why.
type Wrong = (usize, String);

struct Encoder<'a> {
    writer: Writer,
    table: &'a TableId,
    sequence: u32,
    set_id: u32,
    transaction: usize,
    operation: usize,
    origins: Vec<Origin>,
}

impl<'a> Encoder<'a> {
    fn new(table: &'a TableId, capacity: usize) -> Self {
        let writer = Writer::with_capacity(capacity);
        Self { writer, table, sequence: 1, set_id: 0, transaction: 0, operation: 0, origins: Vec::new() }
    }

    fn boundary(&mut self, kind: u16) {
        self.writer.begin(kind, 0, self.sequence);
        self.sequence += 1;
        // struct nfgenmsg: family unspecified, version 0, the subsystem as resource id
        let [high, low] = SUBSYSTEM.to_be_bytes();
        self.writer.bytes(&[0, 0, high, low]);
        self.writer.end();
    }

    fn begin(&mut self, kind: u16, flags: u16, element: usize) {
        let (transaction, operation) = (self.transaction, self.operation);
        self.origins.push(Origin { transaction, operation, element, start: self.writer.len() });
        self.writer.begin(SUBSYSTEM << 8 | kind, flags, self.sequence);
        self.sequence += 1;
        self.writer.bytes(&[self.table.family.number(), 0, 0, 0]);
        // The table's name is attribute 1 of every message.
        self.writer.string(table::NAME, &self.table.name);
    }

    fn operation(&mut self, operation: &Operation) -> Result<(), Wrong> {
        let whole = |reason| (usize::MAX, reason);
        check_name(&self.table.name).map_err(whole)?;
        match operation {
            Operation::AddTable { owner } => self.add_table(*owner),
            Operation::DeleteTable => {
                self.begin(message::DELTABLE, 0, 0);
                self.writer.end();
            }
            Operation::AddChain(chain) => {
                check_name(&chain.name).map_err(whole)?;
                self.add_chain(chain);
            }
            Operation::DeleteChain(name) => {
                self.named(message::DELCHAIN, NOT_RECURSIVE, chain::NAME, name).map_err(whole)?;
            }
            Operation::FlushChain(name) => {
                self.named(message::DELRULE, 0, rule::CHAIN, name).map_err(whole)?;
            }
            Operation::AddRule { chain, rule } => {
                check_name(chain).and_then(|()| check_rule(rule)).map_err(whole)?;
                self.add_rule(chain, rule);
            }
            Operation::DeleteRule { chain, handle } => {
                check_name(chain).map_err(whole)?;
                self.begin(message::DELRULE, 0, 0);
                self.writer.string(rule::CHAIN, chain);
                self.writer.be64(rule::HANDLE, *handle);
                self.writer.end();
            }
            Operation::AddSet(spec) => {
                check_set(spec).map_err(whole)?;
                self.add_set(spec);
            }
            Operation::DeleteSet(name) => {
                self.named(message::DELSET, 0, set::NAME, name).map_err(whole)?;
            }
            Operation::FlushSet(name) => {
                self.named(message::DELSETELEM, 0, element::LIST_SET, name).map_err(whole)?;
            }
            Operation::AddElements(spec, elements) => {
                self.elements(message::NEWSETELEM, CREATE, spec, elements)?;
            }
            Operation::DeleteElements(spec, elements) => {
                self.elements(message::DELSETELEM, 0, spec, elements)?;
            }
        }
        Ok(())
    }

    fn named(&mut self, kind: u16, flags: u16, attribute: u16, name: &str) -> Result<(), String> {
        check_name(name)?;
        self.begin(kind, flags, 0);
        self.writer.string(attribute, name);
        self.writer.end();
        Ok(())
    }

    fn add_table(&mut self, owner: bool) {
        self.begin(message::NEWTABLE, CREATE, 0);
        self.writer.be32(table::FLAGS, if owner { table::F_OWNER } else { 0 });
        self.writer.end();
    }

    fn add_chain(&mut self, chain: &Chain) {
        self.begin(message::NEWCHAIN, CREATE | EXCLUSIVE, 0);
        self.writer.string(chain::NAME, &chain.name);
        if let Some(base) = &chain.base {
            self.writer.string(chain::TYPE, base.kind.name());
            self.writer.nested(chain::HOOK, |writer| {
                writer.be32(chain::HOOK_NUMBER, base.hook.number());
                writer.be32(chain::HOOK_PRIORITY, base.priority as u32);
            });
            self.writer.be32(chain::POLICY, u32::from(base.accept));
        }
        self.writer.end();
    }

    fn add_rule(&mut self, chain: &str, added: &Rule) {
        let mut anonymous = Vec::new();
        for statement in &added.statements {
            match statement {
                Statement::OneOf { field, values, .. } => {
                    let elements = values.iter().map(|value| (value, Element::default()));
                    anonymous.push(self.anonymous_set(SetSpec::typeof_fields(ANONYMOUS, [*field]), elements));
                }
                Statement::VerdictOf { field, verdicts } => {
                    let elements =
                        verdicts.iter().map(|(value, verdict)| (value, Element::data(verdict.clone())));
                    let spec = SetSpec::typeof_fields(ANONYMOUS, [*field]).to_verdict();
                    anonymous.push(self.anonymous_set(spec, elements));
                }
                _ => {}
            }
        }
        self.begin(message::NEWRULE, CREATE | APPEND, 0);
        self.writer.string(rule::CHAIN, chain);
        let opened = self.writer.open(rule::EXPRESSIONS);
        let mut lowering = Lowering::new(&mut self.writer, self.table.family, &anonymous);
        for statement in &added.statements {
            lowering.statement(statement);
        }
        self.writer.close(opened);
        let user_data = userdata::rule(added.comment.as_deref(), added.digest());
        self.writer.attribute(rule::USERDATA, &user_data);
        self.writer.end();
    }

    /// A rule's own set or map, made just before the rule and gone with it; gives its number in the batch.
    fn anonymous_set<'b>(
        &mut self,
        mut spec: SetSpec,
        elements: impl ExactSizeIterator<Item = (&'b Value, Element)>,
    ) -> u32 {
        spec.constant = true;
        spec.size = Some(elements.len() as u32);
        self.write_set(&spec, set_flag::ANONYMOUS);
        let id = self.set_id;
        let layout = ElementLayout::new(&spec);
        self.begin(message::NEWSETELEM, CREATE, 0);
        self.writer.string(element::LIST_SET, ANONYMOUS);
        self.writer.be32(element::LIST_SET_ID, id);
        let list = self.writer.open(element::LIST_ELEMENTS);
        for (value, element) in elements {
            self.element(&layout, value, &element, true);
        }
        self.writer.close(list);
        self.writer.end();
        id
    }

    fn add_set(&mut self, spec: &SetSpec) {
        self.write_set(spec, 0);
    }

    fn write_set(&mut self, spec: &SetSpec, extra_flags: u32) {
        self.set_id += 1;
        let header = spec.header();
        self.begin(message::NEWSET, CREATE | EXCLUSIVE, 0);
        self.writer.string(set::NAME, &spec.name);
        self.writer.be32(set::FLAGS, header.flags | extra_flags);
        self.writer.be32(set::KEY_TYPE, header.key_type);
        self.writer.be32(set::KEY_LEN, header.key_length);
        if spec.data.is_some() {
            self.writer.be32(set::DATA_TYPE, header.data_type);
            self.writer.be32(set::DATA_LEN, header.data_length);
        }
        self.writer.be32(set::ID, self.set_id);
        if header.size != 0 || header.flags & set_flag::CONCAT != 0 {
            self.writer.nested(set::DESC, |writer| {
                if header.size != 0 {
                    writer.be32(set::DESC_SIZE, header.size);
                }
                if header.flags & set_flag::CONCAT != 0 {
                    write_field_lengths(writer, &spec.key.types());
                }
            });
        }
        if header.timeout != 0 {
            self.writer.be64(set::TIMEOUT, header.timeout);
        }
        self.writer.attribute(set::USERDATA, &header.user_data);
        self.writer.end();
    }

    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        spec: &Arc<SetSpec>,
        elements: &[(Value, Element)],
    ) -> Result<(), Wrong> {
        check_name(&spec.name).map_err(|reason| (usize::MAX, reason))?;
        let layout = ElementLayout::new(spec);
        let full = kind == message::NEWSETELEM;
        let mut rest = elements.iter().enumerate().peekable();
        while let Some((first, _)) = rest.peek() {
            self.begin(kind, flags, *first);
            self.writer.string(element::LIST_SET, &spec.name);
            let list = self.writer.open(element::LIST_ELEMENTS);
            while self.writer.open_length(list) < ELEMENTS_LIMIT {
                let Some((index, (key, element))) = rest.next() else { break };
                layout.check_key(key, element).map_err(|reason| (index, reason))?;
                if full {
                    layout.check_contents(element).map_err(|reason| (index, reason))?;
                }
                self.element(&layout, key, element, full);
            }
            self.writer.close(list);
            self.writer.end();
        }
        Ok(())
    }

    /// Writes an element; to delete one (not `full`), its key is enough.
    fn element(&mut self, layout: &ElementLayout, key: &Value, element: &Element, full: bool) {
        // Intervals of one field are written as where they start and where the next thing starts.
        let halves = layout.interval && layout.key_types.len() == 1;
        let end = element.key_end.as_ref().unwrap_or(key);
        let after = if halves { end.stepped(layout.key_length, true) } else { None };
        let item = self.writer.open(LIST_ELEM);
        self.key(element::KEY, &key.bytes()[..layout.key_length]);
        if layout.interval && !halves {
            self.key(element::KEY_END, end.bytes());
        }
        if full {
            self.element_contents(layout, element, halves && after.is_none());
        }
        self.writer.close(item);
        if let Some(after) = after {
            let item = self.writer.open(LIST_ELEM);
            self.key(element::KEY, &after.bytes()[..layout.key_length]);
            self.writer.be32(element::FLAGS, element::F_INTERVAL_END);
            self.writer.close(item);
        }
    }

    fn key(&mut self, attribute: u16, bytes: &[u8]) {
        let opened = self.writer.open(attribute);
        self.writer.attribute(data::VALUE, bytes);
        self.writer.close(opened);
    }

    fn element_contents(&mut self, layout: &ElementLayout, element: &Element, open: bool) {
        match (&element.data, &layout.data) {
            (Some(Data::Value(value)), DataLayout::Value { length, .. }) => {
                self.key(element::DATA, &value.bytes()[..*length]);
            }
            (Some(Data::Verdict(verdict)), _) => {
                self.writer.nested(element::DATA, |writer| write_verdict(writer, verdict));
            }
            _ => {}
        }
        if let Some(timeout) = element.timeout {
            self.writer.be64(element::TIMEOUT, timeout.as_millis() as u64);
        }
        if open || element.comment.is_some() {
            let user_data = userdata::element(element.comment.as_deref(), open);
            self.writer.attribute(element::USERDATA, &user_data);
        }
    }
}

fn write_field_lengths(writer: &mut Writer, types: &[DataType]) {
    writer.nested(set::DESC_CONCAT, |writer| {
        for kind in types {
            writer.nested(LIST_ELEM, |writer| writer.be32(set::FIELD_LEN, kind.length() as u32));
        }
    });
}

impl SetSpec {
    /// The set that was read back is declared so.
    pub fn is_declaration_of(&self, found: &super::ObservedSet) -> bool {
        found.header == self.header()
    }

    /// The declaration in the kernel's terms.
    pub(crate) fn header(&self) -> super::SetHeader {
        let key_types = self.key.types();
        let mut flags = 0;
        for (set, flag) in [
            (self.constant, set_flag::CONSTANT),
            (self.interval, set_flag::INTERVAL),
            (self.data.is_some(), set_flag::MAP),
            (self.timeouts, set_flag::TIMEOUT),
            (self.dynamic, set_flag::EVAL),
            (self.interval && key_types.len() > 1, set_flag::CONCAT),
        ] {
            if set {
                flags |= flag;
            }
        }
        let (data_type, data_length) = match &self.data {
            None => (0, 0),
            Some(MapData::Verdict) => (DATA_VERDICT, 0),
            Some(MapData::Values(declaration)) => {
                let types = declaration.types();
                (userdata::concatenated_type(&types), lengths(&types).1 as u32)
            }
        };
        super::SetHeader {
            flags,
            key_type: userdata::concatenated_type(&key_types),
            key_length: lengths(&key_types).1 as u32,
            data_type,
            data_length,
            timeout: self.default_timeout.map_or(0, |timeout| timeout.as_millis() as u64),
            size: self.size.unwrap_or(0),
            user_data: userdata::set(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::arbitrary;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_hint_of_the_kernel_is_taken_without_panic(message in arbitrary::payload(20), offset in any::<u16>()) {
            let _ = element_at(&message, offset.into());
        }
    }
}
