//! A multi-node cluster out of network namespaces on one machine.
//!
//! `lab up` ([`command`]) decides what a lab is ([`file`], [`addresses`]), makes its certificates and starts one supervisor, which
//! builds the network and starts every process in a sandbox of its own ([`boxes`]). All that runs is below the supervisor's
//! PID namespace and ends with it.

mod addresses;
mod boxes;
mod cloud;
mod command;
mod credentials;
mod design;
mod down;
mod exec;
mod family;
mod file;
mod gateway;
mod internet;
mod kept;
mod machines;
mod manifests;
mod nearest;
mod node;
mod observer;
mod paths;
mod places;
mod progress;
mod ready;
mod state;
mod status;
mod supervisor;
mod system;
mod up;

pub use addresses::{CloudPlan, NodePlan, SourceNat};
pub use command::{LabArgs, run};
pub use file::{Host, Internet};
pub use internet::{HostConfig, Zone};
pub use places::{Lab, Place};
