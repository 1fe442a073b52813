//! The nf_tables driver: tables `ip seaway` and `ip6 seaway`, nobody else's.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use seaway_model::{
    Difference, EgressPlan, NodePlan, ObjectName, PlanDiff, Protocol, ProxyPlan, ServiceAddress,
};
use seaway_net::nft::{Nft, NftError, Object, Observed, Operation, Table, TableId, Transaction, diff};

use crate::driver::{DriverError, Report, ServiceDriver};
use crate::programmed::{Programmed, indices};
use crate::ruleset::{self, IpFamily, SetId};
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
        }
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
                Programmed::whole(family, plan, &old, observed.as_ref())
            });
            all.push(Compared { family, id, observed, wanted });
        }
        Ok(all)
    }

    fn commit(&mut self, plan: &NodePlan, transaction: &Transaction) -> Result<usize, DriverError> {
        if transaction.is_empty() {
            return Ok(0);
        }
        let before = self.nft.generation();
        self.nft.commit(transaction).map_err(|source| failure(plan, source))?;
        // Where someone else has committed in between it is not known which was ours: let a watcher look.
        if let (Ok(before), Ok(after)) = (before, self.nft.generation())
            && after == before.wrapping_add(1)
        {
            self.own.add(after);
        }
        Ok(size(transaction))
    }
}

impl<N: Nft + Send> ServiceDriver for NftablesDriver<N> {
    fn sync(&mut self, plan: &NodePlan) -> Result<Report, DriverError> {
        self.clean = false;
        let mut operations = 0;
        for compared in self.compare(plan).map_err(|source| failure(plan, source))? {
            operations += self.commit(plan, &compared.transaction())?;
            match compared.wanted {
                Some((_, programmed)) => self.programmed.insert(compared.family, programmed),
                None => self.programmed.remove(&compared.family),
            };
        }
        for (family, programmed) in &self.programmed {
            operations += affinity::forget(&mut self.nft, *family, programmed, plan)
                .map_err(|source| failure(plan, source))?;
        }
        self.egress = plan.egress.clone();
        self.proxy = plan.proxy.clone();
        self.clean = true;
        Ok(Report { full: true, operations })
    }

    fn apply(&mut self, plan: &NodePlan, diff: &PlanDiff) -> Result<Report, DriverError> {
        let known = |family| in_use(family, plan) == self.programmed.contains_key(&family);
        let same = self.egress == plan.egress && self.proxy == plan.proxy;
        if !self.clean || !same || !IpFamily::BOTH.into_iter().all(known) {
            return self.sync(plan);
        }
        let mut operations = 0;
        let steps: Vec<_> =
            self.programmed.iter().map(|(family, known)| (*family, known.step(diff))).collect();
        self.clean = false;
        for (family, step) in steps {
            operations += self.commit(plan, &step.transaction)?;
            if let Some(programmed) = self.programmed.get_mut(&family) {
                programmed.committed(step);
                if affinity::concerns(diff, family) {
                    operations += affinity::forget(&mut self.nft, family, programmed, plan)
                        .map_err(|source| failure(plan, source))?;
                }
            }
        }
        self.clean = true;
        Ok(Report { full: false, operations })
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
    DriverError::Kernel { service: source.object().and_then(|object| service_of(plan, object)), source }
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
