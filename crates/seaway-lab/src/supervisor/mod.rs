//! The lab's supervisor: the first process of the lab's PID namespace.
//!
//! It lives in the network namespace with the two switches, builds what hangs on them, starts every box and starts again those
//! that end, except nodes: a node that died stays dead until `seaway lab node start`, as a machine would.

mod control;
mod fabric;
mod machines;
mod unit;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use ipnet::IpNet;
use parking_lot::Mutex;
use seaway_net::netns::NetNs;
use serde::{Deserialize, Serialize};

use crate::boxes::{Boxes, NodeFiles, RESOLVER};
use crate::cloud::{CloudState, Instance};
use crate::family::Family;
use crate::file::Host;
use crate::paths::Paths;
use crate::state::Design;
use fabric::{Attachment, Fabric, Switch};
use unit::{Restart, Unit};

pub(crate) use control::{Answer, Request, ask};

/// What the supervisor is told on its standard input, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) design: Design,
    /// Which machines run, and what is cut, from the start.
    pub(crate) cloud: CloudState,
    /// The socket that listens on the host's loopback.
    pub(crate) listener: i32,
    pub(crate) controllers_kubeconfig: String,
    /// By node.
    pub(crate) node_files: BTreeMap<String, NodeFiles>,
}

/// What the supervisor says while it starts, a line of JSON each.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Progress {
    /// A part is there.
    Done(String),
    /// All processes are started.
    Started,
    /// The lab cannot be built.
    Failed(String),
}

/// Runs the lab until it is killed.
pub(crate) fn run() -> anyhow::Result<()> {
    let task: Task = serde_json::from_reader(std::io::stdin()).context("the supervisor's task")?;
    let paths = Paths::new(&task.design.name)?;
    let listening = control::listen(&paths.control_socket());
    let (socket, lab) = match listening.and_then(|socket| Ok((socket, Lab::start(task, paths)?))) {
        Ok(started) => started,
        Err(error) => {
            say(&Progress::Failed(format!("{error:#}")));
            return Err(error);
        }
    };
    say(&Progress::Started);
    control::serve(&socket, &lab);
    Ok(())
}

