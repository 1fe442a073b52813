//! The kinds that the API server serves, and the registry that finds them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// A string of a built-in (static) or of a defined-at-run-time (owned) kind.
pub type Text = Cow<'static, str>;

/// One served resource: a kind of object in one version of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: Text,
    /// API version, such as `v1`.
    pub version: Text,
    /// Kind, such as `Pod`.
    pub kind: Text,
    /// Kind of a list, such as `PodList`.
    pub list_kind: Text,
    /// Lower-case plural name, as in URLs.
    pub plural: Text,
    /// Lower-case singular name.
    pub singular: Text,
    /// Short names, such as `po`.
    pub short_names: Vec<Text>,
    /// Groups of resources that this belongs to, such as `all`.
    pub categories: Vec<Text>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Verbs of the main resource.
    pub verbs: Vec<Text>,
    /// Subresources such as `status` and `scale`.
    pub subresources: Vec<Subresource>,
    /// Name of the type's schema, such as `io.k8s.api.core.v1.Pod`; empty where there is none.
    pub schema: Text,
    /// Whether `metadata.generation` counts changes of what is desired.
    pub generation: bool,
}

/// A subresource of a [`Resource`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Last part of the path: `status`, `scale`, `log`, `exec`, …
    pub name: Text,
    /// Group of the kind that is read and written there.
    pub group: Text,
    /// Version of that kind.
    pub version: Text,
    /// The kind that is read and written there.
    pub kind: Text,
    /// Verbs.
    pub verbs: Vec<Text>,
}

impl Resource {
    /// `v1`, or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// `pods`, or `deployments.apps`: the name that error messages use.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_string()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Group and plural under which objects are stored; the two Event kinds share one.
    pub fn storage(&self) -> (&str, &str) {
        if self.group == "events.k8s.io" && self.plural == "events" {
            ("", "events")
        } else {
            (&self.group, &self.plural)
        }
    }

    /// Whether objects are stored; reviews and bindings are answered and forgotten.
    pub fn stored(&self) -> bool {
        self.can("get")
    }

    /// Whether the main resource has a verb.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// A subresource by its name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether status is written through a subresource of its own, and dropped from main-resource writes.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// Whether this is `kind` of `group`, in any version.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }
}

/// `version` for the core group, `group/version` otherwise.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// The resources that a server knows; built-in ones, and those inserted at run time.
#[derive(Clone, Debug)]
pub struct Registry {
    resources: Vec<Arc<Resource>>,
    index: HashMap<(String, String, String), usize>,
}

impl Registry {
    /// The built-in resources.
    pub fn builtin() -> Registry {
        let mut registry = Registry { resources: Vec::new(), index: HashMap::new() };
        for resource in builtin() {
            registry.insert(resource);
        }
        registry
    }

    /// Adds a resource, or replaces the one with the same group, version and plural.
    pub fn insert(&mut self, resource: Resource) {
        let key = (resource.group.to_string(), resource.version.to_string(), resource.plural.to_string());
        match self.index.get(&key) {
            Some(&at) => self.resources[at] = Arc::new(resource),
            None => {
                self.index.insert(key, self.resources.len());
                self.resources.push(Arc::new(resource));
            }
        }
    }

    /// Removes a resource; says whether it was there.
    pub fn remove(&mut self, group: &str, version: &str, plural: &str) -> bool {
        let before = self.resources.len();
        self.resources.retain(|r| !(r.group == group && r.version == version && r.plural == plural));
        self.index = self
            .resources
            .iter()
            .enumerate()
            .map(|(at, r)| ((r.group.to_string(), r.version.to_string(), r.plural.to_string()), at))
            .collect();
        before != self.resources.len()
    }

    /// All resources, in the order of registration.
    pub fn resources(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    /// A resource by group, version and plural.
    pub fn lookup(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.index.get(&key).and_then(|&at| self.resources.get(at))
    }

    /// A resource by `apiVersion` and kind.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.resources.iter().find(|r| r.group == group && r.version == version && r.kind == kind)
    }

    /// Named groups (not the core one), each with its versions, in the order of registration.
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for resource in self.resources.iter().filter(|r| !r.group.is_empty()) {
            match groups.iter_mut().find(|(name, _)| *name == resource.group) {
                Some((_, versions)) => {
                    if !versions.iter().any(|v| *v == resource.version) {
                        versions.push(resource.version.to_string());
                    }
                }
                None => groups.push((resource.group.to_string(), vec![resource.version.to_string()])),
            }
        }
        groups
    }
}

