//! Nodes, namespaces, configuration, events, leases, roles.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::format::{NONE, age, number, or_none, since};
use super::{AGE, Column, NAME, Printer, column, number as numbers, wide};
use crate::resource::resources;
use crate::strategy::to_storage;
use crate::value::{entries, flag, list, text};

fn name(object: &Value) -> Value {
    text(object, "/metadata/name").into()
}

pub(super) const NODES: Printer = Printer {
    columns: &[
        NAME,
        column("Status", "Whether the node is ready, and takes new pods."),
        column("Roles", "Roles that its labels state."),
        AGE,
        column("Version", "Version of its kubelet."),
        wide("Internal-IP", "Its address in the cluster's network."),
        wide("External-IP", "Its address outside."),
        wide("OS-Image", "Operating system."),
        wide("Kernel-Version", "Version of the kernel."),
        wide("Container-Runtime", "Runtime of its containers."),
    ],
    cells: |object, now| {
        let info = |field: &str| {
            let found = text(object, &format!("/status/nodeInfo/{field}"));
            if found.is_empty() { "<unknown>".to_owned() } else { found.to_owned() }
        };
        let address = |kind: &str| {
            let found = list(object, "/status/addresses").iter().find(|a| text(a, "/type") == kind);
            found.map_or_else(|| NONE.to_owned(), |a| text(a, "/address").to_owned())
        };
        vec![
            name(object),
            node_status(object).into(),
            node_roles(object).into(),
            age(object, now).into(),
            text(object, "/status/nodeInfo/kubeletVersion").into(),
            address("InternalIP").into(),
            address("ExternalIP").into(),
            info("osImage").into(),
            info("kernelVersion").into(),
            info("containerRuntimeVersion").into(),
        ]
    },
};

fn node_status(node: &Value) -> String {
    let ready = list(node, "/status/conditions").iter().find(|c| text(c, "/type") == "Ready");
    let status = match ready {
        Some(c) if text(c, "/status") == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if flag(node, "/spec/unschedulable") { format!("{status},SchedulingDisabled") } else { status.into() }
}

fn node_roles(node: &Value) -> String {
    let mut roles: Vec<&str> = entries(node, "/metadata/labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role).filter(|r| !r.is_empty()),
            None if key == "kubernetes.io/role" => value.as_str().filter(|r| !r.is_empty()),
            None => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or_none(&roles.join(","))
}

pub(super) const NAMESPACES: Printer = Printer {
    columns: &[NAME, column("Status", "Whether it is active or going away."), AGE],
    cells: |object, now| vec![name(object), text(object, "/status/phase").into(), age(object, now).into()],
};

pub(super) const CONFIG_MAPS: Printer = Printer {
    columns: &[NAME, numbers("Data", "Number of entries."), AGE],
    cells: |object, now| {
        let count = entries(object, "/data").count() + entries(object, "/binaryData").count();
        vec![name(object), count.into(), age(object, now).into()]
    },
};

pub(super) const SECRETS: Printer = Printer {
    columns: &[NAME, column("Type", "What the secret is for."), numbers("Data", "Number of entries."), AGE],
    cells: |object, now| {
        vec![
            name(object),
            text(object, "/type").into(),
            entries(object, "/data").count().into(),
            age(object, now).into(),
        ]
    },
};

pub(super) const SERVICE_ACCOUNTS: Printer = Printer {
    columns: &[NAME, numbers("Secrets", "Number of secrets it lists."), AGE],
    cells: |object, now| vec![name(object), list(object, "/secrets").len().into(), age(object, now).into()],
};

const EVENT_COLUMNS: &[Column] = &[
    column("Last Seen", "Time since it was seen last."),
    column("Type", "Normal or Warning."),
    column("Reason", "Short, machine-readable cause."),
    column("Object", "What it is about."),
    wide("Subobject", "Part of the object."),
    wide("Source", "Component that reported it."),
    column("Message", "What happened."),
    wide("First Seen", "Time since it was seen first."),
    Column { name: "Count", kind: "integer", wide: true, description: "How often it was seen." },
    wide("Name", "Name of the event."),
];

pub(super) const EVENTS: Printer = Printer { columns: EVENT_COLUMNS, cells: event };

pub(super) const NEW_EVENTS: Printer = Printer {
    columns: EVENT_COLUMNS,
    cells: |object, now| match resources().lookup("events.k8s.io", "v1", "events") {
        Some(resource) => event(&to_storage(resource, object.clone()), now),
        None => event(object, now),
    },
};

fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let first_of = |pointers: &[&str]| {
        let found = pointers.iter().map(|p| text(event, p)).find(|t| !t.is_empty());
        since(found.unwrap_or(""), now)
    };
    let count = match event.pointer("/series") {
        Some(series) => number(series, "/count"),
        None => Some(number(event, "/count")).filter(|n| *n != 0).unwrap_or_else(|| json!(1)),
    };
    let kind = text(event, "/involvedObject/kind").to_lowercase();
    let target = match text(event, "/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        first_of(&["/series/lastObservedTime", "/lastTimestamp", "/firstTimestamp", "/eventTime"]).into(),
        text(event, "/type").into(),
        text(event, "/reason").into(),
        target.into(),
        text(event, "/involvedObject/fieldPath").into(),
        event_source(event).into(),
        text(event, "/message").trim().into(),
        first_of(&["/firstTimestamp", "/eventTime"]).into(),
        count,
        name(event),
    ]
}

fn event_source(event: &Value) -> String {
    let (component, host) = match text(event, "/source/component") {
        "" => (text(event, "/reportingComponent"), text(event, "/reportingInstance")),
        component => (component, text(event, "/source/host")),
    };
    if host.is_empty() { component.into() } else { format!("{component}, {host}") }
}

pub(super) const LEASES: Printer = Printer {
    columns: &[NAME, column("Holder", "Who holds it."), AGE],
    cells: |object, now| {
        vec![name(object), text(object, "/spec/holderIdentity").into(), age(object, now).into()]
    },
};

pub(super) const ROLES: Printer = Printer {
    columns: &[NAME, column("Created At", "When the role was created.")],
    cells: |object, _| vec![name(object), text(object, "/metadata/creationTimestamp").into()],
};

pub(super) const ROLE_BINDINGS: Printer = Printer {
    columns: &[
        NAME,
        column("Role", "Role that is given."),
        AGE,
        wide("Users", "Users who get it."),
        wide("Groups", "Groups that get it."),
        wide("ServiceAccounts", "Service accounts that get it."),
    ],
    cells: |object, now| {
        let subjects = |kind: &str| {
            let names =
                list(object, "/subjects").iter().filter(|s| text(s, "/kind") == kind).map(|s| match kind {
                    "ServiceAccount" => format!("{}/{}", text(s, "/namespace"), text(s, "/name")),
                    _ => text(s, "/name").to_owned(),
                });
            Value::from(names.collect::<Vec<_>>().join(", "))
        };
        vec![
            name(object),
            format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name")).into(),
            age(object, now).into(),
            subjects("User"),
            subjects("Group"),
            subjects("ServiceAccount"),
        ]
    },
};
