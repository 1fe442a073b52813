//! What listens where, and what it answers. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use seaway_model::ObjectName;
use serde::Serialize;

/// The addresses to listen at: those of the node's own addresses `own` that node ports are at, or a single one that stands
/// for all of them. Where node ports are at none, no load balancer asks.
pub(super) fn listening_addresses(node_port_networks: &[IpNet], own: &[IpAddr]) -> Vec<IpAddr> {
    if node_port_networks.iter().any(|network| network.prefix_len() == 0) {
        return vec![Ipv6Addr::UNSPECIFIED.into()];
    }
    let mut found: Vec<IpAddr> = own
        .iter()
        .copied()
        .filter(|ip| !ip.is_loopback() && node_port_networks.iter().any(|network| network.contains(ip)))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Which Service is answered for at which socket. Of two Services with one port the first by name has it; the API server
/// does not let that happen.
pub(super) fn sockets(
    checks: impl IntoIterator<Item = (ObjectName, u16)>,
    addresses: &[IpAddr],
) -> BTreeMap<SocketAddr, ObjectName> {
    let mut wanted = BTreeMap::new();
    for (service, port) in checks {
        for ip in addresses {
            wanted.entry(SocketAddr::new(*ip, port)).or_insert_with(|| service.clone());
        }
    }
    wanted
}

/// What is closed and what is opened so that what is `open` becomes what is `wanted`. A socket that passes from one Service
/// to another is closed and opened.
pub(super) fn changes(
    open: &BTreeMap<SocketAddr, ObjectName>,
    wanted: &BTreeMap<SocketAddr, ObjectName>,
) -> (Vec<SocketAddr>, Vec<(SocketAddr, ObjectName)>) {
    let differs = |one: &BTreeMap<SocketAddr, ObjectName>, socket, service| one.get(socket) != Some(service);
    let close = open.iter().filter(|(socket, service)| differs(wanted, socket, service));
    let start = wanted.iter().filter(|(socket, service)| differs(open, socket, service));
    (
        close.map(|(socket, _)| *socket).collect(),
        start.map(|(socket, service)| (*socket, service.clone())).collect(),
    )
}

/// What a load balancer is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    service: ServiceName,
    pub(super) local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ServiceName {
    namespace: String,
    name: String,
}

impl Answer {
    pub(super) fn new(service: &ObjectName, local_endpoints: usize, healthy: bool) -> Self {
        let service =
            ServiceName { namespace: service.namespace.to_string(), name: service.name.to_string() };
        Self { service, local_endpoints, service_proxy_healthy: healthy }
    }

    /// The node is to get the Service's connections.
    pub(super) fn is_good(&self) -> bool {
        self.local_endpoints > 0 && self.service_proxy_healthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
    }

    fn name(text: &str) -> ObjectName {
        ObjectName::new("default", text)
    }

    #[test]
    fn where_to_listen() {
        let own = ips("127.0.0.1 172.18.0.11 10.1.2.3 fd00::11 10.1.2.3");
        for (networks, expected) in [
            ("0.0.0.0/0 ::/0", "::"),
            ("0.0.0.0/0", "::"),
            ("10.0.0.0/8", "10.1.2.3"),
            ("172.18.0.11/32 fd00::/64", "172.18.0.11 fd00::11"),
            ("127.0.0.0/8", ""),
            ("", ""),
        ] {
            let networks: Vec<IpNet> = networks.split_whitespace().map(|it| it.parse().unwrap()).collect();
            assert_eq!(listening_addresses(&networks, &own), ips(expected), "{networks:?}");
        }
    }

    #[test]
    fn sockets_are_kept_opened_and_closed() {
        let addresses = ips("10.1.2.3 fd00::11");
        let open =
            sockets([(name("kept"), 32000), (name("moved"), 32001), (name("gone"), 32002)], &addresses);
        assert_eq!(open.len(), 6);
        let wanted =
            sockets([(name("kept"), 32000), (name("moved"), 32003), (name("new"), 32001)], &addresses);
        let (close, start) = changes(&open, &wanted);
        let of =
            |port| -> Vec<SocketAddr> { addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect() };
        let mut closed = [of(32001), of(32002)].concat();
        closed.sort();
        assert_eq!(close, closed);
        let mut started: Vec<_> = of(32001).into_iter().map(|socket| (socket, name("new"))).collect();
        started.extend(of(32003).into_iter().map(|socket| (socket, name("moved"))));
        started.sort();
        assert_eq!(start, started);
        assert_eq!(changes(&wanted, &wanted), (vec![], vec![]));
    }

    #[test]
    fn answers_are_kube_proxys() {
        let json = |local, healthy| serde_json::to_value(Answer::new(&name("web"), local, healthy)).unwrap();
        assert_eq!(
            json(2, true),
            serde_json::json!({
                "service": {"namespace": "default", "name": "web"},
                "localEndpoints": 2,
                "serviceProxyHealthy": true,
            })
        );
        for (local, healthy, good) in [(1, true, true), (0, true, false), (1, false, false)] {
            assert_eq!(Answer::new(&name("web"), local, healthy).is_good(), good);
        }
    }
}
