//! Runs a node's pods, as kubelet and a container runtime do together.
//!
//! A pod is a network namespace that CNI plugins furnish, and a sandbox for each container: the host's programs in a root of its own
//! (`seaway_net::sandbox`). Images are names for built-in programs (`seaway_images`); nothing is pulled.
//!
//! [`run`] keeps the Node and its Lease in the API (`node`), watches the pods that are bound to the node and gives each a worker
//! (`pods`), and serves logs and sessions to the API server (`server`). What is to be done next, and what a status says, are pure
//! functions (`pods::slots`, `pods::status`, `probes::state`); everything else is told what to do.
//!
//! What has no effect here: of a security context all but user, group, capabilities, `privileged` and privilege escalation; resource
//! limits, host ports, `shareProcessNamespace`, emptyDir's medium. Containers end with their kubelet; the next one runs them anew.

mod args;
mod cni;
mod container;
mod env;
mod events;
mod kubelet;
mod logs;
mod node;
mod objects;
mod pods;
mod probes;
mod registry;
mod server;
mod volumes;

use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

pub use args::KubeletArgs;
use kubelet::Kubelet;
pub use pods::{NodeFiles, PodFiles, PodFilesError, predicted_files};

/// Threads at the most: one for each terminal, and some for what waits for the kernel.
const MAX_THREADS: usize = 2048;

/// What a kubelet ends with that has shut its node down.
const SHUT_DOWN: u8 = 100;

/// Runs the kubelet until SIGTERM or SIGINT, with which the containers that run end, or until it has shut the node down (SIGUSR1).
pub fn run(args: KubeletArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Reading from a terminal holds a thread for as long as the terminal is open.
        .max_blocking_threads(MAX_THREADS)
        .build()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = signal(SignalKind::user_defined1())?;
        let client = seaway_kube::connect(args.kubeconfig.as_deref()).await?;
        let kubelet = Arc::new(Kubelet::new(args, client));
        tokio::select! {
            result = serve(kubelet.clone()) => result.map(|()| ExitCode::from(SHUT_DOWN)),
            () = shutdown_asked(kubelet, shutdown) => Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        }
    });
    // Containers end with this process: threads that read their terminals must not be waited for.
    runtime.shutdown_background();
    result
}

/// Starts the shutdown when it is asked for.
async fn shutdown_asked(kubelet: Arc<Kubelet>, mut asked: Signal) {
    asked.recv().await;
    tracing::info!("the node is shutting down");
    kubelet.shutdown.cancel();
    std::future::pending().await
}

/// Serves until the node is shut down.
async fn serve(kubelet: Arc<Kubelet>) -> anyhow::Result<()> {
    tracing::info!(node = kubelet.args.node_name, version = node::VERSION, "starting");
    server::start(kubelet.clone()).await?;
    tokio::spawn(node::run(kubelet.clone()));
    tokio::spawn(node::renew_lease(kubelet.clone()));
    pods::clean_up(&kubelet).await;
    pods::run(kubelet).await;
    Ok(())
}
