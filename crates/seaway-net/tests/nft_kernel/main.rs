//! nf_tables on the real kernel, each test in a network namespace of its own. Needs root.

mod listing;
mod support;
