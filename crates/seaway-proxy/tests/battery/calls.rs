//! Calls, and what is expected of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use seaway_model::Protocol;

use crate::addresses::*;
use crate::servers::{BEYOND_PORT, PATIENCE};
use crate::sockets::{self, Outcome, PROTOCOLS};
use crate::topology::Topology;

/// How long silence must last to count. Too short a time can miss a late answer, but never takes silence for one.
const SILENCE: Duration = Duration::from_millis(100);

/// Whom a server sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The caller's own address.
    Caller,
    /// An address of the node under test.
    Node,
}

impl Seen {
    /// Whom `server` sees when `caller` calls, given whether the node would put its own address in place of the caller's.
    pub(crate) fn by(server: Host, caller: Host, masqueraded: bool) -> Self {
        match (server, caller) {
            (_, Node) => Self::Node,
            // An endpoint that is sent to itself would answer itself and not who it called: hairpin.
            _ if server == caller => Self::Node,
            // Nothing leaves the node then.
            (Node, _) => Self::Caller,
            _ if masqueraded => Self::Node,
            _ => Self::Caller,
        }
    }
}

/// What a call leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// These answer, each sooner or later, and nobody else: whom each sees, and at which port. A client that is `sticky` has
    /// one of them that answers it every time.
    Answers { by: BTreeMap<Host, Seen>, port: u16, sticky: bool },
    /// An error at once.
    Refused,
    /// Silence.
    Dropped,
}

/// A call to make, in each family and protocol.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) caller: Host,
    /// The source address where it is not the caller's first.
    pub(crate) source: Option<String>,
    pub(crate) to: String,
    pub(crate) expected: Expected,
    pub(crate) families: Vec<Family>,
    pub(crate) protocols: Vec<Protocol>,
}

/// A call whose outcome is not said yet.
#[derive(Clone, Debug)]
pub(crate) struct Question(Call);

impl Host {
    /// A call to `10.96.0.7:80`.
    pub(crate) fn calls(self, to: impl Into<String>) -> Question {
        Question(Call {
            caller: self,
            source: None,
            to: to.into(),
            expected: Expected::Dropped,
            families: Family::BOTH.into(),
            protocols: PROTOCOLS.clone(),
        })
    }
}

impl Question {
    /// From another of the caller's addresses.
    pub(crate) fn from(mut self, source: impl Into<String>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn over(mut self, protocols: impl Into<Vec<Protocol>>) -> Self {
        self.0.protocols = protocols.into();
        self
    }

    pub(crate) fn in_family(mut self, family: Family) -> Self {
        self.0.families = vec![family];
        self
    }

    fn expects(mut self, expected: Expected) -> Call {
        self.0.expected = expected;
        self.0
    }

    /// Each of these answers, from port 8080, and sees the caller.
    pub(crate) fn reaches(self, by: impl IntoIterator<Item = Host>) -> Call {
        let caller = self.0.caller;
        let by = by.into_iter().map(|server| (server, Seen::by(server, caller, false))).collect();
        self.expects(Expected::Answers { by, port: PORTS[0], sticky: false })
    }

    /// No node translates it: it goes where routes lead, unchanged but for a pod's source.
    pub(crate) fn passes(self) -> Call {
        let from_pod = matches!(self.0.caller, Client | A | B);
        let by = [(Beyond, Seen::by(Beyond, self.0.caller, from_pod))].into();
        self.expects(Expected::Answers { by, port: BEYOND_PORT, sticky: false })
    }

    pub(crate) fn refused(self) -> Call {
        self.expects(Expected::Refused)
    }

    pub(crate) fn dropped(self) -> Call {
        self.expects(Expected::Dropped)
    }
}

impl Call {
    /// The servers see the node instead.
    pub(crate) fn masqueraded(mut self) -> Self {
        if let Expected::Answers { by, .. } = &mut self.expected {
            by.iter_mut().for_each(|(server, seen)| *seen = Seen::by(*server, self.caller, true));
        }
        self
    }

    /// The servers answer from this port instead.
    pub(crate) fn at_port(mut self, number: u16) -> Self {
        if let Expected::Answers { port, .. } = &mut self.expected {
            *port = number;
        }
        self
    }

    /// The call in each family and protocol that it is to be made in.
    pub(crate) fn each(&self) -> impl Iterator<Item = OneCall<'_>> {
        self.families.iter().flat_map(move |family| {
            self.protocols.iter().map(move |protocol| OneCall {
                call: self,
                family: *family,
                protocol: *protocol,
            })
        })
    }
}

/// A call in one family and protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OneCall<'a> {
    pub(crate) call: &'a Call,
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
}

impl fmt::Display for OneCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { caller, source, to, .. } = self.call;
        let source = source.as_ref().map(|source| format!(" ({source})")).unwrap_or_default();
        write!(f, "{caller:?}{source} → {to} {:?} {}", self.family, self.protocol)
    }
}

