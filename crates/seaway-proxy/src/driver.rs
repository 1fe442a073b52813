//! What a service driver does, whatever it programs.

use std::error::Error;
use std::fmt;

use seaway_model::{Difference, NodePlan, ObjectName, PlanDiff};

/// What a driver did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// It compared the whole state with the kernel's.
    pub full: bool,
    /// Changes made: rules, chains, sets and single elements. 0: nothing was committed.
    pub operations: usize,
    /// The Services that the kernel refuses: all others are in force. They are tried again when they change, and by a call
    /// [`RETRY_REFUSED`](crate::RETRY_REFUSED) later.
    pub refused: Vec<Refused>,
}

/// A Service that is kept out of what is programmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The Service.
    pub service: ObjectName,
    /// The object at fault, and what the kernel said.
    pub reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service {}: {}", self.service, self.reason)
    }
}

/// Why a driver could not do it. After any error the driver's next `apply` is a full sync.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The kernel refused a change.
    #[error("{}{source}", of_service(service.as_ref()))]
    Kernel {
        /// The Service that the refused object stands for, where it stands for one.
        service: Option<ObjectName>,
        /// What the kernel said.
        source: Box<dyn Error + Send + Sync>,
    },
}

fn of_service(service: Option<&ObjectName>) -> String {
    service.map(|name| format!("Service {name}: ")).unwrap_or_default()
}

impl DriverError {
    /// The Service at fault.
    pub fn service(&self) -> Option<&ObjectName> {
        let Self::Kernel { service, .. } = self;
        service.as_ref()
    }
}

/// Programs a node's plan: nf_tables here; iptables and IPVS have the same interface.
///
/// Calls block, and need the privilege to configure the network namespace that the driver was made in.
pub trait ServiceDriver: Send {
    /// Reads what is there, and makes of it what `plan` says. Changes nothing where nothing differs.
    ///
    /// # Errors
    /// The kernel cannot be read, or refuses what stands for no Service in particular; then none of this call's changes to the
    /// table at fault is made.
    fn sync(&mut self, plan: &NodePlan) -> Result<Report, DriverError>;

    /// Makes the changes of `diff`, which leads from the plan of the last successful call to `plan`, without reading.
    /// Where that is not known to be enough (the first call, after an error, after [`ServiceDriver::mark_dirty`])
    /// it is a full sync.
    ///
    /// # Errors
    /// As for [`ServiceDriver::sync`].
    fn apply(&mut self, plan: &NodePlan, diff: &PlanDiff) -> Result<Report, DriverError>;

    /// Someone else changed what the driver looks after: the next call reads it all.
    fn mark_dirty(&mut self);

    /// What [`ServiceDriver::sync`] would change, for people to read; empty for nothing.
    ///
    /// # Errors
    /// The kernel cannot be read.
    fn dry_run(&mut self, plan: &NodePlan) -> Result<String, DriverError>;

    /// Where the kernel is not what `plan` says; empty just where [`ServiceDriver::sync`] would change nothing.
    ///
    /// # Errors
    /// The kernel cannot be read.
    fn differences(&mut self, plan: &NodePlan) -> Result<Vec<Difference>, DriverError>;
}
