//! The command `seaway dns`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use sha2::{Digest, Sha512};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::{self, BlockConfig, Outside};
use crate::corefile::{self, CorefileError, Disk, Files};
use crate::explain;
use crate::instance::{Instance, Shared};
use crate::kubernetes::Clusters;
use crate::metrics::Metrics;
use crate::plugins::reload::Reload;
use crate::server::{Endpoint, Endpoints, Listeners};

/// `seaway dns`: a DNS server for the cluster, with CoreDNS's Corefile.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  seaway dns --conf /etc/coredns/Corefile
  seaway dns -conf Corefile -dns.port 1053    # CoreDNS's flags
  seaway dns --conf Corefile --check          # say what is wrong with it, and end

Exit codes: 0 ended as told, or nothing is wrong with the Corefile; 1 the Corefile, an address or an API server can't be used, or
queries come back by `forward`; 2 wrong usage.
SIGTERM ends it after lameduck's time, SIGINT at once, SIGUSR1 has it look at the Corefile.")]
pub struct DnsArgs {
    /// The Corefile; without a file of this name, one that answers with the client's address (CoreDNS's `-conf`)
    #[arg(long, value_name = "FILE", default_value = "Corefile")]
    pub conf: PathBuf,
    /// The port of server blocks that do not say one (CoreDNS's `-dns.port` and `-p`)
    #[arg(long, short, visible_alias = "dns.port", value_name = "PORT", default_value_t = 53)]
    pub port: u16,
    /// Read the Corefile, say what is wrong with it, and end
    #[arg(long)]
    pub check: bool,
    /// The kubeconfig of `kubernetes` where the Corefile does not say one; without, the pod's service account
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Tell on this unix socket what would be answered and why, to the own user alone (for `seaway trace`)
    #[arg(long, value_name = "SOCKET")]
    pub explain_socket: Option<PathBuf>,
    /// Write nothing at the start (CoreDNS's `-quiet`)
    #[arg(long)]
    pub quiet: bool,
}

/// CoreDNS's flags, which have one dash, with the two dashes that ours have. To be used on the arguments of
/// `seaway dns` before they are parsed.
pub fn coredns_flags(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    const FLAGS: [&str; 4] = ["conf", "dns.port", "quiet", "kubeconfig"];
    args.into_iter()
        .map(|arg| {
            let text = arg.to_str().and_then(|text| text.strip_prefix('-')).unwrap_or_default();
            let name = text.split('=').next().unwrap_or_default();
            if FLAGS.contains(&name) { format!("--{text}").into() } else { arg }
        })
        .collect()
}

/// The Corefile that CoreDNS has where there is none.
const DEFAULT: &str = ". {\n    whoami\n    log\n}\n";

/// A Corefile that was read with all that it imports.
struct Loaded {
    /// SHA-512 of all the texts.
    hash: String,
    configs: Result<Vec<BlockConfig>, CorefileError>,
}

/// The file system, and what was read from it.
#[derive(Default)]
struct Recorder(RefCell<Vec<corefile::Loaded>>);

impl Files for Recorder {
    fn import(&self, from: &Path, pattern: &str) -> std::io::Result<Vec<corefile::Loaded>> {
        let loaded = Disk.import(from, pattern)?;
        self.0.borrow_mut().extend_from_slice(&loaded);
        Ok(loaded)
    }
}

impl Loaded {
    fn read(args: &DnsArgs) -> anyhow::Result<Self> {
        let path = &args.conf;
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && path == Path::new("Corefile") => {
                DEFAULT.to_owned()
            }
            other => other.with_context(|| format!("reading the Corefile {}", path.display()))?,
        };
        let recorder = Recorder::default();
        let configs = parse(args, &text, &recorder);
        let mut hash = Sha512::new_with_prefix(&text);
        for (path, text) in recorder.0.into_inner() {
            hash.update(path.as_os_str().as_encoded_bytes());
            hash.update(text);
        }
        let hash = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { hash, configs })
    }
}

fn parse(args: &DnsArgs, text: &str, files: &dyn Files) -> Result<Vec<BlockConfig>, CorefileError> {
    let env = |name: &str| std::env::var(name).ok();
    let blocks = corefile::parse(&args.conf.display().to_string(), text, &env, files)?;
    let read_file = |path: &str| std::fs::read_to_string(path);
    config::read(&blocks, &Outside { port: args.port, read_file: &read_file })
}

/// Runs the server until SIGTERM or SIGINT.
///
/// # Errors
/// A Corefile that cannot be used, an address that cannot be had, an API server that cannot be asked, or a loop.
pub async fn run(args: DnsArgs) -> anyhow::Result<ExitCode> {
    let loaded = Loaded::read(&args)?;
    let configs = match loaded.configs {
        Ok(configs) => configs,
        Err(error) => {
            eprintln!("{}", error.render());
            return Ok(ExitCode::FAILURE);
        }
    };
    if args.check {
        println!("{}: {} server blocks, no errors", args.conf.display(), configs.len());
        return Ok(ExitCode::SUCCESS);
    }
    // Before the start, which may wait for an API server: process 1 of a container is deaf to signals it does not handle.
    let mut signals = Signals::listen()?;
    let server = tokio::select! {
        started = Server::start(args, loaded.hash, configs) => started?,
        _ = signals.terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = signals.interrupt.recv() => return Ok(ExitCode::SUCCESS),
    };
    server.run(signals).await
}

/// What the server is told from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Look at the Corefile.
    user: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }
}

