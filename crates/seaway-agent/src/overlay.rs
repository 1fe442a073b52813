//! The network between nodes: the plan, its driver, and the files and annotations that tell others of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use seaway_cni::files;
use seaway_cni::overlay::{self, Change};
use seaway_kube::Update;
use seaway_model::{Difference, NetConf, OverlayPlan, Snapshot, Underlay};
use seaway_net::rtnl::Rtnl;

use crate::announce::Announcement;
use crate::part::{Outcome, Part};
use crate::status::Shared;

/// How often the kernel is compared with the plan where no Node has changed.
const RESYNC: Duration = Duration::from_secs(30);

/// What is given and does not change while the agent runs.
#[derive(Clone, Debug)]
pub(crate) struct OverlaySettings {
    pub(crate) conf: NetConf,
    /// The interface towards the other nodes; `None`: the one with the node's InternalIP.
    pub(crate) interface: Option<String>,
    pub(crate) conflist: PathBuf,
    pub(crate) subnet_file: PathBuf,
    pub(crate) plugin_root: PathBuf,
}

/// The part called `overlay`.
pub(crate) struct Overlay {
    settings: OverlaySettings,
    snapshot: Arc<Snapshot>,
    announcement: Announcement,
    shared: Arc<Shared>,
}

impl Overlay {
    pub(crate) fn new(settings: OverlaySettings, announcement: Announcement, shared: Arc<Shared>) -> Self {
        Self { settings, snapshot: Arc::default(), announcement, shared }
    }

    fn write_files(&self, plan: &OverlayPlan) -> Result<usize, files::FileError> {
        let Some(conflist) = files::conflist(plan) else { return Ok(0) };
        let subnet_env = files::subnet_env(&self.settings.conf, plan);
        let mut written = usize::from(files::install_plugin(&self.settings.plugin_root)?);
        written += usize::from(files::write_if_different(&self.settings.subnet_file, subnet_env.as_bytes())?);
        // Last: a runtime that finds it may call the plugin at once.
        written += usize::from(files::write_if_different(&self.settings.conflist, conflist.as_bytes())?);
        Ok(written)
    }
}

/// The plan for `node`, and the facts that it rests on; `None` as long as the Node object has no InternalIP.
pub(crate) fn plan(
    settings: &OverlaySettings,
    node: &str,
    snapshot: &Snapshot,
) -> Result<Option<(OverlayPlan, Underlay)>, String> {
    let addresses = match &settings.interface {
        Some(name) => addresses_of(name)?,
        None => snapshot.nodes.get(node).map(|node| node.internal_ips.clone()).unwrap_or_default(),
    };
    if addresses.is_empty() || !snapshot.nodes.contains_key(node) {
        return Ok(None);
    }
    let underlay = overlay::underlay(&addresses).map_err(|error| error.to_string())?;
    Ok(Some((OverlayPlan::new(&snapshot.nodes, node, &settings.conf, &underlay), underlay)))
}

/// The addresses of the interface called `name`.
fn addresses_of(name: &str) -> Result<Vec<std::net::IpAddr>, String> {
    let mut rtnl = Rtnl::open().map_err(|error| error.to_string())?;
    let link = rtnl.link_by_name(name).map_err(|error| error.to_string())?;
    let link = link.ok_or_else(|| format!("--iface {name}: there is no such interface"))?;
    let addresses = rtnl.addresses(Some(link.index)).map_err(|error| error.to_string())?;
    Ok(addresses.iter().map(|address| address.net.addr()).collect())
}

impl Part for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn follow(&mut self, update: &Update) -> bool {
        self.snapshot = update.snapshot.clone();
        update.changes.all || !update.changes.nodes.is_empty()
    }

    fn reconcile(&mut self) -> Result<Outcome, String> {
        let node = self.shared.node.as_str();
        let Some((plan, underlay)) = plan(&self.settings, node, &self.snapshot)? else {
            tracing::debug!(node, "the Node object has no InternalIP yet");
            return Ok(Outcome { full: true, operations: 0 });
        };
        let applied = overlay::apply(&plan).map_err(|error| error.to_string())?;
        for change in &applied.changes {
            tracing::info!(%change, "overlay");
        }
        let files = self.write_files(&plan).map_err(|error| error.to_string())?;
        for problem in &plan.unreachable {
            tracing::debug!(%problem, "node cannot be reached yet");
        }
        self.announcement.set(plan.annotations.clone());
        self.shared.publish_overlay(plan, underlay);
        match applied.refused.as_slice() {
            [] => Ok(Outcome { full: true, operations: applied.changes.len() + files }),
            [error] => Err(error.to_string()),
            [first, others @ ..] => Err(format!("{first} (and {} more)", others.len())),
        }
    }

    fn mark_dirty(&mut self) {}

    fn differences(&mut self) -> Vec<Difference> {
        let Some((plan, underlay)) = self.shared.overlay() else { return Vec::new() };
        match overlay::differences(&plan, &underlay) {
            Ok((differences, _)) => differences,
            Err(error) => {
                tracing::debug!(%error, "cannot tell what someone else changed");
                Vec::new()
            }
        }
    }

    /// A route or a neighbour that someone deleted comes back by this.
    fn resync(&self) -> Option<Duration> {
        Some(RESYNC)
    }
}

/// What [`Overlay::reconcile`] would change in the kernel, for people to read.
pub(crate) fn dry_run(settings: &OverlaySettings, node: &str, snapshot: &Snapshot) -> anyhow::Result<String> {
    let Some((plan, _)) = plan(settings, node, snapshot).map_err(anyhow::Error::msg)? else {
        return Ok(String::new());
    };
    let changes: Vec<Change> = overlay::dry_run(&plan)?;
    Ok(changes.iter().map(|change| format!("{change}\n")).collect())
}
