//! Where a node's kernel is not what the plan says, in words.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ServiceAddress;

/// What a difference concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlanPart {
    /// Destinations: service addresses and endpoints.
    Services,
    /// Sources: masquerade.
    Egress,
    /// The network between nodes.
    Overlay,
    /// The links of this node's pods.
    Pods,
}

impl fmt::Display for PlanPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Services => "services",
            Self::Egress => "egress",
            Self::Overlay => "overlay",
            Self::Pods => "pods",
        })
    }
}

/// One thing that is not as planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// What it concerns.
    pub part: PlanPart,
    /// What suffers: `Service default/web port http`, `node node-2`, `pod 10.244.1.5`, or the kernel's object where it
    /// stands for no other.
    pub object: String,
    /// The service address that suffers, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<ServiceAddress>,
    /// What is wrong, in plain words.
    pub what: String,
    /// The kernel's object, as nft or ip name it.
    pub kernel: String,
    /// What the plan says; absent for what should not be.
    pub planned: Option<String>,
    /// What the kernel has; absent for what is missing.
    pub actual: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        let (planned, actual) = (text(&self.planned), text(&self.actual));
        write!(f, "{}: {} ({}: planned {planned}, found {actual})", self.object, self.what, self.kernel)
    }
}

/// What others put into the kernel that packets may meet. No difference: it is not Seaway's to judge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Foreign {
    /// What it may concern.
    pub part: PlanPart,
    /// What it is, as nft or ip name it: `chain prerouting of table ip nat`, `route 10.244.2.5/32`.
    pub kernel: String,
    /// What it does, in plain words.
    pub what: String,
}

/// A part that could not be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotCompared {
    /// Which.
    pub part: PlanPart,
    /// Why.
    pub error: String,
}

/// Something that was not as planned, though nobody had changed the plan, until the agent put it right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mended {
    /// When the agent had put it right, in milliseconds since 1970.
    pub time: u64,
    /// What was wrong.
    #[serde(flatten)]
    pub difference: Difference,
}

/// What `GET /v1/differences` of an agent answers: the plan in force beside the kernel's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Differences {
    /// The generation of the plan.
    pub generation: u64,
    /// What is not as planned.
    pub differences: Vec<Difference>,
    /// How many more there are than are told.
    pub more: usize,
    /// What others put there.
    pub foreign: Vec<Foreign>,
    /// What could not be compared.
    pub not_compared: Vec<NotCompared>,
    /// What the agent put right in the last five minutes, the latest last.
    #[serde(default)]
    pub mended: Vec<Mended>,
}
