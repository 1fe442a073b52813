//! Flows whose endpoint is gone.
//!
//! conntrack sends a flow's packets to where the first one went, for as long as packets come. An established TCP connection
//! to an endpoint that is gone ends by itself, or lives on while the endpoint terminates: it is never touched. Two kinds
//! of flows would not end:
//!
//! - UDP has no end. kube-proxy deletes such flows, too.
//! - A TCP connection that no one answers stays for two minutes (net.netfilter.nf_conntrack_tcp_timeout_syn_sent). Its
//!   client repeats its SYN to the dead, and a new connection from the same port would be taken for it. (In a lab under
//!   load a node's death cost 12 of 1,000 requests, and costs 6 since these are forgotten.)
//!
//! So after endpoints change, flows of these kinds to service addresses that are answered by none of the endpoints are
//! forgotten, and their next packet is translated anew. A flow that began before the address had an endpoint, and so was
//! not translated, is one of them.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use seaway_model::{Backend, NodePlan, PortChange, Protocol, ServiceAddress};
use seaway_net::conntrack::{Conntrack, Family, Filter, Flow};

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The rest after a look at the table, as a multiple of the time it took: changes that come in quick succession are looked
/// at together, so that looking takes a tenth of one processor at the most.
const REST: u32 = 9;
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Flows that can outlive their endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All of UDP over IPv4.
    Udp4,
    /// All of UDP over IPv6.
    Udp6,
    /// Those of other protocols, over either, that have seen no answer. They are listed together: for a list the kernel
    /// goes through its whole table, of all network namespaces, which takes it milliseconds.
    Unanswered,
}

impl Kind {
    const fn of(address: &ServiceAddress) -> Self {
        match (address.protocol, address.ip) {
            (Protocol::Udp, IpAddr::V4(_)) => Self::Udp4,
            (Protocol::Udp, IpAddr::V6(_)) => Self::Udp6,
            (Protocol::Tcp | Protocol::Sctp, _) => Self::Unanswered,
        }
    }
}

/// The connection tracking table, as far as it is needed here: the kernel's, or a fake.
pub trait Flows: Send + 'static {
    /// A flow, to delete it by.
    type Flow;

    /// The flows of this kind for which `wanted` holds, given where a flow's first packet was sent and who answers it
    /// (or would).
    ///
    /// # Errors
    /// The kernel cannot be asked.
    fn list(
        &mut self,
        kind: Kind,
        wanted: &dyn Fn(ServiceAddress, Backend) -> bool,
    ) -> io::Result<Vec<Self::Flow>>;

    /// Forgets flows; tells how many were still there.
    ///
    /// # Errors
    /// The kernel refuses.
    fn delete(&mut self, flows: &[Self::Flow]) -> io::Result<usize>;
}

impl Flows for Conntrack {
    type Flow = Flow;

    fn list(
        &mut self,
        kind: Kind,
        wanted: &dyn Fn(ServiceAddress, Backend) -> bool,
    ) -> io::Result<Vec<Flow>> {
        let wanted = |flow: &Flow| {
            let Some(protocol) = Protocol::from_number(flow.original.protocol) else { return false };
            let (to, by) = (flow.original.destination_socket(), flow.reply.source_socket());
            let (Some(to), Some(by)) = (to, by) else { return false };
            let address = ServiceAddress { ip: to.ip(), protocol, port: to.port() };
            Kind::of(&address) == kind && wanted(address, Backend { ip: by.ip(), port: by.port() })
        };
        let udp = Filter::protocol(Protocol::Udp.number());
        let filter = match kind {
            Kind::Udp4 => Filter { family: Some(Family::V4), ..udp },
            Kind::Udp6 => Filter { family: Some(Family::V6), ..udp },
            Kind::Unanswered => Filter { unreplied: true, ..Filter::default() },
        };
        self.list_where(&filter, wanted).map_err(io::Error::other)
    }

    fn delete(&mut self, flows: &[Flow]) -> io::Result<usize> {
        Self::delete_all(self, flows).map_err(io::Error::other)
    }
}

/// Which addresses' flows to look at, by which plan.
#[derive(Debug, Default)]
struct Pending {
    all: bool,
    addresses: HashSet<ServiceAddress>,
    plan: NodePlan,
    ended: bool,
}

