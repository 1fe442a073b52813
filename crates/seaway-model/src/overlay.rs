//! The overlay: what a node's links, routes, neighbours and forwarding entries must be for pods to reach pods
//! of other nodes, worked out of the Nodes' podCIDRs and flannel's annotations.
//!
//! VXLAN is laid out as flannel lays it out, so that nodes of either kind reach each other: the device of
//! node N has the first address of N's podCIDR; other nodes route the podCIDR through that address, know its
//! Ethernet address from N's annotation, and send frames for that to N's public address. Nothing is ever
//! asked or learnt on the wire.

mod mac;
mod net_conf;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use mac::{MacAddr, stable_hash};
pub use net_conf::{NetConf, NetConfError, OverlayBackend};

use crate::{Node, ObjectRef, Problem};

/// What VXLAN adds to a packet over IPv4: outer IP 20, UDP 8, VXLAN 8, inner Ethernet 14 bytes (RFC 7348,
/// section 5).
const VXLAN_OVERHEAD_V4: u32 = 50;
/// The same over IPv6, whose header has 40 bytes.
const VXLAN_OVERHEAD_V6: u32 = 70;
/// The prefix of flannel's annotations.
const ANNOTATIONS: &str = "flannel.alpha.coreos.com";

/// What only the node itself knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Underlay {
    /// The link that carries the node's address.
    pub link: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its addresses with their prefixes; the first of each family is the one that other nodes reach.
    pub addresses: Vec<IpNet>,
    /// The Ethernet addresses that overlay devices have now, by device.
    pub device_macs: BTreeMap<String, MacAddr>,
}

impl Underlay {
    fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().map(IpNet::addr).find(|address| family.has(*address))
    }
}

/// What a node's kernel must have for the overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayPlan {
    /// The MTU of pods, in bytes.
    pub mtu: u32,
    /// The node's own podCIDRs.
    pub subnets: Vec<IpNet>,
    /// VXLAN devices.
    pub devices: Vec<VxlanDevice>,
    /// Routes to other nodes' podCIDRs.
    pub routes: Vec<OverlayRoute>,
    /// Permanent neighbours.
    pub neighbors: Vec<OverlayNeighbor>,
    /// Permanent forwarding entries.
    pub forwards: Vec<OverlayForward>,
    /// Kernel parameters, as paths below `/proc/sys`.
    pub sysctls: BTreeMap<String, String>,
    /// What this node's Node object must say for others to reach it.
    pub annotations: BTreeMap<String, String>,
    /// Nodes that cannot be reached yet, with the reason; empty for those that just have no podCIDR.
    pub unreachable: Vec<Problem>,
}

/// A VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VxlanDevice {
    /// Its name.
    pub name: String,
    /// The VXLAN network's identifier.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// The source address of tunnel packets.
    pub local: IpAddr,
    /// The link that they leave by.
    pub link: String,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its address: the podCIDR's first, as a host prefix.
    pub address: IpNet,
}

/// A route to another node's pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OverlayRoute {
    /// The other node's podCIDR.
    pub dst: IpNet,
    /// The gateway: the other node's device, or with host-gw the other node.
    pub via: IpAddr,
    /// The link.
    pub link: String,
    /// The gateway is on the link although no address of the link says so.
    pub onlink: bool,
    /// The node behind it.
    pub node: Arc<str>,
}

/// The Ethernet address of another node's device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OverlayNeighbor {
    /// Our device.
    pub device: String,
    /// The other device's IP address.
    pub ip: IpAddr,
    /// Its Ethernet address.
    pub mac: MacAddr,
}

/// Where frames for another node's device go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OverlayForward {
    /// Our device.
    pub device: String,
    /// The other device's Ethernet address.
    pub mac: MacAddr,
    /// The other node.
    pub dst: IpAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }

    fn of_nets(self, nets: &[IpNet]) -> Option<IpNet> {
        nets.iter().find(|net| self.has(net.addr())).copied()
    }

    fn device_name(self, vni: u32) -> String {
        match self {
            Self::V4 => format!("seaway.{vni}"),
            Self::V6 => format!("seaway-v6.{vni}"),
        }
    }

    fn overhead(self) -> u32 {
        match self {
            Self::V4 => VXLAN_OVERHEAD_V4,
            Self::V6 => VXLAN_OVERHEAD_V6,
        }
    }

    /// The annotation with the JSON of the VXLAN device.
    fn backend_data(self) -> String {
        format!("{ANNOTATIONS}/{}", if self == Self::V4 { "backend-data" } else { "backend-v6-data" })
    }

    /// The annotation with the address that other nodes reach.
    fn public_ip(self) -> String {
        format!("{ANNOTATIONS}/{}", if self == Self::V4 { "public-ip" } else { "public-ipv6" })
    }

    /// The annotation by which an administrator says another one.
    fn public_ip_overwrite(self) -> String {
        format!("{}-overwrite", self.public_ip())
    }
}