/// Tells `lab up`, which may have gone away by now.
fn say(progress: &Progress) {
    if let Ok(line) = serde_json::to_string(progress) {
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

/// Where the namespace of an internet's host is bound: nodes and the gateway may have the same name.
fn of_internet(host: &str) -> String {
    format!("internet-{host}")
}

/// The switch's end of the cable of the internet's n-th host; the resolver is the first.
fn host_port(n: usize) -> String {
    format!("host-{n}")
}

/// A lab that runs.
struct Lab {
    task: Task,
    paths: Paths,
    root_dir: PathBuf,
    fabric: Fabric,
    /// What the cloud has and loses, as its files say.
    cloud: Mutex<CloudState>,
    /// The files of each node.
    node_files: Mutex<BTreeMap<String, NodeFiles>>,
    /// By node; a node that is not here is stopped.
    nodes: Mutex<BTreeMap<String, Arc<Unit>>>,
    gateway: Mutex<Option<Arc<Unit>>>,
    /// Held while the lab is changed by request: what one undoes another may just have made.
    changing: Mutex<()>,
}

impl Lab {
    fn start(mut task: Task, paths: Paths) -> anyhow::Result<Arc<Self>> {
        let root_dir = paths.run.join("root");
        std::fs::create_dir_all(&root_dir)?;
        std::fs::create_dir_all(paths.run.join("logs"))?;
        let fabric = Fabric::build(&paths.run.join("netns"), task.design.cloud.mtu)?;
        let cloud = task.cloud.clone();
        cloud.write(&paths.cloud())?;
        say(&Progress::Done("network".into()));
        let lab = Arc::new(Self {
            node_files: Mutex::new(std::mem::take(&mut task.node_files)),
            task,
            paths,
            root_dir,
            fabric,
            cloud: Mutex::new(cloud),
            nodes: Mutex::default(),
            gateway: Mutex::default(),
            changing: Mutex::default(),
        });
        lab.start_control_plane()?;
        say(&Progress::Done("control plane".into()));
        lab.lose_from_the_start()?;
        std::thread::scope(|scope| {
            let nodes = lab.task.design.cloud.nodes.iter();
            let running = nodes.filter(|node| lab.task.cloud.instance(&node.name) == Instance::Running);
            let nodes: Vec<_> = running.map(|node| scope.spawn(|| lab.boot(node))).collect();
            let outside = scope.spawn(|| lab.start_gateway().and_then(|()| lab.start_internet()));
            nodes.into_iter().chain([outside]).try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of the supervisor panicked")))
            })
        })?;
        say(&Progress::Done("nodes".into()));
        Ok(lab)
    }

    fn boxes(&self) -> Boxes<'_> {
        Boxes { design: &self.task.design, paths: &self.paths, root_dir: self.root_dir.clone() }
    }

    fn log(&self, name: &str) -> anyhow::Result<File> {
        let path = self.paths.run.join("logs").join(format!("{name}.log"));
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))
    }

    fn start_control_plane(&self) -> anyhow::Result<()> {
        let cloud = &self.task.design.cloud;
        let netns = self.fabric.attach(
            "control-plane",
            &[Attachment {
                switch: Switch::Cloud,
                port: "control-plane".into(),
                interface: "eth0",
                addresses: cloud.on_link(&cloud.control_plane),
            }],
        )?;
        self.fabric.route(&netns, &cloud.gateways)?;
        let path = self.fabric.path("control-plane");
        let apiserver = self.boxes().apiserver(&path, self.task.listener);
        Unit::start(apiserver.spec, self.log(&apiserver.log)?, Restart::Always)?;
        let controllers = self.boxes().controllers(&path, self.task.controllers_kubeconfig.clone());
        Unit::start(controllers.spec, self.log(&controllers.log)?, Restart::Always)?;
        Ok(())
    }

    fn start_gateway(&self) -> anyhow::Result<()> {
        let cloud = &self.task.design.cloud;
        let own = cloud.gateways_public.iter();
        let public = own.chain(cloud.source_nat.iter().flat_map(|nat| &nat.addresses));
        let public: std::collections::BTreeSet<IpNet> = public.map(|address| IpNet::from(*address)).collect();
        self.fabric.attach(
            "gateway",
            &[
                Attachment {
                    switch: Switch::Cloud,
                    port: "gateway".into(),
                    interface: "eth0",
                    addresses: cloud.on_link(&cloud.gateways),
                },
                Attachment {
                    switch: Switch::Internet,
                    port: "gateway-inet".into(),
                    interface: "eth1",
                    addresses: public.into_iter().collect(),
                },
            ],
        )?;
        self.reach_the_internet("gateway", "eth1")?;
        let gateway = self.boxes().gateway(&self.fabric.path("gateway"));
        let unit = Unit::start(gateway.spec, self.log(&gateway.log)?, Restart::Always)?;
        *self.gateway.lock() = Some(unit);
        Ok(())
    }

    fn start_internet(&self) -> anyhow::Result<()> {
        let internet = &self.task.design.internet;
        let resolver =
            Host { name: RESOLVER.into(), addresses: internet.resolver.to_vec(), ..Host::default() };
        for (n, host) in std::iter::once(&resolver).chain(&internet.hosts).enumerate() {
            self.attach_host(n, host)?;
            let path = self.fabric.path(&of_internet(&host.name));
            let started = if n == 0 {
                self.boxes().resolver(&path)?
            } else {
                self.boxes().internet_host(host, &path)?
            };
            Unit::start(started.spec, self.log(&started.log)?, Restart::Always)?;
        }
        say(&Progress::Done("internet".into()));
        Ok(())
    }

    fn attach_host(&self, n: usize, host: &Host) -> anyhow::Result<()> {
        let port = host_port(n);
        let addresses = host.addresses.iter().map(|address| IpNet::from(*address)).collect();
        let name = of_internet(&host.name);
        self.fabric
            .attach(&name, &[Attachment { switch: Switch::Internet, port, interface: "eth0", addresses }])?;
        self.reach_the_internet(&name, "eth0")
    }

    /// All of the internet is on one switch.
    fn reach_the_internet(&self, name: &str, interface: &str) -> anyhow::Result<()> {
        let netns = NetNs::open(self.fabric.path(name))?;
        let families = self.task.design.ip_family().all();
        let used = |network: &IpNet| families.contains(&Family::of_net(network));
        for network in crate::file::documentation_networks().into_iter().filter(used) {
            self.fabric.route_on_link(&netns, network, interface)?;
        }
        Ok(())
    }
}
