//! `seaway proxy`, from its command line to its end.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kube::Config;
use seaway_kube::{Client, PodScope, ServiceScope, Source, Wanted};
use seaway_observe::Observer;
use seaway_proxy::leftovers::CleanupKubeProxy;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::config_file;
use super::configuration::{HEALTHZ_PORT, KubeProxyConfiguration, METRICS_PORT};
use super::effects::{idle_fields, idle_flags};
use super::flags::ProxyArgs;
use super::options::Options;
use super::values::Mode;
use crate::faces::{self, Place, Places};
use crate::services::ServiceSettings;
use crate::status::{ProxyFace, Shared};
use crate::takeover::take_over;
use crate::trouble::Troubles;
use crate::{kernel, socket};

/// How long the Node object is waited for before Services are served without what depends on it.
const NODE_PATIENCE: Duration = Duration::from_secs(30);

/// How often the configuration file is looked at.
const FILE_LOOK: Duration = Duration::from_secs(10);

/// Runs the service proxy until it is told to end, or does what a flag asks for instead.
///
/// # Errors
/// A flag, the configuration file or another input cannot be used, or, with `--bind-address-hard-fail`, an address cannot
/// be listened on. An API server that is away is no error: it is waited for.
pub fn run_proxy(args: ProxyArgs) -> anyhow::Result<ExitCode> {
    let configuration = configuration(&args)?;
    if let Some(path) = args.text("write-config-to") {
        let text =
            serde_saphyr::to_string(&configuration.with_defaults()).context("write the configuration")?;
        fs::write(path, text).with_context(|| format!("--write-config-to {path}"))?;
        tracing::info!(path, "configuration written");
        return Ok(ExitCode::SUCCESS);
    }
    let options = options(&args, &configuration)?;
    if args.is_on("cleanup") {
        return super::cleanup::run();
    }
    announce(&args, &configuration, &options);
    options.conntrack.apply();
    if args.is_on("init-only") {
        return Ok(ExitCode::SUCCESS);
    }
    set_oom_score(options.oom_score_adj);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let code = runtime.block_on(serve(&args, &configuration, options));
    // A commit under way on a blocking thread ends by itself; the kernel takes a transaction whole or not at all.
    runtime.shutdown_background();
    code
}

/// The file's, or else the flags'.
fn configuration(args: &ProxyArgs) -> anyhow::Result<KubeProxyConfiguration> {
    match args.text("config") {
        Some(path) => read(Path::new(path)),
        None => Ok(args.configuration()?),
    }
}

/// Reads a configuration file.
///
/// # Errors
/// It cannot be read, or something in it cannot be used.
pub(crate) fn read(path: &Path) -> anyhow::Result<KubeProxyConfiguration> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(config_file::parse(&path.display().to_string(), &text)?)
}

/// What the configuration amounts to, and the flags that count beside a file.
fn options(args: &ProxyArgs, configuration: &KubeProxyConfiguration) -> anyhow::Result<Options> {
    let mut options = Options::new(configuration);
    if let Some(name) = args.text("hostname-override") {
        options.node_name = Some(name.to_lowercase());
    }
    // Deprecated in kube-proxy: a port for an address without one, and zero to have no server.
    if args.text("config").is_none() {
        for (flag, place, given, default) in [
            ("healthz-port", &mut options.healthz, configuration.healthz_bind_address, HEALTHZ_PORT),
            ("metrics-port", &mut options.metrics, configuration.metrics_bind_address, METRICS_PORT),
        ] {
            let port = args.port(flag)?.unwrap_or(default);
            let own_port = given.0.is_some_and(|(_, port)| port.is_some());
            match place {
                _ if port == 0 => *place = None,
                Some(address) if !own_port => address.set_port(port),
                _ => {}
            }
        }
    }
    Ok(options)
}

