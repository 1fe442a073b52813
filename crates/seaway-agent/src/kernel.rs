//! The kernel's side of the agent: sockets of the node's network namespace, and who else changes nf_tables.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use seaway_net::conntrack::Conntrack;
use seaway_net::nft::{Change, Kernel, Monitor};
use seaway_proxy::{FlowCleaner, NftablesDriver, OwnCommits, TABLE};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::flows::CountedFlows;
use crate::health_checks;
use crate::part::keep;
use crate::services::{ServiceSettings, Services};
use crate::status::Shared;
use crate::trouble::{Troubles, tell_conflicts};

/// The service driver of this node.
pub(crate) fn service_driver() -> anyhow::Result<NftablesDriver<Kernel>> {
    Ok(NftablesDriver::new(Kernel::open().context("open nf_tables (this needs CAP_NET_ADMIN)")?))
}

/// How long after a change it is looked whether it was the agent's own: until the commit has returned by all means.
const SETTLE: Duration = Duration::from_millis(250);
/// The least time between two readings that others' changes cause.
const BETWEEN: Duration = Duration::from_millis(700);

/// What the watching thread passes on.
enum Seen {
    /// A table of ours is gone.
    Gone,
    /// Notifications were lost: anything may have happened.
    Lost,
    /// Somebody's transaction that has changed our tables.
    Generation(u32),
}

/// Wakes `dirty` within a second when someone else may have changed our tables; at once, as a rule, when one was deleted or
/// notifications were lost.
pub(crate) fn watch_tables(
    own: Arc<OwnCommits>,
    dirty: Arc<Notify>,
) -> anyhow::Result<impl Future<Output = ()>> {
    let mut monitor = Monitor::open().context("watch nf_tables")?;
    let (tell, seen) = mpsc::unbounded_channel();
    let watch = move || {
        let mut ours = false;
        loop {
            let changes = monitor.next_changes().unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot watch nf_tables; trying again");
                thread::sleep(Duration::from_secs(1));
                vec![Change::Lost]
            });
            for change in changes {
                let seen = match change {
                    Change::TableDeleted(table) if table.name == TABLE => Seen::Gone,
                    Change::TableChanged(table) if table.name == TABLE => {
                        ours = true;
                        continue;
                    }
                    Change::TableDeleted(_) | Change::TableChanged(_) => continue,
                    Change::Generation(generation) if std::mem::take(&mut ours) => {
                        Seen::Generation(generation)
                    }
                    Change::Generation(_) => continue,
                    Change::Lost => Seen::Lost,
                };
                if tell.send(seen).is_err() {
                    return;
                }
            }
        }
    };
    thread::Builder::new().name("nft-monitor".into()).spawn(watch).context("start the nf_tables watcher")?;
    Ok(judge(seen, own, dirty))
}

async fn judge(mut seen: mpsc::UnboundedReceiver<Seen>, own: Arc<OwnCommits>, dirty: Arc<Notify>) {
    while let Some(first) = seen.recv().await {
        let mut generations = Vec::new();
        let (mut gone, mut lost) = (false, false);
        let mut take = |seen| match seen {
            Seen::Gone => gone = true,
            Seen::Lost => lost = true,
            Seen::Generation(generation) => generations.push(generation),
        };
        take(first);
        while let Ok(next) = seen.try_recv() {
            take(next);
        }
        if gone {
            tracing::warn!("a table of ours was deleted; restoring it where it is wanted");
        }
        if lost {
            tracing::info!("notifications of nf_tables were lost; comparing everything");
        }
        if gone || lost {
            dirty.notify_one();
            continue;
        }
        tokio::time::sleep(SETTLE).await;
        if generations.iter().any(|generation| !own.contains(*generation)) {
            tracing::debug!("someone else changed our tables; looking whether they are as they were");
            dirty.notify_one();
            tokio::time::sleep(BETWEEN).await;
        }
    }
}

/// Begins to serve Services; what is wrong with one is told to `troubles`.
pub(crate) fn start_services(
    tasks: &mut JoinSet<()>,
    shared: &Arc<Shared>,
    settings: ServiceSettings,
    troubles: &Troubles,
) -> anyhow::Result<()> {
    let driver = service_driver()?;
    let dirty = Arc::new(Notify::new());
    tasks.spawn(watch_tables(driver.own_commits(), dirty.clone())?);
    let cleaner = flow_cleaner(shared.clone())?;
    let services = Services::new(settings, driver, cleaner, shared.clone(), troubles.clone());
    tasks.spawn(keep(services, shared.source().subscribe(), dirty, shared.clone()));
    tasks.spawn(health_checks::keep(shared.clone(), troubles.clone()));
    tasks.spawn(tell_conflicts(shared.clone(), troubles.clone()));
    Ok(())
}

/// What forgets this node's flows to endpoints that are gone.
fn flow_cleaner(shared: Arc<Shared>) -> anyhow::Result<FlowCleaner> {
    let conntrack = Conntrack::open().context("open connection tracking (this needs CAP_NET_ADMIN)")?;
    FlowCleaner::start(CountedFlows::new(conntrack, shared)).context("start the flow cleaner")
}