static BUILTIN: LazyLock<Registry> = LazyLock::new(Registry::builtin);

/// The built-in resources, one registry for the whole process.
pub fn resources() -> &'static Registry {
    &BUILTIN
}

/// Verbs of an ordinary stored resource.
const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Verbs of a stored resource without deletion of whole collections, as the API serves services and namespaces.
const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
/// Verbs of a review.
const CREATE: &[&str] = &["create"];
/// Verbs of `status` and `scale`.
const GET_PATCH_UPDATE: &[&str] = &["get", "patch", "update"];

/// A row of the table below.
struct Row {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    verbs: &'static [&'static str],
    subresources: &'static [Sub],
    package: &'static str,
    generation: bool,
}

/// A subresource in the table below; an empty kind stands for the resource's own.
struct Sub(&'static str, &'static str, &'static str, &'static [&'static str]);

const STATUS: Sub = Sub("status", "", "", GET_PATCH_UPDATE);
const SCALE: Sub = Sub("scale", "autoscaling", "Scale", GET_PATCH_UPDATE);

const fn row(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
    package: &'static str,
) -> Row {
    Row {
        group,
        kind,
        plural,
        short,
        categories: &[],
        namespaced,
        verbs: ALL,
        subresources: &[],
        package,
        generation: false,
    }
}

impl Row {
    const fn all(mut self) -> Row {
        self.categories = &["all"];
        self
    }
    const fn subs(mut self, subs: &'static [Sub]) -> Row {
        self.subresources = subs;
        self
    }
    const fn verbs(mut self, verbs: &'static [&'static str]) -> Row {
        self.verbs = verbs;
        self
    }
    const fn generation(mut self) -> Row {
        self.generation = true;
        self
    }
}

const CORE: &str = "io.k8s.api.core.v1";
const APPS: &str = "io.k8s.api.apps.v1";
const BATCH: &str = "io.k8s.api.batch.v1";
const NETWORKING: &str = "io.k8s.api.networking.v1";
const RBAC: &str = "io.k8s.api.rbac.v1";
const AUTHN: &str = "io.k8s.api.authentication.v1";
const AUTHZ: &str = "io.k8s.api.authorization.v1";

const POD_SUBS: &[Sub] = &[
    Sub("attach", "", "PodAttachOptions", &["create", "get"]),
    Sub("binding", "", "Binding", CREATE),
    Sub("eviction", "policy", "Eviction", CREATE),
    Sub("exec", "", "PodExecOptions", &["create", "get"]),
    Sub("log", "", "", &["get"]),
    Sub("portforward", "", "PodPortForwardOptions", &["create", "get"]),
    STATUS,
];
const WORKLOAD_SUBS: &[Sub] = &[SCALE, STATUS];
const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// Facts as `kubectl api-resources` shows them of Kubernetes 1.32.
const ROWS: &[Row] = &[
    row("", "Binding", "bindings", &[], true, CORE).verbs(CREATE),
    row("", "ConfigMap", "configmaps", &["cm"], true, CORE),
    row("", "Endpoints", "endpoints", &["ep"], true, CORE),
    row("", "Event", "events", &["ev"], true, CORE),
    row("", "Namespace", "namespaces", &["ns"], false, CORE)
        .verbs(NO_COLLECTION)
        .subs(&[Sub("finalize", "", "", &["update"]), STATUS]),
    row("", "Node", "nodes", &["no"], false, CORE).subs(&[STATUS]),
    row("", "Pod", "pods", &["po"], true, CORE).all().subs(POD_SUBS).generation(),
    row("", "PodTemplate", "podtemplates", &[], true, CORE),
    row("", "Secret", "secrets", &[], true, CORE),
    row("", "ServiceAccount", "serviceaccounts", &["sa"], true, CORE).subs(&[Sub(
        "token",
        "authentication.k8s.io",
        "TokenRequest",
        CREATE,
    )]),
    row("", "Service", "services", &["svc"], true, CORE).all().subs(&[STATUS]),
    row("apps", "ControllerRevision", "controllerrevisions", &[], true, APPS),
    row("apps", "DaemonSet", "daemonsets", &["ds"], true, APPS).all().subs(&[STATUS]).generation(),
    row("apps", "Deployment", "deployments", &["deploy"], true, APPS).all().subs(WORKLOAD_SUBS).generation(),
    row("apps", "ReplicaSet", "replicasets", &["rs"], true, APPS).all().subs(WORKLOAD_SUBS).generation(),
    row("apps", "StatefulSet", "statefulsets", &["sts"], true, APPS).all().subs(WORKLOAD_SUBS).generation(),
    row("batch", "CronJob", "cronjobs", &["cj"], true, BATCH).all().subs(&[STATUS]).generation(),
    row("batch", "Job", "jobs", &[], true, BATCH).all().subs(&[STATUS]).generation(),
    row("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", &[], false, AUTHN).verbs(CREATE),
    row("authentication.k8s.io", "TokenReview", "tokenreviews", &[], false, AUTHN).verbs(CREATE),
    row("authorization.k8s.io", "LocalSubjectAccessReview", "localsubjectaccessreviews", &[], true, AUTHZ)
        .verbs(CREATE),
    row("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", &[], false, AUTHZ)
        .verbs(CREATE),
    row("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", &[], false, AUTHZ)
        .verbs(CREATE),
    row("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", &[], false, AUTHZ)
        .verbs(CREATE),
    row("coordination.k8s.io", "Lease", "leases", &[], true, "io.k8s.api.coordination.v1"),
    row("discovery.k8s.io", "EndpointSlice", "endpointslices", &[], true, "io.k8s.api.discovery.v1")
        .generation(),
    row("events.k8s.io", "Event", "events", &["ev"], true, "io.k8s.api.events.v1"),
    row("networking.k8s.io", "IngressClass", "ingressclasses", &[], false, NETWORKING).generation(),
    row("networking.k8s.io", "Ingress", "ingresses", &["ing"], true, NETWORKING).subs(&[STATUS]).generation(),
    row("networking.k8s.io", "IPAddress", "ipaddresses", &["ip"], false, NETWORKING),
    row("networking.k8s.io", "NetworkPolicy", "networkpolicies", &["netpol"], true, NETWORKING).generation(),
    row("networking.k8s.io", "ServiceCIDR", "servicecidrs", &[], false, NETWORKING).subs(&[STATUS]),
    row("policy", "PodDisruptionBudget", "poddisruptionbudgets", &["pdb"], true, "io.k8s.api.policy.v1")
        .subs(&[STATUS])
        .generation(),
    row(RBAC_GROUP, "ClusterRoleBinding", "clusterrolebindings", &[], false, RBAC),
    row(RBAC_GROUP, "ClusterRole", "clusterroles", &[], false, RBAC),
    row(RBAC_GROUP, "RoleBinding", "rolebindings", &[], true, RBAC),
    row(RBAC_GROUP, "Role", "roles", &[], true, RBAC),
];

fn builtin() -> Vec<Resource> {
    ROWS.iter().map(build).collect()
}

fn build(row: &Row) -> Resource {
    let texts = |list: &[&'static str]| list.iter().map(|s| Cow::Borrowed(*s)).collect();
    let subresources = row
        .subresources
        .iter()
        .map(|Sub(name, group, kind, verbs)| {
            let (group, kind) = if kind.is_empty() { (row.group, row.kind) } else { (*group, *kind) };
            Subresource {
                name: (*name).into(),
                group: group.into(),
                version: "v1".into(),
                kind: kind.into(),
                verbs: texts(verbs),
            }
        })
        .collect();
    Resource {
        group: row.group.into(),
        version: "v1".into(),
        kind: row.kind.into(),
        list_kind: format!("{}List", row.kind).into(),
        plural: row.plural.into(),
        singular: row.kind.to_lowercase().into(),
        short_names: texts(row.short),
        categories: texts(row.categories),
        namespaced: row.namespaced,
        verbs: texts(row.verbs),
        subresources,
        schema: format!("{}.{}", row.package, row.kind).into(),
        generation: row.generation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_resources() {
        let registry = resources();
        let deployments = registry.lookup("apps", "v1", "deployments").unwrap();
        assert_eq!(deployments.kind, "Deployment");
        assert_eq!(deployments.qualified(), "deployments.apps");
        assert_eq!(deployments.subresource("scale").unwrap().kind, "Scale");
        assert_eq!(registry.by_kind("v1", "Pod").unwrap().plural, "pods");
        assert!(registry.lookup("", "v1", "deployments").is_none());
    }

    #[test]
    fn defined_kinds_come_and_go() {
        let mut registry = Registry::builtin();
        let mut own = (**registry.by_kind("v1", "ConfigMap").unwrap()).clone();
        own.group = "example.org".into();
        registry.insert(own);
        assert!(registry.lookup("example.org", "v1", "configmaps").is_some());
        assert!(registry.remove("example.org", "v1", "configmaps"));
        assert!(registry.lookup("example.org", "v1", "configmaps").is_none());
        assert!(registry.lookup("", "v1", "pods").is_some());
    }
}
