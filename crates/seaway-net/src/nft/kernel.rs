//! The kernel's nf_tables, by netlink.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Nft;
use super::decode::{self, DecodedSet, ElementsDecoder};
use super::encode::Batch;
use super::error::NftError;
use super::observed::{Observed, ObservedChain, ObservedSet};
use super::table::{Elements, TableId};
use super::transaction::Transaction;
use super::uapi::{GEN_ID, SUBSYSTEM, chain, element, message, rule, set, set_flag, table};
use crate::netlink::{Message, NetlinkError, Outcome, Protocol, Socket, Writer, outcome, retry_dump};

/// nf_tables of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Kernel {
    socket: Socket,
    last: CommitCost,
}

/// What a transaction cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitCost {
    /// Bytes sent.
    pub bytes: usize,
    /// Time to write the messages.
    pub encode: Duration,
    /// Time that the kernel took to check and commit them.
    pub kernel: Duration,
}

impl Kernel {
    /// Opens nf_tables of the calling thread's network namespace.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self { socket: Socket::open(Protocol::Netfilter)?, last: CommitCost::default() })
    }

    /// What the last transaction that was sent cost.
    pub fn last_commit(&self) -> CommitCost {
        self.last
    }

    /// Makes the changes of all the transactions at once, in order, or none of them; see [`Nft::commit`].
    pub fn commit_all(&mut self, transactions: &[Transaction]) -> Result<(), NftError> {
        if transactions.iter().all(Transaction::is_empty) {
            return Ok(());
        }
        let start = Instant::now();
        let mut batch = Batch::encode(transactions)?;
        if batch.messages() == 2 {
            return Ok(());
        }
        batch.number_from(self.socket.reserve_sequences(batch.messages()));
        let doing = || {
            let tables: Vec<_> =
                transactions.iter().map(|transaction| transaction.table.to_string()).collect();
            format!("commit to table {} ({} bytes)", tables.join(", "), batch.bytes().len())
        };
        let encoded = Instant::now();
        self.socket.send(batch.bytes()).map_err(|error| error.during(doing()))?;
        let answer = self.answers(&batch, transactions);
        self.last =
            CommitCost { bytes: batch.bytes().len(), encode: encoded - start, kernel: encoded.elapsed() };
        answer
    }

    /// Whether there is such a table, however much is in it.
    pub fn has_table(&mut self, table: &TableId) -> Result<bool, NftError> {
        let flags =
            self.read_flags(table).map_err(|error| error.during(format!("look for table {table}")))?;
        Ok(flags.is_some())
    }

    /// The rules of a table by handle, each with its comment; also those of tables that are not ours.
    pub fn rule_comments(&mut self, table: &TableId) -> Result<BTreeMap<u64, Option<String>>, NftError> {
        let read = retry_dump(|| {
            let mut comments = BTreeMap::new();
            let body = |writer: &mut Writer| writer.string(rule::TABLE, &table.name);
            self.dump(message::GETRULE, table, body, |message| {
                let (_, found) = decode::decode_rule(message.payload)?;
                let comment = match found.comment {
                    None => decode::compatible_comment(message.payload)?,
                    comment => comment,
                };
                comments.insert(found.handle, comment);
                Ok(())
            })?;
            Ok(comments)
        });
        Ok(read.map_err(|error: NetlinkError| error.during(format!("list the rules of table {table}")))?)
    }

    /// Sends a request of one message about a table and passes on the answers.
    fn request(
        &mut self,
        kind: u16,
        flags: u16,
        table: &TableId,
        body: impl FnOnce(&mut Writer),
        each: impl FnMut(Message<'_>) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let sequence = self.socket.next_sequence();
        let mut writer = Writer::default();
        writer.begin(SUBSYSTEM << 8 | kind, flags, sequence);
        writer.bytes(&[table.family.number(), 0, 0, 0]);
        body(&mut writer);
        writer.end();
        self.socket.exchange(writer.as_slice(), sequence, each)
    }

    pub(super) fn dump(
        &mut self,
        kind: u16,
        table: &TableId,
        body: impl FnOnce(&mut Writer),
        each: impl FnMut(Message<'_>) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        self.request(kind, libc::NLM_F_DUMP as u16, table, body, each)
    }

    fn read_flags(&mut self, id: &TableId) -> Result<Option<u32>, NetlinkError> {
        let mut flags = 0;
        let result = self.request(
            message::GETTABLE,
            0,
            id,
            |writer| writer.string(table::NAME, &id.name),
            |message| {
                flags = decode::table_flags(message.payload)?;
                Ok(())
            },
        );
        match result {
            Ok(()) => Ok(Some(flags)),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_chains(&mut self, id: &TableId) -> Result<BTreeMap<String, ObservedChain>, NetlinkError> {
        let mut chains = BTreeMap::new();
        // The kernel lists the chains of all tables of the family.
        let each = |message: Message<'_>| {
            let found = decode::decode_chain(message.payload)?;
            if found.table == id.name {
                let chain = ObservedChain { base: found.base, foreign: found.foreign, rules: Vec::new() };
                chains.insert(found.name, chain);
            }
            Ok(())
        };
        self.dump(message::GETCHAIN, id, |writer| writer.string(chain::TABLE, &id.name), each)?;
        let each = |message: Message<'_>| {
            let (chain, rule) = decode::decode_rule(message.payload)?;
            chains.entry(chain).or_default().rules.push(rule);
            Ok(())
        };
        self.dump(message::GETRULE, id, |writer| writer.string(rule::TABLE, &id.name), each)?;
        Ok(chains)
    }

    fn read_sets(&mut self, id: &TableId) -> Result<Vec<DecodedSet>, NetlinkError> {
        let mut sets = Vec::new();
        let each = |message: Message<'_>| {
            let set = decode::decode_set(message.payload)?;
            if set.header.flags & set_flag::ANONYMOUS == 0 {
                sets.push(set);
            }
            Ok(())
        };
        self.dump(message::GETSET, id, |writer| writer.string(set::TABLE, &id.name), each)?;
        Ok(sets)
    }

    fn dump_elements(&mut self, id: &TableId, set: &DecodedSet) -> Result<Elements, NetlinkError> {
        let mut decoder = ElementsDecoder::new(&set.header);
        self.dump(
            message::GETSETELEM,
            id,
            |writer| {
                writer.string(element::LIST_TABLE, &id.name);
                writer.string(element::LIST_SET, &set.name);
            },
            |message| decoder.message(message.payload),
        )?;
        // A dump goes wrong without a word while the kernel grows the set's hash table, which it does for some
        // milliseconds after a large transaction. Elements that have timed out are counted but not listed.
        let lasting = set.header.flags & set_flag::TIMEOUT == 0;
        if let (true, Some(counted), Some(listed)) = (lasting, set.count, decoder.count())
            && counted as usize != listed
        {
            std::thread::sleep(Duration::from_millis(5));
            return Err(NetlinkError::Interrupted { operation: String::new() });
        }
        Ok(decoder.finish())
    }

    /// Reads a table once; the caller checks that nothing changed meanwhile.
    fn read_once(&mut self, id: &TableId) -> Result<Option<Observed>, NetlinkError> {
        let Some(flags) = self.read_flags(id)? else { return Ok(None) };
        let chains = self.read_chains(id)?;
        let mut sets = BTreeMap::new();
        for set in self.read_sets(id)? {
            let dynamic = set.header.flags & set_flag::EVAL != 0;
            let elements = if dynamic { Elements::new() } else { self.dump_elements(id, &set)? };
            sets.insert(set.name, ObservedSet { header: set.header, elements });
        }
        Ok(Some(Observed {
            id: id.clone(),
            owner: flags & table::F_OWNER != 0,
            dormant: flags & table::F_DORMANT != 0,
            sets,
            chains,
        }))
    }

    fn read_generation(&mut self) -> Result<u32, NetlinkError> {
        let mut generation = 0;
        let any = TableId::new(super::Family::Inet, "");
        self.request(
            message::GETGEN,
            0,
            &any,
            |_| (),
            |message| {
                for attribute in decode::attributes(message.payload) {
                    let attribute = attribute?;
                    if attribute.kind == GEN_ID {
                        generation = attribute.be32()?;
                    }
                }
                Ok(())
            },
        )?;
        Ok(generation)
    }

    /// Takes the answers to a batch: the kernel has worked it off, and queued them, before the send returned.
    fn answers(&mut self, batch: &Batch, transactions: &[Transaction]) -> Result<(), NftError> {
        let last = batch.last_sequence();
        let first = last + 2 - batch.messages();
        let mut acknowledged = false;
        let mut overrun = None;
        let mut refused: Vec<NetlinkError> = Vec::new();
        let mut count = 0;
        loop {
            let messages = match self.socket.try_receive() {
                Ok(Some(messages)) => messages,
                Ok(None) => break,
                // Too many refusals for the buffer: the first of them are there nevertheless.
                Err(error @ NetlinkError::Overrun { .. }) => {
                    overrun = Some(error);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for message in messages {
                let message = message?;
                if message.sequence < first || message.sequence > last {
                    continue;
                }
                match outcome(&message) {
                    Ok(Outcome::Finished) => acknowledged |= message.sequence == last,
                    Ok(Outcome::Data) => {}
                    Err(error @ NetlinkError::Refused { .. }) => {
                        count += 1;
                        if refused.len() <= MOST_REFUSALS {
                            refused.push(error);
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let mut refused = refused.into_iter();
        match refused.next() {
            None if acknowledged => Ok(()),
            None => {
                let silent = || NetlinkError::malformed("no answer to an nf_tables batch");
                Err(overrun.unwrap_or_else(silent).into())
            }
            // The first to be refused is the cause, the others often follow from it.
            Some(first) => Err(explained(first, refused, batch, transactions, count - 1)),
        }
    }
}

/// Of so many further refusals it is told what they are about.
const MOST_REFUSALS: usize = 1024;

/// A refusal and the first of the `others`, told of the operations that were refused.
fn explained(
    error: NetlinkError,
    further: impl Iterator<Item = NetlinkError>,
    batch: &Batch,
    transactions: &[Transaction],
    others: usize,
) -> NftError {
    let subject = |error: &NetlinkError| match error {
        NetlinkError::Refused { sequence, offset, .. } => batch.subject(transactions, *sequence, *offset),
        _ => None,
    };
    match (subject(&error), error) {
        (Some(at), NetlinkError::Refused { errno, message, .. }) => {
            let more = further.filter_map(|error| subject(&error)).collect();
            NftError::Refused { subject: Box::new(at), errno, message, others, more }
        }
        (_, error) => error.into(),
    }
}

impl Nft for Kernel {
    fn read_table(&mut self, table: &TableId) -> Result<Option<Observed>, NftError> {
        let operation = format!("read table {table}");
        let read = retry_dump(|| {
            let before = self.read_generation()?;
            let result = self.read_once(table);
            let after = self.read_generation()?;
            // Each dump is consistent in itself; the generation says whether all of them are with each other.
            if before != after {
                return Err(NetlinkError::Interrupted { operation: String::new() });
            }
            result
        });
        Ok(read.map_err(|error| error.during(operation))?)
    }

    fn read_elements(&mut self, table: &TableId, name: &str) -> Result<Option<Elements>, NftError> {
        let read = retry_dump(|| {
            let sets = self.read_sets(table)?;
            let set = sets.iter().find(|set| set.name == name);
            set.map(|set| self.dump_elements(table, set)).transpose()
        });
        Ok(read.map_err(|error| error.during(format!("read set {name} of table {table}")))?)
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        self.commit_all(std::slice::from_ref(transaction))
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        Ok(self.read_generation().map_err(|error| error.during("read the ruleset's generation"))?)
    }
}
