//! An API server and the controllers in this process, with kubelets that only pretend to run pods.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::TcpListener;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Config as ClientConfig, Resource};
use parking_lot::Mutex;
use seaway_apiserver::{Config as ServerConfig, NodePorts, Server, serve};
use seaway_controllers::controllers::node_cidr::Pool;
use seaway_controllers::{Config, start};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The longest that anything is waited for. Nothing takes nearly as long on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a node may be silent here.
pub(crate) const GRACE: Duration = Duration::from_secs(3);

pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// Nodes whose kubelets are alive.
    pub(crate) alive: Arc<Mutex<BTreeMap<String, CancellationToken>>>,
    server: Option<Server>,
    controllers: Option<Controllers>,
    config: Config,
    dir: tempfile::TempDir,
}

struct Controllers {
    stop: DropGuard,
    running: JoinHandle<()>,
}

impl Controllers {
    fn start(client: &Client, config: &Config) -> Self {
        let stop = CancellationToken::new();
        let running = tokio::spawn(start(client.clone(), config.clone(), stop.clone()));
        Self { stop: stop.drop_guard(), running }
    }
}

impl Cluster {
    /// A cluster with these nodes, ready.
    pub(crate) async fn new(nodes: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = start_server(dir.path(), listener).await;
        let url = format!("https://{address}");
        let kubeconfig = server.pki().kubeconfig(&url, "admin", &["system:masters"]).unwrap();
        let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).unwrap();
        let config = ClientConfig::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.unwrap()).unwrap();
        let config = Config {
            pools: Pool::all(&["10.244.0.0/16".parse().unwrap()], 24, 64).unwrap(),
            grace: GRACE,
            period: GRACE,
            cloud_instances: None,
            root_ca: "the certificate authority\n".into(),
        };
        let controllers = Some(Controllers::start(&client, &config));
        let cluster = Self { client, alive: Arc::default(), server: Some(server), controllers, config, dir };
        for node in nodes {
            cluster.start_kubelet(node).await;
        }
        cluster
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Takes the controllers away for a while.
    pub(crate) async fn without_controllers(&mut self, meanwhile: impl Future<Output = ()>) {
        let Controllers { stop, running } = self.controllers.take().unwrap();
        drop(stop);
        running.await.unwrap();
        meanwhile.await;
        self.controllers = Some(Controllers::start(&self.client, &self.config));
    }

    /// Takes the API server away for a while.
    pub(crate) async fn interrupt(&mut self, while_away: impl Future<Output = ()>) {
        let server = self.server.take().unwrap();
        let address = server.addresses()[0];
        server.shutdown().await;
        while_away.await;
        let listener = TcpListener::bind(address).unwrap();
        self.server = Some(start_server(self.dir.path(), listener).await);
    }

    /// Starts a kubelet: its node is there and ready, and it renews its lease.
    pub(crate) async fn start_kubelet(&self, name: &str) {
        let stop = CancellationToken::new();
        self.alive.lock().insert(name.to_owned(), stop.clone());
        register(&self.client, name).await;
        let (client, name) = (self.client.clone(), name.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = heartbeat(client.clone(), name.clone()) => {}
                () = run_pods(client, name) => {}
            }
        });
    }

    /// Kills a kubelet.
    pub(crate) fn kill_kubelet(&self, name: &str) {
        if let Some(stop) = self.alive.lock().remove(name) {
            stop.cancel();
        }
    }
}

async fn start_server(dir: &Path, listener: TcpListener) -> Server {
    let config = ServerConfig {
        data_dir: dir.join("data"),
        cert_dir: dir.join("certs"),
        advertise_address: listener.local_addr().unwrap().ip(),
        listeners: vec![listener],
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        node_ports: NodePorts::default(),
        tls_sans: vec!["127.0.0.1".into()],
    };
    serve(config).await.unwrap()
}

async fn register(client: &Client, name: &str) {
    let nodes = Api::<Node>::all(client.clone());
    let labels =
        json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-of-{name}")});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    let _ = nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await;
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"});
    let status = json!({"status": {"conditions": [ready], "allocatable": {"cpu": "4", "pods": "110"}}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

async fn heartbeat(client: Client, name: String) {
    use k8s_openapi::api::coordination::v1::Lease;
    let leases = Api::<Lease>::namespaced(client, "kube-node-lease");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}});
    let _ = leases.create(&PostParams::default(), &serde_json::from_value(lease).unwrap()).await;
    loop {
        let now = format!("{:.6}", k8s_openapi::jiff::Timestamp::now());
        let renewed = json!({"spec": {"holderIdentity": name, "renewTime": now}});
        let _ = leases.patch(&name, &PatchParams::default(), &Patch::Merge(renewed)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Makes the node's pods run and be ready, unless they are told not to, and ends those that are deleted.
async fn run_pods(client: Client, name: String) {
    static NEXT: AtomicU32 = AtomicU32::new(2);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={name}"));
    let mut events = pin!(watcher(Api::<Pod>::all(client.clone()), config).default_backoff());
    loop {
        let Ok(Some(Event::Apply(pod) | Event::InitApply(pod))) = events.try_next().await else { continue };
        let pods = Api::<Pod>::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap());
        let pod_name = pod.metadata.name.as_deref().unwrap();
        if pod.metadata.deletion_timestamp.is_some() {
            if !has_label(&pod, "drain") {
                let _ = pods.delete(pod_name, &DeleteParams::default().grace_period(0)).await;
            }
            continue;
        }
        if has_label(&pod, "broken") || pod.status.as_ref().is_some_and(|s| s.pod_ip.is_some()) {
            continue;
        }
        let ip = NEXT.fetch_add(1, Ordering::Relaxed);
        let ip = format!("10.244.{}.{}", ip / 250, ip % 250 + 2);
        let now = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": now}]);
        let status =
            json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": ready}});
        let _ = pods.patch_status(pod_name, &PatchParams::default(), &Patch::Merge(status)).await;
    }
}

fn has_label(pod: &Pod, label: &str) -> bool {
    pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label))
}

/// Creates an object from JSON.
pub(crate) async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let mut object = object;
    object["apiVersion"] = json!(K::api_version(&()));
    object["kind"] = json!(K::kind(&()));
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

/// Applies a merge patch.
pub(crate) async fn patch<K>(api: &Api<K>, name: &str, patch: Value) -> K
where
    K: Clone + Debug + DeserializeOwned,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
}

/// Waits until the list of objects is as wanted, watching it.
pub(crate) async fn until<K>(api: &Api<K>, what: &str, done: impl Fn(&[K]) -> bool) -> Vec<K>
where
    K: Clone + Debug + DeserializeOwned + Send + Resource + 'static,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let list = api.list(&ListParams::default()).await.unwrap().items;
        if done(&list) {
            return list;
        }
        assert!(tokio::time::Instant::now() < deadline, "never came: {what}; last seen: {list:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A Deployment of pods with the label `app: NAME`.
pub(crate) fn deployment(name: &str, replicas: i32, surge: i32, unavailable: i32) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "one",
                    "ports": [{"name": "web", "containerPort": 8080}]}]},
            },
        },
    })
}
