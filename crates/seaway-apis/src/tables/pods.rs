//! Pods: what their many states look like in one word.

use jiff::Timestamp;
use serde_json::Value;

use super::format::{age, or_none, since};
use super::{AGE, Column, NAME, Printer, column, wide};
use crate::value::{flag, int, list, text};

pub(super) const PODS: Printer = Printer { columns: COLUMNS, cells };

const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "Containers that are ready, of those that should be."),
    column("Status", "What the pod is doing, or why it is not running."),
    column("Restarts", "How often its containers were restarted, and when last."),
    AGE,
    wide("IP", "Address of the pod."),
    wide("Node", "Node that runs the pod."),
    wide("Nominated Node", "Node that may run the pod when others are gone."),
    wide("Readiness Gates", "Extra conditions that hold, of those the pod waits for."),
];

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts != 0 => format!("{} ({} ago)", summary.restarts, since(last, now)),
        _ => summary.restarts.to_string(),
    };
    let ip = match list(pod, "/status/podIPs").first() {
        Some(first) => text(first, "/ip"),
        None => text(pod, "/status/podIP"),
    };
    vec![
        text(pod, "/metadata/name").into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now).into(),
        or_none(ip).into(),
        or_none(text(pod, "/spec/nodeName")).into(),
        or_none(text(pod, "/status/nominatedNodeName")).into(),
        readiness_gates(pod).into(),
    ]
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return super::format::NONE.into();
    }
    let met = gates.iter().filter(|g| condition(pod, text(g, "/conditionType"))).count();
    format!("{met}/{}", gates.len())
}

/// Whether a condition holds.
fn condition(pod: &Value, kind: &str) -> bool {
    list(pod, "/status/conditions").iter().any(|c| text(c, "/type") == kind && text(c, "/status") == "True")
}

#[derive(Default)]
struct Summary<'a> {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<&'a str>,
}

impl<'a> Summary<'a> {
    fn add_restarts(&mut self, status: &'a Value) {
        self.restarts += int(status, "/restartCount").unwrap_or(0);
        let ended = text(status, "/lastState/terminated/finishedAt");
        if !ended.is_empty() && self.last_restart.is_none_or(|last| last < ended) {
            self.last_restart = Some(ended);
        }
    }
}

fn summarize(pod: &Value) -> Summary<'_> {
    let phase = text(pod, "/status/phase");
    let mut summary =
        Summary { reason: phase.into(), total: list(pod, "/spec/containers").len(), ..Summary::default() };
    let given = text(pod, "/status/reason");
    if !given.is_empty() {
        summary.reason = given.into();
    }
    let gated = list(pod, "/status/conditions")
        .iter()
        .any(|c| text(c, "/type") == "PodScheduled" && text(c, "/reason") == "SchedulingGated");
    if gated {
        summary.reason = "SchedulingGated".into();
    }
    if !init_containers(pod, &mut summary) || condition(pod, "Initialized") {
        containers(pod, &mut summary);
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        if given == "NodeLost" {
            summary.reason = "Unknown".into();
        } else if !matches!(phase, "Failed" | "Succeeded") {
            summary.reason = "Terminating".into();
        }
    }
    summary
}

/// Whether an init container goes on for the pod's life.
fn is_sidecar(pod: &Value, name: &str) -> bool {
    list(pod, "/spec/initContainers")
        .iter()
        .any(|c| text(c, "/name") == name && text(c, "/restartPolicy") == "Always")
}

/// Says whether the pod is still initializing; if so, the reason says how far.
fn init_containers<'a>(pod: &'a Value, summary: &mut Summary<'a>) -> bool {
    let declared = list(pod, "/spec/initContainers");
    summary.total += declared.iter().filter(|c| text(c, "/restartPolicy") == "Always").count();
    let mut sidecars = Summary::default();
    for (at, status) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        summary.add_restarts(status);
        let sidecar = is_sidecar(pod, text(status, "/name"));
        if sidecar {
            sidecars.add_restarts(status);
        }
        let terminated = status.pointer("/state/terminated");
        let waiting = text(status, "/state/waiting/reason");
        if sidecar && flag(status, "/started") {
            summary.ready += usize::from(flag(status, "/ready"));
            continue;
        }
        summary.reason = match terminated {
            Some(ended) if int(ended, "/exitCode") == Some(0) => continue,
            Some(ended) => format!("Init:{}", ending(ended)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{at}/{}", declared.len()),
        };
        return true;
    }
    // Restarts of init containers that are done are of no interest any more.
    (summary.restarts, summary.last_restart) = (sidecars.restarts, sidecars.last_restart);
    false
}

/// Why a container ended: its reason, signal or exit code.
fn ending(terminated: &Value) -> String {
    let reason = text(terminated, "/reason");
    if !reason.is_empty() {
        return reason.into();
    }
    match int(terminated, "/signal") {
        Some(signal) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", int(terminated, "/exitCode").unwrap_or(0)),
    }
}

fn containers<'a>(pod: &'a Value, summary: &mut Summary<'a>) {
    let mut running = false;
    for status in list(pod, "/status/containerStatuses").iter().rev() {
        summary.add_restarts(status);
        let waiting = text(status, "/state/waiting/reason");
        if !waiting.is_empty() {
            summary.reason = waiting.into();
        } else if let Some(ended) = status.pointer("/state/terminated") {
            summary.reason = ending(ended);
        } else if flag(status, "/ready") && status.pointer("/state/running").is_some() {
            running = true;
            summary.ready += 1;
        }
    }
    // A container that is done does not hide one that runs.
    if summary.reason == "Completed" && running {
        summary.reason = if condition(pod, "Ready") { "Running".into() } else { "NotReady".into() };
    }
}
