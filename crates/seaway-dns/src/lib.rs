//! Cluster DNS: Corefile, plugin chain, server, resolv.conf
