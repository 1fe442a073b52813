//! Seaway: from a Snapshot by the service driver into the kernel, as the agent does it.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::ensure;
use seaway_net::nft::{CommitCost, Elements, Kernel, Nft, NftError, Observed, TableId, Transaction};
use seaway_proxy::{NftablesDriver, ServiceDriver};

use crate::cluster::Cluster;
use crate::measure::{Outcome, Parts, cost, median};

pub(crate) fn run(cluster: &Cluster, rounds: u32) -> anyhow::Result<Outcome> {
    let commits = Commits::default();
    let kernel = Watched { kernel: Kernel::open()?, commits: commits.clone() };
    let mut driver = NftablesDriver::new(kernel);
    let mut snapshot = cluster.snapshot();

    let (plan, total) = cost(|| {
        let plan = Cluster::plan(&snapshot);
        driver.sync(&plan).map(|_| plan)
    });
    let mut plan = plan?;
    let full = parts(&commits, total);

    let (adopted, adopt) =
        cost(|| NftablesDriver::new(Kernel::open()?).sync(&plan).map_err(anyhow::Error::from));
    ensure!(adopted?.operations == 0, "a driver that starts again changes what is there already");

    let mut more = Vec::new();
    for round in 0..rounds {
        let changes = cluster.add(&mut snapshot, cluster.services + round);
        let (result, total) = cost(|| {
            let diff = plan.services.update(&snapshot, &changes);
            driver.apply(&plan, &diff)
        });
        result?;
        more.push(parts(&commits, total));
    }
    Ok(Outcome { name: "Seaway: flat maps, netlink", full, one_more: median(more), adopt: Some(adopt) })
}

fn parts(commits: &Commits, total: crate::measure::Cost) -> Parts {
    let commit = commits.take();
    Parts {
        generate: total.wall.saturating_sub(commit.encode + commit.kernel),
        parse: None,
        encode: Some(commit.encode),
        kernel: commit.kernel,
        bytes: commit.bytes,
        total,
    }
}

/// What was committed since it was last asked.
#[derive(Debug, Clone, Default)]
struct Commits(Arc<Mutex<CommitCost>>);

impl Commits {
    fn take(&self) -> CommitCost {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, cost: CommitCost) {
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sum.bytes += cost.bytes;
        sum.encode += cost.encode;
        sum.kernel += cost.kernel;
    }
}

/// The kernel, and a look at what each commit costs.
#[derive(Debug)]
struct Watched {
    kernel: Kernel,
    commits: Commits,
}

impl Nft for Watched {
    fn read_table(&mut self, table: &TableId) -> Result<Option<Observed>, NftError> {
        self.kernel.read_table(table)
    }

    fn read_elements(&mut self, table: &TableId, set: &str) -> Result<Option<Elements>, NftError> {
        self.kernel.read_elements(table, set)
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        self.kernel.commit(transaction)?;
        self.commits.add(self.kernel.last_commit());
        Ok(())
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        self.kernel.generation()
    }
}
