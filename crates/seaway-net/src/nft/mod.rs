//! nf_tables: one intermediate form of tables, and where it can go.
//!
//! A driver builds the [`Table`] that it wants, or a [`Transaction`] of single changes, and commits it to an [`Nft`]:
//! the kernel ([`Kernel`]) or a stateful [`Fake`]. [`diff`] gives the transaction that makes of what is there
//! what is wanted. Tables, rules and transactions print in nft's own syntax, which is the third sink: a transaction's
//! text can be given to `nft -f`.
//!
//! Wire format: linux/netfilter/nf_tables.h; what `nft` itself keeps in user data (for `nft list ruleset` to show
//! declarations and comments): libnftnl's udata.h.

mod check;
mod decode;
mod diff;
mod encode;
mod error;
mod fake;
mod field;
mod kernel;
mod lower;
mod monitor;
mod observed;
mod others;
mod rule;
mod table;
mod text;
mod trace;
mod transaction;
mod uapi;
mod userdata;
mod value;

pub use diff::diff;
pub use error::{NftError, Subject};
pub use fake::Fake;
pub use field::{
    Direction, FibAddress, Field, NumgenMode, Tuple, address_type, ct_state, ct_status, tcp_flag,
};
pub use kernel::{CommitCost, Kernel};
pub use monitor::{Change, Monitor};
pub use observed::{Observed, ObservedChain, ObservedRule, ObservedSet, SetHeader};
pub use others::{OtherChain, OtherRule};
pub use rule::{Comparison, Learn, NatFlags, NatKind, NatTarget, Reject, Rule, Statement, Verdict};
pub use table::{
    Base, Chain, ChainKind, Data, Declaration, Element, Elements, Family, Hook, MapData, Set, SetSpec, Table,
    TableId, priority,
};
pub use text::ElementText;
pub use trace::{Point, Traced, Tracer};
pub use transaction::{Object, Operation, Transaction};
pub use value::{DataType, ICMP, ICMPV6, SCTP, TCP, Typed, UDP, Value};

/// Where tables go to: the kernel or a fake.
pub trait Nft {
    /// Reads a table with all that is in it; `None` if it is not there.
    fn read_table(&mut self, table: &TableId) -> Result<Option<Observed>, NftError>;

    /// Makes a transaction's changes, all or none. An empty transaction does nothing at all.
    fn commit(&mut self, transaction: &Transaction) -> Result<(), NftError>;

    /// Reads one set's elements, also those that rules have put into a dynamic set; `None` if there is no such set.
    fn read_elements(&mut self, table: &TableId, set: &str) -> Result<Option<Elements>, NftError>;

    /// The number of the ruleset's generation: it changes with every transaction of anyone in the namespace.
    fn generation(&mut self) -> Result<u32, NftError>;
}
