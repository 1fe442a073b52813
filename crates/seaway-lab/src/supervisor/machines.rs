//! Machines that come and go, and packets that the switches lose.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use seaway_net::sandbox::{self, Signal};

use super::fabric::{Attachment, Switch};
use super::unit::{Restart, Unit};
use super::{Lab, host_port};
use crate::addresses::{self, NodePlan};
use crate::cloud::{CloudState, Cut, Instance};
use crate::credentials;

/// How long a machine that is told to shut down may take before its power goes.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(60);

impl Lab {
    /// Starts a node that is stopped.
    pub(super) fn start_node(self: &Arc<Self>, name: &str) -> anyhow::Result<()> {
        let node = self.planned(name)?;
        let runs = self.nodes.lock().get(name).is_some_and(|unit| unit.is_alive());
        anyhow::ensure!(!runs, "node {name} runs already");
        self.set_instance(name, Instance::Running)?;
        self.boot(&node).inspect_err(|_| drop(self.set_instance(name, Instance::Stopped)))
    }

    /// Starts a machine: its disk is as it was, its network new.
    pub(super) fn boot(self: &Arc<Self>, node: &NodePlan) -> anyhow::Result<()> {
        let name = &node.name;
        let plan = &self.task.design.cloud;
        let port = plan.port(node);
        self.fabric.detach(name, &port);
        std::fs::create_dir_all(self.paths.node_disk(name))?;
        let netns = self.fabric.attach(
            name,
            &[Attachment {
                switch: Switch::Cloud,
                port: port.clone(),
                interface: "eth0",
                addresses: plan.on_link(&node.addresses),
            }],
        )?;
        self.fabric.route(&netns, &plan.gateways)?;
        let files = self.node_files.lock().get(name).cloned().unwrap_or_default();
        let made = self.boxes().node(node, &self.fabric.path(name), &files);
        let unit = Unit::start(made.spec, self.log(&made.log)?, Restart::Never)?;
        let (lab, gone) = (Arc::downgrade(self), name.clone());
        unit.when_gone(move || {
            let Some(lab) = lab.upgrade() else { return };
            // Its link goes with the machine: the others see it dead, not deaf.
            lab.fabric.detach(&gone, &port);
            if let Err(error) = lab.set_instance(&gone, Instance::Stopped) {
                tracing::error!(node = gone, error = format!("{error:#}"), "nobody learns that it stopped");
            }
        });
        self.nodes.lock().insert(name.clone(), unit);
        Ok(())
    }

    /// Ends a node: as a power cut would, or after it has shut down in its own time.
    pub(super) fn stop_node(&self, name: &str, graceful: bool) -> anyhow::Result<()> {
        self.planned(name)?;
        let unit = self.nodes.lock().get(name).filter(|unit| unit.is_alive()).cloned();
        let unit = unit.with_context(|| format!("node {name} does not run"))?;
        if graceful {
            shut_down(&unit, name)?;
        }
        self.nodes.lock().remove(name);
        unit.kill()
    }

    /// Adds a machine to the cloud and starts it.
    pub(super) fn add_node(self: &Arc<Self>, name: Option<&str>) -> anyhow::Result<NodePlan> {
        let design = &self.task.design;
        name.map_or(Ok(()), addresses::check_name).map_err(anyhow::Error::msg)?;
        let before = self.cloud.lock().clone();
        let (plan, node) = addresses::with_node(&before.plan, &design.wanted, &design.internet, name)
            .map_err(anyhow::Error::msg)?;
        for pods in &design.pod_cidrs {
            let (room, part) = (addresses::parts(pods), addresses::part(pods));
            anyhow::ensure!(
                u32::try_from(plan.nodes.len()).is_ok_and(|nodes| nodes <= room),
                "the pods' network {pods} has a /{part} for {room} nodes, and all are taken: remove a node, or start the lab with a larger --pod-cidr"
            );
        }
        self.node_files.lock().insert(node.name.clone(), credentials::of_node(design, &self.paths, &node)?);
        // A machine of this name that was here before left nothing that this one would find.
        self.forget_disk(&node.name)?;
        let mut after = CloudState { plan, ..before.clone() };
        after.instances.insert(node.name.clone(), Instance::Running);
        self.publish(after)?;
        for public in node.public.iter().copied() {
            self.fabric.add_address("gateway", "eth1", public)?;
        }
        match self.boot(&node) {
            Ok(()) => Ok(node),
            Err(error) => {
                self.publish(before)?;
                Err(error)
            }
        }
    }

