//! A service driver without a kernel, for tests of those who use one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use seaway_model::{Difference, NodePlan, ObjectName, PlanDiff, PlanPart, PortPlan, ServiceAddress};

use crate::driver::{DriverError, Refused, Report, ServiceDriver};

/// Service addresses in memory. Copies share them: a test keeps one and gives the other away.
///
/// It takes no diff on trust: where one does not lead from what is programmed to the plan, `apply` fails and says so, where a
/// driver of the kernel would go on with a wrong kernel.
#[derive(Clone, Debug, Default)]
pub struct FakeDriver {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    programmed: BTreeMap<ServiceAddress, Arc<PortPlan>>,
    /// The masquerade, and what holds for all Services.
    common: Option<NodePlan>,
    clean: bool,
    refusing: BTreeSet<ObjectName>,
    failure: Option<String>,
    syncs: usize,
    steps: usize,
}

impl FakeDriver {
    /// A driver that has programmed nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is programmed.
    pub fn programmed(&self) -> BTreeMap<ServiceAddress, Arc<PortPlan>> {
        self.state().programmed.clone()
    }

    /// How many calls compared everything, and how many made the changes of a diff alone.
    pub fn calls(&self) -> (usize, usize) {
        let state = self.state();
        (state.syncs, state.steps)
    }

    /// Keeps this Service out from now on, or no more.
    pub fn refuse(&self, service: ObjectName, refuse: bool) {
        let mut state = self.state();
        if refuse {
            state.refusing.insert(service)
        } else {
            state.refusing.remove(&service)
        };
    }

    /// Has every call fail with this word, or none.
    pub fn fail(&self, with: Option<&str>) {
        self.state().failure = with.map(str::to_owned);
    }

    /// Someone else takes an address out, unnoticed until [`ServiceDriver::mark_dirty`].
    pub fn take_away(&self, address: &ServiceAddress) {
        self.state().programmed.remove(address);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(word: impl Into<String>) -> DriverError {
    DriverError::Kernel { service: None, source: word.into().into() }
}

/// What holds for all Services.
fn common(plan: &NodePlan) -> NodePlan {
    NodePlan { egress: plan.egress.clone(), proxy: plan.proxy.clone(), ..NodePlan::default() }
}

impl State {
    /// What is to be programmed.
    fn wanted(&self, plan: &NodePlan) -> BTreeMap<ServiceAddress, Arc<PortPlan>> {
        let ports = plan.services.ports().filter(|port| !self.refusing.contains(&port.service));
        ports.map(|port| (port.address, port.clone())).collect()
    }

    fn report(&self, plan: &NodePlan, full: bool, operations: usize) -> Report {
        let there: BTreeSet<&ObjectName> = plan.services.ports().map(|port| &port.service).collect();
        let told = self.refusing.iter().filter(|service| there.contains(service));
        let refused =
            |service: &ObjectName| Refused { service: service.clone(), reason: "as told".to_owned() };
        Report { full, operations, refused: told.map(refused).collect() }
    }

    fn check(&self) -> Result<(), DriverError> {
        self.failure.as_ref().map_or(Ok(()), |word| Err(failed(word)))
    }

    /// The addresses that differ between what is programmed and `wanted`.
    fn differing(&self, wanted: &BTreeMap<ServiceAddress, Arc<PortPlan>>) -> Vec<ServiceAddress> {
        let all: BTreeSet<_> = self.programmed.keys().chain(wanted.keys()).collect();
        all.into_iter().filter(|at| self.programmed.get(at) != wanted.get(at)).copied().collect()
    }

    fn sync(&mut self, plan: &NodePlan) -> Result<Report, DriverError> {
        self.clean = false;
        self.check()?;
        let wanted = self.wanted(plan);
        let operations = self.differing(&wanted).len();
        (self.programmed, self.common, self.clean) = (wanted, Some(common(plan)), true);
        self.syncs += 1;
        Ok(self.report(plan, true, operations))
    }

    fn apply(&mut self, plan: &NodePlan, diff: &PlanDiff) -> Result<Report, DriverError> {
        if !self.clean || self.common.as_ref() != Some(&common(plan)) {
            return self.sync(plan);
        }
        self.clean = false;
        self.check()?;
        for change in &diff.ports {
            match change.after.as_ref().filter(|port| !self.refusing.contains(&port.service)) {
                Some(port) => self.programmed.insert(change.address, port.clone()),
                None => self.programmed.remove(&change.address),
            };
        }
        // A Service that is refused no more comes by itself.
        for port in plan.services.ports().filter(|port| !self.refusing.contains(&port.service)) {
            self.programmed.entry(port.address).or_insert_with(|| port.clone());
        }
        let wanted = self.wanted(plan);
        if let Some(address) = self.differing(&wanted).first() {
            return Err(failed(format!("the diff does not lead to the plan: {address:?}")));
        }
        self.clean = true;
        self.steps += 1;
        Ok(self.report(plan, false, diff.ports.len()))
    }
}

impl ServiceDriver for FakeDriver {
    fn sync(&mut self, plan: &NodePlan) -> Result<Report, DriverError> {
        self.state().sync(plan)
    }

    fn apply(&mut self, plan: &NodePlan, diff: &PlanDiff) -> Result<Report, DriverError> {
        self.state().apply(plan, diff)
    }

    fn mark_dirty(&mut self) {
        self.state().clean = false;
    }

    fn dry_run(&mut self, plan: &NodePlan) -> Result<String, DriverError> {
        let differences = self.differences(plan)?;
        Ok(differences.iter().map(|difference| format!("{difference}\n")).collect())
    }

    fn differences(&mut self, plan: &NodePlan) -> Result<Vec<Difference>, DriverError> {
        let state = self.state();
        state.check()?;
        let text =
            |port: Option<&Arc<PortPlan>>| port.map(|port| format!("{} endpoints", port.backends.len()));
        let wanted = state.wanted(plan);
        let told = |at: ServiceAddress| Difference {
            part: PlanPart::Services,
            object: format!("{at:?}"),
            address: Some(at),
            what: "it is not as planned".to_owned(),
            kernel: "a fake".to_owned(),
            planned: text(wanted.get(&at)),
            actual: text(state.programmed.get(&at)),
        };
        Ok(state.differing(&wanted).into_iter().map(told).collect())
    }
}
