//! The controllers against the embedded API server, over TLS, in one process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod garbage;
mod nodes;
mod outage;
mod rollout;
mod services;
mod support;
