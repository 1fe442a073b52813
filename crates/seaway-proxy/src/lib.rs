//! Service drivers: what kube-proxy does, in nf_tables
