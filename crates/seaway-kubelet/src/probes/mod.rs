//! Probes: whether a container has started, can serve, still lives.

mod check;
mod state;
mod tls;

use std::time::Duration;

use k8s_openapi::api::core::v1::{LifecycleHandler, Probe};
use tokio::time::{Instant, sleep, sleep_until};

pub(crate) use check::{Check, Place, named_ports};
pub(crate) use state::Kind;
use state::{Schedule, Tally};

/// The first of the quick looks at a server that is just starting.
const QUICK: Duration = Duration::from_millis(20);

/// What a probe found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// The state changed; with what the last look said.
    Turned { healthy: bool, message: String },
    /// One look failed: worth an event.
    Unhealthy { message: String },
}

/// Reads a probe's action; an error for one that is not supported.
pub(crate) fn check_of(probe: &Probe) -> Result<Check, String> {
    if let Some(exec) = &probe.exec {
        Ok(Check::Exec(exec.clone()))
    } else if let Some(http) = &probe.http_get {
        Ok(Check::Http(http.clone()))
    } else if let Some(tcp) = &probe.tcp_socket {
        Ok(Check::Tcp(tcp.clone()))
    } else if probe.grpc.is_some() {
        Err("grpc probes are not supported here".to_owned())
    } else {
        Err("the probe has no action".to_owned())
    }
}

/// Reads a lifecycle hook's action; `None` for one that only sleeps or does nothing.
pub(crate) fn check_of_hook(hook: &LifecycleHandler) -> Option<Check> {
    let exec = hook.exec.clone().map(Check::Exec);
    exec.or_else(|| hook.http_get.clone().map(Check::Http))
        .or_else(|| hook.tcp_socket.clone().map(Check::Tcp))
}

/// Probes for as long as it is polled, and tells `report` what it finds.
///
/// A readiness or startup probe of a port that has never answered looks again soon, instead of a whole period later: a server
/// opens its port some milliseconds after its process starts. These looks count for nothing but success.
pub(crate) async fn run(
    kind: Kind,
    probe: &Probe,
    check: Check,
    place: Place,
    started: Instant,
    mut report: impl FnMut(Report),
) {
    let schedule = Schedule::of(probe);
    let mut tally = Tally::new(schedule);
    sleep_until(started + schedule.initial_delay).await;
    let mut due = Instant::now();
    let mut quick = (kind != Kind::Liveness && !matches!(check, Check::Exec(_))).then_some(QUICK);
    loop {
        let result = check.run(&place, schedule.timeout).await;
        if place.container.exit().is_some() {
            return;
        }
        if let (Err(_), Some(wait)) = (&result, quick.filter(|wait| *wait < schedule.period / 2))
            && tally.never_healthy()
        {
            quick = Some(wait * 2);
            sleep(wait).await;
            continue;
        }
        quick = None;
        let healthy = result.is_ok();
        let message = result.err().unwrap_or_default();
        let message = format!("{} probe failed: {message}", kind.name());
        if !healthy {
            report(Report::Unhealthy { message: message.clone() });
        }
        if let Some(healthy) = tally.count(healthy) {
            report(Report::Turned { healthy, message });
        }
        due = (due + schedule.period).max(Instant::now());
        sleep_until(due).await;
    }
}
