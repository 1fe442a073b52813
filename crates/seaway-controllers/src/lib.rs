//! The few controllers that a lab needs, as clients of any API server.
//!
//! One set of watches feeds one cache ([`cluster::Cluster`]). A change wakes the keys that it concerns
//! ([`routes`]), each controller decides with a pure function over what the cache holds, and [`execute`]
//! carries the resulting [`object::Action`]s out. What a write returns goes into the cache at once, so no
//! decision is made on a state older than our own last write.

pub mod args;
pub mod cluster;
pub mod controllers;
pub mod error;
pub mod execute;
pub mod meta;
pub mod object;
pub mod queue;
pub mod routes;
pub mod run;
pub mod store;
pub mod watch;

pub use args::ControllersArgs;
pub use error::Error;
pub use run::{Config, run, start};
