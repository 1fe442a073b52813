//! The result of ADD in the form of each version of the specification.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Attached, Request, Version};
use crate::{GATEWAY_V4, GATEWAY_V6};

/// The gateway that pods of this family have.
pub(super) fn gateway(v4: bool) -> IpAddr {
    if v4 { GATEWAY_V4.into() } else { GATEWAY_V6.into() }
}

pub(super) fn render(request: &Request, attached: &Attached) -> Value {
    let version = request.config.version;
    let mut interfaces = [
        json!({ "name": attached.host_interface, "mac": attached.host_mac }),
        json!({ "name": request.ifname, "mac": attached.pod_mac, "sandbox": request.netns }),
    ];
    if version >= Version::V1_1_0
        && let Some(mtu) = request.config.mtu
    {
        for interface in &mut interfaces {
            interface["mtu"] = json!(mtu);
        }
    }
    let ips: Vec<Value> = attached
        .addresses
        .iter()
        .map(|address| {
            let v4 = address.is_ipv4();
            let prefix = if v4 { 32 } else { 128 };
            // The interface that has it is the second of the list.
            let mut ip =
                json!({ "address": format!("{address}/{prefix}"), "gateway": gateway(v4), "interface": 1 });
            if version < Version::V1_0_0 {
                ip["version"] = json!(if v4 { "4" } else { "6" });
            }
            ip
        })
        .collect();
    let routes: Vec<Value> = attached
        .addresses
        .iter()
        .map(|address| {
            let everything = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            json!({ "dst": everything, "gw": gateway(address.is_ipv4()) })
        })
        .collect();
    json!({ "cniVersion": version, "interfaces": interfaces, "ips": ips, "routes": routes, "dns": {} })
}

#[cfg(test)]
mod tests {
    use seaway_model::MacAddr;

    use super::super::{Ipam, NetworkConfig};
    use super::*;

    #[test]
    fn each_version_has_its_form() {
        for version in Version::ALL {
            let ipam = Ipam { ranges: Vec::new(), data_dir: "/d".into() };
            let config = NetworkConfig { version, name: "n".to_owned(), mtu: Some(1450), ipam };
            let netns = Some("/run/netns/p".to_owned());
            let request = Request { container: "c".to_owned(), ifname: "eth0".to_owned(), netns, config };
            let attached = Attached {
                host_interface: "sw0123456789".to_owned(),
                host_mac: MacAddr([2, 0, 0, 0, 0, 1]),
                pod_mac: MacAddr([2, 0, 0, 0, 0, 2]),
                addresses: vec!["10.244.1.2".parse().unwrap(), "fd00:1::2".parse().unwrap()],
            };
            let name = serde_json::to_value(version).unwrap();
            insta::assert_snapshot!(name.as_str().unwrap(), format!("{:#}", render(&request, &attached)));
        }
    }
}
