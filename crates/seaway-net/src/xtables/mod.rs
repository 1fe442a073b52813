//! iptables-legacy's tables (`xt_tables`): read, and replaced without some of their chains and rules.
//!
//! The kernel knows a table as one block of entries and takes another one in its place, atomically. [`Table`] reads such a
//! block, tells chains and rules, and makes the block that lacks some of them; what stays, matches and targets included,
//! stays byte for byte. [`Xtables`] gets blocks from the kernel and back, counters carried over.
//!
//! Format: linux/netfilter/x_tables.h, linux/netfilter_ipv4/ip_tables.h and linux/netfilter_ipv6/ip6_tables.h, as on 64-bit
//! machines.

mod block;
mod kernel;
mod lock;

pub use block::{Chain, Cut, MalformedTable, Policy, Table};
pub use kernel::{Xtables, XtablesError};

/// Whose packets a table is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `iptables`
    V4,
    /// `ip6tables`
    V6,
}
