//! What Services do, with real packets: each behaviour as a scenario, in IPv4 and IPv6, over TCP, UDP and, where the kernel
//! has it, SCTP. Nothing here knows which driver it is.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod addresses;
mod affinity;
mod calls;
mod cluster_ip;
mod endpoints;
mod external;
mod flood;
mod lifecycle;
mod objects;
mod plan;
mod random;
mod ranges;
mod servers;
mod sockets;
mod topology;
mod world;
