//! Cluster DNS: Corefile, plugin chain, DNS server; `resolv.conf` generation and search-list semantics.

pub mod resolvconf;
