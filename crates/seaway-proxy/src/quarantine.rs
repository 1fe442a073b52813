//! Services that the kernel refuses: they are kept out of what is programmed, so that all others are in force.
//!
//! A transaction is made as a whole or not at all, so one element that the kernel refuses would keep every change of every
//! Service out. What is done about it:
//!
//! 1. After an error everything is read again and tried once more, now with each element in a message of its own, so that
//!    the kernel names all that it refuses, at once and on any version. Most errors end here: the table was not what it was thought
//!    to be.
//! 2. The Services that what is refused stands for are kept out, and it is tried again. An element stands for the Service of its
//!    address, a chain or a rule in it for the Services whose elements go to the chain.
//! 3. Where nothing that is refused stands for a Service, it is everybody's (a base chain, a set), and what may pass is nobody's
//!    (memory): the error goes to the caller, who tries again later, and what is in force stays so. Halving the Services until the culprit is found would take a commit of everything for
//!    each half, seconds in a large cluster, to find what the kernel says by itself in step 1.
//!
//! A Service that is kept out has its cluster IP in the set of cluster IPs still, so callers are refused rather than left waiting.
//! It is tried again when it changes, and after half a minute.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seaway_model::{ObjectName, PlanDiff, PortPlan, ServicePlan};

use crate::driver::Refused;

/// How long a Service that does not change is kept out before it is tried again.
pub const RETRY_REFUSED: Duration = Duration::from_secs(30);

/// The Services that are kept out.
#[derive(Clone, Debug)]
pub(crate) struct Quarantine {
    services: BTreeMap<ObjectName, Kept>,
    patience: Duration,
}

#[derive(Clone, Debug)]
struct Kept {
    reason: String,
    /// As it was refused.
    ports: Vec<Arc<PortPlan>>,
    again: Instant,
}

fn ports<'a>(plan: &'a ServicePlan, name: &'a ObjectName) -> impl Iterator<Item = &'a Arc<PortPlan>> {
    plan.ports().filter(move |port| port.service == *name)
}

impl Quarantine {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { services: BTreeMap::new(), patience }
    }

    /// The Service is kept out.
    pub(crate) fn keeps(&self, name: &ObjectName) -> bool {
        !self.services.is_empty() && self.services.contains_key(name)
    }

    /// Keeps a Service out from now on.
    pub(crate) fn put(&mut self, name: ObjectName, reason: String, plan: &ServicePlan, now: Instant) {
        let ports = ports(plan, &name).cloned().collect();
        self.services.insert(name, Kept { reason, ports, again: now + self.patience });
    }

    /// Lets those be tried again whose time has come, and those that are not as they were refused.
    pub(crate) fn release(&mut self, plan: &ServicePlan, now: Instant) {
        self.services.retain(|name, kept| now < kept.again && ports(plan, name).eq(&kept.ports));
    }

    /// Those that [`Quarantine::release`] would let go after `diff`.
    pub(crate) fn due(&self, diff: &PlanDiff, now: Instant) -> Vec<ObjectName> {
        if self.services.is_empty() {
            return Vec::new();
        }
        let changed = |name: &ObjectName| {
            let mut plans = diff.ports.iter().flat_map(|change| change.before.iter().chain(&change.after));
            plans.any(|port| port.service == *name)
        };
        let due = self.services.iter().filter(|(name, kept)| now >= kept.again || changed(name));
        due.map(|(name, _)| name.clone()).collect()
    }

    /// Lets one go.
    pub(crate) fn let_go(&mut self, name: &ObjectName) {
        self.services.remove(name);
    }

    /// For the report.
    pub(crate) fn refused(&self) -> Vec<Refused> {
        let told = |(service, kept): (&ObjectName, &Kept)| Refused {
            service: service.clone(),
            reason: kept.reason.clone(),
        };
        self.services.iter().map(told).collect()
    }
}
