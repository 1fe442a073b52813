//! Puts the agent together and runs it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use ipnet::IpNet;
use seaway_kube::{Client, PodScope, ServiceScope, Source, Wanted, connect};
use seaway_model::{NetConf, NodePlan, ServicePlan};
use seaway_observe::Observer;
use seaway_proxy::ServiceDriver;
use seaway_proxy::leftovers::{CleanupKubeProxy, Leftovers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::announce::Announcement;
use crate::args::AgentArgs;
use crate::faces::{self, Place, Places};
use crate::overlay::{Overlay, OverlaySettings};
use crate::part::keep;
use crate::proxy::{KubeProxyConfiguration, Mode, Options};
use crate::services::{self, EgressSettings, ServiceSettings};
use crate::status::{ProxyFace, Shared};
use crate::system::System;
use crate::takeover::take_over;
use crate::trouble::Troubles;
use crate::{kernel, overlay, proxy, socket};

/// Where flannel has its configuration.
const NET_CONF: &str = "/etc/kube-flannel/net-conf.json";

/// Runs the agent until it is told to end, or, with `--dry-run`, until it has said what it would do.
///
/// # Errors
/// The kubeconfig or another input cannot be used, or the socket cannot be made. An API server that is away is no
/// error: it is waited for.
pub fn run(args: AgentArgs) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let code = runtime.block_on(serve(args));
    // A commit under way on a blocking thread ends by itself; the kernel takes a transaction whole or not at all.
    runtime.shutdown_background();
    code
}

