//! What a network namespace sees: packets on its links, nf_tables rules hit, tracked connections, routes.
//!
//! Every place (a node's agent, and in a lab the gateway and the internet's hosts) serves the same observer on a unix
//! socket; `trace --verify` and `capture` ask it. [`api`] is what goes over the socket.

pub mod api;
