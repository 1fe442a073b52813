//! What happens to pods and the node, as events.

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::Client;
pub(crate) use seaway_kube::Severity;

/// Takes events and sends them in the background.
#[derive(Clone)]
pub(crate) struct Recorder(seaway_kube::Recorder);

impl Recorder {
    pub(crate) fn start(client: Client, node: String) -> Self {
        Self(seaway_kube::Recorder::start(client, "kubelet", node))
    }

    /// Says something about a pod, or about one of its containers.
    pub(crate) fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let meta = &pod.metadata;
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: container.map(|name| format!("spec.containers{{{name}}}")),
        };
        self.0.record(about, severity, reason, message);
    }

    /// Says something about the node.
    pub(crate) fn node(
        &self,
        node: &Node,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let name = node.metadata.name.clone();
        // As kubelet's events about its node: the uid is the node's name.
        let about = ObjectReference {
            kind: Some("Node".to_owned()),
            uid: name.clone(),
            name,
            ..ObjectReference::default()
        };
        self.0.record(about, severity, reason, message);
    }
}
