//! Cluster IPs and node ports of services: which are taken, and by whom.
//!
//! Nothing of this is stored: it follows from the services. A free one is chosen at random from the upper part of its range; the lower part
//! is left to those that services ask for by number, as in kube-apiserver (KEP-3070).

mod ports;
mod range;

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use rand::RngExt as _;
use seaway_apis::FieldError;
use seaway_apis::strategy::families;
use serde_json::{Value, json};

use self::ports::PortAllocator;
use self::range::Range;
use crate::NodePorts;
use crate::app::text;

/// The taken addresses and ports, with the keys of the services that have them.
pub(crate) struct Allocator {
    /// Of one family, or of both: the first one's family is the default.
    ranges: Vec<Range>,
    ports: NodePorts,
    taken_addresses: HashMap<IpAddr, String>,
    taken_ports: HashMap<u16, String>,
}

impl Allocator {
    pub(crate) fn new(cidrs: &[IpNet], ports: NodePorts) -> Allocator {
        let ranges = cidrs.iter().copied().map(Range::new).collect();
        Allocator { ranges, ports, taken_addresses: HashMap::new(), taken_ports: HashMap::new() }
    }

    /// The address of `default/kubernetes` in each range: the first one after the network's.
    pub(crate) fn first_addresses(&self) -> Vec<IpAddr> {
        self.ranges.iter().map(|range| range.nth(1)).collect()
    }

    /// The networks, in their order.
    pub(crate) fn cidrs(&self) -> Vec<IpNet> {
        self.ranges.iter().map(Range::cidr).collect()
    }

    fn range(&self, family: &str) -> Option<&Range> {
        self.ranges.iter().find(|range| range.family() == family)
    }

    /// Gives a service what its type needs and it does not name; checks what it names. Nothing is taken yet.
    pub(crate) fn assign(&self, key: &str, old: Option<&Value>, service: &mut Value) -> Vec<FieldError> {
        let cluster: Vec<&'static str> = self.ranges.iter().map(Range::family).collect();
        let mut errors = families::settle(service, old, &cluster);
        if errors.is_empty() {
            self.assign_addresses(key, service, &mut errors);
        }
        let ports = PortAllocator { range: self.ports, taken: &self.taken_ports, key, old };
        ports.assign(service, &mut errors);
        errors
    }

    /// An address of each of the service's families.
    fn assign_addresses(&self, key: &str, service: &mut Value, errors: &mut Vec<FieldError>) {
        let texts = |field: &str| -> Vec<String> {
            let list = service["spec"][field].as_array().map_or(&[][..], Vec::as_slice);
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let (families, asked) = (texts("ipFamilies"), texts("clusterIPs"));
        if text(service, &["spec", "type"]) == "ExternalName" || asked.first().is_some_and(|ip| ip == "None")
        {
            return;
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for (at, family) in families.iter().enumerate() {
            // A Service may keep a family that the cluster has lost, with the address that it has.
            let Some(range) = self.range(family) else { continue };
            let address = match asked.get(at).map(String::as_str) {
                None | Some("") => range.free(|ip| self.taken_addresses.contains_key(&ip)),
                Some(asked) => self.check_address(range, key, asked),
            };
            match address {
                Ok(address) => addresses.push(address),
                Err(detail) => errors.push(FieldError::invalid("spec.clusterIPs", json!(asked), detail)),
            }
        }
        if errors.is_empty()
            && addresses.len() == families.len()
            && let (Some(first), Some(spec)) =
                (addresses.first(), service.get_mut("spec").and_then(Value::as_object_mut))
        {
            spec.insert("clusterIP".to_owned(), first.to_string().into());
            spec.insert("clusterIPs".to_owned(), json!(addresses));
        }
    }

    fn check_address(&self, range: &Range, key: &str, asked: &str) -> Result<IpAddr, String> {
        let failed = |why: &str| format!("failed to allocate IP {asked}: {why}");
        let address: IpAddr = asked.parse().map_err(|_| failed("it is not a valid IP address"))?;
        match self.taken_addresses.get(&address) {
            Some(owner) if owner != key => Err(failed("provided IP is already allocated")),
            // Its own, even where the range has changed since.
            Some(_) => Ok(address),
            None => range.check(address).map(|()| address).map_err(|why| failed(&why)),
        }
    }

    /// Records that a service is now `new`, where it was `old`.
    pub(crate) fn replace(&mut self, key: &str, old: Option<&Value>, new: Option<&Value>) {
        if let Some(old) = old {
            for address in addresses_of(old) {
                if self.taken_addresses.get(&address).is_some_and(|owner| owner == key) {
                    self.taken_addresses.remove(&address);
                }
            }
            for port in ports_of(old) {
                if self.taken_ports.get(&port).is_some_and(|owner| owner == key) {
                    self.taken_ports.remove(&port);
                }
            }
        }
        if let Some(new) = new {
            self.taken_addresses.extend(addresses_of(new).map(|address| (address, key.to_owned())));
            self.taken_ports.extend(ports_of(new).map(|port| (port, key.to_owned())));
        }
    }
}

/// A free number of a range, searched from a random one on.
fn pick(first: u128, last: u128, taken: impl Fn(u128) -> bool) -> Option<u128> {
    if first > last {
        return None;
    }
    let start = rand::rng().random_range(first..=last);
    (start..=last).chain(first..start).find(|number| !taken(*number))
}

fn addresses_of(service: &Value) -> impl Iterator<Item = IpAddr> + '_ {
    let list = service["spec"]["clusterIPs"].as_array().map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|ip| ip.as_str()?.parse().ok())
}

