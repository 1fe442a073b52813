//! UDP flows whose endpoint is gone.
//!
//! A TCP connection to an endpoint that is gone ends; a UDP flow would go on for as long as packets come, because
//! conntrack translates them to where the first went. So after endpoints change, flows to service addresses that are
//! answered by none of the endpoints are forgotten, and their next packet is translated anew (kube-proxy does the same).
//! A flow that began before the address had an endpoint, and so was not translated, is one of them.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use seaway_model::{Backend, PlanDiff, Protocol, ServiceAddress, ServicePlan};
use seaway_net::conntrack::{Conntrack, Filter, Flow};

/// The connection tracking table, as far as it is needed here: the kernel's, or a fake.
pub trait UdpFlows: Send + 'static {
    /// A flow, to delete it by.
    type Flow;

    /// The UDP flows for which `wanted` holds, given where a flow's first packet was sent and who answers it.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    fn list(&mut self, wanted: &dyn Fn(Backend, Backend) -> bool) -> io::Result<Vec<Self::Flow>>;

    /// Forgets flows; tells how many were still there.
    ///
    /// # Errors
    /// The kernel refuses.
    fn delete(&mut self, flows: &[Self::Flow]) -> io::Result<usize>;
}

impl UdpFlows for Conntrack {
    type Flow = Flow;

    fn list(&mut self, wanted: &dyn Fn(Backend, Backend) -> bool) -> io::Result<Vec<Flow>> {
        let wanted = |flow: &Flow| match (flow.original.destination_socket(), flow.reply.source_socket()) {
            (Some(destination), Some(answerer)) => wanted(backend(destination), backend(answerer)),
            _ => false,
        };
        let filter = Filter::protocol(Protocol::Udp.number());
        self.list_where(&filter, wanted).map_err(io::Error::other)
    }

    fn delete(&mut self, flows: &[Flow]) -> io::Result<usize> {
        Self::delete_all(self, flows).map_err(io::Error::other)
    }
}

fn backend(socket: SocketAddr) -> Backend {
    Backend { ip: socket.ip(), port: socket.port() }
}

/// Which addresses' flows to look at, by which plan.
#[derive(Debug, Default)]
struct Pending {
    all: bool,
    addresses: HashSet<ServiceAddress>,
    plan: ServicePlan,
    ended: bool,
}

impl Pending {
    /// Whether a flow has to go.
    fn is_stale(&self, destination: Backend, answerer: Backend) -> bool {
        let address = ServiceAddress { ip: destination.ip, protocol: Protocol::Udp, port: destination.port };
        match self.plan.port(&address) {
            Some(port) => {
                (self.all || self.addresses.contains(&address)) && !port.backends.contains(&answerer)
            }
            // The address is gone: so are flows that it was translated for.
            None => self.addresses.contains(&address) && answerer != destination,
        }
    }

    fn is_empty(&self) -> bool {
        !self.all && self.addresses.is_empty()
    }
}

/// Forgets stale UDP flows on a thread of its own, off the path of changes.
#[derive(Debug)]
pub struct UdpCleaner {
    shared: Arc<(Mutex<Pending>, Condvar)>,
}

impl UdpCleaner {
    /// Starts the thread, in the network namespace of the caller's.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn start(flows: impl UdpFlows) -> io::Result<Self> {
        let shared: Arc<(Mutex<Pending>, Condvar)> = Arc::default();
        let work = shared.clone();
        thread::Builder::new().name("udp-flows".into()).spawn(move || clean_for_ever(flows, &work))?;
        Ok(Self { shared })
    }

    /// The addresses of `diff` changed, as `plan` now has them.
    pub fn check(&self, diff: &PlanDiff, plan: &ServicePlan) {
        // An address that is new, or had no endpoint, can have flows too: those that were not translated.
        let addresses = diff.ports.iter().map(|change| change.address);
        let udp: Vec<_> = addresses.filter(|address| address.protocol == Protocol::Udp).collect();
        if udp.is_empty() {
            return;
        }
        let mut pending = lock(&self.shared.0);
        pending.addresses.extend(udp);
        pending.plan = plan.clone();
        self.shared.1.notify_one();
    }

    /// Any address of `plan` may have changed.
    pub fn check_all(&self, plan: &ServicePlan) {
        let mut pending = lock(&self.shared.0);
        pending.all = true;
        pending.plan = plan.clone();
        self.shared.1.notify_one();
    }
}

impl Drop for UdpCleaner {
    fn drop(&mut self) {
        lock(&self.shared.0).ended = true;
        self.shared.1.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn clean_for_ever(mut flows: impl UdpFlows, shared: &(Mutex<Pending>, Condvar)) {
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
        match clean(&mut flows, &work) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "forgot UDP flows to endpoints that are gone"),
            Err(error) => tracing::warn!(%error, "cannot look for UDP flows to endpoints that are gone"),
        }
    }
}

/// Forgets the flows that are stale by `work`; tells how many.
fn clean(flows: &mut impl UdpFlows, work: &Pending) -> io::Result<usize> {
    let stale = flows.list(&|destination, answerer| work.is_stale(destination, answerer))?;
    flows.delete(&stale)
}

#[cfg(test)]
mod tests;