    /// Ends a machine for good: nothing of it is left.
    pub(super) fn remove_node(&self, name: &str) -> anyhow::Result<()> {
        let design = &self.task.design;
        let node = self.planned(name)?;
        if let Some(unit) = self.nodes.lock().remove(name).filter(|unit| unit.is_alive()) {
            unit.kill()?;
        }
        self.node_files.lock().remove(name);
        let mut after = self.cloud.lock().clone();
        after.plan = addresses::without_node(&after.plan, &design.wanted, &design.internet, name)
            .map_err(anyhow::Error::msg)?;
        after.instances.insert(name.to_owned(), Instance::Terminated);
        after.cuts.retain(|cut| cut.a != name && cut.b != name);
        self.publish(after)?;
        for public in node.public.iter().copied() {
            self.fabric.delete_address("gateway", "eth1", public)?;
        }
        self.forget_disk(name)
    }

    /// From now on no packet gets from `a` to `b` or back; the pair, and whether that is news.
    pub(super) fn cut(&self, a: &str, b: &str) -> anyhow::Result<(Cut, bool)> {
        let mut after = self.cloud.lock().clone();
        let cut = after.pair(a, b).map_err(anyhow::Error::msg)?;
        let news = after.cuts.insert(cut.clone());
        self.publish(after)?;
        Ok((cut, news))
    }

    /// Undoes [`Self::cut`].
    pub(super) fn mend(&self, a: &str, b: &str) -> anyhow::Result<(Cut, bool)> {
        let mut after = self.cloud.lock().clone();
        let cut = after.pair(a, b).map_err(anyhow::Error::msg)?;
        let news = after.cuts.remove(&cut);
        self.publish(after)?;
        Ok((cut, news))
    }

    /// The node `name`.
    fn planned(&self, name: &str) -> anyhow::Result<NodePlan> {
        let cloud = self.cloud.lock();
        cloud.must_have(name).map_err(anyhow::Error::msg)?;
        cloud.plan.nodes.iter().find(|node| node.name == name).cloned().context("it has just gone")
    }

    fn set_instance(&self, name: &str, instance: Instance) -> anyhow::Result<()> {
        let mut cloud = self.cloud.lock();
        cloud.instances.insert(name.to_owned(), instance);
        cloud.write(&self.paths.cloud())
    }

    /// Makes the cloud what `after` says, all but the machines themselves.
    fn publish(&self, after: CloudState) -> anyhow::Result<()> {
        let mut cloud = self.cloud.lock();
        if after.cuts != cloud.cuts {
            self.lose(&after)?;
        }
        let plan_changed = after.plan != cloud.plan;
        after.write(&self.paths.cloud())?;
        *cloud = after;
        if plan_changed && let Some(gateway) = &*self.gateway.lock() {
            gateway.signal(Signal::HUP)?;
        }
        Ok(())
    }

    fn lose(&self, cloud: &CloudState) -> anyhow::Result<()> {
        let hosts: Vec<String> = (0..=self.task.design.internet.hosts.len()).map(host_port).collect();
        self.fabric.lose(&cloud.losses(&hosts), cloud.cuts.is_empty())
    }

    /// Loses what the lab is to lose before anything runs.
    pub(super) fn lose_from_the_start(&self) -> anyhow::Result<()> {
        let cloud = self.cloud.lock();
        if cloud.cuts.is_empty() { Ok(()) } else { self.lose(&cloud) }
    }

    fn forget_disk(&self, name: &str) -> anyhow::Result<()> {
        let disk = self.paths.node_disk(name);
        match std::fs::remove_dir_all(&disk) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", disk.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Tells the machine's kubelet to shut it down, and waits until it is off or has had its time.
fn shut_down(unit: &Unit, name: &str) -> anyhow::Result<()> {
    let label = format!("node/{name}/kubelet");
    let found = sandbox::find_sandboxes(unit.pid())?;
    let kubelet = found.iter().find(|sandbox| sandbox.label == label);
    let kubelet = kubelet.with_context(|| format!("node {name} runs no kubelet that could shut it down"))?;
    sandbox::kill(kubelet.pid, Signal::USR1)?;
    let deadline = Instant::now() + SHUTDOWN_PATIENCE;
    while unit.is_alive() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