/// Says what runs, and what of the settings has no effect.
fn announce(args: &ProxyArgs, configuration: &KubeProxyConfiguration, options: &Options) {
    match options.mode {
        Mode::Iptables | Mode::Ipvs => tracing::warn!(
            asked = %options.mode,
            "mode {} was asked for: NF_TABLES is programmed instead, with the behaviour and the settings of mode {}",
            options.mode,
            options.mode,
        ),
        Mode::Unset | Mode::Nftables => tracing::info!("nf_tables is programmed"),
    }
    let file = args.text("config").is_some();
    if file {
        for (field, why) in idle_fields(configuration) {
            tracing::warn!("{field} has no effect here: {why}");
        }
    }
    for (flag, why) in idle_flags(args) {
        tracing::warn!("--{flag} has no effect here: {why}");
    }
    for flag in args.given().filter(|flag| file && !flag.fields.is_empty()) {
        tracing::warn!("--{} is not used: the configuration file says what {} is", flag.name, flag.fields[0]);
    }
}

/// A node that runs out of memory is better off with its Services.
fn set_oom_score(score: i32) {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::warn!(score, %error, "cannot set oom_score_adj");
    }
}

/// The host's name, as kubelet names its Node.
fn host_name() -> anyhow::Result<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").context("read this host's name")?;
    let name = name.trim().to_lowercase();
    anyhow::ensure!(
        !name.is_empty(),
        "this host has no name: --hostname-override NAME says what its Node is called"
    );
    Ok(name)
}

async fn client(args: &ProxyArgs, options: &Options) -> anyhow::Result<Client> {
    let master = args.text("master").map(|master| {
        let url = if master.contains("://") { master.to_owned() } else { format!("http://{master}") };
        url.parse::<http::Uri>().with_context(|| format!("--master {master}: not a URL"))
    });
    let master = master.transpose()?;
    let kubeconfig: Option<PathBuf> = options.kubeconfig.clone();
    let configuration = match (master, &kubeconfig) {
        (Some(url), None) => Config::new(url),
        (master, _) => {
            let mut configuration = seaway_kube::configuration(kubeconfig.as_deref()).await?;
            if let Some(url) = master {
                configuration.cluster_url = url;
            }
            configuration
        }
    };
    seaway_kube::client(configuration).context("API client")
}

async fn place(what: &'static str, address: std::net::SocketAddr, hard: bool) -> anyhow::Result<Place> {
    if !hard {
        return Ok(Place::later(what, address));
    }
    Place::now(what, address)
        .await
        .with_context(|| format!("listen at {address} for {what} (bindAddressHardFail)"))
}

