//! The nf_tables driver: tables `ip seaway` and `ip6 seaway`, nobody else's.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use seaway_model::{
    Difference, EgressPlan, NodePlan, ObjectName, PlanDiff, PortChange, Protocol, ProxyPlan, ServiceAddress,
};
use seaway_net::nft::{Nft, NftError, Object, Observed, Operation, Table, TableId, Transaction, diff};

use crate::driver::{DriverError, Report, ServiceDriver};
use crate::programmed::{Programmed, indices, users};
use crate::quarantine::{Quarantine, RETRY_REFUSED};
use crate::ruleset::{self, IpFamily, NumberedChain, SetId};
use crate::{affinity, differences};

/// The name of the driver's tables, one in each of the families `ip` and `ip6`.
pub const TABLE: &str = ruleset::TABLE;

/// The ruleset generations that a driver's own commits made, so that a watcher can tell others' changes from them.
#[derive(Debug, Default)]
pub struct OwnCommits {
    generations: Mutex<VecDeque<u32>>,
}

impl OwnCommits {
    /// How many are remembered: more than a watcher falls behind.
    const MOST: usize = 4096;

    /// The generation is one of the last that the driver made. Ask when its call has returned, not before.
    pub fn contains(&self, generation: u32) -> bool {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner).contains(&generation)
    }

    fn add(&self, generation: u32) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.push_back(generation);
        if generations.len() > Self::MOST {
            generations.pop_front();
        }
    }
}

/// Elements that one transaction adds to a table that is being made. For each the kernel keeps a message of some KiB until the
/// commit is done, for whoever watches nf_tables, as the agent does: 110,000 at once took 900 MB.
const AT_ONCE: usize = 4096;

/// How often a sync goes on without what the kernel has named: each time it names up to 1,025 elements.
const ROUNDS: usize = 8;

/// Programs services and masquerade into nf_tables by elements of flat maps.
#[derive(Debug)]
pub struct NftablesDriver<N> {
    nft: N,
    /// What the kernel has, by family; families that are not in use are absent.
    programmed: BTreeMap<IpFamily, Programmed>,
    /// The masquerade that the kernel has.
    egress: EgressPlan,
    /// What the kernel has that holds for all Services.
    proxy: ProxyPlan,
    /// The kernel is known to have what is written above.
    clean: bool,
    own: Arc<OwnCommits>,
    /// Services that the kernel refuses.
    quarantine: Quarantine,
}

impl<N: Nft> NftablesDriver<N> {
    /// A driver that knows nothing yet: its first call reads what is there and takes it over.
    pub fn new(nft: N) -> Self {
        Self {
            nft,
            programmed: BTreeMap::new(),
            egress: EgressPlan::default(),
            proxy: ProxyPlan::default(),
            clean: false,
            own: Arc::default(),
            quarantine: Quarantine::new(RETRY_REFUSED),
        }
    }

    /// The same driver, which tries what was refused again so long after.
    #[must_use]
    pub fn retrying_refused_after(mut self, patience: Duration) -> Self {
        self.quarantine = Quarantine::new(patience);
        self
    }

    /// The generations that this driver makes.
    pub fn own_commits(&self) -> Arc<OwnCommits> {
        self.own.clone()
    }

    /// What is there and what `plan` asks for, by family.
    fn compare(&mut self, plan: &NodePlan) -> Result<Vec<Compared>, NftError> {
        let mut all = Vec::new();
        for family in IpFamily::BOTH {
            let id = TableId::new(family.family(), ruleset::TABLE);
            let observed = self.nft.read_table(&id)?;
            let wanted = in_use(family, plan).then(|| {
                // The kernel's own order counts; where the table is gone, the order that it had until then.
                let old = match &observed {
                    Some(observed) => indices(observed, family),
                    None => self.programmed.get(&family).map_or_else(HashMap::new, Programmed::slots),
                };
                Programmed::whole(family, plan, &old, observed.as_ref(), &self.quarantine)
            });
            all.push(Compared { family, id, observed, wanted });
        }
        Ok(all)
    }

