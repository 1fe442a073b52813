//! The lab file: what a lab's cloud and internet look like.
//!
//! A lab file is YAML with `kind: Lab`; it may stand among Kubernetes manifests, in the same file or folder. All that it
//! leaves out has a default, so the empty lab file is the lab that `seaway lab up` makes without one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::family::{Family, IpFamily, Several};

/// The `apiVersion` of a lab file.
pub(crate) const API_VERSION: &str = "lab.seaway.dev/v1alpha1";
/// The `kind` of a lab file.
pub(crate) const KIND: &str = "Lab";

/// A lab file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct LabFile {
    /// `lab.seaway.dev/v1alpha1`.
    pub(crate) api_version: String,
    /// `Lab`.
    pub(crate) kind: String,
    /// The lab itself.
    #[serde(default)]
    pub(crate) spec: LabSpec,
}

/// What a lab consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct LabSpec {
    /// How many nodes; `--nodes` overrides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nodes: Option<u16>,
    /// Which IP families the lab has; `--ip-family` overrides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ip_family: Option<IpFamily>,
    /// The network that the nodes are on, and its way out.
    pub(crate) cloud: Cloud,
    /// What is outside.
    pub(crate) internet: Internet,
}

/// The cloud network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Cloud {
    /// The nodes' network, one for each family; a family without one has the default's. The first address is the gateway's, the
    /// second the control plane's, nodes begin at the eleventh.
    pub(crate) network: Several<IpNet>,
    /// The zones that nodes are in, in turn; none where empty.
    pub(crate) zones: Vec<String>,
    /// The largest packet on the nodes' links, in bytes.
    pub(crate) mtu: u32,
    /// How the nodes get out.
    pub(crate) egress: Egress,
}

impl Default for Cloud {
    fn default() -> Self {
        Self { network: Several(Vec::new()), zones: Vec::new(), mtu: 1500, egress: Egress::default() }
    }
}

impl Cloud {
    /// The nodes' network of a family.
    pub(crate) fn network_of(&self, family: Family) -> IpNet {
        let default = match family {
            Family::V4 => Ipv4Net::new_assert(Ipv4Addr::new(172, 18, 0, 0), 16).into(),
            Family::V6 => Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 0), 64).into(),
        };
        self.network.iter().copied().find(|net| Family::of_net(net) == family).unwrap_or(default)
    }
}

/// How nodes get out of the cloud network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "type", rename_all = "kebab-case")]
pub(crate) enum Egress {
    /// NAT gateways with public addresses, each for some of the nodes.
    NatGateway {
        /// The gateways. Nodes that none of them lists have no way out.
        gateways: Vec<NatGateway>,
    },
    /// Each node has a public address of its own.
    OneToOne {
        /// Node name to public address, one for each family; nodes that are not listed get the next free ones.
        #[serde(default)]
        addresses: BTreeMap<String, Several<IpAddr>>,
    },
}

/// A NAT gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NatGateway {
    /// The nodes that use it; all of them where empty.
    #[serde(default)]
    pub(crate) nodes: Vec<String>,
    /// The public addresses that the outside sees; each new connection gets one of them.
    pub(crate) addresses: Vec<IpAddr>,
}

/// The public addresses of the default's NAT gateway.
const NAT_PUBLIC: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0x113, 0, 0, 0, 0x10)),
];

impl Default for Egress {
    fn default() -> Self {
        Self::NatGateway { gateways: vec![NatGateway { nodes: vec![], addresses: NAT_PUBLIC.to_vec() }] }
    }
}

/// What is outside the cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Internet {
    /// The addresses of the internet's resolver, which nodes use.
    pub resolver: Several<IpAddr>,
    /// Names that stand for other names.
    pub aliases: BTreeMap<String, String>,
    /// The hosts.
    pub hosts: Vec<Host>,
}

/// A host of the internet: a network namespace with its own process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Host {
    /// Its name, which the resolver answers with `addresses`.
    pub name: String,
    /// Its addresses, out of 192.0.2.0/24, 198.51.100.0/24 or 203.0.113.0/24 (RFC 5737), and 2001:db8::/32 (RFC 3849).
    pub addresses: Vec<IpAddr>,
    /// Sources that its web server serves; everyone where absent, 403 to all others where present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<IpNet>>,
    /// Whether the resolver has PTR records for the addresses.
    #[serde(default = "yes")]
    pub ptr: bool,
}

const fn yes() -> bool {
    true
}

