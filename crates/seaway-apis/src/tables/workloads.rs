//! Deployments and the other owners of pods.

use jiff::Timestamp;
use serde_json::Value;

use super::format::{NONE, age, containers, labels, number, or_none, selector, since};
use super::{AGE, CONTAINERS, Column, IMAGES, NAME, Printer, SELECTOR, column, number as numbers};
use crate::duration;
use crate::value::{flag, int, list, text};

const TEMPLATE: &str = "/spec/template/spec";

/// Name of an object as a cell.
fn name(object: &Value) -> Value {
    text(object, "/metadata/name").into()
}

/// The wide cells of whatever has a pod template: containers, images, selector.
fn template_cells(object: &Value, spec: &str, labels: Option<&str>) -> Vec<Value> {
    let mut cells = vec![containers(object, spec, "/name").into(), containers(object, spec, "/image").into()];
    cells.extend(labels.map(|pointer| Value::from(selector(object, pointer))));
    cells
}

/// The cells of an owner of pods: name, what is its kind's own, age, and the wide ones.
fn owner_cells(
    object: &Value,
    now: Timestamp,
    own: impl IntoIterator<Item = Value>,
    wide: Vec<Value>,
) -> Vec<Value> {
    let mut cells = vec![name(object)];
    cells.extend(own);
    cells.push(age(object, now).into());
    cells.extend(wide);
    cells
}

/// `READY` of whatever has replicas: how many are ready, of those desired.
fn ready_replicas(object: &Value) -> Value {
    format!("{}/{}", number(object, "/status/readyReplicas"), number(object, "/spec/replicas")).into()
}