struct Server {
    args: DnsArgs,
    hash: String,
    reload: Option<Reload>,
    shared: Shared,
    fatal: mpsc::Receiver<String>,
    instance: Instance,
    listeners: Listeners,
    endpoints: Endpoints,
    explained: explain::Routes,
}

impl Server {
    async fn start(args: DnsArgs, hash: String, configs: Vec<BlockConfig>) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::new());
        let (tell, fatal) = mpsc::channel(1);
        let clusters = Clusters::new(args.kubeconfig.clone(), metrics.clone());
        let shared = Shared { metrics: metrics.clone(), clusters, fatal: tell };
        let reload = reload_of(&configs);
        let instance = Instance::new(configs, &shared).await?;
        let (listeners, endpoints) = (Listeners::default(), Endpoints::new(metrics));
        let explained = explain::Routes::default();
        let mut server =
            Self { args, hash, reload, shared, fatal, instance, listeners, endpoints, explained };
        // Health first, so that a liveness probe does not end a server that waits for the API server.
        let http = http_endpoints(&server.instance);
        let added = server.endpoints.open(&http).await?;
        server.endpoints.switch(&http, added, server.instance.readiness.clone());
        server.instance.wait_for_clusters().await;
        let opened = server.listeners.open(&server.instance.routes).await?;
        server.listeners.switch(&server.instance.routes, opened);
        server.instance.listening();
        server.explains();
        server.shared.metrics.loaded(&server.hash);
        if !server.args.quiet {
            let addresses = server.listeners.addresses();
            tracing::info!(?addresses, version = env!("CARGO_PKG_VERSION"), "serving DNS");
        }
        Ok(server)
    }

    async fn run(mut self, signals: Signals) -> anyhow::Result<ExitCode> {
        let Signals { mut terminate, mut interrupt, mut user } = signals;
        loop {
            let pause = self.reload.map_or(Duration::MAX, |reload| reload.pause(rand::random()));
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => {
                    self.instance.lameduck = Duration::ZERO;
                    break;
                }
                Some(reason) = self.fatal.recv() => anyhow::bail!(reason),
                _ = user.recv() => self.look(true).await,
                () = tokio::time::sleep(pause) => self.look(false).await,
            }
        }
        self.endpoints.stopping();
        let lameduck = self.instance.lameduck;
        tracing::info!(?lameduck, "stopping; queries are answered until then");
        tokio::select! {
            () = tokio::time::sleep(lameduck) => {}
            _ = interrupt.recv() => {}
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Tells what would be answered, where that is wanted; answering goes before, and does not wait for it.
    fn explains(&self) {
        self.explained.store(Arc::new(self.instance.routes.clone()));
        let Some(path) = &self.args.explain_socket else { return };
        match seaway_http::unix::bind(path) {
            Ok(listener) => {
                let router = explain::router(self.explained.clone());
                tokio::spawn(async move { axum::serve(listener, router).await });
            }
            Err(error) => tracing::error!(path = %path.display(), %error, "listening on the explain socket"),
        }
    }

    /// Looks whether the Corefile has changed; one that cannot be used is told of, and the last good one stays.
    async fn look(&mut self, asked: bool) {
        let loaded = match Loaded::read(&self.args) {
            Ok(loaded) => loaded,
            Err(error) => return self.keep(&format!("{error:#}")),
        };
        if loaded.hash == self.hash && !asked {
            return;
        }
        // Told of once: not again before the file changes.
        self.hash.clone_from(&loaded.hash);
        match loaded.configs {
            Err(error) => self.keep(&error.to_string()),
            Ok(configs) => match self.change_to(configs).await {
                Ok(()) => {
                    self.shared.metrics.loaded(&self.hash);
                    tracing::info!(target: "plugin/reload", sha512 = %self.hash, "the Corefile has changed: the new one is in force");
                }
                Err(error) => self.keep(&format!("{error:#}")),
            },
        }
    }

    fn keep(&self, reason: &str) {
        self.shared.metrics.reload_failed.inc();
        tracing::error!(target: "plugin/reload", "the Corefile has changed and cannot be used, the last good one stays in force: {reason}");
    }

    async fn change_to(&mut self, configs: Vec<BlockConfig>) -> anyhow::Result<()> {
        let reload = reload_of(&configs);
        let mut instance = Instance::new(configs, &self.shared).await?;
        instance.wait_for_clusters().await;
        let http = http_endpoints(&instance);
        // All that may fail comes first: the last good Corefile stays in force as a whole, or goes as a whole.
        let (opened, added) =
            (self.listeners.open(&instance.routes).await?, self.endpoints.open(&http).await?);
        self.listeners.switch(&instance.routes, opened);
        self.endpoints.switch(&http, added, instance.readiness.clone());
        instance.listening();
        self.explained.store(Arc::new(instance.routes.clone()));
        self.instance = instance;
        self.reload = reload;
        Ok(())
    }
}

fn reload_of(configs: &[BlockConfig]) -> Option<Reload> {
    configs.iter().find_map(|config| config.reload)
}

fn http_endpoints(instance: &Instance) -> BTreeSet<(Endpoint, SocketAddr)> {
    let of = |endpoint: Endpoint, addresses: &BTreeSet<SocketAddr>| {
        addresses.iter().map(|address| (endpoint, *address)).collect::<Vec<_>>()
    };
    [
        of(Endpoint::Health, &instance.health),
        of(Endpoint::Ready, &instance.ready),
        of(Endpoint::Metrics, &instance.prometheus),
    ]
    .concat()
    .into_iter()
    .collect()
}
