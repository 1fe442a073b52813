//! The controllers against the embedded API server, over TLS, in one process.

mod garbage;
mod nodes;
mod rollout;
mod services;
mod support;
