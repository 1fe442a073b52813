//! Nodes and pods as network namespaces.

#![allow(dead_code, clippy::unwrap_used, reason = "each test takes what it needs, and fails by panicking")]

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::Command;

use ipnet::IpNet;
use seaway_cni::plugin::{self, CniError};
use seaway_net::netns::NetNs;
use seaway_net::rtnl::Rtnl;
use serde_json::{Value, json};

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A path by which another thread of this process opens the namespace.
pub(crate) fn path_of(ns: &NetNs) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd())
}

/// Calls the plugin in namespace `node` for `pod`.
pub(crate) fn call(
    node: &NetNs,
    command: &str,
    container: &str,
    pod: Option<&NetNs>,
    config: &Value,
) -> Result<Value, CniError> {
    let netns = pod.map(path_of);
    let variable = |name: &str| match name {
        "CNI_COMMAND" => Some(command.to_owned()),
        "CNI_CONTAINERID" => Some(container.to_owned()),
        "CNI_IFNAME" => Some("eth0".to_owned()),
        "CNI_NETNS" => netns.clone(),
        _ => None,
    };
    node.run(|| plugin::answer(variable, config.to_string().as_bytes())).unwrap()
}

pub(crate) fn config(data_dir: &Path, subnets: &[&str], mtu: u32) -> Value {
    let ranges: Vec<Value> = subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
    json!({
        "cniVersion": "1.0.0", "name": "seaway", "type": "seaway", "mtu": mtu,
        "ipam": { "type": "seaway", "ranges": ranges, "dataDir": data_dir },
    })
}

/// Runs a program in the namespace; what it wrote, and whether it succeeded.
pub(crate) fn run(ns: &NetNs, line: &str) -> (String, bool) {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    let output = ns.run(|| command.output().unwrap()).unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.success())
}

/// Pings until an answer comes; the first packets may be lost to nothing, as no address has to be resolved.
pub(crate) fn assert_ping(from: &NetNs, to: &str, more: &str) {
    let (text, ok) = run(from, &format!("ping -n -c 2 -i 0.01 -W 5 {more}{to}"));
    assert!(ok && text.contains(" 0% packet loss"), "ping {to}: {text}");
}

/// Joins `ns` to the bridge of `switch` by `eth0` with `address`.
pub(crate) fn plug(switch: &NetNs, bridge: &str, ns: &NetNs, port: &str, address: &str) {
    let mut rtnl = Rtnl::open_in(switch).unwrap();
    rtnl.add_veth(port, "eth0", Some(ns), None).unwrap();
    let bridge = rtnl.link_by_name(bridge).unwrap().unwrap().index;
    let index = rtnl.link_by_name(port).unwrap().unwrap().index;
    rtnl.set_master(index, Some(bridge)).unwrap();
    rtnl.set_up(index).unwrap();
    let mut inside = Rtnl::open_in(ns).unwrap();
    let index = inside.link_by_name("eth0").unwrap().unwrap().index;
    inside.add_address(index, net(address)).unwrap();
    inside.set_up(index).unwrap();
}

pub(crate) fn address_of(result: &Value, n: usize) -> IpAddr {
    let text = result["ips"][n]["address"].as_str().unwrap();
    text.split('/').next().unwrap().parse().unwrap()
}
