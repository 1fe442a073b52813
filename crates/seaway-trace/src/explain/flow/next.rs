//! Where a node sends a packet.

use std::net::IpAddr;

use ipnet::IpNet;
use seaway_model::ObjectName;

use super::Walk;
use crate::hop::OuterHeader;
use crate::world::{NodeFacts, Owner, PodFacts};

/// Where a packet goes from a node.
pub(super) enum Next<'a> {
    /// The address is the node's own.
    Here,
    /// By the link of one of its pods.
    Pod {
        /// Who has the address, as far as the API server knows.
        pod: Option<(&'a ObjectName, &'a PodFacts)>,
        /// The link, where the agent says so.
        link: Option<String>,
    },
    /// Through the tunnel or directly: to the node with this name.
    Node { name: String, link: String, tunnel: Option<(String, OuterHeader, u32)>, network: IpNet },
    /// A neighbour of the node in the cloud's network.
    Neighbor,
    /// The cloud's router.
    Gateway,
    /// The default route, and what is behind it is not declared.
    Beyond,
}

impl<'a> Walk<'a> {
    /// Where `node` sends what is for `destination`.
    pub(super) fn next(&self, node: &NodeFacts, destination: IpAddr) -> Next<'a> {
        if node.has(destination) || destination.is_loopback() {
            return Next::Here;
        }
        if let Some(found) = self.pod_of(node, destination) {
            return found;
        }
        if let Some(overlay) = node.overlay()
            && let Some(route) = overlay.routes.iter().find(|route| route.dst.contains(&destination))
        {
            let device = overlay.devices.iter().find(|device| device.name == route.link);
            let tunnel = device.and_then(|device| {
                let neighbor =
                    overlay.neighbors.iter().find(|it| it.device == device.name && it.ip == route.via)?;
                let forward =
                    overlay.forwards.iter().find(|it| it.device == device.name && it.mac == neighbor.mac)?;
                let outer = OuterHeader {
                    source: device.local,
                    destination: forward.dst,
                    port: device.port,
                    vni: device.vni,
                };
                Some((device.name.clone(), outer, device.mtu))
            });
            return Next::Node {
                name: route.node.to_string(),
                link: route.link.clone(),
                tunnel,
                network: route.dst,
            };
        }
        match &self.world.cloud {
            None => Next::Beyond,
            Some(cloud) if cloud.gateways.contains(&destination) => Next::Gateway,
            Some(cloud) => {
                let declared = || cloud.networks.iter().any(|net| net.contains(&destination));
                let on_link = node.is_on_link(destination).unwrap_or_else(declared);
                if on_link { Next::Neighbor } else { Next::Gateway }
            }
        }
    }

    /// The way to one of the node's own pods, out of what its agent says; where the network is not the agent's, the API
    /// server alone says which pods are there.
    fn pod_of(&self, node: &NodeFacts, address: IpAddr) -> Option<Next<'a>> {
        let owner = match self.world.owner(address) {
            Owner::Pod(name, pod) => Some((name, pod)),
            _ => None,
        };
        match node.pod_links() {
            Some(links) => links.get(&address).map(|link| Next::Pod { pod: owner, link: Some(link.clone()) }),
            None => owner
                .filter(|(_, pod)| pod.node == node.name)
                .map(|pod| Next::Pod { pod: Some(pod), link: None }),
        }
    }
}