    /// Commits, and tells the number of changes.
    fn commit(&mut self, transaction: &Transaction) -> Result<usize, NftError> {
        if transaction.is_empty() {
            return Ok(0);
        }
        let before = self.nft.generation();
        self.nft.commit(transaction)?;
        // Where someone else has committed in between it is not known which was ours: let a watcher look.
        if let (Ok(before), Ok(after)) = (before, self.nft.generation())
            && after == before.wrapping_add(1)
        {
            self.own.add(after);
        }
        Ok(size(transaction))
    }

    /// Makes of what is there what `plan` says, but for Services in quarantine; `carefully`, with a message for each element.
    fn sync_once(&mut self, plan: &NodePlan, carefully: bool) -> Result<usize, NftError> {
        let mut operations = 0;
        for compared in self.compare(plan)? {
            let transaction = compared.transaction();
            let transaction = if carefully { transaction.one_by_one() } else { transaction };
            // A table without rules does nothing, so it need not come at once as long as they come last.
            let stages = match compared.observed {
                Some(_) => vec![transaction],
                None => transaction.in_stages(AT_ONCE),
            };
            for stage in &stages {
                operations += self.commit(stage)?;
            }
            match compared.wanted {
                Some((_, programmed)) => self.programmed.insert(compared.family, programmed),
                None => self.programmed.remove(&compared.family),
            };
        }
        for (family, programmed) in &self.programmed {
            operations += affinity::forget(&mut self.nft, *family, programmed, plan)?;
        }
        Ok(operations)
    }

    /// Makes of what is there what `plan` says, but for what the kernel refuses. See the module [`crate::quarantine`].
    fn sync_without_refused(&mut self, plan: &NodePlan) -> Result<usize, NftError> {
        let mut rounds = 0;
        loop {
            match self.sync_once(plan, rounds > 0) {
                Ok(operations) => return Ok(operations),
                Err(error) if error.object().is_none() || rounds == ROUNDS => return Err(error),
                Err(error) if rounds > 0 && (error.retry() || !self.keep_out(plan, &error)) => {
                    return Err(error);
                }
                Err(error) => tracing::debug!(%error, "reading everything again"),
            }
            rounds += 1;
        }
    }

    /// Makes the changes of `diff`, but for Services in quarantine.
    fn step(&mut self, plan: &NodePlan, diff: &PlanDiff) -> Result<usize, Failed> {
        let mut operations = 0;
        let of_family =
            |(family, known): (&IpFamily, &Programmed)| (*family, known.step(diff, &self.quarantine));
        let steps: Vec<_> = self.programmed.iter().map(of_family).collect();
        self.clean = false;
        let failed = |operations| move |error| Failed { committed: operations > 0, error };
        for (family, step) in steps {
            operations += self.commit(&step.transaction).map_err(failed(operations))?;
            if let Some(programmed) = self.programmed.get_mut(&family) {
                programmed.committed(step);
                if affinity::concerns(diff, family) {
                    operations += affinity::forget(&mut self.nft, family, programmed, plan)
                        .map_err(failed(operations))?;
                }
            }
        }
        self.clean = true;
        Ok(operations)
    }

    /// As [`Self::step`], trying Services in quarantine again. `None`: it needs a look at everything.
    fn step_with(&mut self, plan: &NodePlan, diff: &PlanDiff, due: &[ObjectName]) -> Option<usize> {
        let now = Instant::now();
        due.iter().for_each(|name| self.quarantine.let_go(name));
        let failed = match self.step(plan, &with_services(diff, plan, due)) {
            Ok(operations) => return Some(operations),
            Err(failed) => failed,
        };
        let at_fault = at_fault(plan, &failed.error);
        let passing = failed.error.retry();
        if failed.committed
            || passing
            || at_fault.is_empty()
            || at_fault.keys().any(|name| !due.contains(name))
        {
            return None;
        }
        // As before, and nothing else is to suffer from it: the others of them wait for their turn.
        let reason = reason(&failed.error, failed.error.object());
        for name in due {
            let reason = at_fault.get(name).unwrap_or(&reason).clone();
            self.quarantine.put(name.clone(), reason, &plan.services, now);
        }
        self.step(plan, diff).ok()
    }

