//! The Linux kernel, in safe types: netlink, nf_tables, conntrack, namespaces, sandboxed processes.
//!
//! Architecture invariant: this is the only crate with `unsafe`, raw system calls, netlink sockets or `setns`, and it
//! knows nothing about Kubernetes.

pub mod capture;
pub mod conntrack;
pub mod ipset;
pub mod ipvs;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod resolve;
pub mod rtnl;
pub mod sandbox;
pub mod socket;
pub mod sysctl;
pub mod wait;
pub mod xtables;
