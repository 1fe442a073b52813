//! Deployments: a ReplicaSet per revision of the pod template, and the way from one to the next.

mod plan;
mod revisions;
pub mod rolling;
mod status;

pub use plan::{Observed, decide};
pub(crate) use revisions::template_hash;
pub(crate) use status::available_in;

/// Annotation: the number of a revision.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation of a ReplicaSet: earlier numbers of the same revision.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Annotation of a ReplicaSet: the pods that its Deployment asked for when it was last sized.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation of a ReplicaSet: the most pods that its Deployment allowed then.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Label of ReplicaSets and pods: which template they come from.
pub const TEMPLATE_HASH: &str = "pod-template-hash";
