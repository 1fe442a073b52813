//! Service drivers: what kube-proxy does, in nf_tables.
//!
//! A [`ServiceDriver`] makes the kernel what a [`NodePlan`](seaway_model::NodePlan) says: [`NftablesDriver`] by the
//! tables `ip seaway` and `ip6 seaway`. [`FlowCleaner`] forgets flows to endpoints that are gone. [`leftovers`] finds and removes
//! what a kube-proxy left.
//!
//! Architecture invariant: no decision is made here. Which endpoints an address has, and what is masqueraded, the plan
//! says; a driver writes it down and keeps the order of the endpoints.

mod affinity;
mod differences;
mod driver;
mod fake;
mod flows;
pub mod leftovers;
mod named;
mod nftables;
mod programmed;
mod quarantine;
mod ruleset;
mod slots;

pub use driver::{DriverError, Refused, Report, ServiceDriver};
pub use fake::FakeDriver;
pub use flows::{FlowCleaner, Flows, Kind as FlowKind, leaves_flows};
pub use named::{Decision, element_for};
pub use nftables::{NftablesDriver, OwnCommits, TABLE};
pub use quarantine::RETRY_REFUSED;
