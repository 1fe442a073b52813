//! What a lab is to be: the command line over the lab file over the defaults. Pure.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::ensure;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::addresses;
use crate::command::NetworkArgs;
use crate::family::{Family, IpFamily};
use crate::file::{self, LabSpec};
use crate::state::Design;

/// Nodes where neither the command line nor the lab file says.
const NODES: u16 = 3;

/// The pods' networks, where the command line names none.
fn default_pods(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16).into(),
        Family::V6 => Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0), 56).into(),
    }
}

/// The same for Services.
fn default_services(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 12).into(),
        Family::V6 => Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0), 112).into(),
    }
}

/// Decides what the lab is.
pub(crate) fn decide(
    name: &str,
    nodes: Option<u16>,
    args: &NetworkArgs,
    spec: LabSpec,
) -> anyhow::Result<Design> {
    let nodes = nodes.or(spec.nodes).unwrap_or(NODES);
    let family = args.ip_family.or(spec.ip_family).unwrap_or_default();
    let families = in_order(family, &args.pod_cidr, &args.service_cidr)?;
    let pods = networks("--pod-cidr", family, &families, &args.pod_cidr, default_pods)?;
    let services = networks("--service-cidr", family, &families, &args.service_cidr, default_services)?;
    for network in &pods {
        let (room, part) = (addresses::parts(network), addresses::part(network));
        ensure!(
            room >= u32::from(nodes),
            "--pod-cidr {network}: has no /{part} for each of {nodes} nodes, or more than 65536 of them"
        );
    }
    for network in &services {
        let longest = if network.addr().is_ipv4() { 24 } else { 120 };
        ensure!(network.prefix_len() <= longest, "--service-cidr {network}: use a /{longest} or larger");
    }
    let internet = spec.internet.only(&families).map_err(anyhow::Error::msg)?;
    let cloud = addresses::plan(&spec.cloud, &internet, nodes, &families).map_err(anyhow::Error::msg)?;
    apart(&pods, &services, &cloud.networks)?;
    Ok(Design {
        name: name.to_owned(),
        pod_cidrs: pods,
        service_cidrs: services,
        backend: args.backend,
        cloud,
        wanted: spec.cloud,
        internet,
    })
}

/// The lab's families, the primary one first: that of the first network that is given.
fn in_order(family: IpFamily, pods: &[IpNet], services: &[IpNet]) -> anyhow::Result<Vec<Family>> {
    let firsts: BTreeSet<Family> =
        [pods, services].iter().filter_map(|all| Some(Family::of_net(all.first()?))).collect();
    let mut families = family.all().to_vec();
    if family == IpFamily::Dual
        && let Some(primary) = firsts.first()
    {
        ensure!(
            firsts.len() == 1,
            "--pod-cidr and --service-cidr begin with networks of different families; the first one's is the primary of both"
        );
        families.sort_by_key(|family| family != primary);
    }
    Ok(families)
}

/// A network of each family: those given, or the defaults.
fn networks(
    flag: &str,
    family: IpFamily,
    families: &[Family],
    given: &[IpNet],
    default: fn(Family) -> IpNet,
) -> anyhow::Result<Vec<IpNet>> {
    let mut seen = BTreeSet::new();
    for network in given {
        let own = Family::of_net(network);
        let name = family.name();
        ensure!(
            families.contains(&own),
            "{flag} {network}: --ip-family is {name}, which has no {}",
            own.name()
        );
        ensure!(
            seen.insert(own),
            "{flag} {network}: a second {} network; one of each family is possible",
            own.name()
        );
    }
    let of = |family: &Family| {
        let own = given.iter().find(|network| Family::of_net(network) == *family);
        own.map_or_else(|| default(*family), IpNet::trunc)
    };
    Ok(families.iter().map(of).collect())
}

