//! Snapshot of the cluster, plans for a node, and the pure functions between them.
//!
//! Architecture invariant: nothing in this crate does I/O, knows an async runtime, or knows Kubernetes' wire
//! types. `seaway-kube` turns API objects into these types and says which object and field was wrong where one
//! does not fit.

mod difference;
mod egress_plan;
mod explain;
mod go_duration;
mod names;
mod nearest;
mod objects;
mod overlay;
mod problem;
mod proxy_plan;
mod service_plan;
mod snapshot;

pub use difference::{Difference, Differences, Foreign, Mended, NotCompared, PlanPart};
pub use egress_plan::EgressPlan;
pub use explain::{Flow, Masquerade, NodePlan, Translation};
pub use go_duration::parse_go_duration;
pub use names::{ObjectName, Protocol};
pub use nearest::nearest;
pub use objects::{
    Endpoint, EndpointPort, EndpointSlice, LoadBalancerAddress, Namespace, Node, Pod, Service, ServicePort,
    ServiceType, TargetRef, TrafficPolicy,
};
pub use overlay::{
    MacAddr, NetConf, NetConfError, OverlayBackend, OverlayForward, OverlayNeighbor, OverlayPlan,
    OverlayRoute, Underlay, VxlanDevice, stable_hash,
};
pub use problem::{ObjectRef, Problem};
pub use proxy_plan::{
    DetectLocal, LocalSources, NodePortAddresses, Origin, ProxyPlan, ProxySettings, loopback_networks,
};
pub use service_plan::{
    AddressKind, Backend, Caller, HealthCheck, PlanDiff, PortChange, PortPlan, RANGES_COVER_NODE_PORTS,
    Refusal, ServiceAddress, ServicePlan, SetChange,
};
pub use snapshot::{Changes, Snapshot};
