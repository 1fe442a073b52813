//! What a trace says: hops, and what each does to the packet. The JSON of it is stable; `docs/trace.schema.json` describes it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

/// A protocol that can be traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, clap::ValueEnum)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Proto {
    /// A TCP connection, with an HTTP request where the target speaks HTTP.
    #[default]
    Tcp,
    /// A UDP datagram.
    Udp,
    /// An ICMP echo request, as ping sends it.
    Icmp,
}

impl Proto {
    /// The number in the IP header beside `address` (IANA Assigned Internet Protocol Numbers).
    pub(crate) const fn number(self, address: IpAddr) -> u8 {
        match self {
            Self::Icmp if address.is_ipv6() => 58,
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Icmp => "ICMP",
        })
    }
}

/// What comes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// It reaches its destination.
    Delivered,
    /// It reaches its destination, which serves others and answers this source with 403.
    Forbidden,
    /// The destination answers that nothing listens there.
    Refused,
    /// A node answers in the destination's place: no endpoint, or no such port.
    Rejected,
    /// It is thrown away on its way.
    Dropped,
    /// There is no way to the destination.
    Unreachable,
    /// The name has no address.
    NoSuchName,
    /// The name servers do not answer.
    NoNameServer,
    /// It depends on something that nothing declares.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Delivered => "delivered",
            Self::Forbidden => "forbidden",
            Self::Refused => "refused",
            Self::Rejected => "rejected",
            Self::Dropped => "dropped",
            Self::Unreachable => "unreachable",
            Self::NoSuchName => "no such name",
            Self::NoNameServer => "no name server answers",
            Self::Unknown => "unknown",
        })
    }
}

/// What a hop is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HopKind {
    /// `/etc/nsswitch.conf` and `/etc/hosts` are read.
    Hosts,
    /// `/etc/resolv.conf` is read.
    ResolvConf,
    /// A name of the search list is asked for.
    Dns,
    /// A Service's address becomes an endpoint's, or does not.
    Service,
    /// Packet filters.
    Policy,
    /// The way is chosen.
    Route,
    /// The packet travels inside another one.
    Overlay,
    /// The source address is replaced, or is not.
    Snat,
    /// The cloud's router.
    Gateway,
    /// The destination.
    Destination,
    /// The way back.
    Return,
}

/// Whether what was observed is what was predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// It is.
    Ok,
    /// It is not.
    Differs,
    /// Nothing can be said: nobody saw it, or something that was seen is lost.
    Unknown,
}

/// The tunnel packet around a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct OuterHeader {
    /// The sending node's address.
    pub(crate) source: IpAddr,
    /// The receiving node's address.
    pub(crate) destination: IpAddr,
    /// The UDP port.
    pub(crate) port: u16,
    /// The VXLAN network identifier.
    pub(crate) vni: u32,
}

/// A packet, or a question, before or after a hop. Sets are what a random choice may make of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct State {
    /// The transport protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<Proto>,
    /// Source addresses that it may have.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) source: BTreeSet<IpAddr>,
    /// Destinations that it may have: `address:port`, or the address where there are no ports.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) destination: BTreeSet<String>,
    /// The tunnel packet around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outer: Option<OuterHeader>,
    /// The name that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// The RCODE of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rcode: Option<String>,
    /// The addresses of the answer.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) addresses: BTreeSet<IpAddr>,
}

/// A step of the way.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hop {
    /// What it is about.
    pub(crate) kind: HopKind,
    /// Where it happens: `pod/NAMESPACE/NAME`, `node/NAME`, `gateway`, `internet/HOST`.
    #[serde(rename = "where")]
    pub(crate) place: String,
    /// The object, file or rule responsible.
    pub(crate) object: String,
    /// What comes in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<State>,
    /// What goes out; absent where it ends here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<State>,
    /// What happens and why, in words.
    pub(crate) note: String,
    /// Only if one of these is chosen: what leads here is a random choice.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) when: BTreeSet<String>,
    /// The request fails here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) fault: bool,
    /// What was seen, with `--verify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) observed: Option<String>,
    /// Whether that is what was predicted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Outcome>,
    /// What to look for.
    #[serde(skip)]
    pub(crate) expect: Expect,
}

