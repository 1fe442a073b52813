//! Lists for people: `meta.k8s.io/v1` Table, with the columns that kubectl's users know.

mod cluster;
mod format;
mod network;
mod pods;
mod workloads;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::resource::Resource;
use crate::value::text;

/// `includeObject` of a request for a Table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    /// Rows without objects.
    None,
    /// Rows with `PartialObjectMetadata` (the default).
    #[default]
    Metadata,
    /// Rows with whole objects.
    Object,
}

impl Include {
    /// The value of the query parameter; the empty one is `Metadata`.
    pub fn parse(value: &str) -> Option<Include> {
        match value {
            "" | "Metadata" => Some(Include::Metadata),
            "None" => Some(Include::None),
            "Object" => Some(Include::Object),
            _ => None,
        }
    }
}

/// How to make a Table.
#[derive(Clone, Debug)]
pub struct Options {
    /// What each row carries.
    pub include: Include,
    /// Leave out the column definitions (events of a watch after the first).
    pub no_headers: bool,
    /// Now, for ages.
    pub now: Timestamp,
    /// `metadata` of the list (resourceVersion, continue, remainingItemCount).
    pub metadata: Value,
}

/// A column: name, type, whether only wide output shows it, and what it says.
pub(crate) struct Column {
    name: &'static str,
    kind: &'static str,
    wide: bool,
    description: &'static str,
}

/// A column of texts.
const fn column(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", wide: false, description }
}

/// A column of whole numbers.
const fn number(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "integer", wide: false, description }
}

/// A column that only wide output shows.
const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", wide: true, description }
}

const NAME: Column = column("Name", "Name of the object, unique within its namespace and kind.");
const AGE: Column = column("Age", "Time since the object was created.");
const CONTAINERS: Column = wide("Containers", "Names of the containers in the template.");
const IMAGES: Column = wide("Images", "Images of the containers in the template.");
const SELECTOR: Column = wide("Selector", "Labels that select the pods.");

/// How a kind is shown: its columns, and the cells of an object.
pub(crate) struct Printer {
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

const GENERIC: Printer = Printer {
    columns: &[NAME, AGE],
    cells: |object, now| vec![text(object, "/metadata/name").into(), format::age(object, now).into()],
};

fn printer(resource: &Resource) -> &'static Printer {
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Pod") => &pods::PODS,
        ("", "PodTemplate") => &workloads::POD_TEMPLATES,
        ("", "Node") => &cluster::NODES,
        ("", "Namespace") => &cluster::NAMESPACES,
        ("", "ConfigMap") => &cluster::CONFIG_MAPS,
        ("", "Secret") => &cluster::SECRETS,
        ("", "ServiceAccount") => &cluster::SERVICE_ACCOUNTS,
        ("", "Event") => &cluster::EVENTS,
        ("events.k8s.io", "Event") => &cluster::NEW_EVENTS,
        ("coordination.k8s.io", "Lease") => &cluster::LEASES,
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => &cluster::ROLES,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => &cluster::ROLE_BINDINGS,
        ("", "Service") => &network::SERVICES,
        ("", "Endpoints") => &network::ENDPOINTS,
        ("discovery.k8s.io", "EndpointSlice") => &network::ENDPOINT_SLICES,
        ("networking.k8s.io", "Ingress") => &network::INGRESSES,
        ("networking.k8s.io", "IngressClass") => &network::INGRESS_CLASSES,
        ("networking.k8s.io", "NetworkPolicy") => &network::NETWORK_POLICIES,
        ("networking.k8s.io", "ServiceCIDR") => &network::SERVICE_CIDRS,
        ("networking.k8s.io", "IPAddress") => &network::IP_ADDRESSES,
        ("apps", "Deployment") => &workloads::DEPLOYMENTS,
        ("apps", "ReplicaSet") => &workloads::REPLICA_SETS,
        ("apps", "DaemonSet") => &workloads::DAEMON_SETS,
        ("apps", "StatefulSet") => &workloads::STATEFUL_SETS,
        ("apps", "ControllerRevision") => &workloads::CONTROLLER_REVISIONS,
        ("batch", "Job") => &workloads::JOBS,
        ("batch", "CronJob") => &workloads::CRON_JOBS,
        ("policy", "PodDisruptionBudget") => &workloads::DISRUPTION_BUDGETS,
        _ => &GENERIC,
    }
}

/// A Table with a row for each object (of the resource's kind).
pub fn table<'a>(
    resource: &Resource,
    objects: impl IntoIterator<Item = &'a Value>,
    options: &Options,
) -> Value {
    let printer = printer(resource);
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| {
            let mut row = json!({"cells": (printer.cells)(object, options.now)});
            match options.include {
                Include::None => {}
                Include::Metadata => row["object"] = metadata_only(object),
                Include::Object => row["object"] = object.clone(),
            }
            row
        })
        .collect();
    let columns: Vec<Value> = if options.no_headers {
        Vec::new()
    } else {
        printer.columns.iter().map(Column::definition).collect()
    };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": options.metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

/// An object's `PartialObjectMetadata`.
pub fn metadata_only(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

impl Column {
    fn definition(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "format": if self.name == "Name" { "name" } else { "" },
            "description": self.description,
            "priority": i32::from(self.wide),
        })
    }
}

#[cfg(test)]
mod tests;
