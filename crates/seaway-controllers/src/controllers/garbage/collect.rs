//! What to do with one object of the owners' graph, and doing it.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::PartialObjectMeta;
use serde_json::json;
use tracing::{debug, warn};

use super::graph::{FOREGROUND, Graph, Node, ORPHAN};
use super::sources::Kinds;
use crate::cluster::Cluster;
use crate::error::Error;

/// The next step for an object.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Nothing to do.
    Nothing,
    /// Ask the API server whether these owners are there; nobody here has seen them.
    Verify(Vec<OwnerReference>),
    /// Delete it.
    Delete(PropagationPolicy),
    /// Keep only these owners.
    KeepOwners(Vec<OwnerReference>),
    /// Keep only these finalizers.
    KeepFinalizers(Vec<String>),
    /// Take this object out of the owners of these dependents (uids), then look again.
    Orphan(Vec<String>),
}

/// Decides the next step for the object of this uid.
pub fn decide(graph: &Graph, uid: &str) -> Step {
    let Some(node) = graph.get(uid) else { return Step::Nothing };
    if node.deleting {
        return decide_deleting(graph, node);
    }
    let unknown: Vec<OwnerReference> = node
        .owners
        .iter()
        .filter(|owner| graph.get(&owner.uid).is_none() && !graph.is_gone(&owner.uid))
        .cloned()
        .collect();
    if !unknown.is_empty() {
        return Step::Verify(unknown);
    }
    let waits = |owner: &&OwnerReference| graph.get(&owner.uid).is_some_and(Node::waits_for_dependents);
    let solid: Vec<OwnerReference> = node
        .owners
        .iter()
        .filter(|owner| graph.get(&owner.uid).is_some() && !waits(owner))
        .cloned()
        .collect();
    if solid.len() == node.owners.len() {
        return Step::Nothing;
    }
    if !solid.is_empty() {
        return Step::KeepOwners(solid);
    }
    let has_dependents = graph.dependents(uid).next().is_some();
    Step::Delete(if node.has_finalizer(ORPHAN) {
        PropagationPolicy::Orphan
    } else if node.has_finalizer(FOREGROUND) || (has_dependents && node.owners.iter().any(|o| waits(&o))) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    })
}

fn decide_deleting(graph: &Graph, node: &Node) -> Step {
    let without =
        |name: &str| Step::KeepFinalizers(node.finalizers.iter().filter(|f| *f != name).cloned().collect());
    if node.has_finalizer(ORPHAN) {
        let dependents: Vec<String> = graph.dependents(&node.uid).map(|d| d.uid.clone()).collect();
        return if dependents.is_empty() { without(ORPHAN) } else { Step::Orphan(dependents) };
    }
    if node.has_finalizer(FOREGROUND) {
        let blocks = |dependent: &Node| {
            dependent.owners.iter().any(|o| o.uid == node.uid && o.block_owner_deletion == Some(true))
        };
        if !graph.dependents(&node.uid).any(blocks) {
            return without(FOREGROUND);
        }
    }
    Step::Nothing
}

/// Works on the objects whose owners changed, for ever.
pub async fn work(cluster: Arc<Cluster>, kinds: Arc<Kinds>) -> ! {
    kinds.wait_discovered().await;
    loop {
        let uid = cluster.queues.garbage.next().await;
        let result = step(&cluster, &kinds, &uid).await;
        if let Err(error) = &result {
            match error.is_conflict() || error.is_not_found() {
                true => debug!(%error, "collect again"),
                false => warn!(%error, "garbage collection failed; try again"),
            }
        }
        cluster.queues.garbage.done(&uid, result.is_err());
    }
}

async fn step(cluster: &Cluster, kinds: &Kinds, uid: &str) -> Result<(), Error> {
    let (step, node) = {
        let graph = cluster.graph();
        let Some(node) = graph.get(uid).cloned() else { return Ok(()) };
        (decide(&graph, uid), node)
    };
    match step {
        Step::Nothing => Ok(()),
        Step::Verify(owners) => {
            for owner in owners {
                verify(cluster, kinds, &node, &owner).await?;
            }
            Ok(())
        }
        Step::Delete(policy) => {
            debug!(kind = node.resource.kind, object = %node.key, ?policy, "owners are gone: delete");
            delete(kinds, &node, policy).await
        }
        Step::KeepOwners(owners) => patch(cluster, kinds, &node, json!({"ownerReferences": owners})).await,
        Step::KeepFinalizers(finalizers) => {
            patch(cluster, kinds, &node, json!({"finalizers": finalizers})).await
        }
        Step::Orphan(dependents) => {
            for dependent in dependents {
                let Some(dependent) = cluster.graph().get(&dependent).cloned() else { continue };
                let kept: Vec<_> = dependent.owners.iter().filter(|o| o.uid != node.uid).collect();
                patch(cluster, kinds, &dependent, json!({"ownerReferences": kept})).await?;
            }
            cluster.queues.garbage.add(node.uid);
            Ok(())
        }
    }
}

/// Asks whether an owner is there, and remembers a no.
async fn verify(cluster: &Cluster, kinds: &Kinds, node: &Node, owner: &OwnerReference) -> Result<(), Error> {
    // A kind that the server does not have (any more): its objects can't be judged, so they count as there.
    let Some((resource, namespaced)) = kinds.find(&owner.api_version, &owner.kind) else { return Ok(()) };
    let namespace = if namespaced { node.key.scope() } else { None };
    let api = kinds.api(&resource, namespace);
    let found = api.get_metadata(&owner.name).await;
    let absent = match found {
        Ok(meta) => {
            let same = meta.metadata.uid.as_deref() == Some(owner.uid.as_str());
            if same {
                cluster.observe_node(Node::of_meta(&meta.metadata, Arc::new(resource)));
            }
            !same
        }
        Err(kube::Error::Api(status)) if status.code == 404 => true,
        Err(source) => return Err(failed("get owner of", node, source)),
    };
    if absent {
        cluster.graph_mut().mark_gone(&owner.uid);
        cluster.queues.garbage.add(node.uid.clone());
    }
    Ok(())
}