/// The annotation's JSON, as flannel writes it.
#[derive(Serialize, Deserialize)]
struct BackendData {
    #[serde(rename = "VNI")]
    vni: u32,
    #[serde(rename = "VtepMAC")]
    mac: MacAddr,
}

impl OverlayPlan {
    /// Plans the overlay of node `name`, of the podCIDRs that `nodes` gives it. Of a family without a podCIDR
    /// here, or without an address on the underlay, nothing is planned.
    pub fn new<'a>(
        nodes: impl IntoIterator<Item = (&'a Arc<str>, &'a Arc<Node>)>,
        name: &str,
        conf: &NetConf,
        underlay: &Underlay,
    ) -> Self {
        let mut plan = Self {
            mtu: underlay.mtu,
            subnets: Vec::new(),
            devices: Vec::new(),
            routes: Vec::new(),
            neighbors: Vec::new(),
            forwards: Vec::new(),
            sysctls: BTreeMap::new(),
            annotations: BTreeMap::new(),
            unreachable: Vec::new(),
        };
        let nodes: Vec<_> = nodes.into_iter().collect();
        let own = nodes.iter().find(|(other, _)| other.as_ref() == name).map(|(_, node)| node.as_ref());
        for (family, enabled) in [(Family::V4, conf.enable_ipv4), (Family::V6, conf.enable_ipv6)] {
            let subnet = own.and_then(|node| family.of_nets(&node.pod_cidrs));
            let (true, Some(own), Some(subnet), Some(address)) =
                (enabled, own, subnet, underlay.address(family))
            else {
                continue;
            };
            let local = Local { name, node: own, family, conf, underlay, address };
            plan.subnets.push(subnet.trunc());
            plan.add_own(&local, subnet.trunc());
            for (other, node) in &nodes {
                if other.as_ref() != name && !node.deleting {
                    plan.add_remote(&local, other, node);
                }
            }
        }
        plan.routes.sort();
        plan.neighbors.sort();
        plan.forwards.sort();
        plan
    }

    /// This node's device, kernel parameters and annotations.
    fn add_own(&mut self, local: &Local<'_>, subnet: IpNet) {
        let (family, underlay) = (local.family, local.underlay);
        let key = |name: &str| format!("{ANNOTATIONS}/{name}");
        self.annotations.insert(key("kube-subnet-manager"), "true".to_owned());
        self.annotations.insert(key("backend-type"), local.conf.backend.name().to_owned());
        self.annotations.insert(family.public_ip(), local.published_address().to_string());
        match family {
            Family::V4 => {
                self.sysctl("net/ipv4/ip_forward", "1");
                // A node that forwards out of the link a packet came in by must not talk the sender out of
                // using it.
                self.sysctl("net/ipv4/conf/all/send_redirects", "0");
                self.sysctl(&format!("net/ipv4/conf/{}/send_redirects", underlay.link), "0");
            }
            Family::V6 => self.sysctl("net/ipv6/conf/all/forwarding", "1"),
        }
        let OverlayBackend::Vxlan { vni, port, mtu, .. } = local.conf.backend else {
            self.annotations.insert(family.backend_data(), "null".to_owned());
            return;
        };
        let name = family.device_name(vni);
        let device_mtu = mtu.unwrap_or_else(|| underlay.mtu.saturating_sub(family.overhead()));
        self.mtu = self.mtu.min(device_mtu);
        let published = local.node.annotations.get(&family.backend_data());
        let published = published.and_then(|text| serde_json::from_str::<BackendData>(text).ok());
        // The device's address first, then what others know already, so that a restart changes nothing for
        // them.
        let mac = underlay
            .device_macs
            .get(&name)
            .copied()
            .or_else(|| published.filter(|data| data.vni == vni).map(|data| data.mac))
            .unwrap_or_else(|| MacAddr::derived(&["vtep", local.name, &name]));
        let data = BackendData { vni, mac };
        self.annotations.insert(family.backend_data(), serde_json::to_string(&data).unwrap_or_default());
        if family == Family::V4 {
            // Loose: answers to what left by the underlay may come back through the tunnel.
            self.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "2");
            self.sysctl(&format!("net/ipv4/conf/{name}/send_redirects"), "0");
        }
        self.devices.push(VxlanDevice {
            name,
            vni,
            port,
            local: local.address,
            link: underlay.link.clone(),
            mac,
            mtu: device_mtu,
            address: subnet.network().into(),
        });
    }

    /// The way to another node.
    fn add_remote(&mut self, local: &Local<'_>, name: &Arc<str>, node: &Node) {
        let family = local.family;
        let Some(subnet) = family.of_nets(&node.pod_cidrs) else { return };
        let subnet = subnet.trunc();
        let problem = |field: String, value: &str, reason: &str| Problem {
            object: ObjectRef::new("Node", "", name.clone()),
            field,
            value: value.to_owned(),
            reason: reason.to_owned(),
        };
        let overlaps = |other: &IpNet| subnet.contains(&other.network()) || other.contains(&subnet.network());
        let taken = self.routes.iter().find(|route| route.dst == subnet).map(|route| route.node.clone());
        let own = local.node.pod_cidrs.iter().any(overlaps).then(|| Arc::from(local.name));
        if let Some(holder) = own.or(taken) {
            let reason = format!("it overlaps the podCIDR of node {holder}");
            self.unreachable.push(problem("spec.podCIDRs".to_owned(), &subnet.to_string(), &reason));
            return;
        }
        let address = match remote_address(family, node) {
            Ok(address) => address,
            Err((field, value)) => {
                let reason =
                    "no address to reach the node by: an IP address of the podCIDR's family is needed";
                self.unreachable.push(problem(field, &value, reason));
                return;
            }
        };
        let is_neighbor = local.underlay.addresses.iter().any(|net| net.contains(&address));
        let device = match local.conf.backend {
            OverlayBackend::Vxlan { direct_routing, vni, .. } if !(direct_routing && is_neighbor) => {
                Some((vni, family.device_name(vni)))
            }
            _ => None,
        };
        let Some((vni, device)) = device else {
            if is_neighbor {
                let link = local.underlay.link.clone();
                self.routes.push(OverlayRoute {
                    dst: subnet,
                    via: address,
                    link,
                    onlink: false,
                    node: name.clone(),
                });
            } else {
                let reason =
                    "host-gw reaches only nodes of the same link-layer network as this one; use vxlan";
                self.unreachable.push(problem(family.public_ip(), &address.to_string(), reason));
            }
            return;
        };
        let field = family.backend_data();
        let text = node.annotations.get(&field).map(String::as_str).unwrap_or_default();
        let data = match serde_json::from_str::<BackendData>(text) {
            Ok(data) if data.vni == vni => data,
            Ok(_) => {
                self.unreachable.push(problem(
                    format!("metadata.annotations[{field}]"),
                    text,
                    &format!("expected VNI {vni}"),
                ));
                return;
            }
            Err(_) => {
                let reason = r#"expected JSON such as {"VNI":1,"VtepMAC":"0a:1b:2c:3d:4e:5f"}, as the node's agent writes it"#;
                self.unreachable.push(problem(format!("metadata.annotations[{field}]"), text, reason));
                return;
            }
        };
        let via = subnet.network();
        let link = device.clone();
        self.routes.push(OverlayRoute { dst: subnet, via, link, onlink: true, node: name.clone() });
        self.neighbors.push(OverlayNeighbor { device: device.clone(), ip: via, mac: data.mac });
        self.forwards.push(OverlayForward { device, mac: data.mac, dst: address });
    }

    fn sysctl(&mut self, name: &str, value: &str) {
        self.sysctls.insert(name.to_owned(), value.to_owned());
    }
}

/// This node, while one family is planned.
struct Local<'a> {
    name: &'a str,
    node: &'a Node,
    family: Family,
    conf: &'a NetConf,
    underlay: &'a Underlay,
    address: IpAddr,
}

impl Local<'_> {
    /// The address that others are to use: an administrator's word counts.
    fn published_address(&self) -> IpAddr {
        let overwritten = self.node.annotations.get(&self.family.public_ip_overwrite());
        overwritten
            .and_then(|text| text.parse().ok())
            .filter(|ip| self.family.has(*ip))
            .unwrap_or(self.address)
    }
}

/// Where a node is reached: as its annotation says, or at its InternalIP. Else the field and value that
/// should have said so.
fn remote_address(family: Family, node: &Node) -> Result<IpAddr, (String, String)> {
    let key = family.public_ip();
    if let Some(text) = node.annotations.get(&key) {
        let address = text.parse().ok().filter(|address| family.has(*address));
        return address.ok_or_else(|| (format!("metadata.annotations[{key}]"), text.clone()));
    }
    let internal = node.internal_ips.iter().copied().find(|address| family.has(*address));
    internal.ok_or_else(|| ("status.addresses".to_owned(), format!("{:?}", node.internal_ips)))
}

#[cfg(test)]
mod tests;
