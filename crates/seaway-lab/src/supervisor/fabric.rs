//! The lab's network: two switches, and the namespaces on them.
//!
//! The supervisor's own network namespace has the switches and nothing else. A box's namespace is bound to a file that only the
//! supervisor's mount namespace shows, so that it outlives the box's process and dies with the lab.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use seaway_model::stable_hash;
use seaway_net::netns::NetNs;
use seaway_net::nft::{Kernel, Nft, Table, Transaction};
use seaway_net::rtnl::{Mac, Route, Rtnl, Scope, VethSpec};
use seaway_net::sysctl;

/// How long the kernel may take until packets get out of a new interface.
const PATIENCE: Duration = Duration::from_secs(5);

/// The Ethernet address of the card behind a switch's port. A machine that boots again has the card that it had: its neighbours
/// would send to another one's address for half a minute. Locally administered (IEEE 802, bit 1 of the first octet).
fn card(port: &str) -> Mac {
    let [_, _, _, a, b, c, d, e] = stable_hash(&[port]).to_be_bytes();
    [0x02, a, b, c, d, e]
}

/// A switch of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// What the nodes, the control plane and the gateway are on.
    Cloud,
    /// What the internet's hosts and the gateway are on.
    Internet,
}

impl Switch {
    const ALL: [Self; 2] = [Self::Cloud, Self::Internet];

    const fn name(self) -> &'static str {
        match self {
            Self::Cloud => "cloud",
            Self::Internet => "internet",
        }
    }
}

/// An interface of a box and where it is plugged in.
pub(super) struct Attachment {
    pub(super) switch: Switch,
    /// The switch's end of the cable; at most 15 bytes.
    pub(super) port: String,
    /// The box's end.
    pub(super) interface: &'static str,
    /// Addresses with their prefix lengths.
    pub(super) addresses: Vec<IpNet>,
}

/// The switches, and where namespaces are bound.
#[derive(Clone, Debug)]
pub(super) struct Fabric {
    folder: PathBuf,
    mtu: u32,
}

