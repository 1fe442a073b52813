//! One pod's life: network and volumes, containers, the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::live::{Live, Message};
use super::names::{self, Names};
use super::publish::Publisher;
use super::sandbox::{Note, Sandbox};
use super::slots::{self, Plan, Policy, Slot};
use super::status::{self, View};
use super::{image_events, restore};
use crate::env::Addresses;
use crate::events::Severity;
use crate::kubelet::Kubelet;
use crate::registry::{Known, PodEntry};
use crate::volumes::{About, Volumes};

/// Waits between attempts to set a pod up: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How often a missing network configuration is looked for.
const LOOK_FOR_NETWORK: Duration = Duration::from_millis(50);
/// `spec.terminationGracePeriodSeconds` where neither spec nor deletion says.
const GRACE_SECONDS: i64 = 30;
/// The longest that a pod may keep its node from shutting down.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);

/// What the API says of the pod.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    pub pod: Arc<Pod>,
    /// The API no longer has it.
    pub gone: bool,
    /// The node shuts down.
    pub shutdown: bool,
}

impl Update {
    fn deleted(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Whether the pod has to end.
    fn ends(&self) -> bool {
        self.shutdown || self.deleted()
    }
}

/// What a worker waits for.
enum Happening {
    Updated,
    Said(Message),
    VolumesChanged,
    Time,
}

/// Runs one pod.
pub(crate) struct Worker {
    pub(super) kubelet: Arc<Kubelet>,
    pub(super) pod: Arc<Pod>,
    updates: watch::Receiver<Update>,
    pub(super) slots: Vec<Slot>,
    pub(super) live: Vec<Live>,
    pub(super) policy: Policy,
    initialized: bool,
    finished: Option<bool>,
    /// It ends because the node shuts down.
    shut_down: bool,
    pub(super) addresses: Addresses,
    start_time: Timestamp,
    pub(super) sandbox: Option<Sandbox>,
    pub(super) volumes: Option<Volumes>,
    pub(super) names: Option<Names>,
    pub(super) entry: Arc<PodEntry>,
    publisher: Publisher,
    last_status: Option<PodStatus>,
    pub(super) sender: mpsc::UnboundedSender<Message>,
    messages: mpsc::UnboundedReceiver<Message>,
}

impl Worker {
    pub(crate) fn new(kubelet: Arc<Kubelet>, updates: watch::Receiver<Update>) -> Self {
        let pod = updates.borrow().pod.clone();
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let policy = Policy::of(spec);
        let mut slots = slots::slots_of(&pod);
        let old = pod.status.as_ref();
        let initialized = old.is_some_and(|old| restore::restore(&mut slots, old, policy));
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let (sender, messages) = mpsc::unbounded_channel();
        let entry = PodEntry { dir: kubelet.pod_dir(&uid), uid, containers: Mutex::new(BTreeMap::new()) };
        Self {
            live: slots.iter().map(|_| Live::new(kubelet.backoff_base())).collect(),
            policy,
            initialized,
            finished: None,
            shut_down: false,
            addresses: Addresses { pod_ips: Vec::new(), host_ips: kubelet.node_ips() },
            start_time: old
                .and_then(|old| old.start_time.as_ref())
                .map_or_else(Timestamp::now, |time| time.0),
            sandbox: None,
            volumes: None,
            names: None,
            entry: Arc::new(entry),
            publisher: Publisher::start(kubelet.client.clone(), &pod),
            last_status: None,
            sender,
            messages,
            slots,
            updates,
            pod,
            kubelet,
        }
    }

    /// Runs the pod until it is deleted and everything of it is gone.
    pub(crate) async fn run(mut self) {
        let meta = &self.pod.metadata;
        let (namespace, name) =
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        self.kubelet.registry.insert(&namespace, &name, self.entry.clone());
        let over = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(over, Some("Succeeded" | "Failed")) {
            self.until_deleted().await;
        } else {
            self.live_on().await;
            self.shut_down = self.finished.is_none() && !self.deleted();
            if self.shut_down {
                self.publish();
            }
            self.stop_all().await;
            self.tear_down().await;
            if self.shut_down {
                self.finished = Some(false);
            }
            if self.finished.is_some() && !self.deleted() {
                self.publish();
                self.until_deleted().await;
            }
        }
        if !self.deleted() {
            // The node shuts down; the pod's end, when it is deleted, is its next kubelet's affair.
            return self.publisher.flushed().await;
        }
        self.kubelet.registry.remove(&namespace, &name, &self.entry.uid);
        super::remove_dir(self.entry.dir.clone()).await;
        self.delete(&namespace, &name).await;
    }

