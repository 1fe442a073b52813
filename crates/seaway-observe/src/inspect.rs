//! What the kernel says when asked: links, tracked connections.

use std::collections::HashMap;

use seaway_net::conntrack::{self, Conntrack, Filter, Flow, Transport};
use seaway_net::rtnl::Rtnl;
use seaway_net::sysctl;

use crate::Error;
use crate::api::{Connection, Link, Traffic, Tuple};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The links of the calling thread's namespace.
pub(crate) fn links() -> Result<Vec<Link>, Error> {
    let mut rtnl = Rtnl::open()?;
    let mut addresses: HashMap<u32, Vec<String>> = HashMap::new();
    for address in rtnl.addresses(None)? {
        addresses.entry(address.index).or_default().push(address.net.to_string());
    }
    let filter = |link: &str| -> u8 {
        let value = sysctl::get(&format!("net/ipv4/conf/{link}/rp_filter"));
        value.ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let all = filter("all");
    let links = rtnl.links()?.into_iter().map(|link| Link {
        index: link.index,
        mtu: link.mtu,
        up: link.up,
        kind: link.kind.unwrap_or_default(),
        addresses: addresses.remove(&link.index).unwrap_or_default(),
        rp_filter: filter(&link.name).max(all),
        name: link.name,
    });
    Ok(links.collect())
}

/// The entry of each original tuple.
pub(crate) fn connections_of(originals: &[Tuple]) -> Result<Vec<Option<Connection>>, Error> {
    let mut conntrack = Conntrack::open()?;
    originals
        .iter()
        .map(|original| Ok(conntrack.get(&to_kernel(original))?.as_ref().map(connection)))
        .collect()
}

/// All entries, or those with a translated address.
pub(crate) fn connections(translated: bool) -> Result<Vec<Connection>, Error> {
    let wanted = |flow: &Flow| !translated || flow.is_dnat() || flow.is_snat();
    let flows = Conntrack::open()?.list_where(&Filter::default(), wanted)?;
    Ok(flows.iter().map(connection).collect())
}

fn connection(flow: &Flow) -> Connection {
    Connection {
        original: from_kernel(&flow.original),
        reply: from_kernel(&flow.reply),
        status: conntrack::status_names(flow.status).into_iter().map(str::to_owned).collect(),
        tcp_state: flow.tcp_state.and_then(conntrack::tcp_state_name).map(str::to_owned),
        timeout: flow.timeout.map(|timeout| timeout.as_secs()),
        traffic: flow.sent.zip(flow.answered).map(|(sent, answered)| Traffic {
            packets: sent.packets.saturating_add(answered.packets),
            bytes: sent.bytes.saturating_add(answered.bytes),
        }),
    }
}

fn from_kernel(tuple: &conntrack::Tuple) -> Tuple {
    let (source_port, destination_port) = match tuple.transport {
        Transport::Ports { source, destination } => (source, destination),
        Transport::Icmp { id, .. } => (id, 0),
        Transport::None => (0, 0),
    };
    Tuple {
        protocol: tuple.protocol,
        source: tuple.source,
        source_port,
        destination: tuple.destination,
        destination_port,
    }
}

fn to_kernel(tuple: &Tuple) -> conntrack::Tuple {
    let echo = |kind| Transport::Icmp { id: tuple.source_port, kind, code: 0 };
    let transport = match tuple.protocol {
        ICMP => echo(8),
        ICMPV6 => echo(128),
        _ => Transport::Ports { source: tuple.source_port, destination: tuple.destination_port },
    };
    conntrack::Tuple {
        source: tuple.source,
        destination: tuple.destination,
        protocol: tuple.protocol,
        transport,
    }
}
