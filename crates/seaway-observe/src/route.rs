//! What the kernel would do with a packet.

use std::io;

use seaway_net::netlink::NetlinkError;
use seaway_net::rtnl::{Lookup, MAIN_TABLE, RouteFilter, RouteKind, Rtnl, Way};

use crate::Error;
use crate::api::{RouteAnswer, RouteQuery};

// linux/rtnetlink.h, RTN_*
const LOCAL: u8 = 2;
const BROADCAST: u8 = 3;
const MULTICAST: u8 = 5;
const PROHIBIT: u8 = 8;
const THROW: u8 = 9;

/// Asks the calling thread's namespace.
pub(crate) fn route(query: &RouteQuery) -> Result<RouteAnswer, Error> {
    let mut rtnl = Rtnl::open()?;
    if query.source.is_some_and(|source| source.is_ipv4() != query.destination.is_ipv4()) {
        return Err(Error::Request("source: not of the destination's family".to_owned()));
    }
    let iif = match &query.iif {
        None => None,
        Some(name) => {
            let link = rtnl.link_by_name(name)?;
            Some(link.ok_or_else(|| Error::Request(format!("iif: there is no link {name:?}")))?.index)
        }
    };
    let lookup = Lookup { destination: query.destination, source: query.source, iif };
    match rtnl.way(&lookup) {
        Ok(way) => answer(&mut rtnl, way),
        Err(error) => refused(&mut rtnl, query, error),
    }
}

fn answer(rtnl: &mut Rtnl, way: Way) -> Result<RouteAnswer, Error> {
    let oif = way.oif.map(|index| rtnl.link(index)).transpose()?.flatten();
    Ok(RouteAnswer {
        kind: kind_name(way.kind),
        network: way.network.map(|network| network.to_string()).unwrap_or_default(),
        via: way.via,
        oif: oif.map(|link| link.name),
        mtu: way.mtu,
    })
}

/// The kernel only gives a number where a route refuses packets: the route itself is looked for in the main table.
fn refused(rtnl: &mut Rtnl, query: &RouteQuery, error: NetlinkError) -> Result<RouteAnswer, Error> {
    let Some(errno) = error.errno() else { return Err(error.into()) };
    let routes = rtnl.routes(RouteFilter { table: Some(MAIN_TABLE), ..RouteFilter::default() })?;
    let covering = routes.into_iter().filter(|route| route.dst.contains(&query.destination));
    let nearest = covering.max_by_key(|route| route.dst.prefix_len());
    if let Some(route) = nearest
        && !matches!(route.kind, RouteKind::Unicast)
    {
        let kind = kind_name(route.kind);
        return Ok(RouteAnswer { kind, network: route.dst.to_string(), ..RouteAnswer::default() });
    }
    let reason = io::Error::from_raw_os_error(errno);
    let hint = way_back(rtnl, query).unwrap_or_default();
    Ok(RouteAnswer { kind: format!("error: {reason}{hint}"), ..RouteAnswer::default() })
}

/// Where a packet would not have come from this way: kernels do not tell a failed reverse path filter from others.
fn way_back(rtnl: &mut Rtnl, query: &RouteQuery) -> Option<String> {
    let (source, iif) = (query.source?, query.iif.as_ref()?);
    let back = rtnl.way(&Lookup { destination: source, source: None, iif: None }).ok()?.oif?;
    let name = rtnl.link(back).ok()??.name;
    (name != *iif).then(|| format!("; the way back to {source} is by {name}: rp_filter?"))
}

fn kind_name(kind: RouteKind) -> String {
    match kind {
        RouteKind::Unicast => "unicast".to_owned(),
        RouteKind::Blackhole => "blackhole".to_owned(),
        RouteKind::Unreachable => "unreachable".to_owned(),
        RouteKind::Other(LOCAL) => "local".to_owned(),
        RouteKind::Other(BROADCAST) => "broadcast".to_owned(),
        RouteKind::Other(MULTICAST) => "multicast".to_owned(),
        RouteKind::Other(PROHIBIT) => "prohibit".to_owned(),
        RouteKind::Other(THROW) => "throw".to_owned(),
        RouteKind::Other(number) => format!("type {number}"),
    }
}
