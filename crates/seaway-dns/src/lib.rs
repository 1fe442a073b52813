//! Cluster DNS: Corefile, plugin chain, DNS server; `resolv.conf` generation and search-list semantics.
//!
//! A message becomes a [`message::Query`], the [`plugin::Chain`] of the server block that its name belongs to makes a
//! [`message::Reply`] of it, and that is written back. What is pure (resolv.conf, Corefile, the names of a cluster,
//! messages) does no I/O; sockets are in `server`, and `run` puts it all together.

mod config;
pub mod corefile;
pub mod explain;
mod forward;
mod instance;
pub mod kubernetes;
pub mod lookup;
pub mod message;
mod metrics;
pub mod name;
pub mod plugin;
mod plugins;
pub mod resolvconf;
mod run;
mod server;

pub use run::{DnsArgs, coredns_flags, run};
