//! What happens to a request, hop by hop, and the proof of it with the packets themselves.
//!
//! ```text
//! places (agents' plans, API objects, lab) ──gather──▶ World ──explain (pure)──▶ Trace ──render──▶ text, JSON
//!                                                                    │
//! observers, probe in the caller's namespace ──────────verify────────┘ compares
//! ```
//!
//! Architecture invariant: what is told comes from plans that are in force. Nothing is worked out a second time out of
//! Kubernetes objects: those only say what is called what.

mod args;
mod ask;
mod capture;
mod explain;
mod foresee;
mod gather;
mod hop;
mod names;
mod patience;
mod render;
mod run;
#[cfg(test)]
mod schema;
mod status;
mod target;
mod verify;
mod world;

pub use args::TraceArgs;
pub use capture::{CaptureArgs, run as run_capture};
pub use run::run;
pub use status::{StatusArgs, run as status};
