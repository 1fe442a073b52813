//! Service drivers: what kube-proxy does, in nf_tables.
//!
//! A [`ServiceDriver`] makes the kernel what a [`NodePlan`](seaway_model::NodePlan) says: [`NftablesDriver`] by the
//! tables `ip seaway` and `ip6 seaway`. [`UdpCleaner`] lets UDP flows follow their endpoints.
//!
//! Architecture invariant: no decision is made here. Which endpoints an address has, and what is masqueraded, the plan
//! says; a driver writes it down and keeps the order of the endpoints.

mod driver;
mod nftables;
mod programmed;
mod ruleset;
mod slots;
mod udp;

pub use driver::{DriverError, Report, ServiceDriver};
pub use nftables::{NftablesDriver, OwnCommits, TABLE};
pub use udp::{UdpCleaner, UdpFlows};