impl Default for Internet {
    fn default() -> Self {
        // 198.51.100.10 and 2001:db8:198:51::10: the last digits are the same in both families.
        let site = |last: u8, last_v6: u16| {
            let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0x51, 0, 0, 0, last_v6);
            [IpAddr::V4(Ipv4Addr::new(198, 51, 100, last)), IpAddr::V6(v6)]
        };
        let host = |name: &str, addresses: &[[IpAddr; 2]]| Host {
            name: name.into(),
            addresses: addresses.concat(),
            allow: None,
            ptr: true,
        };
        let resolver = [
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53)),
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x192, 0x2, 0, 0, 0, 0x53)),
        ];
        Self {
            resolver: Several(resolver.to_vec()),
            aliases: BTreeMap::from([("www.baidu.com".into(), "www.a.shifen.com".into())]),
            hosts: vec![
                host("google.com", &[site(10, 0x10)]),
                Host { ptr: false, ..host("www.a.shifen.com", &[site(75, 0x75), site(76, 0x76)]) },
                host("sls.doc.dc.wiki.tbchip.com", &[site(101, 0x101)]),
                Host {
                    allow: Some(NAT_PUBLIC.map(IpNet::from).to_vec()),
                    ..host("partner.example", &[site(40, 0x40)])
                },
            ],
        }
    }
}

impl Internet {
    /// What of it a lab of these families sees.
    ///
    /// # Errors
    /// The field of a host or the resolver that then has no address.
    pub(crate) fn only(&self, families: &[Family]) -> Result<Self, String> {
        let is_used = |address: &IpAddr| families.contains(&Family::of(*address));
        let names: Vec<&str> = families.iter().map(|family| family.name()).collect();
        let some = |field: String, addresses: Vec<IpAddr>| match addresses.is_empty() {
            true => Err(format!("{field}: no address of {}, which is what this lab has", names.join(" or "))),
            false => Ok(addresses),
        };
        let mut internet = self.clone();
        internet.resolver.0.retain(is_used);
        internet.resolver.0.sort_by_key(|address| families.iter().position(|f| *f == Family::of(*address)));
        internet.resolver.0 = some("spec.internet.resolver".to_owned(), internet.resolver.0)?;
        for (i, host) in internet.hosts.iter_mut().enumerate() {
            host.addresses.retain(is_used);
            let addresses = std::mem::take(&mut host.addresses);
            host.addresses = some(format!("spec.internet.hosts[{i}].addresses"), addresses)?;
            if let Some(allow) = &mut host.allow {
                allow.retain(|net| families.contains(&Family::of_net(net)));
            }
        }
        Ok(internet)
    }
}

/// A lab file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {field}: {problem}")]
pub(crate) struct LabFileError {
    /// The file it was read from.
    pub(crate) file: String,
    /// The path of the field at fault.
    pub(crate) field: String,
    /// What is wrong with it and what to do.
    pub(crate) problem: String,
}

/// The networks that the lab's internet is made of: those that are set aside for documentation (RFC 5737, RFC 3849).
pub(crate) fn documentation_networks() -> [IpNet; 4] {
    let v4 = |a: [u8; 4]| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(a), 24));
    let v6 = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32);
    [v4([192, 0, 2, 0]), v4([198, 51, 100, 0]), v4([203, 0, 113, 0]), v6.into()]
}

/// Reads one YAML document that has `kind: Lab`.
///
/// # Errors
/// The file, the field at fault (or line and column, where the YAML itself is), and what is accepted.
pub(crate) fn parse(file: &str, text: &str) -> Result<LabFile, LabFileError> {
    let fail =
        |field: &str, problem: String| LabFileError { file: file.into(), field: field.into(), problem };
    let lab: LabFile = serde_saphyr::from_str(text).map_err(|e| fail("lab file", e.to_string()))?;
    if lab.api_version != API_VERSION {
        return Err(fail(
            "apiVersion",
            format!("is {:?}; this seaway reads {API_VERSION:?}", lab.api_version),
        ));
    }
    check(&lab.spec).map_err(|(field, problem)| fail(&field, problem))?;
    Ok(lab)
}

/// What is wrong with a specification: the field and why.
fn check(spec: &LabSpec) -> Result<(), (String, String)> {
    if spec.nodes.is_some_and(|n| n == 0 || n > crate::addresses::MAX_NODES) {
        return Err((
            "spec.nodes".into(),
            format!("{} is not between 1 and {}", spec.nodes.unwrap_or(0), crate::addresses::MAX_NODES),
        ));
    }
    check_cloud(&spec.cloud)?;
    if !(576..=9000).contains(&spec.cloud.mtu) {
        return Err(("spec.cloud.mtu".into(), format!("{} is not between 576 and 9000", spec.cloud.mtu)));
    }
    let mut taken: Taken =
        crate::addresses::GATEWAY_PUBLIC.map(|address| (address, "the gateway".to_owned())).into();
    for address in spec.internet.resolver.iter() {
        claim(&mut taken, "spec.internet.resolver", *address, "the resolver")?;
    }
    check_internet(&spec.internet, &mut taken)?;
    check_egress(&spec.cloud.egress, &mut taken)
}

