//! Routes.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{CREATE, REPLACE, Rtnl, attribute_ip, attribute_u32, family, number, split, write_ip, write_u32};
use crate::netlink::{Message, NetlinkError, Writer};

/// The table that lookups use after the local one (`RT_TABLE_MAIN`).
pub const MAIN_TABLE: u32 = libc::RT_TABLE_MAIN as u32;
/// Size of `struct rtmsg` (linux/rtnetlink.h).
const HEADER: usize = 12;
/// `RTNH_F_ONLINK` (linux/rtnetlink.h).
const ONLINK: u32 = 4;
/// `RTM_F_CLONED` (linux/rtnetlink.h): an entry of the cache, not of a table.
const CLONED: u32 = 0x200;
/// The metric that the kernel gives an IPv6 route without one (`IP6_RT_PRIO_USER`).
const IPV6_METRIC: u32 = 1024;

/// How far from this host something is (rtnetlink(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Anywhere: behind a gateway.
    #[default]
    Universe,
    /// On the link itself.
    Link,
    /// On this host.
    Host,
    /// Another value.
    Other(u8),
}

impl Scope {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Universe => libc::RT_SCOPE_UNIVERSE,
            Self::Link => libc::RT_SCOPE_LINK,
            Self::Host => libc::RT_SCOPE_HOST,
            Self::Other(number) => number,
        }
    }

    pub(super) fn from_number(number: u8) -> Self {
        match number {
            libc::RT_SCOPE_UNIVERSE => Self::Universe,
            libc::RT_SCOPE_LINK => Self::Link,
            libc::RT_SCOPE_HOST => Self::Host,
            other => Self::Other(other),
        }
    }
}

/// What a route does with packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// Sends them on.
    #[default]
    Unicast,
    /// Drops them.
    Blackhole,
    /// Answers that the host is unreachable.
    Unreachable,
    /// Another value, such as `RTN_LOCAL`.
    Other(u8),
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// The destinations.
    pub dst: IpNet,
    /// The gateway.
    pub via: Option<IpAddr>,
    /// The link.
    pub dev: Option<u32>,
    /// The source address that this host prefers.
    pub src: Option<IpAddr>,
    /// How far the destination is; IPv6 routes always show [`Scope::Universe`].
    pub scope: Scope,
    /// The gateway is on the link even where no other route says so.
    pub onlink: bool,
    /// Lower is preferred; `None` is 0 for IPv4 and 1024 for IPv6.
    pub metric: Option<u32>,
    /// Who put it there (`RTPROT_*`).
    pub protocol: u8,
    /// The table.
    pub table: u32,
    /// What it does.
    pub kind: RouteKind,
}

impl Route {
    /// A unicast route of the main table to `dst`, of protocol `static`: to build on.
    pub fn to(dst: IpNet) -> Self {
        Self {
            dst,
            via: None,
            dev: None,
            src: None,
            scope: Scope::Universe,
            onlink: false,
            metric: None,
            protocol: libc::RTPROT_STATIC,
            table: MAIN_TABLE,
            kind: RouteKind::Unicast,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dst)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(dev) = self.dev {
            write!(f, " dev {dev}")?;
        }
        if let Some(src) = self.src {
            write!(f, " src {src}")?;
        }
        if self.onlink {
            write!(f, " onlink")?;
        }
        if self.table != MAIN_TABLE {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

/// Which routes to list; `None` takes all.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteFilter {
    /// Those of this table.
    pub table: Option<u32>,
    /// Those out of this link.
    pub dev: Option<u32>,
    /// Those of this protocol.
    pub protocol: Option<u8>,
}

impl Rtnl {
    /// Lists the routes of both families that `filter` takes.
    pub fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let body = |writer: &mut Writer| {
                // Type 0 and scope 0 take all.
                header(writer, family as u8, 0, filter.protocol.unwrap_or(0), 0, 0, 0);
                if let Some(table) = filter.table {
                    write_u32(writer, libc::RTA_TABLE, table);
                }
                if let Some(dev) = filter.dev {
                    write_u32(writer, libc::RTA_OIF, dev);
                }
            };
            let found = self.list(libc::RTM_GETROUTE, "list routes", body, |message| {
                Ok(read(message)?.filter(|route| {
                    filter.table.is_none_or(|table| route.table == table)
                        && filter.dev.is_none_or(|dev| route.dev == Some(dev))
                        && filter.protocol.is_none_or(|protocol| route.protocol == protocol)
                }))
            });
            match found {
                Ok(found) => routes.extend(found),
                // A table without routes yet is not there; neither is IPv6 where it is off.
                Err(error) if error.not_found() || error.errno() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(routes)
    }

    /// Adds a route; `EEXIST` where there is one to the same destination with the same metric.
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.change(
            libc::RTM_NEWROUTE,
            CREATE,
            || format!("add route {route}"),
            |writer| write(writer, route),
        )
    }

    /// Puts a route in the place of the one to the same destination with the same metric, or adds it.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.change(
            libc::RTM_NEWROUTE,
            REPLACE,
            || format!("replace route {route}"),
            |writer| write(writer, route),
        )
    }

    /// Deletes a route: one that matches all that is given.
    pub fn delete_route(&mut self, route: &Route) -> Result<bool, NetlinkError> {
        self.remove(libc::RTM_DELROUTE, || format!("delete route {route}"), |writer| write(writer, route))
    }
}

