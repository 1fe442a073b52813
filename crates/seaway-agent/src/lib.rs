//! The node's agent: Snapshot to plans to drivers
