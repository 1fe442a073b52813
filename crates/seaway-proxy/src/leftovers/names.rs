//! Which names are kube-proxy's.
//!
//! A name that begins with `KUBE-` says little: the kubelet has chains of its own (`KUBE-FIREWALL` in `filter`,
//! `KUBE-MARK-DROP`, `KUBE-IPTABLES-HINT`, `KUBE-KUBELET-CANARY`; KEP-3178), so have CRI-O (`KUBE-HOSTPORTS`, `KUBE-HP-…`) and
//! kube-router, which k3s uses (`KUBE-ROUTER-…`, `KUBE-POD-FW-…`, `KUBE-NWPLCY-…`, sets `KUBE-SRC-…` and `KUBE-DST-…`). So
//! every name is told in full here, for kube-proxy 1.20 to 1.36 in its modes iptables and ipvs; what is not told stays.

/// The name of the tables of its nftables mode, in the families `ip` and `ip6`.
pub(super) const NFTABLES: &str = "kube-proxy";
/// The iptables tables that it writes to.
pub(super) const TABLES: [&str; 3] = ["nat", "filter", "mangle"];
/// The link of its IPVS mode that carries the services' addresses.
pub(super) const LINK: &str = "kube-ipvs0";
/// The chain that sets the mark which [`POSTROUTING`] masquerades by. Others use it too: the CNI plugin portmap, where
/// `externalSetMarkChain` says so.
pub(super) const MARK_MASQ: &str = "KUBE-MARK-MASQ";
/// See [`MARK_MASQ`].
pub(super) const POSTROUTING: &str = "KUBE-POSTROUTING";
/// The chain that accepts what is forwarded.
pub(super) const FORWARD: &str = "KUBE-FORWARD";
/// The sets of node ports.
pub(super) const NODE_PORT_SETS: &str = "NODE-PORT-";

/// The chains of both tables that built-in chains jump to, by table.
const ENTRIES: &[(&str, &[&str])] = &[
    ("nat", &["KUBE-SERVICES", POSTROUTING]),
    (
        "filter",
        &[
            "KUBE-SERVICES",
            "KUBE-EXTERNAL-SERVICES",
            "KUBE-NODEPORTS",
            FORWARD,
            "KUBE-PROXY-FIREWALL",
            // IPVS mode
            "KUBE-NODE-PORT",
            "KUBE-IPVS-FILTER",
            "KUBE-IPVS-OUT-FILTER",
        ],
    ),
];

/// The chains that other chains of its own jump to, or nobody.
const INNER: &[(&str, &[&str])] = &[
    // In `nat` KUBE-FIREWALL was the IPVS mode's until 1.26, as KUBE-NODE-PORT and KUBE-LOAD-BALANCER are.
    (
        "nat",
        &[
            "KUBE-NODEPORTS",
            MARK_MASQ,
            "KUBE-PROXY-CANARY",
            "KUBE-NODE-PORT",
            "KUBE-LOAD-BALANCER",
            "KUBE-FIREWALL",
        ],
    ),
    ("filter", &["KUBE-PROXY-CANARY", "KUBE-SOURCE-RANGES-FIREWALL"]),
    ("mangle", &["KUBE-PROXY-CANARY"]),
];

/// What the names of chains for one Service or endpoint begin with; 16 digits of a hash in base 32 follow.
const HASHED: [&str; 6] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-XLB-", "KUBE-FW-", "KUBE-SEP-"];
const HASH: usize = 16;

/// The sets of the IPVS mode, without `KUBE-` for IPv4 and `KUBE-6-` for IPv6.
const SETS: [&str; 17] = [
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
];

fn listed(names: &[(&str, &[&str])], table: &str, name: &str) -> bool {
    names.iter().any(|(of, names)| *of == table && names.contains(&name))
}

/// The chain is kube-proxy's.
pub(super) fn is_chain(table: &str, name: &str) -> bool {
    let hashed = || {
        let hash = HASHED.iter().find_map(|prefix| name.strip_prefix(prefix));
        let digit = |byte: u8| matches!(byte, b'A'..=b'Z' | b'2'..=b'7');
        hash.is_some_and(|hash| hash.len() == HASH && hash.bytes().all(digit))
    };
    is_entry(table, name) || listed(INNER, table, name) || (table != "mangle" && hashed())
}

/// The chain is kube-proxy's, and built-in chains jump to it.
pub(super) fn is_entry(table: &str, name: &str) -> bool {
    listed(ENTRIES, table, name)
}

/// The set's name without what says whose it is and for which family, if it is kube-proxy's.
pub(super) fn set(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("KUBE-")?;
    let rest = rest.strip_prefix("6-").unwrap_or(rest);
    SETS.contains(&rest).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kube_proxys_and_what_is_not() {
        for (table, name, ours) in [
            ("nat", "KUBE-SERVICES", true),
            ("filter", "KUBE-FW-ABCDEFGHIJKLMNOP", true),
            ("nat", "KUBE-SEP-AB234567JKLMNOPQ", true),
            ("nat", "KUBE-SEP-AB", false),
            ("nat", "KUBE-SVC-abcdefghijklmnop", false),
            ("mangle", "KUBE-PROXY-CANARY", true),
            ("mangle", "KUBE-SERVICES", false),
            ("raw", "KUBE-SERVICES", false),
            // IPVS mode's until 1.26; the kubelet's.
            ("nat", "KUBE-FIREWALL", true),
            ("filter", "KUBE-FIREWALL", false),
            ("nat", "KUBE-MARK-DROP", false),
            ("mangle", "KUBE-IPTABLES-HINT", false),
            ("nat", "KUBE-KUBELET-CANARY", false),
            // CRI-O's and kube-router's.
            ("nat", "KUBE-HOSTPORTS", false),
            ("nat", "KUBE-HP-AB234567JKLMNOPQ", false),
            ("filter", "KUBE-ROUTER-FORWARD", false),
            ("filter", "KUBE-POD-FW-AB234567JKLMNOPQ", false),
        ] {
            assert_eq!(is_chain(table, name), ours, "{table} {name}");
        }
        for (name, expected) in [
            ("KUBE-CLUSTER-IP", Some("CLUSTER-IP")),
            ("KUBE-6-CLUSTER-IP", Some("CLUSTER-IP")),
            ("KUBE-SRC-AB234567JKLMNOPQ", None),
            ("CLUSTER-IP", None),
        ] {
            assert_eq!(set(name), expected, "{name}");
        }
    }
}