fn write(writer: &mut Writer, route: &Route) {
    let kind = match route.kind {
        RouteKind::Unicast => libc::RTN_UNICAST,
        RouteKind::Blackhole => libc::RTN_BLACKHOLE,
        RouteKind::Unreachable => libc::RTN_UNREACHABLE,
        RouteKind::Other(number) => number,
    };
    let flags = if route.onlink { ONLINK } else { 0 };
    let (ip, prefix) = (route.dst.network(), route.dst.prefix_len());
    header(writer, family(ip), prefix, route.protocol, route.scope.number(), kind, flags);
    write_ip(writer, libc::RTA_DST, ip);
    if let Some(via) = route.via {
        write_ip(writer, libc::RTA_GATEWAY, via);
    }
    if let Some(dev) = route.dev {
        write_u32(writer, libc::RTA_OIF, dev);
    }
    if let Some(src) = route.src {
        write_ip(writer, libc::RTA_PREFSRC, src);
    }
    if let Some(metric) = route.metric {
        write_u32(writer, libc::RTA_PRIORITY, metric);
    }
    write_u32(writer, libc::RTA_TABLE, route.table);
}

/// `struct rtmsg`.
fn header(writer: &mut Writer, family: u8, prefix: u8, protocol: u8, scope: u8, kind: u8, flags: u32) {
    // Family, destination and source length, TOS, table (RTA_TABLE has it), protocol, scope, type.
    writer.bytes(&[family, prefix, 0, 0, 0, protocol, scope, kind]);
    writer.bytes(&flags.to_ne_bytes());
}

/// `None` for cached entries.
pub(super) fn read(message: &Message<'_>) -> Result<Option<Route>, NetlinkError> {
    let (header, attributes) = split(message, HEADER)?;
    let flags = number(header, 8);
    if flags & CLONED != 0 {
        return Ok(None);
    }
    let v6 = i32::from(header[0]) == libc::AF_INET6;
    let everything: IpAddr = if v6 { [0u8; 16].into() } else { [0u8; 4].into() };
    let mut dst = everything;
    let mut route = Route::to(everything.into());
    route.protocol = header[5];
    route.scope = Scope::from_number(header[6]);
    route.table = header[4].into();
    route.onlink = flags & ONLINK != 0;
    route.kind = match header[7] {
        libc::RTN_UNICAST => RouteKind::Unicast,
        libc::RTN_BLACKHOLE => RouteKind::Blackhole,
        libc::RTN_UNREACHABLE => RouteKind::Unreachable,
        other => RouteKind::Other(other),
    };
    for attribute in attributes {
        let attribute = attribute?;
        match attribute.kind {
            libc::RTA_DST => dst = attribute_ip(&attribute).unwrap_or(dst),
            libc::RTA_GATEWAY => route.via = attribute_ip(&attribute),
            libc::RTA_OIF => route.dev = attribute_u32(&attribute),
            libc::RTA_PREFSRC => route.src = attribute_ip(&attribute),
            libc::RTA_PRIORITY => route.metric = attribute_u32(&attribute),
            libc::RTA_TABLE => route.table = attribute_u32(&attribute).unwrap_or(route.table),
            _ => {}
        }
    }
    let default_metric = if v6 { IPV6_METRIC } else { 0 };
    route.metric = route.metric.filter(|&metric| metric != default_metric);
    Ok(IpNet::new(dst, header[1]).ok().map(|dst| Route { dst, ..route }))
}
