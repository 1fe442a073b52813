//! Ending a container: its preStop hook, SIGTERM, and SIGKILL when its time is up.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;
use seaway_net::sandbox::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::container::Container;
use crate::probes::{Place, check_of_hook};

/// How long after SIGTERM, at least, SIGKILL comes: what kubelet leaves a container whose hook took all its time.
const LEAST: Duration = Duration::from_secs(2);

/// Ends `container` by `deadline`, which may be brought forward; returns when it has ended. The error is the hook's.
pub(crate) async fn stop(
    container: Arc<Container>,
    hook: Option<LifecycleHandler>,
    place: Place,
    mut deadline: watch::Receiver<Instant>,
) -> Result<(), String> {
    let mut outcome = Ok(());
    let mut last = None;
    if let Some(hook) = hook {
        tokio::select! {
            biased;
            _ = container.ended() => return outcome,
            result = run_hook(&hook, &place) => outcome = result,
            () = passed(&mut deadline) => {
                outcome = Err("the preStop hook took longer than the grace period".to_owned());
                last = Some(Instant::now() + LEAST);
            }
        }
    }
    container.kill(Signal::TERM);
    let time_is_up = async {
        match last {
            Some(at) => sleep_until(at).await,
            None => passed(&mut deadline).await,
        }
    };
    tokio::select! {
        _ = container.ended() => return outcome,
        () = time_is_up => {}
    }
    container.kill(Signal::KILL);
    container.ended().await;
    outcome
}

/// Runs a lifecycle hook to its end.
pub(crate) async fn run_hook(hook: &LifecycleHandler, place: &Place) -> Result<(), String> {
    if let Some(pause) = &hook.sleep {
        sleep(Duration::from_secs(u64::try_from(pause.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    match check_of_hook(hook) {
        Some(check) => check.run(place, Duration::from_secs(24 * 3600)).await,
        None => Ok(()),
    }
}

/// Waits until the deadline, wherever it is moved, has passed.
async fn passed(deadline: &mut watch::Receiver<Instant>) {
    loop {
        let at = *deadline.borrow_and_update();
        tokio::select! {
            () = sleep_until(at) => return,
            changed = deadline.changed() => if changed.is_err() {
                return sleep_until(at).await;
            },
        }
    }
}