fn ports_of(service: &Value) -> impl Iterator<Item = u16> + '_ {
    let ports = service["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let numbers = ports.iter().map(|port| &port["nodePort"]).chain([&service["spec"]["healthCheckNodePort"]]);
    numbers.filter_map(|number| u16::try_from(number.as_u64()?).ok()).filter(|number| *number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator() -> Allocator {
        Allocator::new(&["10.96.0.0/12".parse().unwrap()], NodePorts::default())
    }

    fn put(allocator: &mut Allocator, key: &str, mut service: Value) -> Result<Value, Vec<String>> {
        let errors = allocator.assign(key, None, &mut service);
        if !errors.is_empty() {
            return Err(errors.iter().map(ToString::to_string).collect());
        }
        allocator.replace(key, None, Some(&service));
        Ok(service)
    }

    #[test]
    fn gives_and_frees_addresses() {
        let mut a = allocator();
        assert_eq!(a.first_addresses(), ["10.96.0.1".parse::<IpAddr>().unwrap()]);
        let asked =
            json!({"spec": {"type": "ClusterIP", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"]}});
        let dns = put(&mut a, "kube-system/kube-dns", asked.clone()).unwrap();
        assert_eq!(dns["spec"]["clusterIPs"], json!(["10.96.0.10"]));
        let errors = put(&mut a, "default/other", asked.clone()).unwrap_err();
        assert!(errors[0].contains("provided IP is already allocated"), "{errors:?}");
        // A service may keep its own.
        assert!(put(&mut a, "kube-system/kube-dns", asked.clone()).is_ok());
        a.replace("kube-system/kube-dns", Some(&dns), None);
        assert!(put(&mut a, "default/other", asked).is_ok());
        for wrong in ["10.95.0.1", "10.96.0.0", "10.111.255.255", "fd00::1"] {
            assert!(
                put(&mut a, "default/x", json!({"spec": {"clusterIP": wrong, "clusterIPs": [wrong]}}))
                    .is_err(),
                "{wrong}"
            );
        }
        let free = put(&mut a, "default/free", json!({"spec": {}})).unwrap();
        let ip: std::net::Ipv4Addr = free["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
        assert!(ip >= std::net::Ipv4Addr::new(10, 96, 1, 1), "{ip}");
        let headless =
            put(&mut a, "default/headless", json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}))
                .unwrap();
        assert_eq!(headless["spec"]["clusterIP"], "None");
        assert!(put(&mut a, "default/six", json!({"spec": {"ipFamilies": ["IPv6"]}})).is_err());
        assert!(put(&mut a, "default/two", json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}})).is_err());
    }

    #[test]
    fn small_ranges_are_used_up() {
        let mut a =
            Allocator::new(&["192.0.2.0/29".parse().unwrap()], NodePorts { first: 30000, last: 30001 });
        let port = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        for n in 0..2 {
            put(&mut a, &format!("default/p{n}"), port.clone()).unwrap();
        }
        let errors = put(&mut a, "default/more", port).unwrap_err();
        assert!(errors[0].contains("is full"), "{errors:?}");
        for n in 0..4 {
            put(&mut a, &format!("default/s{n}"), json!({"spec": {}})).unwrap();
        }
        assert!(put(&mut a, "default/more", json!({"spec": {}})).is_err());
    }

    #[test]
    fn node_ports() {
        let mut a = allocator();
        let ports =
            |number: i64, protocol: &str| json!({"port": 80, "protocol": protocol, "nodePort": number});
        let both = json!({"spec": {"type": "NodePort", "ports": [ports(30053, "TCP"), ports(30053, "UDP")]}});
        put(&mut a, "a/dns", both).unwrap();
        let same = json!({"spec": {"type": "NodePort", "ports": [ports(30053, "TCP")]}});
        let errors = put(&mut a, "a/b", same).unwrap_err();
        assert_eq!(
            errors,
            ["spec.ports[0].nodePort: Invalid value: 30053: provided port is already allocated"]
        );
        let far = json!({"spec": {"type": "NodePort", "ports": [ports(80, "TCP")]}});
        assert!(put(&mut a, "a/b", far).unwrap_err()[0].contains("30000-32767"));
        let local = json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 1}, {"port": 2}]}});
        let local = put(&mut a, "a/lb", local).unwrap();
        let (one, two) = (&local["spec"]["ports"][0]["nodePort"], &local["spec"]["ports"][1]["nodePort"]);
        assert!(one.is_u64() && two.is_u64() && one != two);
        assert!(local["spec"]["healthCheckNodePort"].as_u64().unwrap() >= 30086);
        let plain =
            put(&mut a, "a/c", json!({"spec": {"type": "ClusterIP", "ports": [{"port": 1}]}})).unwrap();
        assert!(plain["spec"]["ports"][0]["nodePort"].is_null());
    }

    #[test]
    fn dual_stack() {
        let cidrs = ["10.96.0.0/12", "fd00:96::/112"].map(|cidr| cidr.parse().unwrap());
        let mut a = Allocator::new(&cidrs, NodePorts::default());
        let prefer = json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}});
        let both = put(&mut a, "a/both", prefer).unwrap();
        let ips: Vec<IpAddr> = addresses_of(&both).collect();
        assert!(ips.len() == 2 && ips[0].is_ipv4() && ips[1].is_ipv6(), "{ips:?}");
        assert_eq!(both["spec"]["clusterIP"], ips[0].to_string());
        assert!(!a.first_addresses().contains(&ips[1]));
        let six = json!({"spec": {"ipFamilies": ["IPv6"], "clusterIP": "fd00:96::a", "clusterIPs": ["fd00:96::a"]}});
        put(&mut a, "a/dns", six.clone()).unwrap();
        assert!(put(&mut a, "a/other", six).unwrap_err()[0].contains("already allocated"));
        // The last address of an IPv6 network is as good as any; the first one is not.
        for (ip, good) in [("fd00:96::ffff", true), ("fd00:96::", false), ("fd00:97::1", false)] {
            let service = json!({"spec": {"ipFamilies": ["IPv6"], "clusterIP": ip, "clusterIPs": [ip]}});
            assert_eq!(put(&mut a, "a/asked", service).is_ok(), good, "{ip}");
        }
        // From one stack to both and back: the first address stays.
        let mut one = put(&mut a, "a/one", json!({"spec": {}})).unwrap();
        let old = one.clone();
        one["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
        assert!(a.assign("a/one", Some(&old), &mut one).is_empty());
        a.replace("a/one", Some(&old), Some(&one));
        assert_eq!(one["spec"]["clusterIPs"][0], old["spec"]["clusterIP"]);
        assert_eq!(one["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        let mut back = one.clone();
        back["spec"]["ipFamilyPolicy"] = "SingleStack".into();
        assert!(a.assign("a/one", Some(&one), &mut back).is_empty());
        assert_eq!(
            (&back["spec"]["clusterIPs"], &back["spec"]["ipFamilies"]),
            (&old["spec"]["clusterIPs"], &old["spec"]["ipFamilies"])
        );
        a.replace("a/one", Some(&one), Some(&back));
        let second = one["spec"]["clusterIPs"][1].clone();
        assert!(
            put(&mut a, "a/again", json!({"spec": {"ipFamilies": ["IPv6"], "clusterIPs": [second]}})).is_ok()
        );
    }

    #[test]
    fn what_is_asked_for_is_not_given_away() {
        let mut a =
            Allocator::new(&["192.0.2.0/24".parse().unwrap()], NodePorts { first: 30000, last: 30002 });
        let port = |n: i64, protocol: &str, node_port: i64| json!({"port": n, "protocol": protocol, "nodePort": node_port});
        for _ in 0..20 {
            let ports = json!([port(1, "TCP", 0), port(2, "TCP", 30000), port(2, "UDP", 0)]);
            let service = put(&mut a, "a/b", json!({"spec": {"type": "NodePort", "ports": ports}})).unwrap();
            assert_ne!(service["spec"]["ports"][0]["nodePort"], 30000);
            assert_eq!(service["spec"]["ports"][2]["nodePort"], 30000, "TCP and UDP share");
            a.replace("a/b", Some(&service), None);
        }
        let none = json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [port(1, "TCP", 0)]}});
        assert_eq!(put(&mut a, "a/none", none).unwrap()["spec"]["ports"][0]["nodePort"], 0);
        let health = json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001,
            "allocateLoadBalancerNodePorts": false, "ports": [port(1, "TCP", 0)]}});
        put(&mut a, "a/health", health.clone()).unwrap();
        let error = put(&mut a, "a/other", health).unwrap_err();
        assert!(
            error[0].contains(
                "failed to allocate requested HealthCheck NodePort 30001: provided port is already"
            ),
            "{error:?}"
        );
    }
}
