//! The node's agent: watches the API, plans, and keeps the node's kernel in step with the plans.
//!
//! ```text
//! Source ──Update──▶ Part (services, overlay, …): follow → plan → reconcile on a blocking thread ──▶ kernel
//!                      └──▶ status, applied plan ──▶ /run/seaway/agent.sock, /healthz, /metrics
//! ```
//!
//! `seaway proxy` (module `proxy`) is the part called services alone, with kube-proxy's command line.
//!
//! Architecture invariant: the parts know nothing of each other. One that fails is tried again with growing delays
//! while the others go on, and nothing in the kernel is touched before the API's first complete list has come.

mod announce;
mod args;
mod differences;
mod faces;
mod flows;
mod health;
mod health_checks;
mod kernel;
mod lateness;
mod mended;
mod metrics;
mod overlay;
mod part;
mod proxy;
mod run;
mod services;
mod socket;
mod status;
mod system;
mod takeover;
mod trouble;

pub use args::AgentArgs;
pub use proxy::{ProxyArgs, kube_proxy_flags, run_proxy};
pub use run::run;
pub use status::{AgentStatus, AppliedPlan, PartStatus};