async fn delete(kinds: &Kinds, node: &Node, policy: PropagationPolicy) -> Result<(), Error> {
    let params = DeleteParams {
        propagation_policy: Some(policy),
        preconditions: Some(Preconditions { uid: Some(node.uid.clone()), resource_version: None }),
        ..DeleteParams::default()
    };
    let api = kinds.api(&node.resource, node.key.scope());
    match api.delete(&node.key.name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(source) => Err(failed("delete", node, source)),
    }
}

async fn patch(
    cluster: &Cluster,
    kinds: &Kinds,
    node: &Node,
    metadata: serde_json::Value,
) -> Result<(), Error> {
    let mut metadata = metadata;
    metadata["uid"] = json!(node.uid);
    metadata["resourceVersion"] = json!(node.version);
    let api: Api<DynamicObject> = kinds.api(&node.resource, node.key.scope());
    let patch = Patch::Merge(json!({"metadata": metadata}));
    match api.patch_metadata(&node.key.name, &PatchParams::default(), &patch).await {
        Ok(PartialObjectMeta { metadata, .. }) => {
            cluster.observe_node(Node::of_meta(&metadata, node.resource.clone()));
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(failed("patch", node, source)),
    }
}

fn failed(operation: &'static str, node: &Node, source: kube::Error) -> Error {
    Error::Request {
        operation,
        kind: node.resource.kind.clone(),
        name: node.key.to_string(),
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Key;
    use kube::api::ApiResource;

    fn node(uid: &str, owners: &[(&str, bool)]) -> Node {
        let resource = ApiResource::erase::<k8s_openapi::api::core::v1::ConfigMap>(&());
        Node {
            uid: uid.into(),
            resource: Arc::new(resource),
            key: Key::new("ns", uid),
            version: Some("1".into()),
            owners: owners
                .iter()
                .map(|(uid, blocks)| OwnerReference {
                    uid: (*uid).into(),
                    block_owner_deletion: Some(*blocks),
                    ..Default::default()
                })
                .collect(),
            finalizers: Vec::new(),
            deleting: false,
        }
    }

    fn deleting(uid: &str, finalizer: &str) -> Node {
        Node { deleting: true, finalizers: vec!["x".into(), finalizer.into()], ..node(uid, &[]) }
    }

    #[test]
    fn a_dependent_follows_its_last_owner() {
        let mut graph = Graph::default();
        graph.observe(node("a", &[]));
        graph.observe(node("b", &[]));
        assert_eq!(graph.observe(node("d", &[("a", false), ("b", false)])), ["d"]);
        assert_eq!(decide(&graph, "d"), Step::Nothing);
        assert_eq!(graph.forget("a"), ["d"]);
        let Step::KeepOwners(kept) = decide(&graph, "d") else { panic!() };
        assert_eq!(kept.iter().map(|o| o.uid.as_str()).collect::<Vec<_>>(), ["b"]);
        graph.observe(node("d", &[("b", false)]));
        assert_eq!(graph.forget("b"), ["d"]);
        assert_eq!(decide(&graph, "d"), Step::Delete(PropagationPolicy::Background));
    }

    #[test]
    fn an_unseen_owner_is_asked_for_first() {
        let mut graph = Graph::default();
        graph.observe(node("d", &[("a", false)]));
        assert!(matches!(decide(&graph, "d"), Step::Verify(owners) if owners.len() == 1));
        graph.mark_gone("a");
        assert_eq!(decide(&graph, "d"), Step::Delete(PropagationPolicy::Background));
    }

    #[test]
    fn foreground_waits_for_those_that_block() {
        let mut graph = Graph::default();
        graph.observe(node("a", &[]));
        graph.observe(node("blocks", &[("a", true)]));
        graph.observe(node("free", &[("a", false)]));
        graph.observe(node("grandchild", &[("blocks", true)]));
        let mut look = graph.observe(deleting("a", FOREGROUND));
        look.sort();
        assert_eq!(look, ["a", "blocks", "free"]);
        assert_eq!(decide(&graph, "a"), Step::Nothing);
        assert_eq!(decide(&graph, "blocks"), Step::Delete(PropagationPolicy::Foreground));
        assert_eq!(decide(&graph, "free"), Step::Delete(PropagationPolicy::Background));
        graph.forget("free");
        assert_eq!(decide(&graph, "a"), Step::Nothing);
        let mut look = graph.forget("blocks");
        look.sort();
        assert_eq!(look, ["a", "grandchild"]);
        assert_eq!(decide(&graph, "a"), Step::KeepFinalizers(vec!["x".into()]));
    }

    #[test]
    fn orphans_are_let_go() {
        let mut graph = Graph::default();
        graph.observe(node("d", &[("a", true)]));
        assert_eq!(graph.observe(deleting("a", ORPHAN)), ["a"]);
        assert_eq!(decide(&graph, "a"), Step::Orphan(vec!["d".into()]));
        assert_eq!(graph.observe(node("d", &[])), ["a"]);
        assert_eq!(decide(&graph, "a"), Step::KeepFinalizers(vec!["x".into()]));
    }
}