/// No network lies within another one.
fn apart(pods: &[IpNet], services: &[IpNet], cloud: &[IpNet]) -> anyhow::Result<()> {
    let called = |name: &'static str, networks: &[IpNet]| -> Vec<(&str, IpNet)> {
        networks.iter().map(|network| (name, *network)).collect()
    };
    let own = [
        called("--pod-cidr", pods),
        called("--service-cidr", services),
        called("the cloud's network", cloud),
    ];
    let own = own.concat();
    let internet = called("the internet's network", &file::documentation_networks());
    let networks = [&own[..], &internet].concat();
    for (i, (name, network)) in own.iter().enumerate() {
        for (other_name, other) in &networks[i + 1..] {
            ensure!(
                !network.contains(other) && !other.contains(network),
                "{name} {network} and {other_name} {other} overlap"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Backend;

    fn decided(nodes: u16, family: Option<IpFamily>, pods: &str, services: &str) -> Result<Design, String> {
        let parsed =
            |text: &str| text.split(',').filter(|t| !t.is_empty()).map(|t| t.parse().unwrap()).collect();
        let args = NetworkArgs {
            ip_family: family,
            pod_cidr: parsed(pods),
            service_cidr: parsed(services),
            backend: Backend::Vxlan,
            files: vec![],
        };
        decide("default", Some(nodes), &args, LabSpec::default()).map_err(|error| error.to_string())
    }

    fn texts<T: ToString>(all: &[T]) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn families_and_their_order() {
        let four = decided(3, None, "", "").unwrap();
        assert_eq!(texts(&four.pod_cidrs), ["10.244.0.0/16"]);
        assert_eq!(texts(&four.service_addresses(10)), ["10.96.0.10"]);
        assert_eq!(texts(&four.internet.resolver), ["192.0.2.53"]);
        let six = decided(3, Some(IpFamily::Ipv6), "", "").unwrap();
        assert_eq!(texts(&six.service_addresses(10)), ["fd00:10:96::a"]);
        assert_eq!(texts(&six.cloud.nodes[0].addresses), ["fd00:172:18::11"]);
        let dual = decided(3, Some(IpFamily::Dual), "", "").unwrap();
        assert_eq!(texts(&dual.service_cidrs), ["10.96.0.0/12", "fd00:10:96::/112"]);
        assert_eq!(dual.ip_family(), IpFamily::Dual);
        let other = decided(3, Some(IpFamily::Dual), "", "fd00:1::/112").unwrap();
        assert_eq!(texts(&other.service_cidrs), ["fd00:1::/112", "10.96.0.0/12"]);
        assert_eq!(texts(&other.cloud.networks), ["fd00:172:18::/64", "172.18.0.0/16"]);
    }

    #[test]
    fn networks_must_fit_and_not_overlap() {
        let dual = Some(IpFamily::Dual);
        for (nodes, family, pods, services, why) in [
            (3, None, "10.244.0.0/23", "10.96.0.0/12", "no /24 for each"),
            (3, None, "10.96.0.0/16", "10.96.0.0/12", "overlap"),
            (3, None, "172.18.0.0/16", "10.96.0.0/12", "overlap"),
            (3, None, "198.51.0.0/16", "10.96.0.0/12", "overlap"),
            (3, None, "10.244.0.0/16", "10.96.0.0/28", "use a /24"),
            (3, None, "fd00::/56", "", "which has no IPv6"),
            (3, dual, "fd00::/63", "", "no /64 for each"),
            (3, dual, "fd00::/40", "", "more than 65536"),
            (3, dual, "", "fd00::/124", "use a /120"),
            (3, dual, "fd00:10:96::/56", "", "overlap"),
            (3, dual, "2001:db8::/56", "", "overlap"),
            (3, dual, "fd01::/56,fd02::/56", "", "a second IPv6 network"),
            (3, dual, "10.1.0.0/16", "fd00:1::/112", "different families"),
        ] {
            let error = decided(nodes, family, pods, services).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
