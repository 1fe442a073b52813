//! UDP flows whose endpoint is gone.
//!
//! A TCP connection to an endpoint that is gone ends; a UDP flow would go on for as long as packets come, because
//! conntrack translates them to where the first went. So after endpoints change, flows to service addresses that are
//! answered by none of the endpoints are forgotten, and their next packet is translated anew (kube-proxy does the same).
//! A flow that began before the address had an endpoint, and so was not translated, is one of them.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use seaway_model::{Backend, PlanDiff, Protocol, ServiceAddress, ServicePlan};

/// A UDP flow as connection tracking has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpFlow<H> {
    /// Where its first packet was sent.
    pub destination: Backend,
    /// Who answers.
    pub answerer: Backend,
    /// What it is deleted by.
    pub handle: H,
}

/// The connection tracking table, as far as it is needed here: the kernel's, or a fake.
pub trait UdpFlows: Send + 'static {
    /// What a flow is deleted by.
    type Handle;

    /// All UDP flows.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    fn list(&mut self) -> io::Result<Vec<UdpFlow<Self::Handle>>>;

    /// Forgets a flow; `false` if it is gone already.
    ///
    /// # Errors
    /// The kernel refuses.
    fn delete(&mut self, handle: &Self::Handle) -> io::Result<bool>;
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
    let mut count = 0;
    for flow in flows.list()? {
        if work.is_stale(flow.destination, flow.answerer) {
            count += usize::from(flows.delete(&flow.handle)?);
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests;