pub(super) const DEPLOYMENTS: Printer = Printer {
    columns: &[
        NAME,
        column("Ready", "Pods that are ready, of those desired."),
        column("Up-to-date", "Pods of the current template."),
        column("Available", "Pods that have been ready for long enough."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let own = [
            ready_replicas(object),
            number(object, "/status/updatedReplicas"),
            number(object, "/status/availableReplicas"),
        ];
        owner_cells(object, now, own, template_cells(object, TEMPLATE, Some("/spec/selector")))
    },
};

pub(super) const REPLICA_SETS: Printer = Printer {
    columns: &[
        NAME,
        numbers("Desired", "Pods that there should be."),
        numbers("Current", "Pods that there are."),
        numbers("Ready", "Pods that are ready."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let own = ["/spec/replicas", "/status/replicas", "/status/readyReplicas"];
        let own = own.map(|pointer| number(object, pointer));
        owner_cells(object, now, own, template_cells(object, TEMPLATE, Some("/spec/selector")))
    },
};

pub(super) const DAEMON_SETS: Printer = Printer {
    columns: &[
        NAME,
        numbers("Desired", "Nodes that should run the pod."),
        numbers("Current", "Nodes that run the pod and should."),
        numbers("Ready", "Nodes whose pod is ready."),
        numbers("Up-to-date", "Nodes whose pod is of the current template."),
        numbers("Available", "Nodes whose pod has been ready for long enough."),
        column("Node Selector", "Labels of the nodes."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let own = [
            number(object, "/status/desiredNumberScheduled"),
            number(object, "/status/currentNumberScheduled"),
            number(object, "/status/numberReady"),
            number(object, "/status/updatedNumberScheduled"),
            number(object, "/status/numberAvailable"),
            labels(object, "/spec/template/spec/nodeSelector").into(),
        ];
        owner_cells(object, now, own, template_cells(object, TEMPLATE, Some("/spec/selector")))
    },
};

pub(super) const STATEFUL_SETS: Printer = Printer {
    columns: &[NAME, column("Ready", "Pods that are ready, of those desired."), AGE, CONTAINERS, IMAGES],
    cells: |object, now| {
        owner_cells(object, now, [ready_replicas(object)], template_cells(object, TEMPLATE, None))
    },
};

pub(super) const CONTROLLER_REVISIONS: Printer = Printer {
    columns: &[
        NAME,
        column("Controller", "Object whose revision this is."),
        numbers("Revision", "Number of the revision."),
        AGE,
    ],
    cells: |object, now| {
        let owner = list(object, "/metadata/ownerReferences").iter().find(|o| flag(o, "/controller"));
        let owner = owner.map_or_else(
            || NONE.to_owned(),
            |o| {
                let group = text(o, "/apiVersion")
                    .split_once('/')
                    .map_or(String::new(), |(group, _)| format!(".{group}"));
                format!("{}{group}/{}", text(o, "/kind").to_lowercase(), text(o, "/name"))
            },
        );
        vec![name(object), owner.into(), number(object, "/revision"), age(object, now).into()]
    },
};

pub(super) const POD_TEMPLATES: Printer = Printer {
    columns: &[
        NAME,
        column("Containers", "Names of the containers in the template."),
        column("Images", "Images of the containers in the template."),
        column("Pod Labels", "Labels of the template."),
    ],
    cells: |object, _| {
        let mut cells = vec![name(object)];
        cells.extend(template_cells(object, "/template/spec", None));
        cells.push(labels(object, "/template/metadata/labels").into());
        cells
    },
};

pub(super) const JOBS: Printer = Printer {
    columns: &[
        NAME,
        column("Status", "How the job is doing."),
        column("Completions", "Pods that succeeded, of those that should."),
        column("Duration", "How long the job took, or has taken so far."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let own = [job_status(object).into(), completions(object).into(), job_duration(object, now).into()];
        owner_cells(object, now, own, template_cells(object, TEMPLATE, Some("/spec/selector")))
    },
};

fn job_status(job: &Value) -> &'static str {
    let holds = |kind: &str| {
        list(job, "/status/conditions")
            .iter()
            .any(|c| text(c, "/type") == kind && text(c, "/status") == "True")
    };
    match () {
        () if holds("Complete") => "Complete",
        () if holds("Failed") => "Failed",
        () if job.pointer("/metadata/deletionTimestamp").is_some() => "Terminating",
        () if holds("Suspended") => "Suspended",
        () if holds("FailureTarget") => "FailureTarget",
        () if holds("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(job: &Value) -> String {
    let succeeded = number(job, "/status/succeeded");
    match (int(job, "/spec/completions"), int(job, "/spec/parallelism").unwrap_or(0)) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn job_duration(job: &Value, now: Timestamp) -> String {
    let Ok(start) = text(job, "/status/startTime").parse::<Timestamp>() else { return String::new() };
    let end = text(job, "/status/completionTime").parse::<Timestamp>().unwrap_or(now);
    duration::human(end.duration_since(start).as_secs())
}

pub(super) const CRON_JOBS: Printer = Printer {
    columns: &[
        NAME,
        column("Schedule", "When jobs start, in cron's form."),
        column("Timezone", "Time zone of the schedule."),
        Column { name: "Suspend", kind: "boolean", wide: false, description: "Whether no more jobs start." },
        numbers("Active", "Jobs that run now."),
        column("Last Schedule", "Time since a job started last."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    cells: |object, now| {
        let last = text(object, "/status/lastScheduleTime");
        let own = [
            text(object, "/spec/schedule").into(),
            or_none(text(object, "/spec/timeZone")).into(),
            if flag(object, "/spec/suspend") { "True".into() } else { "False".into() },
            list(object, "/status/active").len().into(),
            if last.is_empty() { NONE.into() } else { since(last, now).into() },
        ];
        let template = "/spec/jobTemplate/spec/template/spec";
        let wide = template_cells(object, template, Some("/spec/jobTemplate/spec/selector"));
        owner_cells(object, now, own, wide)
    },
};

pub(super) const DISRUPTION_BUDGETS: Printer = Printer {
    columns: &[
        NAME,
        column("Min Available", "Pods that must stay available."),
        column("Max Unavailable", "Pods that may be unavailable."),
        numbers("Allowed Disruptions", "Pods that may be disrupted now."),
        AGE,
    ],
    cells: |object, now| {
        let bound = |pointer: &str| match object.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => "N/A".to_owned(),
        };
        vec![
            name(object),
            bound("/spec/minAvailable").into(),
            bound("/spec/maxUnavailable").into(),
            number(object, "/status/disruptionsAllowed"),
            age(object, now).into(),
        ]
    },
};
