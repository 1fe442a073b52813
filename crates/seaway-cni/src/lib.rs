//! A pod's way to its node and from node to node: the CNI plugin with its address management, and the
//! overlay's driver.
//!
//! The plugin (`seaway cni`) joins a pod to its node by a point-to-point veth; [`overlay`] makes the kernel
//! match an [`seaway_model::OverlayPlan`]; [`files`] writes what tells others about it.

pub mod files;
pub mod ipam;
pub mod overlay;
pub mod plugin;
pub mod pods;

pub use plugin::{CniArgs, is_cni_call, run};

/// The routing protocol number of the overlay's routes (`rtm_protocol`; numbers above 4 are for the taking,
/// linux/rtnetlink.h).
pub const OVERLAY_ROUTE_PROTOCOL: u8 = 83;
/// The routing protocol number of the routes to this node's pods.
pub const POD_ROUTE_PROTOCOL: u8 = 84;
/// What every pod has as its gateway: link-local, so it takes no address from anyone (RFC 3927).
pub const GATEWAY_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);
/// The same for IPv6.
pub const GATEWAY_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
