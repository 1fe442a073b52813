//! What is told of flows that are forgotten.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use seaway_model::{Backend, ServiceAddress};
use seaway_proxy::{FlowKind, Flows};

use crate::status::Shared;

/// A connection tracking table whose use is counted.
pub(crate) struct CountedFlows<F> {
    flows: F,
    shared: Arc<Shared>,
    /// The family that was listed last.
    family: usize,
}

impl<F> CountedFlows<F> {
    pub(crate) fn new(flows: F, shared: Arc<Shared>) -> Self {
        Self { flows, shared, family: 0 }
    }
}

impl<F: Flows> Flows for CountedFlows<F> {
    type Flow = F::Flow;

    fn list(
        &mut self,
        kind: FlowKind,
        wanted: &dyn Fn(ServiceAddress, Backend) -> bool,
    ) -> io::Result<Vec<Self::Flow>> {
        // Half-open connections of both families are listed in one go, and told as IPv4's.
        self.family = usize::from(kind == FlowKind::Udp6);
        let begun = Instant::now();
        let found = self.flows.list(kind, wanted);
        self.shared.metrics.looked_for_flows(self.family, begun.elapsed());
        found
    }

    fn delete(&mut self, flows: &[Self::Flow]) -> io::Result<usize> {
        let count = self.flows.delete(flows)?;
        self.shared.metrics.forgot_flows(self.family, count);
        Ok(count)
    }
}