/// What an observer must see if the prediction is right. The hop's place says where.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Expect {
    /// Nothing to look for.
    #[default]
    Nothing,
    /// Nothing can be seen, because nothing there can be asked.
    Unseen,
    /// `/etc/hosts` and `/etc/nsswitch.conf` give this.
    Hosts {
        /// What the lookup finds there.
        addresses: BTreeSet<IpAddr>,
    },
    /// `/etc/resolv.conf` says this.
    ResolvConf {
        /// The file's text.
        text: String,
    },
    /// A query and its answer.
    Dns(DnsExpectation),
    /// The packet comes in from the sender.
    Enter,
    /// The destination becomes one of these; empty: stays.
    Translate {
        /// The endpoints.
        backends: BTreeSet<SocketAddr>,
    },
    /// The packet is answered with a reset (TCP) or an ICMP error.
    Reject,
    /// No filter drops it.
    Pass,
    /// It leaves for a pod of this node.
    ToPod {
        /// By this link; `None`: by the link of any pod.
        link: Option<String>,
    },
    /// It leaves through the tunnel.
    Tunnel {
        /// The link of the inner packet.
        device: String,
        /// The link of the outer packet.
        link: String,
        /// The outer header.
        outer: OuterHeader,
        /// The device's MTU.
        mtu: u32,
    },
    /// It leaves by this link.
    Link {
        /// The link.
        link: String,
        /// Its MTU, where that is planned.
        mtu: Option<u32>,
    },
    /// It stays on this machine.
    Local,
    /// It never leaves the caller.
    Within,
    /// It comes out of the tunnel and goes to a pod of this node.
    FromNetwork {
        /// The link that it comes in by.
        link: String,
    },
    /// The source becomes one of these; empty: stays.
    Source {
        /// The new addresses.
        addresses: BTreeSet<IpAddr>,
    },
    /// The router drops it.
    Drop,
    /// There is no route.
    NoRoute,
    /// It arrives with one of these sources, and what follows.
    Arrive {
        /// Sources.
        sources: BTreeSet<IpAddr>,
        /// What the destination does; `None`: nobody declares it.
        answer: Option<Verdict>,
    },
    /// The answer comes back.
    Return,
    /// No answer comes back.
    NoAnswer,
}

/// What is expected of one name of the search list.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DnsExpectation {
    /// The name, absolute.
    pub(crate) name: String,
    /// The server's address in resolv.conf.
    pub(crate) server: Option<IpAddr>,
    /// The servers that a Service hands the query to; empty: the query goes to `server` itself.
    pub(crate) backends: BTreeSet<SocketAddr>,
    /// RCODE and addresses of each type's answer; `None`: nobody knows before it is asked.
    pub(crate) answers: Option<Vec<(String, String, BTreeSet<IpAddr>)>>,
    /// No answer will come.
    pub(crate) unanswered: bool,
}

/// A whole trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trace {
    /// Who calls.
    pub(crate) from: String,
    /// What is called, as it was asked for.
    pub(crate) to: String,
    /// The lab.
    pub(crate) lab: String,
    /// The protocol.
    pub(crate) protocol: Proto,
    /// What comes of it.
    pub(crate) verdict: Verdict,
    /// Why, in words.
    pub(crate) reason: String,
    /// Every address that the destination may see as the source.
    pub(crate) source_seen_by_destination: BTreeSet<IpAddr>,
    /// Where the knowledge ends: what happens to the source beyond this place is declared by nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unknown_beyond: Option<String>,
    /// The hops, in order.
    pub(crate) hops: Vec<Hop>,
    /// With `--verify`: all hops were as predicted, some were not, or (null) that cannot be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verified: Option<Verified>,
}

/// How a verification came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verified(pub Outcome);

impl Verified {
    /// With one more hop's result.
    pub(crate) fn and(self, outcome: Outcome) -> Self {
        match (self.0, outcome) {
            (Outcome::Differs, _) | (_, Outcome::Differs) => Self(Outcome::Differs),
            (Outcome::Unknown, _) | (_, Outcome::Unknown) => Self(Outcome::Unknown),
            (Outcome::Ok, Outcome::Ok) => self,
        }
    }
}

impl Serialize for Verified {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Outcome::Ok => serializer.serialize_bool(true),
            Outcome::Differs => serializer.serialize_bool(false),
            Outcome::Unknown => serializer.serialize_none(),
        }
    }
}

impl Hop {
    /// A hop without packets.
    pub(crate) fn new(
        kind: HopKind,
        place: impl Into<String>,
        object: impl Into<String>,
        note: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            place: place.into(),
            object: object.into(),
            before: None,
            after: None,
            note: note.into(),
            when: BTreeSet::new(),
            fault: false,
            observed: None,
            result: None,
            expect: Expect::Nothing,
        }
    }

    /// With the packet before and after.
    pub(crate) fn states(
        mut self,
        before: impl Into<Option<State>>,
        after: impl Into<Option<State>>,
    ) -> Self {
        self.before = before.into();
        self.after = after.into();
        self
    }

    /// With what an observer must see.
    pub(crate) fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    /// The request fails here.
    pub(crate) fn failing(mut self) -> Self {
        self.fault = true;
        self
    }
}