    /// Sets the pod up and runs its containers, until they are finished or the pod is to go.
    async fn live_on(&mut self) {
        self.publish();
        if !self.set_up().await {
            return;
        }
        while !self.ends() {
            let plan = slots::plan(&self.slots, self.policy, self.initialized, std::time::Instant::now());
            self.initialized = plan.initialized;
            let Plan { start, wake, finished, .. } = plan;
            if finished.is_some() {
                self.finished = finished;
                return;
            }
            for index in start {
                self.start(index).await;
                self.publish();
            }
            self.publish();
            // A start that failed has a time of its own to be tried again.
            let plan = slots::plan(&self.slots, self.policy, self.initialized, std::time::Instant::now());
            if plan.start.is_empty() && plan.finished.is_none() {
                let happening =
                    self.next(wake.into_iter().chain(plan.wake).min().map(Instant::from_std)).await;
                self.take(happening).await;
            }
        }
    }

    fn deleted(&self) -> bool {
        self.updates.borrow().deleted()
    }

    /// Whether the pod has to end.
    pub(super) fn ends(&self) -> bool {
        self.updates.borrow().ends()
    }

    fn gone(&self) -> bool {
        self.updates.borrow().gone
    }

    /// Waits for what comes next.
    async fn next(&mut self, wake: Option<Instant>) -> Happening {
        let Self { updates, messages, volumes, .. } = self;
        let contents = async {
            match volumes {
                Some(volumes) => volumes.changed().await,
                None => std::future::pending().await,
            }
        };
        let time = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(message) = messages.recv() => Happening::Said(message),
            changed = updates.changed() => match changed {
                Ok(()) => Happening::Updated,
                Err(_) => std::future::pending().await,
            },
            () = contents => Happening::VolumesChanged,
            () = time => Happening::Time,
        }
    }

    async fn take(&mut self, happening: Happening) {
        match happening {
            Happening::Updated => self.pod = self.updates.borrow_and_update().pod.clone(),
            Happening::Said(message) => self.hear(message),
            Happening::VolumesChanged => {
                if let Err(problem) = self.write_volumes().await {
                    self.event(None, Severity::Warning, "FailedMount", problem);
                }
            }
            Happening::Time => {}
        }
        self.publish();
    }

    /// Makes the pod's network and volumes, as often as it takes; false if the pod is to go before.
    async fn set_up(&mut self) -> bool {
        let mut wait = RETRY.0;
        while !self.ends() {
            match self.try_set_up().await {
                Ok(()) => return true,
                Err(Some((reason, message))) => self.event(None, Severity::Warning, reason, message),
                Err(None) => wait = LOOK_FOR_NETWORK,
            }
            self.publish();
            let happening = self.next(Some(Instant::now() + wait)).await;
            self.take(happening).await;
            wait = (wait * 2).min(RETRY.1);
        }
        false
    }

    /// The error has an event's reason and message; none for a network that is not configured yet.
    async fn try_set_up(&mut self) -> Result<(), Option<(&'static str, String)>> {
        let dir = self.entry.dir.clone();
        let made =
            std::fs::create_dir_all(&dir).and_then(|()| std::fs::create_dir_all(self.kubelet.root_mount()));
        made.map_err(|error| Some(("Failed", format!("{}: {error}", dir.display()))))?;
        if self.names.is_none() {
            let names = names::names(&self.pod, &self.kubelet.args.cluster_domain, &self.kubelet.hostname);
            self.names = Some(names.map_err(|error| Some(("FailedCreatePodSandBox", error)))?);
            image_events::unsupported(&self.kubelet.events, &self.pod);
        }
        if self.volumes.is_none() {
            let volumes = Volumes::new(&self.pod, dir.join("volumes"), &self.kubelet.objects);
            self.volumes = Some(volumes.map_err(|error| Some(("FailedMount", error)))?);
        }
        let kubelet = self.kubelet.clone();
        let (pod, have) = (self.pod.clone(), self.sandbox.take());
        let network = async {
            match have {
                Some(sandbox) => Ok(sandbox),
                None => make_sandbox(&kubelet, &pod, &dir).await,
            }
        };
        let mut updates = self.updates.clone();
        let volumes = async {
            tokio::select! {
                () = deletion(&mut updates) => Ok(()),
                result = self.write_volumes() => result,
            }
        };
        let (network, volumes) = tokio::join!(network, volumes);
        let sandbox = network?;
        self.addresses.pod_ips = status::primary_first(&sandbox.ips, &self.addresses.host_ips);
        self.sandbox = Some(sandbox);
        volumes.map_err(|error| Some(("FailedMount", error)))
    }

    async fn write_volumes(&mut self) -> Result<(), String> {
        let Some(volumes) = &mut self.volumes else { return Ok(()) };
        let about = About {
            client: &self.kubelet.client,
            pod: &self.pod,
            addresses: &self.addresses,
            machine: self.kubelet.machine,
        };
        volumes.prepare(&about).await
    }

    /// Ends all containers within the grace period; sidecars after the others.
    async fn stop_all(&mut self) {
        let began = Instant::now();
        loop {
            let deadline = began + self.grace();
            let mains_run = self.slots.iter().any(|slot| slot.running() && slot.role != slots::Role::Sidecar);
            for index in 0..self.slots.len() {
                let waits =
                    mains_run && self.slots[index].role == slots::Role::Sidecar && Instant::now() < deadline;
                if self.slots[index].running() && !waits {
                    self.stop(index, deadline, None);
                }
            }
            if !self.slots.iter().any(Slot::running) {
                return;
            }
            let happening = self.next(Some(deadline).filter(|at| *at > Instant::now())).await;
            self.take(happening).await;
        }
    }