    /// Keeps out the Services that an error is about; `false` where it is about none that is not kept out already.
    fn keep_out(&mut self, plan: &NodePlan, error: &NftError) -> bool {
        let now = Instant::now();
        let mut found = false;
        for (service, reason) in at_fault(plan, error) {
            if !self.quarantine.keeps(&service) {
                tracing::warn!(%service, "the kernel refuses it, so it is kept out: {reason}");
                self.quarantine.put(service, reason, &plan.services, now);
                found = true;
            }
        }
        found
    }
}

/// A step that failed.
struct Failed {
    /// One of the tables has been changed.
    committed: bool,
    error: NftError,
}

impl<N: Nft + Send> ServiceDriver for NftablesDriver<N> {
    fn sync(&mut self, plan: &NodePlan) -> Result<Report, DriverError> {
        self.clean = false;
        self.quarantine.release(&plan.services, Instant::now());
        let before = self.quarantine.clone();
        let operations = self.sync_without_refused(plan).map_err(|error| {
            // All for nothing: nobody is to be out on account of it.
            self.quarantine = before;
            failure(plan, error)
        })?;
        self.egress = plan.egress.clone();
        self.proxy = plan.proxy.clone();
        self.clean = true;
        Ok(Report { full: true, operations, refused: self.quarantine.refused() })
    }

    fn apply(&mut self, plan: &NodePlan, diff: &PlanDiff) -> Result<Report, DriverError> {
        let known = |family| in_use(family, plan) == self.programmed.contains_key(&family);
        let same = self.egress == plan.egress && self.proxy == plan.proxy;
        if !self.clean || !same || !IpFamily::BOTH.into_iter().all(known) {
            return self.sync(plan);
        }
        let due = self.quarantine.due(diff, Instant::now());
        let operations = match due.as_slice() {
            [] => self.step(plan, diff).map_err(|failed| tracing::debug!(error = %failed.error, "step")).ok(),
            due => self.step_with(plan, diff, due),
        };
        match operations {
            Some(operations) => Ok(Report { full: false, operations, refused: self.quarantine.refused() }),
            None => self.sync(plan),
        }
    }

    fn mark_dirty(&mut self) {
        self.clean = false;
    }

    fn dry_run(&mut self, plan: &NodePlan) -> Result<String, DriverError> {
        let compared = self.compare(plan).map_err(|source| failure(plan, source))?;
        Ok(compared.iter().map(|compared| compared.transaction().to_string()).collect())
    }

    fn differences(&mut self, plan: &NodePlan) -> Result<Vec<Difference>, DriverError> {
        let compared = self.compare(plan).map_err(|source| failure(plan, source))?;
        Ok(compared.iter().flat_map(|compared| compared.differences(plan)).collect())
    }
}

/// One family's table: as it is, and as it should be with what will have been programmed; `None` where it should not be.
struct Compared {
    family: IpFamily,
    id: TableId,
    observed: Option<Observed>,
    wanted: Option<(Table, Programmed)>,
}

impl Compared {
    /// What makes of the one the other.
    fn transaction(&self) -> Transaction {
        match (&self.wanted, &self.observed) {
            (Some((table, _)), observed) => diff(observed.as_ref(), table),
            (None, Some(_)) => Transaction::remove(self.id.clone()),
            (None, None) => Transaction::new(self.id.clone()),
        }
    }

