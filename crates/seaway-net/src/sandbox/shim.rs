//! The shim's side.

use serde::{Deserialize, Serialize};

use super::{Entry, Spec};

/// The shim's first argument; its second is the label.
pub(super) const SHIM_COMMAND: &str = "__sandbox";
/// The operation of a report that the program could not be executed.
pub(super) const EXECUTE: &str = "execute";

/// What the shim is to do; it reads it from a descriptor.
#[derive(Serialize, Deserialize)]
pub(super) struct Task {
    /// The process to die with, as it sees itself.
    pub(super) caller: Option<i32>,
    pub(super) kind: TaskKind,
}

#[derive(Serialize, Deserialize)]
pub(super) enum TaskKind {
    Spawn(Box<Spec>),
    Enter { target: i32, entry: Box<Entry> },
}

/// What the shim tells its caller, one a packet.
#[derive(Serialize, Deserialize)]
pub(super) enum Report {
    /// The child is there (its pidfd comes with this), about to set itself up.
    Started { pid: i32 },
    /// A step failed, in the shim or in the child.
    Failed { operation: String, object: String, errno: i32 },
}

/// Becomes the shim, and never returns, where the first argument is `__sandbox`: to be called first in `main`, before
/// any thread is started.
pub fn run_shim_if_asked() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == SHIM_COMMAND) {
        todo!()
    }
}
