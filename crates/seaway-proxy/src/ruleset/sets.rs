//! The sets and maps of a table, by name.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use seaway_model::{EgressPlan, LocalSources, ProxyPlan};
use seaway_net::nft::{Element, Field, Set, SetSpec, Table, Value};

use super::IpFamily;

/// A set or map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SetId {
    /// Service address → which chain picks, for every caller that `ServicesOutside` has nothing for.
    Services,
    /// The same for callers from outside, of addresses that tell callers apart.
    ServicesOutside,
    /// Service address and index → endpoint.
    Endpoints,
    /// Protocol and node port → which chain picks.
    NodePorts,
    /// The same for callers from outside.
    NodePortsOutside,
    /// Protocol, node port and index → endpoint.
    NodePortEndpoints,
    /// External address without endpoints → refuse.
    Refused,
    /// Node port without endpoints → refuse.
    RefusedNodePorts,
    /// External address → how its callers are masqueraded.
    External,
    /// Node port → how its callers are masqueraded.
    ExternalNodePorts,
    /// Service address with affinity → which chain learns.
    Sticky,
    /// Node port with affinity → which chain learns.
    StickyNodePorts,
    /// Client and service address, as it was called → endpoint. Learned.
    Affinity,
    /// Service addresses with source ranges.
    Ranged,
    /// Service address and source that may call it.
    Ranges,
    /// Node ports with source ranges.
    RangedNodePorts,
    /// Node port and source that may call it.
    NodePortRanges,
    /// Cluster IPs.
    ClusterIps,
    /// Endpoints of this node, as source and destination both.
    Hairpin,
    /// Networks whose callers are pods, where addresses tell.
    LocalSources,
    /// Networks of the node's addresses at which node ports are.
    NodePortNetworks,
    /// Networks that cluster IPs are taken from.
    ServiceNetworks,
    /// Networks of pods of the whole cluster.
    PodNetworks,
    /// Networks of this node's pods.
    NodePodNetworks,
    /// Where pods go under their own address.
    NonMasquerade,
}

/// Most clients that affinity remembers, in each family: beyond it new clients have none. An element takes some 150 bytes of
/// kernel memory.
const MOST_CLIENTS: u32 = 1 << 18;
/// How long an element without a timeout of its own would stay; each has its own.
const AFFINITY_TIMEOUT: Duration = Duration::from_secs(10_800);

