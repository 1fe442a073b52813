//! Cluster IPs and node ports of services: which are taken, and by whom.
//!
//! Nothing of this is stored: it follows from the services. A free one is chosen at random from the upper part of its range; the lower part
//! is left to those that services ask for by number, as in kube-apiserver (KEP-3070).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rand::RngExt as _;
use seaway_apis::FieldError;
use serde_json::{Value, json};

use crate::NodePorts;
use crate::app::text;

/// The taken addresses and ports, with the keys of the services that have them.
pub(crate) struct Allocator {
    cidr: IpNet,
    ports: NodePorts,
    taken_addresses: HashMap<IpAddr, String>,
    taken_ports: HashMap<u16, String>,
}

impl Allocator {
    pub(crate) fn new(cidr: IpNet, ports: NodePorts) -> Allocator {
        Allocator { cidr: cidr.trunc(), ports, taken_addresses: HashMap::new(), taken_ports: HashMap::new() }
    }

    /// The address of `default/kubernetes`: the first one after the network's.
    pub(crate) fn first_address(&self) -> IpAddr {
        self.nth(1)
    }

    fn nth(&self, offset: u128) -> IpAddr {
        match self.cidr.network() {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().wrapping_add(offset as u32)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits().wrapping_add(offset)).into(),
        }
    }

    /// How many addresses there are besides the network's and the broadcast's.
    fn addresses(&self) -> u128 {
        let bits = self.cidr.max_prefix_len() - self.cidr.prefix_len();
        // More than a /64 has is never used.
        (1u128 << bits.min(64)).saturating_sub(2)
    }

    fn family(&self) -> &'static str {
        if self.cidr.addr().is_ipv4() { "IPv4" } else { "IPv6" }
    }

    /// Gives a service what its type needs and it does not name; checks what it names. Nothing is taken yet.
    pub(crate) fn assign(&self, key: &str, old: Option<&Value>, service: &mut Value) -> Vec<FieldError> {
        let mut errors = self.assign_address(key, service);
        self.assign_ports(key, service, &mut errors);
        if let Some(old) = old
            && errors.is_empty()
        {
            errors = changed_address(old, service);
        }
        errors
    }

    fn assign_address(&self, key: &str, service: &mut Value) -> Vec<FieldError> {
        if text(service, &["spec", "type"]) == "ExternalName" {
            return Vec::new();
        }
        let errors = self.check_families(service);
        let asked = text(service, &["spec", "clusterIP"]).to_owned();
        if !errors.is_empty() || asked == "None" {
            return errors;
        }
        let address = match asked.as_str() {
            "" => self.free_address(),
            asked => self.check_address(key, asked),
        };
        let address = match address {
            Ok(address) => address,
            Err(detail) => return vec![FieldError::invalid("spec.clusterIPs", json!([asked]), detail)],
        };
        if let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("clusterIP".to_owned(), address.to_string().into());
            spec.insert("clusterIPs".to_owned(), json!([address.to_string()]));
            spec.insert("ipFamilies".to_owned(), json!([self.family()]));
            spec.entry("ipFamilyPolicy").or_insert_with(|| "SingleStack".into());
        }
        Vec::new()
    }

    /// The cluster has one family.
    fn check_families(&self, service: &Value) -> Vec<FieldError> {
        let spec = &service["spec"];
        if spec["ipFamilyPolicy"] == "RequireDualStack" {
            let detail = "this cluster is not configured for dual-stack services";
            return vec![FieldError::invalid("spec.ipFamilyPolicy", "RequireDualStack", detail)];
        }
        let families = spec["ipFamilies"].as_array().map_or(&[][..], Vec::as_slice);
        let wrong = families.iter().enumerate().find(|(at, family)| *at > 0 || **family != self.family());
        match wrong {
            Some((at, family)) if spec["clusterIP"] != "None" || at > 0 => {
                vec![FieldError::invalid(
                    format!("spec.ipFamilies[{at}]"),
                    family.clone(),
                    "not configured on this cluster",
                )]
            }
            _ => Vec::new(),
        }
    }

    fn check_address(&self, key: &str, asked: &str) -> Result<IpAddr, String> {
        let failed = |why: String| format!("failed to allocate IP {asked}: {why}");
        let address: IpAddr = asked.parse().map_err(|_| failed("it is not a valid IP address".to_owned()))?;
        if !self.cidr.contains(&address) || address == self.cidr.network() || address == self.cidr.broadcast()
        {
            return Err(failed(format!(
                "the provided IP is not in the valid range. The range of valid IPs is {}",
                self.cidr
            )));
        }
        match self.taken_addresses.get(&address) {
            Some(owner) if owner != key => Err(failed("provided IP is already allocated".to_owned())),
            _ => Ok(address),
        }
    }

    fn free_address(&self) -> Result<IpAddr, String> {
        let size = self.addresses();
        let reserved = (size / 16).clamp(16, 256).min(size);
        let taken = |offset: u128| self.taken_addresses.contains_key(&self.nth(offset));
        pick(reserved + 1, size, taken)
            .or_else(|| pick(1, reserved.min(size), taken))
            .map(|offset| self.nth(offset))
            .ok_or_else(|| format!("failed to allocate a serviceIP: the range {} is full", self.cidr))
    }

    fn assign_ports(&self, key: &str, service: &mut Value, errors: &mut Vec<FieldError>) {
        let kind = text(service, &["spec", "type"]);
        let balanced = kind == "LoadBalancer";
        let wanted = kind == "NodePort"
            || (balanced && service["spec"]["allocateLoadBalancerNodePorts"] != Value::Bool(false));
        let own_health = balanced && service["spec"]["externalTrafficPolicy"] == "Local";
        let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return };
        let mut mine: Vec<(u16, String)> = Vec::new();
        if let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) {
            for (at, port) in ports.iter_mut().enumerate() {
                let field = format!("spec.ports[{at}].nodePort");
                match self.port_of(key, port, wanted, &mine) {
                    Ok(None) => {}
                    Ok(Some(number)) => {
                        mine.push((number, text(port, &["protocol"]).to_owned()));
                        if let Some(port) = port.as_object_mut() {
                            port.insert("nodePort".to_owned(), number.into());
                        }
                    }
                    Err((number, detail)) => errors.push(FieldError::invalid(field, number, detail)),
                }
            }
        }
        if own_health && spec.get("healthCheckNodePort").is_none_or(|port| port == 0 || port.is_null()) {
            match self.free_port(&mine) {
                Ok(port) => drop(spec.insert("healthCheckNodePort".to_owned(), port.into())),
                Err(detail) => errors.push(FieldError::invalid("spec.healthCheckNodePort", 0, detail)),
            }
        }
    }

    /// The node port of one port: the one it names if that may be, a free one if it needs one.
    fn port_of(
        &self,
        key: &str,
        port: &Value,
        wanted: bool,
        mine: &[(u16, String)],
    ) -> Result<Option<u16>, (i64, String)> {
        let protocol = text(port, &["protocol"]);
        let asked = port["nodePort"].as_i64().unwrap_or(0);
        if asked == 0 {
            return if wanted { self.free_port(mine).map(Some).map_err(|e| (0, e)) } else { Ok(None) };
        }
        let NodePorts { first, last } = self.ports;
        let number = u16::try_from(asked).ok().filter(|number| (first..=last).contains(number));
        let Some(number) = number else {
            let detail = format!(
                "provided port is not in the valid range. The range of valid ports is {}",
                self.ports
            );
            return Err((asked, detail));
        };
        let twice = mine.iter().any(|(n, p)| *n == number && p == protocol);
        if twice || self.taken_ports.get(&number).is_some_and(|owner| owner != key) {
            return Err((asked, "provided port is already allocated".to_owned()));
        }
        Ok(Some(number))
    }

    fn free_port(&self, mine: &[(u16, String)]) -> Result<u16, String> {
        let NodePorts { first, last } = self.ports;
        let size = last - first + 1;
        let reserved = (size / 32).clamp(16, 128).min(size);
        let taken = |port: u128| {
            u16::try_from(port).map_or(true, |port| {
                self.taken_ports.contains_key(&port) || mine.iter().any(|(number, _)| *number == port)
            })
        };
        let (first, last) = (u128::from(first), u128::from(last));
        pick(first + u128::from(reserved), last, taken)
            .or_else(|| pick(first, last, taken))
            .and_then(|port| u16::try_from(port).ok())
            .ok_or_else(|| format!("failed to allocate a nodePort: the range {} is full", self.ports))
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

/// A service's cluster IP stays, unless it had none of its own.
fn changed_address(old: &Value, new: &Value) -> Vec<FieldError> {
    let (before, after) = (text(old, &["spec", "clusterIP"]), text(new, &["spec", "clusterIP"]));
    let fixed = |service: &Value| text(service, &["spec", "type"]) != "ExternalName";
    if before.is_empty() || before == after || !fixed(old) || !fixed(new) {
        return Vec::new();
    }
    vec![FieldError::invalid("spec.clusterIPs[0]", json!([after]), "may not change once set")]
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
        Allocator::new("10.96.0.0/12".parse().unwrap(), NodePorts::default())
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
        assert_eq!(a.first_address().to_string(), "10.96.0.1");
        let asked = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.96.0.10"}});
        let dns = put(&mut a, "kube-system/kube-dns", asked.clone()).unwrap();
        assert_eq!(dns["spec"]["clusterIPs"], json!(["10.96.0.10"]));
        let errors = put(&mut a, "default/other", asked.clone()).unwrap_err();
        assert!(errors[0].contains("provided IP is already allocated"), "{errors:?}");
        // A service may keep its own.
        assert!(put(&mut a, "kube-system/kube-dns", asked.clone()).is_ok());
        a.replace("kube-system/kube-dns", Some(&dns), None);
        assert!(put(&mut a, "default/other", asked).is_ok());
        for wrong in ["10.95.0.1", "10.96.0.0", "10.111.255.255", "x", "fd00::1"] {
            assert!(put(&mut a, "default/x", json!({"spec": {"clusterIP": wrong}})).is_err(), "{wrong}");
        }
        let free = put(&mut a, "default/free", json!({"spec": {}})).unwrap();
        let ip: Ipv4Addr = free["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
        assert!(ip >= Ipv4Addr::new(10, 96, 1, 1), "{ip}");
        let headless = put(&mut a, "default/headless", json!({"spec": {"clusterIP": "None"}})).unwrap();
        assert_eq!(headless["spec"]["clusterIP"], "None");
        assert!(put(&mut a, "default/six", json!({"spec": {"ipFamilies": ["IPv6"]}})).is_err());
        assert!(put(&mut a, "default/two", json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}})).is_err());
    }

    #[test]
    fn small_ranges_are_used_up() {
        let mut a = Allocator::new("192.0.2.0/29".parse().unwrap(), NodePorts { first: 30000, last: 30001 });
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
}