impl Pending {
    /// Whether a flow has to go.
    fn is_stale(&self, mut address: ServiceAddress, answerer: Backend) -> bool {
        let node_port = ServiceAddress::node_port(address.ip.is_ipv6(), address.protocol, address.port);
        // What was translated at another address was so as a node port, be it that the address is the node's no more.
        let translated = answerer != Backend { ip: address.ip, port: address.port };
        let at_node = translated || self.plan.proxy.has_node_ports(&address.ip);
        let known = self.plan.services.port(&address).is_some() || self.addresses.contains(&address);
        if !known && at_node {
            address = node_port;
        }
        match self.plan.services.port(&address) {
            Some(port) => {
                (self.all || self.addresses.contains(&address)) && !port.backends.contains(&answerer)
            }
            // The address is gone: so are flows that it was translated for.
            None => self.addresses.contains(&address) && translated,
        }
    }

    fn is_empty(&self) -> bool {
        !self.all && self.addresses.is_empty()
    }

    /// There may be flows of this kind to look at.
    fn concerns(&self, kind: Kind) -> bool {
        let all = self.all && (kind != Kind::Udp6 || self.plan.services.has_ipv6());
        all || self.addresses.iter().any(|address| Kind::of(address) == kind)
    }

    /// Takes up what could not be done, by the newer plan of the two.
    fn take_back(&mut self, undone: Self) {
        if self.is_empty() {
            self.plan = undone.plan;
        }
        self.all |= undone.all;
        self.addresses.extend(undone.addresses);
    }
}

/// Whether there can be flows that do not fit the plan after this change.
///
/// Not where an address had endpoints and gained others. One that is new, or had none, can have flows that were not
/// translated.
pub fn leaves_flows(change: &PortChange) -> bool {
    match (&change.before, &change.after) {
        (Some(before), Some(after)) if !before.backends.is_empty() => {
            before.backends.iter().any(|backend| !after.backends.contains(backend))
        }
        _ => true,
    }
}

/// Forgets stale flows on a thread of its own, off the path of changes: those that come while it is at work are looked
/// at together.
#[derive(Debug)]
pub struct FlowCleaner {
    shared: Arc<(Mutex<Pending>, Condvar)>,
}

impl FlowCleaner {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(flows: impl Flows) -> io::Result<Self> {
        let shared: Arc<(Mutex<Pending>, Condvar)> = Arc::default();
        let work = shared.clone();
        thread::Builder::new().name("flow-cleaner".into()).spawn(move || clean_for_ever(flows, &work))?;
        Ok(Self { shared })
    }

    /// These addresses changed, or went, as `plan` now has it, and the rules with them: those whose change
    /// [leaves flows behind](leaves_flows).
    pub fn check(&self, addresses: impl IntoIterator<Item = ServiceAddress>, plan: &NodePlan) {
        let mut pending = lock(&self.shared.0);
        pending.addresses.extend(addresses);
        pending.plan = plan.clone();
        self.shared.1.notify_one();
    }

    /// Any address of `plan` may have changed.
    pub fn check_all(&self, plan: &NodePlan) {
        let mut pending = lock(&self.shared.0);
        pending.all = true;
        pending.plan = plan.clone();
        self.shared.1.notify_one();
    }
}

impl Drop for FlowCleaner {
    fn drop(&mut self) {
        lock(&self.shared.0).ended = true;
        self.shared.1.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn clean_for_ever(mut flows: impl Flows, shared: &(Mutex<Pending>, Condvar)) {
    loop {
        let work = {
            let waiting =
                shared.1.wait_while(lock(&shared.0), |pending| pending.is_empty() && !pending.ended);
            let mut pending = waiting.unwrap_or_else(PoisonError::into_inner);
            if pending.ended {
                return;
            }
            std::mem::take(&mut *pending)
        };
        let begun = Instant::now();
        let rest = match clean(&mut flows, &work) {
            Ok(count) => {
                if count > 0 {
                    tracing::info!(count, "forgot flows to endpoints that are gone");
                }
                (begun.elapsed() * REST).min(LONGEST_REST)
            }
            Err(error) => {
                tracing::warn!(%error, retry_in = ?RETRY, "cannot look for flows to endpoints that are gone");
                lock(&shared.0).take_back(work);
                RETRY
            }
        };
        // Changes that come meanwhile wait; only the end does not.
        drop(shared.1.wait_timeout_while(lock(&shared.0), rest, |pending| !pending.ended));
    }
}

/// Forgets the flows that are stale by `work`; tells how many.
fn clean(flows: &mut impl Flows, work: &Pending) -> io::Result<usize> {
    let mut count = 0;
    for kind in [Kind::Udp4, Kind::Udp6, Kind::Unanswered] {
        if !work.concerns(kind) {
            continue;
        }
        let stale = flows.list(kind, &|address, by| work.is_stale(address, by))?;
        count += flows.delete(&stale)?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests;