async fn serve(
    args: &ProxyArgs,
    configuration: &KubeProxyConfiguration,
    options: Options,
) -> anyhow::Result<ExitCode> {
    let node = options.node_name.clone().map_or_else(host_name, Ok)?;
    let cleanup_kube_proxy = match args.text("cleanup-kube-proxy") {
        Some(word) => word.parse().context("--cleanup-kube-proxy")?,
        None => CleanupKubeProxy::default(),
    };
    let client = client(args, &options).await?;
    let wanted = Wanted {
        services: ServiceScope::Proxied,
        nodes: true,
        service_cidrs: true,
        pods: PodScope::None,
        min_sync: options.min_sync_period,
        ..Wanted::default()
    };
    let source = Source::start(client.clone(), wanted);
    let face = ProxyFace::new(configuration, &options);
    let shared = Arc::new(Shared::new(node, source, face));
    let mut tasks = JoinSet::new();
    let mut places = Places::default();
    if let Some(address) = options.healthz {
        places.health = Some(place("health", address, options.hard_fail).await?);
    }
    if let Some(address) = options.metrics {
        places.metrics = Some(place("metrics", address, options.hard_fail).await?);
    }
    faces::start(&mut tasks, &shared, places);
    serve_socket(&mut tasks, &shared, args.text("run-dir").unwrap_or("/run/seaway"));

    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let work = async {
        wait_for_node(&shared).await;
        let settings = ServiceSettings { egress: None, proxy: options };
        let troubles = Troubles::start(client, "kube-proxy", shared.node.clone());
        kernel::start_services(&mut tasks, &shared, settings, &troubles)?;
        tasks.spawn(take_over(cleanup_kube_proxy, shared.clone()));
        let ended = tasks.join_next().await;
        anyhow::bail!("a part of the proxy ended: {ended:?}")
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: ending; the kernel keeps what it has"),
        _ = interrupt.recv() => tracing::info!("SIGINT: ending; the kernel keeps what it has"),
        ended = work => return ended,
        () = changed(args) => anyhow::bail!("the configuration file has changed: ending, to be started with it"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends when the configuration file says something else than at the start, as kube-proxy does: whoever started it starts it
/// anew. A file with a mistake is told of, and what was read before stays in force.
async fn changed(args: &ProxyArgs) {
    let Some(path) = args.text("config").map(Path::new) else { return std::future::pending().await };
    let mut last = fs::read_to_string(path).ok();
    loop {
        tokio::time::sleep(FILE_LOOK).await;
        // One that is gone is about to be replaced.
        let Ok(text) = fs::read_to_string(path) else { continue };
        if last.as_ref() == Some(&text) {
            continue;
        }
        match config_file::parse(&path.display().to_string(), &text) {
            Ok(_) => return,
            Err(error) => tracing::error!("the configuration file has changed, and is not used: {error}"),
        }
        last = Some(text);
    }
}

/// The socket that `seaway status` and `seaway trace` ask; without it the proxy does its work all the same.
fn serve_socket(tasks: &mut JoinSet<()>, shared: &Arc<Shared>, directory: &str) {
    let path = Path::new(directory).join(socket::NAME);
    if UnixStream::connect(&path).is_ok() {
        // Its tables are this one's: each would undo what the other does.
        tracing::error!(path = %path.display(), "another Seaway answers here: end one of the two, agent or proxy");
        return;
    }
    let listener = seaway_http::unix::bind(&path).context("listen");
    let ready =
        listener.and_then(|listener| Ok((listener, Observer::new().context("open the network namespace")?)));
    match ready {
        Ok((listener, observer)) => {
            let router = socket::router(shared.clone(), observer);
            tasks.spawn(async move {
                if let Err(error) = axum::serve(listener, router).await {
                    tracing::error!(%error, "the proxy's socket failed");
                }
            });
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), error = format!("{error:#}"), "no socket for `seaway status`");
        }
    }
}

/// Topology, the node's addresses and its podCIDR come from its Node object. One that stays away is most likely called
/// otherwise: Services are served then, too.
async fn wait_for_node(shared: &Shared) {
    let node = shared.node.as_str();
    let mut updates = shared.source().subscribe();
    let mut told = false;
    let found = async {
        while !updates.next().await.snapshot.nodes.contains_key(node) {
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(node, "there is no such Node yet; waiting {NODE_PATIENCE:?} for it");
            }
        }
    };
    // The API server is waited for without an end: before its lists have come nothing is touched.
    if shared.source().snapshot().is_none() {
        shared.source().subscribe().next().await;
    }
    if tokio::time::timeout(NODE_PATIENCE, found).await.is_err() {
        tracing::error!(
            node,
            "there is no such Node: going on without topology, the node's addresses and podCIDR until there is; \
             --hostname-override NAME says what it is called"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options_of(arguments: &[&str]) -> Options {
        let args = super::super::flags::tests::parse(arguments).unwrap();
        options(&args, &configuration(&args).unwrap()).unwrap()
    }

    #[test]
    fn the_old_ports_still_count() {
        for (arguments, health) in [
            (&[][..], Some("0.0.0.0:10256")),
            (&["--healthz-port=1"], Some("0.0.0.0:1")),
            (&["--healthz-port=0"], None),
            (&["--healthz-bind-address=127.0.0.1"], Some("127.0.0.1:10256")),
            (&["--healthz-bind-address=127.0.0.1:5", "--healthz-port=1"], Some("127.0.0.1:5")),
        ] {
            let found = options_of(arguments).healthz.map(|address| address.to_string());
            assert_eq!(found.as_deref(), health, "{arguments:?}");
        }
    }

    #[test]
    fn names_beside_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                    hostnameOverride: Of-File\nmode: ipvs\n";
        fs::write(file.path(), text).unwrap();
        let config = format!("--config={}", file.path().display());
        assert_eq!(options_of(&[&config]).node_name.as_deref(), Some("of-file"));
        let options = options_of(&[&config, "--hostname-override=Of-Flag", "--proxy-mode=iptables"]);
        assert_eq!((options.node_name.as_deref(), options.mode), (Some("of-flag"), Mode::Ipvs));
        assert_eq!(options_of(&["--hostname-override= "]).node_name, None);
    }
}