async fn serve(args: AgentArgs) -> anyhow::Result<ExitCode> {
    let overlay = overlay_settings(&args)?;
    let client = connect(args.kubeconfig.as_deref()).await?;
    let wanted = Wanted {
        services: ServiceScope::Proxied,
        nodes: true,
        service_cidrs: true,
        namespaces: false,
        pods: PodScope::None,
        ..Wanted::default()
    };
    let source = Source::start(client.clone(), wanted);
    let egress = EgressSettings {
        pod_networks: overlay.as_ref().map(|settings| networks(&settings.conf)).unwrap_or_default(),
        non_masquerade: args.non_masquerade_cidr.clone(),
    };
    let configuration = proxy_configuration(&args)?;
    let proxy = Options::new(&configuration);
    let face = ProxyFace::new(&configuration, &proxy);
    let settings = Settings {
        services: ServiceSettings { egress: Some(egress), proxy },
        cleanup_kube_proxy: args.cleanup_kube_proxy,
        overlay,
    };
    if args.dry_run {
        return dry_run(&args.node_name, &source, &settings).await;
    }
    let path = args.run_dir.join(socket::NAME);
    let listener = seaway_http::unix::bind(&path).with_context(|| format!("make {}", path.display()))?;
    let observer = Observer::new().context("open the network namespace")?;
    let shared = Arc::new(Shared::new(args.node_name.clone(), source, face));
    let mut tasks = JoinSet::new();
    let router = socket::router(shared.clone(), observer);
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the agent's socket failed");
        }
    });
    let places = Places {
        health: Some(Place::later("health", args.healthz_bind)),
        metrics: Some(Place::later("metrics", args.metrics_bind)),
    };
    faces::start(&mut tasks, &shared, places);
    start_parts(&mut tasks, &shared, client, settings)?;

    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: ending; the kernel keeps what it has"),
        _ = interrupt.recv() => tracing::info!("SIGINT: ending; the kernel keeps what it has"),
        ended = tasks.join_next() => anyhow::bail!("a part of the agent ended: {ended:?}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// What the parts are started with.
struct Settings {
    services: ServiceSettings,
    cleanup_kube_proxy: CleanupKubeProxy,
    /// `None`: the network between pods is someone else's.
    overlay: Option<OverlaySettings>,
}

fn overlay_settings(args: &AgentArgs) -> anyhow::Result<Option<OverlaySettings>> {
    let path = args.net_conf.as_deref().unwrap_or(Path::new(NET_CONF));
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && args.net_conf.is_none() => {
            tracing::warn!(path = NET_CONF, "not there: the network between pods is left alone");
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let conf = NetConf::parse(&text).with_context(|| path.display().to_string())?;
    Ok(Some(OverlaySettings {
        conf,
        interface: Some(args.iface.clone()).filter(|name| name != "auto"),
        conflist: args.cni_conf_dir.join("10-seaway.conflist"),
        subnet_file: args.subnet_file.clone(),
        plugin_root: plugin_root(&args.cni_bin_dir)?,
    }))
}

/// How Services are served: as kube-proxy's nftables mode does where no file says otherwise.
fn proxy_configuration(args: &AgentArgs) -> anyhow::Result<KubeProxyConfiguration> {
    match &args.proxy_config {
        Some(path) => proxy::read(path),
        None => Ok(KubeProxyConfiguration { mode: Mode::Nftables, ..KubeProxyConfiguration::empty() }),
    }
}

/// The directory that `opt/cni/bin` is in: `/`, or where a container has the node's file system mounted.
fn plugin_root(directory: &Path) -> anyhow::Result<PathBuf> {
    let root = directory.ends_with("opt/cni/bin").then(|| directory.ancestors().nth(3)).flatten();
    let root =
        root.with_context(|| format!("--cni-bin-dir {}: does not end in opt/cni/bin", directory.display()))?;
    Ok(root.to_owned())
}

fn networks(conf: &NetConf) -> Vec<IpNet> {
    let v4 = conf.network.filter(|_| conf.enable_ipv4).map(IpNet::V4);
    let v6 = conf.ipv6_network.filter(|_| conf.enable_ipv6).map(IpNet::V6);
    v4.into_iter().chain(v6).collect()
}

fn start_parts(
    tasks: &mut JoinSet<()>,
    shared: &Arc<Shared>,
    client: Client,
    settings: Settings,
) -> anyhow::Result<()> {
    let subscribe = || shared.source().subscribe();
    tasks.spawn(keep(System::default(), subscribe(), Arc::default(), shared.clone()));

    settings.services.proxy.conntrack.apply();
    let troubles = Troubles::start(client.clone(), "seaway-agent", shared.node.clone());
    kernel::start_services(tasks, shared, settings.services, &troubles)?;
    tasks.spawn(take_over(settings.cleanup_kube_proxy, shared.clone()));

    if let Some(settings) = settings.overlay {
        let announcement = Announcement::new();
        tasks.spawn(announcement.clone().keep(client, subscribe(), shared.clone()));
        tasks.spawn(keep(
            Overlay::new(settings, announcement, shared.clone()),
            subscribe(),
            Arc::default(),
            shared.clone(),
        ));
    }
    Ok(())
}

/// Waits for the cluster's state and prints the changes that it asks for.
async fn dry_run(node: &str, source: &Source, settings: &Settings) -> anyhow::Result<ExitCode> {
    let snapshot = source.subscribe().next().await.snapshot;
    let egress = services::egress(&settings.services, node, &snapshot);
    let proxy = services::proxy(&settings.services, &egress, node, &snapshot);
    let plan = NodePlan { services: ServicePlan::from_snapshot(node, &snapshot), egress, proxy };
    print!("{}", kernel::service_driver()?.dry_run(&plan)?);
    if let Some(settings) = &settings.overlay {
        print!("{}", overlay::dry_run(settings, node, &snapshot)?);
    }
    if settings.cleanup_kube_proxy == CleanupKubeProxy::Auto {
        for line in Leftovers::find().to_string().lines() {
            println!("# left by a kube-proxy: {line}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugins_root() {
        assert_eq!(plugin_root(Path::new("/opt/cni/bin")).unwrap(), Path::new("/"));
        assert_eq!(plugin_root(Path::new("/host/opt/cni/bin")).unwrap(), Path::new("/host"));
        assert!(plugin_root(Path::new("/usr/lib/cni")).is_err());
    }
}