impl SetId {
    pub(crate) const ALL: [Self; 25] = [
        Self::Services,
        Self::ServicesOutside,
        Self::Endpoints,
        Self::NodePorts,
        Self::NodePortsOutside,
        Self::NodePortEndpoints,
        Self::Refused,
        Self::RefusedNodePorts,
        Self::External,
        Self::ExternalNodePorts,
        Self::Sticky,
        Self::StickyNodePorts,
        Self::Affinity,
        Self::Ranged,
        Self::Ranges,
        Self::RangedNodePorts,
        Self::NodePortRanges,
        Self::ClusterIps,
        Self::Hairpin,
        Self::LocalSources,
        Self::NodePortNetworks,
        Self::ServiceNetworks,
        Self::PodNetworks,
        Self::NodePodNetworks,
        Self::NonMasquerade,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::ServicesOutside => "services_outside",
            Self::Endpoints => "endpoints",
            Self::NodePorts => "node_ports",
            Self::NodePortsOutside => "node_ports_outside",
            Self::NodePortEndpoints => "node_port_endpoints",
            Self::Refused => "refused",
            Self::RefusedNodePorts => "refused_node_ports",
            Self::External => "external",
            Self::ExternalNodePorts => "external_node_ports",
            Self::Sticky => "sticky",
            Self::StickyNodePorts => "sticky_node_ports",
            Self::Affinity => "affinity",
            Self::Ranged => "ranged",
            Self::Ranges => "ranges",
            Self::RangedNodePorts => "ranged_node_ports",
            Self::NodePortRanges => "node_port_ranges",
            Self::ClusterIps => "cluster_ips",
            Self::Hairpin => "hairpin",
            Self::LocalSources => "local_sources",
            Self::NodePortNetworks => "node_port_networks",
            Self::ServiceNetworks => "service_networks",
            Self::PodNetworks => "pod_networks",
            Self::NodePodNetworks => "node_pod_networks",
            Self::NonMasquerade => "non_masquerade",
        }
    }

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|set| set.name() == name)
    }

    /// It is about masquerade of what leaves the pod networks, not about Services.
    pub(crate) const fn is_egress(self) -> bool {
        matches!(self, Self::PodNetworks | Self::NodePodNetworks | Self::NonMasquerade | Self::Hairpin)
    }

    /// Its key begins with a service address.
    pub(crate) const fn has_service_key(self) -> bool {
        use SetId::{Endpoints, External, Ranged, Ranges, Refused, Services, ServicesOutside, Sticky};
        matches!(self, Services | ServicesOutside | Endpoints | Refused | External | Sticky | Ranged | Ranges)
    }

    /// Its key begins with a node port.
    pub(crate) const fn has_node_port_key(self) -> bool {
        matches!(
            self,
            Self::NodePorts
                | Self::NodePortsOutside
                | Self::NodePortEndpoints
                | Self::RefusedNodePorts
                | Self::ExternalNodePorts
                | Self::StickyNodePorts
                | Self::RangedNodePorts
                | Self::NodePortRanges
        )
    }

    pub(crate) fn spec(self, family: IpFamily) -> SetSpec {
        let (saddr, daddr) = (family.saddr(), family.daddr());
        let typeof_key = |key: Vec<Field>| SetSpec::typeof_fields(self.name(), key);
        let service = || super::service_fields(family).to_vec();
        let node_port = || super::NODE_PORT_FIELDS.to_vec();
        let with = |mut key: Vec<Field>, field| {
            key.push(field);
            key
        };
        // The modulus says nothing but that the key's last part is numgen's: nft has no other name for the type.
        let index = Field::random(u32::MAX);
        match self {
            Self::Services | Self::ServicesOutside | Self::Refused | Self::External | Self::Sticky => {
                typeof_key(service()).to_verdict()
            }
            Self::NodePorts
            | Self::NodePortsOutside
            | Self::RefusedNodePorts
            | Self::ExternalNodePorts
            | Self::StickyNodePorts => typeof_key(node_port()).to_verdict(),
            Self::Endpoints => typeof_key(with(service(), index)).to_typeof([daddr, Field::ThDport]),
            Self::NodePortEndpoints => {
                typeof_key(with(node_port(), index)).to_typeof([daddr, Field::ThDport])
            }
            Self::Affinity => typeof_key(super::affinity_fields(family).to_vec())
                .to_typeof([daddr, Field::ThDport])
                .learned(AFFINITY_TIMEOUT, MOST_CLIENTS),
            Self::Ranged => typeof_key(service()),
            Self::Ranges => typeof_key(with(service(), saddr)).interval(),
            Self::RangedNodePorts => typeof_key(node_port()),
            Self::NodePortRanges => typeof_key(with(node_port(), saddr)).interval(),
            Self::ClusterIps => typeof_key(vec![daddr]),
            Self::Hairpin => typeof_key(vec![saddr, daddr]),
            Self::LocalSources
            | Self::NodePortNetworks
            | Self::ServiceNetworks
            | Self::PodNetworks
            | Self::NodePodNetworks
            | Self::NonMasquerade => SetSpec::of_types(self.name(), [family.data_type()]).interval(),
        }
    }

    /// The networks in it, where it is one of those that change with the whole plan alone.
    fn networks(self, egress: &EgressPlan, proxy: &ProxyPlan) -> Vec<IpNet> {
        match self {
            Self::LocalSources => match &proxy.local_sources {
                LocalSources::Networks(networks) => networks.clone(),
                LocalSources::Interface(_) | LocalSources::InterfacePrefix(_) => Vec::new(),
            },
            Self::NodePortNetworks => proxy.node_port_networks.clone(),
            Self::ServiceNetworks => proxy.service_networks.clone(),
            Self::PodNetworks => egress.pod_networks.clone(),
            Self::NodePodNetworks => egress.node_pod_cidrs.clone(),
            Self::NonMasquerade => egress.non_masquerade.clone(),
            _ => Vec::new(),
        }
    }
}

/// All sets, in the order of [`SetId::ALL`], with nothing but networks in them.
pub(super) fn all(family: IpFamily, egress: &EgressPlan, proxy: &ProxyPlan) -> Vec<Set> {
    let made = SetId::ALL.into_iter().map(|id| {
        let mut set = Set::new(id.spec(family));
        for net in id.networks(egress, proxy).iter().filter(|net| family.has(net)) {
            set.insert_prefix(*net);
        }
        set
    });
    made.collect()
}

/// One of a table's sets.
pub(crate) fn set_of(table: &mut Table, id: SetId) -> Option<&mut Set> {
    table.sets.get_mut(id as usize).filter(|set| set.spec.name == id.name())
}

/// The key of a local endpoint in `hairpin`.
pub(crate) fn hairpin(ip: IpAddr) -> (Value, Element) {
    (Value::new().address(ip).address(ip), Element::default())
}

/// The key of a cluster IP in `cluster_ips`.
pub(crate) fn cluster_ip(ip: IpAddr) -> (Value, Element) {
    (Value::from(ip), Element::default())
}