impl Fabric {
    /// Makes the switches in the calling process's network namespace.
    pub(super) fn build(folder: &Path, mtu: u32) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut rtnl = Rtnl::open()?;
        for switch in Switch::ALL {
            rtnl.add_bridge(switch.name())?;
            let bridge = rtnl.link_by_name(switch.name())?.context("the switch is gone")?;
            rtnl.set_mtu(bridge.index, mtu)?;
            rtnl.set_up(bridge.index)?;
        }
        Ok(Self { folder: folder.to_owned(), mtu })
    }

    /// Where the namespace of the box `name` is bound.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes a namespace for the box `name`, with interfaces on the switches.
    pub(super) fn attach(&self, name: &str, attachments: &[Attachment]) -> anyhow::Result<NetNs> {
        let netns = NetNs::new().with_context(|| format!("{name}: cannot make a network namespace"))?;
        // Addresses of a lab are unique by construction: waiting to see whether they are would only delay them (RFC 4862, 5.4).
        netns.run(|| sysctl::set("net/ipv6/conf/default/accept_dad", "0"))??;
        let mut rtnl = Rtnl::open()?;
        for attachment in attachments {
            self.plug(&mut rtnl, &netns, attachment)
                .with_context(|| format!("{name}: {}", attachment.interface))?;
        }
        netns
            .bind_at(self.path(name))
            .with_context(|| format!("cannot bind {}", self.path(name).display()))?;
        Ok(netns)
    }

    fn plug(&self, rtnl: &mut Rtnl, netns: &NetNs, attachment: &Attachment) -> anyhow::Result<()> {
        // The kernel takes a namespace down some time after its last user is gone; until then a box's earlier cable is there.
        rtnl.delete_link_by_name(&attachment.port)?;
        rtnl.add_veth_pair(&VethSpec {
            name: &attachment.port,
            mac: None,
            peer_name: attachment.interface,
            peer_ns: Some(netns),
            peer_mac: Some(card(&attachment.port)),
            mtu: Some(self.mtu),
            up: false,
        })?;
        let port = rtnl.link_by_name(&attachment.port)?.context("the cable is gone")?;
        let switch = rtnl.link_by_name(attachment.switch.name())?.context("the switch is gone")?;
        rtnl.set_master(port.index, Some(switch.index))?;
        rtnl.set_up(port.index)?;
        netns.run(|| -> anyhow::Result<()> {
            let mut inside = Rtnl::open()?;
            let link = inside.link_by_name(attachment.interface)?.context("the interface is gone")?;
            for address in &attachment.addresses {
                inside.add_address(link.index, *address)?;
            }
            inside.set_up(link.index)?;
            let carries = inside.await_operational(link.index, PATIENCE)?;
            anyhow::ensure!(carries, "no packets get out after {} s", PATIENCE.as_secs());
            Ok(())
        })?
    }

    /// Routes everything through the gateways, one of each family.
    pub(super) fn route(&self, netns: &NetNs, gateways: &[IpAddr]) -> anyhow::Result<()> {
        netns.run(|| -> anyhow::Result<()> {
            let mut rtnl = Rtnl::open()?;
            for gateway in gateways {
                let everything =
                    if gateway.is_ipv4() { Ipv4Net::default().into() } else { Ipv6Net::default().into() };
                rtnl.replace_route(&Route { via: Some(*gateway), ..Route::to(everything) })?;
            }
            Ok(())
        })?
    }

    /// Adds a route for a network whose hosts are all on the interface's switch.
    pub(super) fn route_on_link(&self, netns: &NetNs, network: IpNet, interface: &str) -> anyhow::Result<()> {
        netns.run(|| -> anyhow::Result<()> {
            let mut rtnl = Rtnl::open()?;
            let link = rtnl.link_by_name(interface)?.with_context(|| format!("{interface} is gone"))?;
            let route = Route { dev: Some(link.index), scope: Scope::Link, ..Route::to(network) };
            Ok(rtnl.replace_route(&route)?)
        })?
    }

    /// Gives an interface of a box one more address.
    pub(super) fn add_address(&self, name: &str, interface: &str, address: IpAddr) -> anyhow::Result<()> {
        self.on_interface(name, interface, |rtnl, index| Ok(rtnl.add_address(index, IpNet::from(address))?))
    }

    /// Takes an address from an interface of a box.
    pub(super) fn delete_address(&self, name: &str, interface: &str, address: IpAddr) -> anyhow::Result<()> {
        self.on_interface(name, interface, |rtnl, index| {
            rtnl.delete_address(index, IpNet::from(address))?;
            Ok(())
        })
    }

    fn on_interface(
        &self,
        name: &str,
        interface: &str,
        change: impl FnOnce(&mut Rtnl, u32) -> anyhow::Result<()> + Send,
    ) -> anyhow::Result<()> {
        let netns = NetNs::open(self.path(name)).with_context(|| format!("{name}: no network namespace"))?;
        netns.run(|| -> anyhow::Result<()> {
            let mut rtnl = Rtnl::open()?;
            let link = rtnl.link_by_name(interface)?.with_context(|| format!("{interface} is gone"))?;
            change(&mut rtnl, link.index)
        })?
    }

    /// Puts the rules in force by which the switches lose packets; where they lose none, there are no rules.
    pub(super) fn lose(&self, table: &Table, none: bool) -> anyhow::Result<()> {
        let transaction =
            if none { Transaction::remove(table.id.clone()) } else { Transaction::replace(table) };
        let done = Kernel::open()?.commit(&transaction);
        done.context("the switches' rules (the kernel needs CONFIG_NF_TABLES_BRIDGE)")
    }

    /// Lets a namespace go, and pulls its cable out.
    pub(super) fn detach(&self, name: &str, port: &str) {
        let unplugged = Rtnl::open().and_then(|mut rtnl| rtnl.delete_link_by_name(port));
        if let Err(error) = unplugged {
            tracing::warn!(name, %error, "cable not pulled out");
        }
        if let Err(error) = NetNs::unbind(self.path(name)) {
            tracing::warn!(name, %error, "namespace not let go");
        }
    }
}
