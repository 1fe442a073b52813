//! The Linux kernel: netlink, nf_tables, conntrack, namespaces, sandboxed processes; nothing about Kubernetes
