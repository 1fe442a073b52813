//! The garbage collector: what is owned goes with its owners, in the way that the owner's deletion asked for.

mod collect;
mod graph;
mod sources;

pub use collect::{Step, decide, work};
pub use graph::{FOREGROUND, Graph, Node, ORPHAN};
pub use sources::{Kinds, Served, watch_other_kinds};
