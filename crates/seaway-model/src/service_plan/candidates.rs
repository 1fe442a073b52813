//! The endpoints that a port of a Service may use on a node.

use std::collections::BTreeMap;

use super::Backend;
use crate::{Endpoint, Node, ObjectName, ServicePort, Snapshot, TrafficPolicy};

/// Where a plan is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here<'a> {
    /// The node's name.
    pub(super) name: &'a str,
    /// The Node object, where there is one.
    pub(super) node: Option<&'a Node>,
}

/// The endpoints of one port and family.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    ready: BTreeMap<Backend, State>,
    terminating: BTreeMap<Backend, State>,
}

/// What a choice depends on.
#[derive(Clone, Copy, Debug)]
struct State {
    local: bool,
    hints: Hints,
}

/// What an endpoint's hints say about this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hints {
    node: Hint,
    zone: Hint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    /// None given.
    Absent,
    /// For this node, or its zone.
    Here,
    /// For others.
    Elsewhere,
}

/// The chosen endpoints of one address, as `PortPlan` wants them.
#[derive(Debug, Default)]
pub(super) struct Arranged {
    pub(super) backends: Vec<Backend>,
    pub(super) local: usize,
    pub(super) inside_from: usize,
    pub(super) has_endpoints: bool,
    pub(super) terminating: bool,
    pub(super) local_terminating: bool,
}

impl Candidates {
    /// An endpoint that is in two slices, as happens while it moves between them, counts once, by its better state.
    pub(super) fn of(
        here: Here<'_>,
        snapshot: &Snapshot,
        name: &ObjectName,
        port: &ServicePort,
        v6: bool,
    ) -> Self {
        let mut found = Self::default();
        for slice in snapshot.slices_of(name) {
            let ports = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
            for number in ports.map(|p| p.port) {
                for endpoint in &slice.endpoints {
                    let Some(ip) = endpoint.addresses.first().filter(|ip| ip.is_ipv6() == v6) else {
                        continue;
                    };
                    let set = if endpoint.ready {
                        &mut found.ready
                    } else if endpoint.serving && endpoint.terminating {
                        &mut found.terminating
                    } else {
                        continue;
                    };
                    let state = State {
                        local: endpoint.node_name.as_deref() == Some(here.name),
                        hints: Hints::of(endpoint, here),
                    };
                    let backend = Backend { ip: *ip, port: number };
                    set.entry(backend).or_insert(state).local |= state.local;
                }
            }
        }
        found
    }

    /// This node's first. With `Local` no others, unless `for_all`: then those that callers from inside use come after.
    pub(super) fn arranged(&self, policy: TrafficPolicy, for_all: bool) -> Arranged {
        let (cluster, terminating) = self.for_cluster();
        let (local, local_terminating) = self.on_node();
        let has_endpoints = !self.ready.is_empty() || !self.terminating.is_empty();
        if policy == TrafficPolicy::Local && !for_all {
            let terminating = local_terminating;
            let (count, backends) = (local.len(), local);
            let inside_from = 0;
            return Arranged {
                backends,
                local: count,
                inside_from,
                has_endpoints,
                terminating,
                local_terminating,
            };
        }
        let is_local = |backend: &Backend| local.binary_search(backend).is_ok();
        let in_cluster = |backend: &Backend| cluster.binary_search(backend).is_ok();
        // Of this node's those that only callers from outside may use, then those that all may.
        let (only_local, mut backends): (Vec<Backend>, Vec<Backend>) = match policy {
            TrafficPolicy::Local => {
                (local.iter().filter(|it| !in_cluster(it)).copied().collect(), Vec::new())
            }
            TrafficPolicy::Cluster => (Vec::new(), Vec::new()),
        };
        let inside_from = only_local.len();
        backends.extend(only_local);
        backends.extend(cluster.iter().filter(|it| is_local(it)));
        let count = backends.len();
        backends.extend(cluster.iter().filter(|it| !is_local(it)));
        Arranged { backends, local: count, inside_from, has_endpoints, terminating, local_terminating }
    }

    /// Those that may be used from anywhere, and whether they terminate: the ready ones, the near ones of them where hints
    /// allow to choose; where none is ready those that terminate but still serve (KEP-1669).
    fn for_cluster(&self) -> (Vec<Backend>, bool) {
        if self.ready.is_empty() {
            return (self.terminating.keys().copied().collect(), !self.terminating.is_empty());
        }
        let hints = || self.ready.values().map(|state| state.hints);
        let pick = |near: &dyn Fn(&Hints) -> bool| {
            self.ready.iter().filter(|(_, state)| near(&state.hints)).map(|(backend, _)| *backend).collect()
        };
        // Only where every endpoint has a hint is it known that whoever is left out serves others (KEP-2433, KEP-3015).
        if hints().all(|it| it.node != Hint::Absent) && hints().any(|it| it.node == Hint::Here) {
            return (pick(&|it| it.node == Hint::Here), false);
        }
        if hints().all(|it| it.zone != Hint::Absent) && hints().any(|it| it.zone == Hint::Here) {
            return (pick(&|it| it.zone == Hint::Here), false);
        }
        (pick(&|_| true), false)
    }

    /// This node's, and whether they terminate. Topology has no say.
    fn on_node(&self) -> (Vec<Backend>, bool) {
        let local = |set: &BTreeMap<Backend, State>| -> Vec<Backend> {
            set.iter().filter(|(_, state)| state.local).map(|(backend, _)| *backend).collect()
        };
        let ready = local(&self.ready);
        if !ready.is_empty() {
            return (ready, false);
        }
        let terminating = local(&self.terminating);
        let any = !terminating.is_empty();
        (terminating, any)
    }

    /// The addresses of this node's ready endpoints: what a health check counts.
    pub(super) fn ready_on_node(&self) -> impl Iterator<Item = std::net::IpAddr> {
        self.ready.iter().filter(|(_, state)| state.local).map(|(backend, _)| backend.ip)
    }
}

impl Hints {
    fn of(endpoint: &Endpoint, here: Here<'_>) -> Self {
        let hint = |given: &[std::sync::Arc<str>], own: Option<&str>| match own {
            _ if given.is_empty() => Hint::Absent,
            Some(own) if given.iter().any(|it| **it == *own) => Hint::Here,
            _ => Hint::Elsewhere,
        };
        Self {
            node: hint(&endpoint.node_hints, Some(here.name)),
            zone: hint(&endpoint.zone_hints, here.node.and_then(|node| node.zone.as_deref())),
        }
    }
}