fn check_cloud(cloud: &Cloud) -> Result<(), (String, String)> {
    let field = || "spec.cloud.network".to_owned();
    let mut seen = BTreeSet::new();
    for network in cloud.network.iter() {
        let longest = if network.addr().is_ipv4() { 24 } else { 112 };
        if network.prefix_len() > longest {
            let problem = format!(
                "{network} is too small for a gateway, a control plane and nodes; use a /{longest} or larger"
            );
            return Err((field(), problem));
        }
        if !seen.insert(Family::of_net(network)) {
            return Err((field(), format!("{network} is a second network of its family; one is possible")));
        }
    }
    for zone in &cloud.zones {
        domain("spec.cloud.zones", zone)?;
    }
    Ok(())
}

/// Public addresses and whose they are.
type Taken = BTreeMap<IpAddr, String>;

fn claim(taken: &mut Taken, field: &str, address: IpAddr, who: &str) -> Result<(), (String, String)> {
    public(field, address)?;
    match taken.insert(address, who.to_owned()) {
        Some(other) => Err((field.into(), format!("{address} is also the address of {other}"))),
        None => Ok(()),
    }
}

fn check_internet(internet: &Internet, taken: &mut Taken) -> Result<(), (String, String)> {
    let mut names = BTreeSet::from([crate::boxes::RESOLVER.to_owned()]);
    for (i, host) in internet.hosts.iter().enumerate() {
        let field = format!("spec.internet.hosts[{i}]");
        domain(&format!("{field}.name"), &host.name)?;
        if !names.insert(host.name.to_ascii_lowercase()) {
            return Err((format!("{field}.name"), format!("there is a host {:?} already", host.name)));
        }
        if host.addresses.is_empty() {
            return Err((format!("{field}.addresses"), "at least one address is needed".into()));
        }
        for address in &host.addresses {
            claim(taken, &format!("{field}.addresses"), *address, &host.name)?;
        }
    }
    for (alias, target) in &internet.aliases {
        let field = format!("spec.internet.aliases.{alias}");
        domain(&field, alias)?;
        domain(&field, target)?;
        if names.contains(&alias.to_ascii_lowercase()) {
            return Err((field, "is a host's own name".into()));
        }
    }
    Ok(())
}

/// The longest name of a host, in bytes: its log file has some letters more, and 255 at the most.
const LONGEST_NAME: usize = 240;

/// Names become labels of DNS, hostnames and names of files.
fn domain(field: &str, name: &str) -> Result<(), (String, String)> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() <= LONGEST_NAME && name.split('.').all(is_label) {
        return Ok(());
    }
    let accepted = "letters, digits, '-' and '_' in labels of 1 to 63, separated by dots";
    Err((field.into(), format!("{name:?} is no domain name: {accepted}, at most {LONGEST_NAME} in all")))
}

fn check_egress(egress: &Egress, taken: &mut Taken) -> Result<(), (String, String)> {
    match egress {
        Egress::NatGateway { gateways } => {
            for (i, gateway) in gateways.iter().enumerate() {
                let field = format!("spec.cloud.egress.gateways[{i}].addresses");
                if gateway.addresses.is_empty() {
                    return Err((field, "at least one public address is needed".into()));
                }
                for address in &gateway.addresses {
                    public(&field, *address)?;
                    // Gateways may share an address; nobody else may have it.
                    if let Some(other) = taken.get(address) {
                        return Err((field, format!("{address} is also the address of {other}")));
                    }
                }
            }
        }
        Egress::OneToOne { addresses } => {
            for (node, own) in addresses {
                for address in own.iter() {
                    claim(taken, &format!("spec.cloud.egress.addresses.{node}"), *address, node)?;
                }
            }
        }
    }
    Ok(())
}