    /// The grace period that holds now: the deletion's, or for a pod that finished, its own.
    fn grace(&self) -> Duration {
        if self.gone() {
            return Duration::ZERO;
        }
        let spec = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let own =
            grace_period(self.pod.metadata.deletion_grace_period_seconds.or(spec).unwrap_or(GRACE_SECONDS));
        if self.shut_down { own.min(SHUTDOWN_GRACE) } else { own }
    }

    /// Gives the pod's network back, as often as it takes.
    async fn tear_down(&mut self) {
        let Some(sandbox) = self.sandbox.take() else { return };
        let mut wait = RETRY.0;
        while let Err(error) = sandbox.note.undo(&self.kubelet.plugins).await {
            self.event(None, Severity::Warning, "FailedKillPod", format!("error killing pod: {error}"));
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY.1);
        }
        Note::forget(&self.entry.dir);
    }

    /// Waits until the pod is deleted, or nobody is here any more to see that.
    async fn until_deleted(&mut self) {
        while !self.ends() {
            if self.updates.changed().await.is_err() {
                return std::future::pending().await;
            }
            self.pod = self.updates.borrow().pod.clone();
        }
    }

    /// Tells the API that nothing is left of the pod: its last status, then its deletion.
    async fn delete(&mut self, namespace: &str, name: &str) {
        if self.gone() {
            return;
        }
        if self.finished.is_none() {
            let codes = self.slots.iter().filter(|slot| slot.role == slots::Role::App);
            let succeeded = codes.clone().all(|slot| slot.last_end().is_some_and(|end| end.code == 0));
            self.finished = Some(succeeded);
        }
        if self.last_status.is_some() {
            self.publish();
            self.publisher.flushed().await;
        }
        let api: Api<Pod> = Api::namespaced(self.kubelet.client.clone(), namespace);
        let preconditions = Preconditions { uid: Some(self.entry.uid.clone()), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        let mut wait = RETRY.0;
        while !self.gone() {
            match api.delete(name, &params).await {
                Ok(_) => return,
                Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => return,
                Err(error) => tracing::warn!(%error, name, "deleting a pod that has ended"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY.1);
        }
    }

    /// Writes the status to the API if it is another than before.
    pub(super) fn publish(&mut self) {
        let view = View {
            slots: &self.slots,
            initialized: self.initialized,
            sandbox_ready: self.sandbox.is_some(),
            addresses: &self.addresses,
            start_time: self.start_time,
            finished: self.finished,
            shutdown: self.shut_down,
        };
        let previous = status::with_conditions_of_others(self.last_status.as_ref(), self.pod.status.as_ref());
        let status = status::status(&self.pod, &view, previous.as_ref(), Timestamp::now());
        let mut containers = self.entry.containers.lock();
        for (slot, live) in self.slots.iter().zip(&self.live) {
            let waiting = match &slot.state {
                slots::State::Waiting { reason, .. } => Some(reason.clone()),
                _ => None,
            };
            containers.insert(slot.name.clone(), Known { container: live.container.clone(), waiting });
        }
        drop(containers);
        if self.last_status.as_ref() != Some(&status) {
            self.publisher.publish(status.clone());
            self.last_status = Some(status);
        }
    }

    /// Says something about the pod or one of its containers.
    pub(super) fn event(
        &self,
        container: Option<usize>,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let name = container.map(|index| self.slots[index].name.as_str());
        self.kubelet.events.pod(&self.pod, name, severity, reason, message);
    }

    /// A receiver of its own of what the API says.
    pub(super) fn deletion_watch(&self) -> watch::Receiver<Update> {
        self.updates.clone()
    }
}

/// The API takes any number of seconds; one that no clock can count to is as good as a century.
pub(super) fn grace_period(seconds: i64) -> Duration {
    const CENTURY: u64 = 100 * 365 * 86_400;
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(CENTURY))
}

/// Waits until the pod is to go.
pub(super) async fn deletion(updates: &mut watch::Receiver<Update>) {
    if updates.wait_for(Update::ends).await.is_err() {
        std::future::pending().await
    }
}

async fn make_sandbox(
    kubelet: &Kubelet,
    pod: &Pod,
    dir: &std::path::Path,
) -> Result<Sandbox, Option<(&'static str, String)>> {
    if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
        return Ok(Sandbox::of_node(pod, kubelet.node_ips()));
    }
    let args = &kubelet.args;
    let made = Sandbox::create(pod, dir, &args.netns_dir, &args.cni_conf_dir, &kubelet.plugins).await;
    made.map_err(|error| match error {
        super::sandbox::SandboxFailure::Cni(crate::cni::CniError::NotInitialized { .. }) => None,
        error => Some(("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"))),
    })
}