impl OneCall<'_> {
    pub(crate) fn to(&self) -> SocketAddr {
        self.family.socket(&self.call.to)
    }

    /// The source that the caller binds to; a node leaves it to its routes.
    fn local(&self) -> IpAddr {
        match (&self.call.source, self.call.caller) {
            (Some(source), _) => self.family.ip(source),
            (None, Node) => self.family.ip("0.0.0.0"),
            (None, caller) => caller.ip(self.family),
        }
    }

    /// The source that the packets have.
    pub(crate) fn source(&self) -> IpAddr {
        let (local, to) = (self.local(), self.to().ip());
        let own = [self.family.ip(SECOND_NODE_IP), self.family.ip("127.0.0.1")];
        match local.is_unspecified() {
            // What a host sends to itself comes from where it goes.
            true if own.contains(&to) => to,
            true => self.call.caller.ip(self.family),
            false => local,
        }
    }

    /// Calls once, from a thread in the caller's namespace.
    pub(crate) fn once(&self, topology: &Topology, patience: Duration) -> Outcome {
        sockets::call(self.protocol, SocketAddr::new(self.local(), topology.new_port()), self.to(), patience)
    }

    /// Calls until it is known whether all is as expected; an error says what is not.
    pub(crate) fn check(&self, topology: &Topology) -> Result<(), String> {
        let inside = || match &self.call.expected {
            Expected::Answers { by, port, sticky } => self.check_answers(topology, by, *port, *sticky),
            // Linux's SCTP takes no ICMPv6 error for a refusal, and tries on for minutes.
            Expected::Refused if (self.family, self.protocol) == (Family::V6, Protocol::Sctp) => {
                match self.once(topology, SILENCE) {
                    Outcome::Refused => Ok(()),
                    other => self.check_dropped(other),
                }
            }
            Expected::Refused => self.check_refused(topology),
            Expected::Dropped => self.check_dropped(self.once(topology, SILENCE)),
        };
        topology.of(self.call.caller).run(inside).unwrap().map_err(|wrong| format!("{self}: {wrong}"))
    }

    fn check_answers(
        &self,
        topology: &Topology,
        by: &BTreeMap<Host, Seen>,
        port: u16,
        sticky: bool,
    ) -> Result<(), String> {
        let mut heard = BTreeSet::new();
        // Of n, one is missed with a chance of (1 - 1/n)^(50 n), which is below e^-50.
        let most = if sticky { 3 } else { 50 * by.len() };
        for _ in 0..most {
            let outcome = self.once(topology, PATIENCE);
            let Outcome::Answer(line) = &outcome else {
                return Err(format!("{outcome:?}, but {by:?} should answer"));
            };
            let (name, caller) = line.split_once(' ').unwrap();
            let Some((server, seen)) = by.iter().find(|(host, _)| name == format!("{host:?}:{port}")) else {
                return Err(format!("{line}, but {by:?} should answer at port {port}"));
            };
            let caller = caller.parse().unwrap();
            if !self.is_seen(caller, *seen) {
                return Err(format!("{server:?} saw {caller} calling instead of the {seen:?}"));
            }
            heard.insert(*server);
            if heard.len() == by.len() {
                return Ok(());
            }
        }
        match sticky {
            true if heard.len() == 1 => Ok(()),
            true => Err(format!("{heard:?} all answered, but one of them should do so every time")),
            false => Err(format!("only {heard:?} of {by:?} answered")),
        }
    }

    fn is_seen(&self, caller: IpAddr, seen: Seen) -> bool {
        match seen {
            Seen::Caller => caller == self.source(),
            Seen::Node => self.is_nodes(caller),
        }
    }

    /// An address of the node under test, those of its links among them.
    fn is_nodes(&self, ip: IpAddr) -> bool {
        [Node.address(), SECOND_NODE_IP, crate::topology::TO_BEYOND, "127.0.0.1"]
            .into_iter()
            .any(|own| self.family.ip(own) == ip)
    }

    /// At once: not only when the caller has asked again, which TCP does after a second (RFC 6298, section 2). A machine
    /// that is slow gets other chances.
    fn check_refused(&self, topology: &Topology) -> Result<(), String> {
        let mut took = Vec::new();
        for _ in 0..3 {
            let begun = Instant::now();
            match self.once(topology, PATIENCE) {
                Outcome::Refused => {}
                // What a rule on a node's way out rejects fails in send already.
                Outcome::NotPermitted if self.call.caller == Node => {}
                other => return Err(format!("{other:?} instead of a refusal")),
            }
            if begun.elapsed() < Duration::from_millis(900) {
                return Ok(());
            }
            took.push(begun.elapsed());
        }
        Err(format!("refused, but after {took:?}"))
    }

    fn check_dropped(&self, outcome: Outcome) -> Result<(), String> {
        match outcome {
            Outcome::Silence => Ok(()),
            Outcome::NotPermitted if self.call.caller == Node => Ok(()),
            other => Err(format!("{other:?} instead of silence")),
        }
    }
}

/// Who answers calls from these addresses of a caller, one after the other, and at which port.
pub(crate) fn answers(
    topology: &Topology,
    caller: Host,
    sources: &[String],
    to: &str,
    (family, protocol): (Family, Protocol),
) -> Vec<String> {
    let ask = |source: &String| {
        let Question(call) = caller.calls(to).from(source);
        match (OneCall { call: &call, family, protocol }).once(topology, PATIENCE) {
            Outcome::Answer(line) => line.split_once(' ').unwrap().0.to_owned(),
            other => panic!("{source} → {to} {family:?} {protocol}: {other:?}"),
        }
    };
    topology.of(caller).run(|| sources.iter().map(ask).collect()).unwrap()
}

/// Makes all the calls at once; returns what was wrong.
pub(crate) fn check_all(topology: &Topology, calls: &[Call]) -> Vec<String> {
    std::thread::scope(|scope| {
        let each: Vec<_> = calls.iter().flat_map(Call::each).collect();
        let running: Vec<_> =
            each.into_iter().map(|call| scope.spawn(move || call.check(topology))).collect();
        running.into_iter().filter_map(|call| call.join().unwrap().err()).collect()
    })
}
