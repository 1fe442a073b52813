//! The controllers: in each module a pure decision over the cache's objects.

pub mod cloud_node;
pub mod daemon_set;
pub mod deployment;
pub mod endpoints;
pub mod eviction;
pub mod garbage;
pub mod job;
pub mod mirror;
pub mod namespace;
pub mod node_cidr;
pub mod node_health;
pub mod replica_set;
pub mod scheduler;
pub mod slices;