    fn differences(&self, plan: &NodePlan) -> Vec<Difference> {
        match (&self.wanted, &self.observed) {
            (Some((table, _)), observed) => {
                differences::of_table(self.family, plan, observed.as_ref(), table)
            }
            (None, Some(_)) => differences::of_unused_table(self.family, plan, &self.id),
            (None, None) => Vec::new(),
        }
    }
}

/// IPv4 always (masquerade); IPv6 where pods or services have it.
fn in_use(family: IpFamily, plan: &NodePlan) -> bool {
    family == IpFamily::V4
        || plan.egress.pod_networks.iter().any(|net| family.has(net))
        || plan.services.has_ipv6()
}

/// The number of changes in a transaction, each element counted.
fn size(transaction: &Transaction) -> usize {
    let of = |operation: &Operation| match operation {
        Operation::AddElements(_, elements) | Operation::DeleteElements(_, elements) => elements.len(),
        _ => 1,
    };
    transaction.operations.iter().map(of).sum()
}

fn failure(plan: &NodePlan, source: NftError) -> DriverError {
    let service = source.object().and_then(|object| services_of(plan, object).pop_first());
    DriverError::Kernel { service, source: Box::new(source) }
}

/// Why an object was refused.
fn reason(error: &NftError, object: Option<&Object>) -> String {
    match (error, object) {
        (NftError::Refused { errno, .. }, Some(object)) => {
            format!("{object}: {}", std::io::Error::from_raw_os_error(*errno))
        }
        _ => error.to_string(),
    }
}

/// The Services that what was refused stands for, each with the reason.
fn at_fault(plan: &NodePlan, error: &NftError) -> BTreeMap<ObjectName, String> {
    let mut found = BTreeMap::new();
    for object in error.objects() {
        for service in services_of(plan, object) {
            found.entry(service).or_insert_with(|| reason(error, Some(object)));
        }
    }
    found
}

/// `diff`, and beyond it all addresses of `services` as if they were new.
fn with_services(diff: &PlanDiff, plan: &NodePlan, services: &[ObjectName]) -> PlanDiff {
    let added = plan.services.ports().filter(|port| services.contains(&port.service));
    let mut ports: BTreeMap<_, _> = added
        .map(|port| {
            (port.address, PortChange { address: port.address, before: None, after: Some(port.clone()) })
        })
        .collect();
    ports.extend(diff.ports.iter().map(|change| (change.address, change.clone())));
    PlanDiff { ports: ports.into_values().collect(), ..diff.clone() }
}

/// The Services that an object stands for: its address's, or those that go to the chain.
fn services_of(plan: &NodePlan, object: &Object) -> BTreeSet<ObjectName> {
    match object {
        Object::Element { .. } => service_of(plan, object).into_iter().collect(),
        Object::Chain(chain) | Object::Rule { chain, .. } => match NumberedChain::of_name(chain) {
            Some(chain) => users(plan, chain).cloned().collect(),
            None => BTreeSet::new(),
        },
        Object::Table | Object::Set(_) | Object::Transaction => BTreeSet::new(),
    }
}

/// The Service whose address an element's key begins with.
fn service_of(plan: &NodePlan, object: &Object) -> Option<ObjectName> {
    let Object::Element { set, element } = object else { return None };
    let set = SetId::of_name(set)?;
    let mut key = element.split(" . ");
    let ip = if set.has_service_key() { Some(key.next()?.trim().parse().ok()?) } else { None };
    if ip.is_none() && !set.has_node_port_key() {
        return None;
    }
    let protocol = key.next()?.trim();
    let protocol =
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| p.label() == protocol)?;
    let port = key.next()?.split_whitespace().next()?.parse().ok()?;
    let addresses = match ip {
        Some(ip) => vec![ServiceAddress { ip, protocol, port }],
        None => [false, true].map(|v6| ServiceAddress::node_port(v6, protocol, port)).into(),
    };
    addresses.iter().find_map(|address| plan.services.port(address)).map(|port| port.service.clone())
}

#[cfg(test)]
mod tests;
