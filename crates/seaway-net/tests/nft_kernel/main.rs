//! nf_tables on the real kernel, each test in a network namespace of its own. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod agreement;
mod changing;
mod differing;
mod listing;
mod refusing;
mod scale;
mod support;
mod watching;
