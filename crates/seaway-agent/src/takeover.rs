//! Takes over from a kube-proxy that ran on this node before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use seaway_proxy::leftovers::{CleanupKubeProxy, Takeover};

use crate::services;
use crate::status::Shared;

/// How often it is looked whether it is time.
const LOOK: Duration = Duration::from_secs(1);

/// Removes what a kube-proxy left when it is gone and all Services are in the kernel; then there is nothing to do, for ever.
pub(crate) async fn take_over(policy: CleanupKubeProxy, shared: Arc<Shared>) {
    let mut takeover = Takeover::new(policy);
    while !takeover.is_done() {
        let synced = shared.with_part(services::PART, |part| part.syncs > 0 && !part.pending);
        if takeover.due(shared.ports.are_held(), synced, Instant::now()) {
            let removing = tokio::task::spawn_blocking(move || {
                takeover.run(Instant::now());
                takeover
            });
            takeover = match removing.await {
                Ok(takeover) => takeover,
                Err(error) => {
                    tracing::error!(%error, "removing what kube-proxy left");
                    break;
                }
            };
        }
        tokio::time::sleep(LOOK).await;
    }
    std::future::pending().await
}
