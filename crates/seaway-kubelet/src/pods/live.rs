//! A pod's containers at work: starting them, probing them, ending them, hearing of their end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Container as ContainerSpec, Secret};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::assemble::{World, sandbox_spec};
use super::backoff::Backoff;
use super::files::{NodeFiles, pod_files};
use super::slots::{Ended, Role, State};
use super::worker::{Worker, deletion, grace_period};
use super::{image_events, stop};
use crate::container::{Container, Exit, Launch};
use crate::env::{Inputs, Sources, environment, references};
use crate::events::Severity;
use crate::logs::{LogWriter, last_words};
use crate::objects::Interest;
use crate::probes::{self, Kind, Place, Report};

/// How soon a container whose configuration is incomplete is tried again.
const CONFIG_RETRY: Duration = Duration::from_secs(1);
/// What is read of a termination message, from its end (kubelet's limit).
const MAX_MESSAGE: u64 = 4096;
/// What is read of a log for the last words in it.
const LOG_TAIL: u64 = 64 * 1024;

/// What the tasks of a container tell the pod's worker.
pub(crate) enum Message {
    Exited { index: usize, run: u32, exit: Exit },
    Probed { index: usize, run: u32, kind: Kind, report: Report },
    PostStart { index: usize, run: u32, result: Result<(), String> },
    HookFailed { index: usize, problem: String },
    StillNoImage { index: usize },
}

/// What one container has at work.
pub(crate) struct Live {
    pub container: Option<Arc<Container>>,
    /// Counts starts, so that words of an earlier run are not taken for the present one's.
    run: u32,
    tasks: Vec<AbortOnDropHandle<()>>,
    backoff: Backoff,
    /// When it must have ended, where it is being ended.
    deadline: Option<watch::Sender<Instant>>,
    config_maps: BTreeMap<String, Interest<ConfigMap>>,
    secrets: BTreeMap<String, Interest<Secret>>,
}

impl Live {
    pub(crate) fn new(backoff_base: Duration) -> Self {
        Self {
            container: None,
            run: 0,
            tasks: Vec::new(),
            backoff: Backoff::new(backoff_base),
            deadline: None,
            config_maps: BTreeMap::new(),
            secrets: BTreeMap::new(),
        }
    }
}

impl Worker {
    /// The container's part of the pod's spec: what was there when the pod came, since it can't change.
    fn container_spec(&self, index: usize) -> Option<ContainerSpec> {
        let spec = self.pod.spec.as_ref()?;
        let name = &self.slots[index].name;
        spec.init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
            .find(|container| container.name == *name)
            .cloned()
    }

    /// Starts a container, or says why it can't be and when to try again.
    pub(super) async fn start(&mut self, index: usize) {
        let Some(spec) = self.container_spec(index) else {
            self.slots[index].blocked = true;
            return;
        };
        let Some(image) = seaway_images::find(&self.slots[index].image) else {
            return self.refuse_image(index);
        };
        let ran_before = self.slots[index].last_end().cloned();
        let attempt = self.slots[index].restarts + i32::from(ran_before.is_some());
        let mut updates = self.deletion_watch();
        let launch = tokio::select! {
            biased;
            launch = self.prepare(index, &spec, image, attempt) => launch,
            () = deletion(&mut updates) => return,
        };
        let launch = match launch {
            Ok(launch) => launch,
            Err((reason, message)) => {
                self.event(Some(index), Severity::Warning, "Failed", format!("Error: {message}"));
                let slot = &mut self.slots[index];
                if let Some(ended) = ran_before {
                    slot.last = Some(ended);
                }
                slot.state = State::Waiting { reason: reason.to_owned(), message: Some(message) };
                slot.not_before = Some(std::time::Instant::now() + CONFIG_RETRY);
                return;
            }
        };
        let message =
            format!("Container image {:?} already present on machine (built in)", self.slots[index].image);
        self.event(Some(index), Severity::Normal, "Pulled", message);
        if ran_before.is_some() {
            self.slots[index].last = ran_before;
            self.slots[index].restarts = attempt;
        }
        let id = launch.id.clone();
        self.slots[index].container_id = Some(id.clone());
        self.event(Some(index), Severity::Normal, "Created", format!("Created container: {}", spec.name));
        match Container::start(launch).await {
            Ok(container) => self.started(index, &spec, container),
            Err(error) => {
                self.event(Some(index), Severity::Warning, "Failed", format!("Error: {error}"));
                let now = Timestamp::now();
                let code = if error.is_not_found() { 127 } else { 128 };
                let ended = Ended {
                    code,
                    reason: "StartError".to_owned(),
                    message: Some(error.to_string()),
                    started: Some(now),
                    finished: Some(now),
                    container_id: Some(id),
                };
                self.ended(index, ended, Duration::ZERO);
            }
        }
    }

