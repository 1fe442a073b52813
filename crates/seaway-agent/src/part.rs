//! A part of the node's kernel state that is kept in step with a plan of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use seaway_kube::{Subscription, Update};
use seaway_model::Difference;
use tokio::sync::Notify;

use crate::status::{PartStatus, Shared};

/// What a reconciliation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Everything was compared, not only what changed.
    pub(crate) full: bool,
    /// Changes made to the kernel or to files.
    pub(crate) operations: usize,
}

/// One part: its planner and its driver.
pub(crate) trait Part: Send + 'static {
    /// The name in status and logs.
    fn name(&self) -> &'static str;

    /// Takes in what changed in the cluster; `true` where there is something to reconcile.
    fn follow(&mut self, update: &Update) -> bool;

    /// Makes the kernel what the plan says. Blocks. After an error everything is to be compared the next time.
    fn reconcile(&mut self) -> Result<Outcome, String>;

    /// Someone else changed what this part looks after: everything is to be compared the next time.
    fn mark_dirty(&mut self);

    /// Where the kernel differs from the plan that was applied last; nothing as long as none was. Blocks.
    fn differences(&mut self) -> Vec<Difference> {
        Vec::new()
    }

    /// How long after a reconciliation everything is compared although nobody is known to have changed anything; `None` where a
    /// watch tells.
    fn resync(&self) -> Option<Duration> {
        None
    }
}

/// Delays between attempts after an error.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// As many changes of others as one reconciliation logs.
const TOLD: usize = 10;

/// Keeps `part` in step for ever. `dirty` wakes it when someone else changed what it looks after.
pub(crate) async fn keep(
    mut part: impl Part,
    mut updates: Subscription,
    dirty: Arc<Notify>,
    shared: Arc<Shared>,
) {
    let name = part.name();
    shared.with_part(name, |_| {});
    let mut retry: Option<Duration> = None;
    // When to reconcile unasked: after an error soon, else as a resync. What comes in between does not put it off.
    let mut due: Option<Instant> = None;
    let mut generation = 0;
    let mut begun = false;
    loop {
        let queued;
        // Neither the plan nor the part's own failure is the reason: what differs is someone else's doing.
        let mut unasked = false;
        tokio::select! {
            update = updates.next() => {
                queued = Instant::now();
                begun = true;
                generation = update.snapshot.generation;
                if !part.follow(&update) && retry.is_none() {
                    shared.with_part(name, |status| status.generation = generation);
                    continue;
                }
            }
            () = dirty.notified() => {
                queued = Instant::now();
                unasked = retry.is_none();
                part.mark_dirty();
                if !begun {
                    continue;
                }
            }
            () = until(due) => {
                queued = Instant::now();
                unasked = retry.is_none();
                part.mark_dirty();
            }
        }
        shared.with_part(name, |status| status.begin());
        let task = tokio::task::spawn_blocking(move || {
            let found = if unasked { part.differences() } else { Vec::new() };
            let outcome = part.reconcile();
            let mended = if outcome.is_ok() { mended(found, &mut part) } else { Vec::new() };
            (part, outcome, mended)
        });
        let outcome = match task.await {
            Ok((returned, outcome, mended)) => {
                part = returned;
                shared.mended.note(mended);
                outcome
            }
            Err(error) => {
                // The part is gone with its thread. The process ends, whoever supervises it starts it anew, and the
                // kernel keeps what it has.
                tracing::error!(part = name, %error, "reconciliation panicked");
                return;
            }
        };
        retry = next_retry(retry, outcome.is_ok());
        due = retry.or_else(|| part.resync()).map(|delay| Instant::now() + delay);
        let elapsed = queued.elapsed();
        report(name, generation, elapsed, retry, &outcome);
        shared.with_part(name, |status: &mut PartStatus| status.end(generation, elapsed, &outcome));
        shared.metrics.observe(name, shared.families(), elapsed, &outcome);
    }
}

/// What of `found` is no more.
fn mended(found: Vec<Difference>, part: &mut impl Part) -> Vec<Difference> {
    if found.is_empty() {
        return found;
    }
    let left = part.differences();
    let mended: Vec<Difference> = found.into_iter().filter(|it| !left.contains(it)).collect();
    for difference in mended.iter().take(TOLD) {
        tracing::warn!(part = part.name(), %difference, "someone else's change was put right");
    }
    mended
}

/// Waits until then; for ever where there is nothing to wait for.
pub(crate) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn next_retry(last: Option<Duration>, done: bool) -> Option<Duration> {
    match (done, last) {
        (true, _) => None,
        (false, None) => Some(FIRST_RETRY),
        (false, Some(last)) => Some((last * 2).min(LAST_RETRY)),
    }
}

fn report(
    part: &str,
    generation: u64,
    elapsed: Duration,
    retry: Option<Duration>,
    outcome: &Result<Outcome, String>,
) {
    match outcome {
        // A resync that finds nothing comes every half minute.
        Ok(Outcome { full: true, operations: 0 }) => {
            tracing::debug!(part, generation, ?elapsed, "compared in full, nothing to change");
        }
        Ok(Outcome { full: true, operations }) => {
            tracing::info!(part, generation, operations, ?elapsed, "compared in full");
        }
        Ok(Outcome { full: false, operations }) => {
            tracing::debug!(part, generation, operations, ?elapsed, "applied")
        }
        Err(error) => tracing::error!(part, generation, %error, retry_in = ?retry, "not applied"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_grow_to_a_bound_and_end_with_success() {
        let mut retry = None;
        for _ in 0..20 {
            retry = next_retry(retry, false);
        }
        assert_eq!(retry, Some(LAST_RETRY));
        assert_eq!(next_retry(None, false), Some(FIRST_RETRY));
        assert_eq!(next_retry(retry, true), None);
    }
}
