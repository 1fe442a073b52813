//! The table `seaway` of one family: its sets, its chains and the elements that stand for parts of the plan.
//!
//! ```text
//! prerouting, output:  ip daddr . meta l4proto . th dport vmap @services          → goto pick_<N>
//! pick_<N>:            dnat ip to ip daddr . meta l4proto . th dport . numgen random mod <N> map @endpoints
//! ```
//!
//! A service address is a handful of elements ([`of_port`]), and the chains that these go to depend on numbers alone
//! ([`NumberedChain`]): so a change of a Service is a change of elements.

mod base;
mod chains;
mod elements;
mod family;
mod sets;

use seaway_net::nft::Field;

pub(crate) use base::{SOURCES, skeleton};
pub(crate) use chains::NumberedChain;
pub(crate) use elements::{Placed, of_port};
pub(crate) use family::IpFamily;
pub(crate) use sets::{SetId, cluster_ip, hairpin, set_of};

/// The name of the tables, `ip seaway` and `ip6 seaway`.
pub(crate) const TABLE: &str = "seaway";

/// What a node port is looked up by.
const NODE_PORT_FIELDS: [Field; 2] = [Field::L4Proto, Field::ThDport];

/// What a service address is looked up by.
const fn service_fields(family: IpFamily) -> [Field; 3] {
    [family.daddr(), Field::L4Proto, Field::ThDport]
}

/// What a client with affinity is looked up by.
const fn affinity_fields(family: IpFamily) -> [Field; 4] {
    [family.saddr(), family.daddr(), Field::L4Proto, Field::ThDport]
}