    fn refuse_image(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.blocked = true;
        let message = image_events::unknown(&slot.image);
        slot.state = State::Waiting { reason: "ErrImagePull".to_owned(), message: Some(message.clone()) };
        let image = slot.image.clone();
        self.event(
            Some(index),
            Severity::Warning,
            "Failed",
            format!("Failed to pull image {image:?}: {message}"),
        );
        self.event(Some(index), Severity::Warning, "Failed", "Error: ErrImagePull");
        let (sender, wait) = (self.sender.clone(), self.kubelet.backoff_base());
        let later = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // The worker may have ended meanwhile.
            let _ = sender.send(Message::StillNoImage { index });
        });
        self.live[index].tasks.push(AbortOnDropHandle::new(later));
    }

    /// Gathers what the container starts with; the error is a waiting reason and its message.
    async fn prepare(
        &mut self,
        index: usize,
        spec: &ContainerSpec,
        image: seaway_images::Image,
        attempt: i32,
    ) -> Result<Launch, (&'static str, String)> {
        let config = |problem: String| ("CreateContainerConfigError", problem);
        let create = |problem: String| ("CreateContainerError", problem);
        let sources = self.sources(index, spec).await;
        let pod = self.pod.clone();
        let pod_spec = pod.spec.as_ref().ok_or_else(|| config("the pod has no spec".to_owned()))?;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let links = pod_spec.enable_service_links != Some(false);
        let services = self.kubelet.objects.service_env(namespace, links).await;
        let names = self.names.clone().ok_or_else(|| config("the pod has no name".to_owned()))?;
        let env = environment(&Inputs {
            pod: &pod,
            container: spec,
            addresses: &self.addresses,
            machine: self.kubelet.machine,
            hostname: &names.kernel,
            services: &services,
            sources: &sources,
        })
        .map_err(config)?;
        let mut mounts = Vec::new();
        for mount in spec.volume_mounts.iter().flatten() {
            let volumes = self.volumes.as_ref().ok_or_else(|| config("the pod has no volumes".to_owned()))?;
            mounts.push(volumes.mount(mount, &env).map_err(config)?);
        }
        let node = NodeFiles {
            hosts: std::fs::read_to_string(&self.kubelet.args.hosts_file).unwrap_or_default(),
            resolv_conf: self.kubelet.node_resolv_conf(),
        };
        let files = pod_files(&pod, &names, &self.addresses.pod_ips, &node, &self.kubelet.cluster_dns());
        let files = files.map_err(|error| config(error.to_string()))?;
        for event in files.events {
            self.kubelet.events.pod(&pod, None, Severity::Warning, event.reason, event.message);
        }
        let file = |error: std::io::Error| create(format!("{}: {error}", self.entry.dir.display()));
        let termination_log = self.termination_log(index);
        if let Some(parent) = termination_log.parent() {
            std::fs::create_dir_all(parent).map_err(file)?;
        }
        std::fs::write(&termination_log, "").map_err(file)?;
        let log = LogWriter::create(&self.entry.log_dir(&spec.name), attempt).map_err(file)?;
        let sandbox_spec = sandbox_spec(World {
            pod: &pod,
            container: spec,
            image,
            env,
            volumes: mounts,
            hostname: &names.kernel,
            hosts: &files.hosts,
            resolv_conf: &files.resolv_conf.to_string(),
            nsswitch: &files.nsswitch,
            netns: self.sandbox.as_ref().and_then(|sandbox| sandbox.note.netns.as_deref()),
            root: &self.kubelet.root_mount(),
            termination_log: &termination_log,
        })
        .map_err(config)?;
        Ok(Launch {
            id: super::sandbox::new_id(),
            spec: sandbox_spec,
            stdin: spec.stdin == Some(true),
            stdin_once: spec.stdin_once == Some(true),
            log,
        })
    }

    /// The ConfigMaps and Secrets that the container's environment names.
    async fn sources(&mut self, index: usize, spec: &ContainerSpec) -> Sources {
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let objects = &self.kubelet.objects;
        let live = &mut self.live[index];
        let (config_maps, secrets) = references(spec);
        let mut sources = Sources::default();
        for name in config_maps {
            let interest = live
                .config_maps
                .entry(name.clone())
                .or_insert_with(|| objects.config_maps.watch(&namespace, &name));
            if let Some(map) = interest.get().await {
                sources.config_maps.insert(name, (*map).clone());
            }
        }
        for name in secrets {
            let interest =
                live.secrets.entry(name.clone()).or_insert_with(|| objects.secrets.watch(&namespace, &name));
            if let Some(secret) = interest.get().await {
                sources.secrets.insert(name, (*secret).clone());
            }
        }
        sources
    }

    fn termination_log(&self, index: usize) -> std::path::PathBuf {
        self.entry.dir.join("containers").join(&self.slots[index].name).join("termination-log")
    }

    /// Takes note of a container that runs, and sets its watchers up.
    fn started(&mut self, index: usize, spec: &ContainerSpec, container: Arc<Container>) {
        self.event(Some(index), Severity::Normal, "Started", format!("Started container {}", spec.name));
        let hook = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone());
        let slot = &mut self.slots[index];
        slot.state = State::Running { since: container.started };
        slot.not_before = None;
        slot.probed_ready = spec.readiness_probe.is_none();
        slot.probed_started = spec.startup_probe.is_none() && hook.is_none();
        let live = &mut self.live[index];
        live.run += 1;
        let run = live.run;
        live.tasks.clear();
        live.deadline = None;
        live.container = Some(container.clone());
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let exit = container.ended().await;
            // The worker may have ended meanwhile.
            let _ = sender.send(Message::Exited { index, run, exit });
        });
        match hook {
            None => self.start_probes(index, spec),
            Some(hook) => {
                let (sender, place) = (self.sender.clone(), self.place(index, spec));
                let task = tokio::spawn(async move {
                    let result = match place {
                        Some(place) => stop::run_hook(&hook, &place).await,
                        None => Ok(()),
                    };
                    let _ = sender.send(Message::PostStart { index, run, result });
                });
                self.live[index].tasks.push(AbortOnDropHandle::new(task));
            }
        }
    }

    fn place(&self, index: usize, spec: &ContainerSpec) -> Option<Place> {
        let ip = self.addresses.pod_ips.first().and_then(|ip| ip.parse().ok());
        let container = self.live[index].container.clone()?;
        Some(Place { ip, ports: probes::named_ports(spec.ports.as_deref()), container })
    }

    /// Starts the probes that are due: the startup probe alone as long as it has not succeeded.
    fn start_probes(&mut self, index: usize, spec: &ContainerSpec) {
        let startup = spec.startup_probe.as_ref().filter(|_| !self.slots[index].probed_started);
        let wanted = match startup {
            Some(probe) => vec![(Kind::Startup, probe)],
            None => {
                let readiness = spec.readiness_probe.as_ref().map(|probe| (Kind::Readiness, probe));
                let liveness = spec.liveness_probe.as_ref().map(|probe| (Kind::Liveness, probe));
                readiness.into_iter().chain(liveness).collect()
            }
        };
        for (kind, probe) in wanted {
            let check = match probes::check_of(probe) {
                Ok(check) => check,
                Err(problem) => {
                    self.event(
                        Some(index),
                        Severity::Warning,
                        "Unhealthy",
                        format!("{} probe: {problem}", kind.name()),
                    );
                    continue;
                }
            };
            let Some(place) = self.place(index, spec) else { continue };
            let (probe, sender, run) = (probe.clone(), self.sender.clone(), self.live[index].run);
            let since = Timestamp::now().duration_since(place.container.started).unsigned_abs();
            let started = Instant::now().checked_sub(since).unwrap_or_else(Instant::now);
            let task = tokio::spawn(async move {
                let report = |report| {
                    // The worker may have ended meanwhile.
                    let _ = sender.send(Message::Probed { index, run, kind, report });
                };
                probes::run(kind, &probe, check, place, started, report).await;
            });
            self.live[index].tasks.push(AbortOnDropHandle::new(task));
        }
    }

    /// Takes in what a container's tasks say.
    pub(super) fn hear(&mut self, message: Message) {
        match message {
            Message::Exited { index, run, exit } if run == self.live[index].run => self.exited(index, exit),
            Message::Probed { index, run, kind, report } if run == self.live[index].run => {
                self.probed(index, kind, report)
            }
            Message::PostStart { index, run, result } if run == self.live[index].run => {
                self.post_started(index, result)
            }
            Message::HookFailed { index, problem } => {
                self.event(
                    Some(index),
                    Severity::Warning,
                    "FailedPreStopHook",
                    format!("PreStopHook failed: {problem}"),
                );
            }
            Message::StillNoImage { index } => {
                let image = self.slots[index].image.clone();
                let message = format!("Back-off pulling image {image:?}: {}", image_events::unknown(&image));
                self.event(
                    Some(index),
                    Severity::Normal,
                    "BackOff",
                    format!("Back-off pulling image {image:?}"),
                );
                self.event(Some(index), Severity::Warning, "Failed", "Error: ImagePullBackOff");
                self.slots[index].state =
                    State::Waiting { reason: "ImagePullBackOff".to_owned(), message: Some(message) };
            }
            // Words of a run that is over.
            Message::Exited { .. } | Message::Probed { .. } | Message::PostStart { .. } => {}
        }
    }

    fn exited(&mut self, index: usize, exit: Exit) {
        let mut message = last_bytes(&self.termination_log(index), MAX_MESSAGE).unwrap_or_default();
        let policy = self.container_spec(index).and_then(|spec| spec.termination_message_policy);
        if message.is_empty() && exit.code != 0 && policy.as_deref() == Some("FallbackToLogsOnError") {
            let log = self.live[index].container.as_ref().map(|container| container.log.path.clone());
            message = last_words(&log.and_then(|path| last_bytes(&path, LOG_TAIL).ok()).unwrap_or_default());
        }
        let message = String::from_utf8_lossy(&message).into_owned();
        let started = self.live[index].container.as_ref().map(|container| container.started);
        let ended = Ended {
            code: exit.code,
            reason: if exit.code == 0 { "Completed" } else { "Error" }.to_owned(),
            message: Some(message).filter(|message| !message.is_empty()),
            started,
            finished: Some(exit.at),
            container_id: self.slots[index].container_id.clone(),
        };
        let ran = started.map_or(Duration::ZERO, |started| exit.at.duration_since(started).unsigned_abs());
        self.ended(index, ended, ran);
    }

    /// Takes note of the end of a run, and when the next one may start.
    fn ended(&mut self, index: usize, ended: Ended, ran: Duration) {
        let live = &mut self.live[index];
        live.tasks.clear();
        live.deadline = None;
        let again = self.slots[index].runs_again(ended.code, self.policy) && !self.ends();
        let wait = if again { self.live[index].backoff.after_exit(ran) } else { Duration::ZERO };
        if wait.is_zero() {
            self.slots[index].state = State::Ended(ended);
            return;
        }
        let meta = &self.pod.metadata;
        let (name, namespace) =
            (meta.name.as_deref().unwrap_or_default(), meta.namespace.as_deref().unwrap_or_default());
        let slot = &self.slots[index];
        let pod = format!("{name}_{namespace}({})", self.entry.uid);
        let message =
            format!("back-off {}s restarting failed container={} pod={pod}", wait.as_secs_f64(), slot.name);
        let event = format!("Back-off restarting failed container {} in pod {pod}", slot.name);
        self.event(Some(index), Severity::Warning, "BackOff", event);
        let slot = &mut self.slots[index];
        slot.last = Some(ended);
        slot.state = State::Waiting { reason: "CrashLoopBackOff".to_owned(), message: Some(message) };
        slot.not_before = Some(std::time::Instant::now() + wait);
    }

    fn probed(&mut self, index: usize, kind: Kind, report: Report) {
        match (kind, report) {
            (_, Report::Unhealthy { message }) => {
                self.event(Some(index), Severity::Warning, "Unhealthy", message)
            }
            (Kind::Readiness, Report::Turned { healthy, .. }) => self.slots[index].probed_ready = healthy,
            (Kind::Startup, Report::Turned { healthy: true, .. }) => {
                self.slots[index].probed_started = true;
                // The startup probe has done its work.
                self.live[index].tasks.clear();
                if let Some(spec) = self.container_spec(index) {
                    self.start_probes(index, &spec);
                }
            }
            (Kind::Liveness, Report::Turned { healthy: true, .. }) => {}
            (Kind::Startup | Kind::Liveness, Report::Turned { healthy: false, .. }) => {
                let what = kind.name().to_lowercase();
                let why =
                    format!("Container {} failed {what} probe, will be restarted", self.slots[index].name);
                self.stop_for(index, Some(kind), why);
            }
        }
    }

    fn post_started(&mut self, index: usize, result: Result<(), String>) {
        match result {
            Ok(()) => {
                let Some(spec) = self.container_spec(index) else { return };
                self.slots[index].probed_started = spec.startup_probe.is_none();
                self.start_probes(index, &spec);
            }
            Err(problem) => {
                self.event(
                    Some(index),
                    Severity::Warning,
                    "FailedPostStartHook",
                    format!("PostStartHook failed: {problem}"),
                );
                self.stop_for(index, None, "FailedPostStartHook".to_owned());
            }
        }
    }

    /// Ends one container on its own, within the grace period of the probe that failed or of the pod.
    fn stop_for(&mut self, index: usize, failed: Option<Kind>, why: String) {
        let spec = self.container_spec(index);
        let probe = spec.as_ref().and_then(|spec| match failed {
            Some(Kind::Liveness) => spec.liveness_probe.as_ref(),
            Some(Kind::Startup) => spec.startup_probe.as_ref(),
            _ => None,
        });
        let pod = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let seconds = probe.and_then(|probe| probe.termination_grace_period_seconds).or(pod).unwrap_or(30);
        self.stop(index, Instant::now() + grace_period(seconds), Some(why));
    }

    /// Ends a container by `deadline`, or brings the deadline of its ending forward.
    pub(super) fn stop(&mut self, index: usize, deadline: Instant, why: Option<String>) {
        let Some(container) = self.live[index].container.clone() else { return };
        if let Some(known) = &self.live[index].deadline {
            known.send_if_modified(|at| {
                let earlier = deadline < *at;
                *at = deadline.min(*at);
                earlier
            });
            return;
        }
        let why = why.unwrap_or_else(|| format!("Stopping container {}", self.slots[index].name));
        self.event(Some(index), Severity::Normal, "Killing", why);
        let spec = self.container_spec(index);
        // A container that is told to end can't be found dead or unstarted any more; whether it still serves is of interest.
        let readiness = spec
            .as_ref()
            .filter(|_| self.slots[index].probed_started && self.slots[index].role != Role::Init);
        self.live[index].tasks.clear();
        if let Some(spec) = readiness {
            let mut readiness_only = spec.clone();
            readiness_only.liveness_probe = None;
            let ready = self.slots[index].probed_ready;
            self.start_probes(index, &readiness_only);
            self.slots[index].probed_ready = ready;
        }
        let hook = spec.as_ref().and_then(|spec| spec.lifecycle.as_ref()?.pre_stop.clone());
        let Some(place) = spec.as_ref().and_then(|spec| self.place(index, spec)) else { return };
        let (sender_of_deadline, deadline) = watch::channel(deadline);
        self.live[index].deadline = Some(sender_of_deadline);
        let sender = self.sender.clone();
        tokio::spawn(async move {
            if let Err(problem) = stop::stop(container, hook, place, deadline).await {
                // The worker may have ended meanwhile.
                let _ = sender.send(Message::HookFailed { index, problem });
            }
        });
    }
}

/// The last bytes of a file, which may be of any size.
fn last_bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_message_the_end_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("message");
        for (text, expected) in [("", ""), ("short", "short"), ("a long one", "ng one")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(last_bytes(&path, 6).unwrap(), expected.as_bytes());
        }
    }

    #[test]
    fn no_grace_period_is_too_long_for_the_clock() {
        for (seconds, expected) in [(-1, 0), (0, 0), (30, 30), (i64::MAX, 3_153_600_000)] {
            let grace = grace_period(seconds);
            assert_eq!(grace.as_secs(), expected);
            let _in_range = Instant::now() + grace;
        }
    }
}