fn public(field: &str, address: IpAddr) -> Result<(), (String, String)> {
    if documentation_networks().iter().any(|net| net.contains(&address)) {
        return Ok(());
    }
    Err((
        field.into(),
        format!(
            "{address} is not in 192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24 (RFC 5737) or 2001:db8::/32 (RFC 3849)"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_lab_file_is_the_default_lab() {
        let lab = parse("lab.yaml", "apiVersion: lab.seaway.dev/v1alpha1\nkind: Lab\n").unwrap();
        assert_eq!(lab.spec, LabSpec::default());
        check(&lab.spec).unwrap();
    }

    #[test]
    fn errors_name_the_field() {
        let head = "apiVersion: lab.seaway.dev/v1alpha1\nkind: Lab\nspec:\n";
        for (body, field) in [
            ("  nodes: 0\n", "spec.nodes"),
            ("  cloud: {mtu: 100}\n", "spec.cloud.mtu"),
            ("  cloud: {network: 10.0.0.0/28}\n", "spec.cloud.network"),
            (
                "  cloud: {egress: {type: nat-gateway, gateways: [{addresses: [8.8.8.8]}]}}\n",
                "spec.cloud.egress.gateways[0].addresses",
            ),
            (
                "  internet: {hosts: [{name: a, addresses: [192.0.2.1]}, {name: b, addresses: [192.0.2.1]}]}\n",
                "spec.internet.hosts[1].addresses",
            ),
            ("  internet: {hosts: [{name: ../a, addresses: [192.0.2.1]}]}\n", "spec.internet.hosts[0].name"),
            (
                "  internet: {hosts: [{name: resolver, addresses: [192.0.2.1]}]}\n",
                "spec.internet.hosts[0].name",
            ),
            (
                "  internet: {hosts: [{name: a, addresses: [192.0.2.1]}, {name: A, addresses: [192.0.2.2]}]}\n",
                "spec.internet.hosts[1].name",
            ),
            (
                "  internet: {hosts: [{name: a, addresses: [203.0.113.1]}]}\n",
                "spec.internet.hosts[0].addresses",
            ),
            ("  internet: {aliases: {a b: google.com}}\n", "spec.internet.aliases.a b"),
            ("  internet: {aliases: {google.com: b}}\n", "spec.internet.aliases.google.com"),
            (
                "  cloud: {egress: {type: nat-gateway, gateways: [{addresses: [198.51.100.10]}]}}\n",
                "spec.cloud.egress.gateways[0].addresses",
            ),
            (
                "  cloud: {egress: {type: one-to-one, addresses: {node-1: 203.0.113.9, node-2: 203.0.113.9}}}\n",
                "spec.cloud.egress.addresses.node-2",
            ),
            ("  nod: 3\n", "lab file"),
        ] {
            let error = parse("lab.yaml", &format!("{head}{body}")).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
    }

    #[test]
    fn both_kinds_of_egress_are_read() {
        let head = "apiVersion: lab.seaway.dev/v1alpha1\nkind: Lab\nspec:\n  cloud:\n    egress:\n";
        let one = parse("f", &format!("{head}      type: one-to-one\n")).unwrap();
        assert_eq!(one.spec.cloud.egress, Egress::OneToOne { addresses: BTreeMap::new() });
        let nat = "      type: nat-gateway\n      gateways: [{nodes: [node-1], addresses: [203.0.113.7]}]\n";
        let nat = parse("f", &format!("{head}{nat}")).unwrap();
        let Egress::NatGateway { gateways } = nat.spec.cloud.egress else { panic!("not a NAT gateway") };
        assert_eq!(gateways[0].nodes, ["node-1"]);
    }

    #[test]
    fn one_address_or_one_of_each_family() {
        let head = "apiVersion: lab.seaway.dev/v1alpha1\nkind: Lab\nspec:\n  ipFamily: dual\n";
        let body = "  cloud: {network: [10.1.0.0/16, 'fd01::/64'], zones: [a, b]}\n  internet: {resolver: 192.0.2.1}\n";
        let lab = parse("f", &format!("{head}{body}")).unwrap().spec;
        assert_eq!((lab.ip_family, lab.cloud.zones.len()), (Some(IpFamily::Dual), 2));
        assert_eq!(lab.cloud.network_of(Family::V6).to_string(), "fd01::/64");
        assert_eq!(lab.internet.only(&[Family::V4]).unwrap().hosts[0].addresses.len(), 1);
        let error = lab.internet.only(&[Family::V6]).unwrap_err();
        assert!(error.starts_with("spec.internet.resolver: no address of IPv6"), "{error}");
        for wrong in ["[10.1.0.0/16, 10.2.0.0/16]", "'fd00::/120'", "[x]"] {
            assert!(parse("f", &format!("{head}  cloud: {{network: {wrong}}}\n")).is_err(), "{wrong}");
        }
    }
}
