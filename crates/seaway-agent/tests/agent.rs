//! A real agent process on a node of its own (a network namespace), against the embedded API server.
//!
//! The process is this binary again: `agent OPTIONS` as its arguments make it the agent. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use seaway_agent::{AgentArgs, AgentStatus, AppliedPlan};
use seaway_apiserver::{Config, NodePorts, Server, serve};
use seaway_model::{Difference, Differences};
use seaway_net::netns::NetNs;
use seaway_net::nft::{Kernel, Nft};
use seaway_net::rtnl::Rtnl;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Nobody waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Parser)]
enum Cli {
    Agent(AgentArgs),
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("agent") {
        let Cli::Agent(args) = Cli::parse();
        return seaway_agent::run(args).unwrap();
    }
    type Test = (&'static str, fn(&Cluster));
    let tests: [Test; 5] = [
        ("follows_the_api_and_shows_it", follows_the_api_and_shows_it),
        ("a_kill_changes_nothing_and_a_restart_adopts", a_kill_changes_nothing_and_a_restart_adopts),
        ("what_others_delete_comes_back", what_others_delete_comes_back),
        ("without_the_api_server_the_state_stays", without_the_api_server_the_state_stays),
        ("a_dry_run_changes_nothing", a_dry_run_changes_nothing),
    ];
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    for (name, test) in tests.into_iter().filter(|(name, _)| name.contains(&wanted)) {
        println!("test {name} ...");
        NetNs::new().unwrap().run(|| test(&Cluster::start())).unwrap();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

/// An API server with one node, `node-1`, and a place for the agent's files; all on the calling thread's network.
struct Cluster {
    runtime: Runtime,
    server: Server,
    client: kube::Client,
    directory: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut rtnl = Rtnl::open().unwrap();
        rtnl.add_bridge("eth0").unwrap();
        let eth0 = rtnl.link_by_name("eth0").unwrap().unwrap().index;
        rtnl.add_address(eth0, "172.18.0.11/16".parse().unwrap()).unwrap();
        rtnl.set_up(eth0).unwrap();
        let config = Config {
            data_dir: directory.path().join("data"),
            cert_dir: directory.path().join("pki"),
            advertise_address: [127, 0, 0, 1].into(),
            listeners: vec![TcpListener::bind("127.0.0.1:0").unwrap()],
            service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
            node_ports: NodePorts::default(),
            tls_sans: Vec::new(),
        };
        let server = runtime.block_on(serve(config)).unwrap();
        let url = format!("https://{}", server.addresses()[0]);
        let kubeconfig = server.pki().kubeconfig(&url, "kubernetes-admin", &["system:masters"]).unwrap();
        let path = directory.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig).unwrap();
        let net_conf = json!({"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}});
        std::fs::write(directory.path().join("net-conf.json"), net_conf.to_string()).unwrap();
        let client = runtime.block_on(seaway_kube::connect(Some(&path))).unwrap();
        let cluster = Self { runtime, server, client, directory };
        cluster.add_node();
        cluster
    }

    fn add_node(&self) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = serde_json::from_value(json!({
            "metadata": {"name": "node-1"},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]},
        }));
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.11"}]}});
        self.runtime.block_on(async {
            nodes.create(&PostParams::default(), &node.unwrap()).await.unwrap();
            nodes.patch_status("node-1", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        });
    }

    /// Service `web` at 10.96.7.7:80 with these endpoints.
    fn set_web(&self, endpoints: &[&str]) {
        let service: Service = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"clusterIP": "10.96.7.7", "ports": [{"port": 80}]},
        }))
        .unwrap();
        let endpoints: Vec<Value> =
            endpoints.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"port": 8080, "protocol": "TCP", "name": ""}], "endpoints": endpoints,
        }))
        .unwrap();
        let services: Api<Service> = Api::namespaced(self.client.clone(), "default");
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), "default");
        self.runtime.block_on(async {
            if services.get_opt("web").await.unwrap().is_none() {
                services.create(&PostParams::default(), &service).await.unwrap();
                slices.create(&PostParams::default(), &slice).await.unwrap();
            } else {
                slices.patch("web-1", &PatchParams::default(), &Patch::Merge(&slice)).await.unwrap();
            }
        });
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let flag = |name: &str, file: &str| format!("--{name}={}", self.path(file).display());
        command.args([
            "agent",
            "--node-name=node-1",
            &flag("kubeconfig", "kubeconfig"),
            &flag("net-conf", "net-conf.json"),
            &flag("run-dir", "run"),
            &flag("cni-conf-dir", "net.d"),
            &flag("cni-bin-dir", "opt/cni/bin"),
            &flag("subnet-file", "subnet.env"),
        ]);
        command
    }

    fn agent(&self) -> Agent<'_> {
        Agent { cluster: self, process: self.command().spawn().unwrap() }
    }
}

/// A running agent; killed when dropped.
struct Agent<'a> {
    cluster: &'a Cluster,
    process: Child,
}

impl Agent<'_> {
    fn get(&self, path: &str) -> Option<Value> {
        let stream = UnixStream::connect(self.cluster.path("run/agent.sock")).ok()?;
        serde_json::from_str(&http(stream, path)?.1).ok()
    }

    fn differences(&self) -> Vec<Difference> {
        let found: Differences = serde_json::from_value(self.get("/v1/differences").unwrap()).unwrap();
        assert_eq!(found.not_compared, []);
        found.differences
    }

    /// Waits until all parts have done what there was to do.
    fn settled(&self) -> Value {
        let parts = ["services", "overlay", "system"];
        until("the agent has settled", || {
            let status = self.get("/v1/status")?;
            let done = |part: &&str| {
                status["parts"][part]["syncs"].as_u64() > Some(0) && status["parts"][part]["pending"] == false
            };
            parts.iter().all(done).then_some(status)
        })
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The status code and the body that a server answers to a GET.
fn http(mut stream: impl Read + Write, path: &str) -> Option<(u16, String)> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: agent\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn get(port: u16, path: &str) -> (u16, String) {
    http(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap(), path).unwrap()
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn nft(args: &[&str]) -> String {
    let output = Command::new("nft").args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn endpoints() -> usize {
    nft(&["list", "map", "ip", "seaway", "endpoints"]).matches("10.96.7.7 . tcp . 80 . ").count()
}

fn until_endpoints(count: usize) {
    until(&format!("there are {count} endpoints"), || (endpoints() == count).then_some(()));
}

fn generation() -> u32 {
    Kernel::open().unwrap().generation().unwrap()
}

fn follows_the_api_and_shows_it(cluster: &Cluster) {
    let agent = cluster.agent();
    cluster.set_web(&["10.244.1.5", "10.244.2.5"]);
    until_endpoints(2);
    cluster.set_web(&["10.244.1.5", "10.244.2.5", "10.244.2.6"]);
    until_endpoints(3);
    cluster.set_web(&[]);
    until_endpoints(0);
    cluster.set_web(&["10.244.1.5"]);
    until_endpoints(1);

    let status = agent.settled();
    assert_eq!(status["api"]["connected"], true, "{status}");
    assert_eq!(status["node"], "node-1");
    let plan = agent.get("/v1/plan").unwrap();
    let ports = plan["services"]["ports"].as_array().unwrap();
    let web = ports.iter().find(|port| port["address"]["ip"] == "10.96.7.7").unwrap();
    assert_eq!(web["backends"], json!([{"ip": "10.244.1.5", "port": 8080}]));
    assert_eq!(plan["generation"], plan["services"]["generation"]);
    assert_eq!(plan["overlay"]["subnets"], json!(["10.244.1.0/24"]));
    let back: AppliedPlan = serde_json::from_value(plan.clone()).unwrap();
    assert_eq!(back.underlay.as_ref().unwrap().link, plan["underlay"]["link"]);
    assert_eq!(serde_json::to_value(back).unwrap(), plan);
    serde_json::from_value::<AgentStatus>(status).unwrap();
    assert_eq!(agent.differences(), []);
    // Nobody watches links: what is wrong with one stays wrong until the next resync, and is told.
    let ip = Command::new("ip").args(["link", "set", "seaway.1", "mtu", "1300"]).status().unwrap();
    assert!(ip.success());
    let told = agent.differences();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].kernel.as_str(), told[0].actual.as_deref()), ("link seaway.1", Some("mtu 1300")));
    let mode = std::fs::metadata(cluster.path("run/agent.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    for (path, eligible) in [("/healthz", json!(true)), ("/livez", Value::Null)] {
        let (code, body) = get(10256, path);
        assert_eq!(code, 200, "{body}");
        let health: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&health["healthy"], &health["nodeEligible"]), (&json!(true), &eligible));
    }
    assert_eq!(get(10249, "/proxyMode"), (200, "nftables".into()));
    let metrics = get(10249, "/metrics").1;
    for name in [
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_count",
        "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
    ] {
        assert!(metrics.contains(name), "{name} is missing in {metrics}");
    }

    // Others learn how to reach this node.
    assert!(cluster.path("net.d/10-seaway.conflist").exists());
    assert!(cluster.path("opt/cni/bin/seaway").exists());
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let annotation = "flannel.alpha.coreos.com/public-ip";
    until("the Node object is annotated", || {
        let node = cluster.runtime.block_on(nodes.get("node-1")).unwrap();
        (node.metadata.annotations?.get(annotation)? == "172.18.0.11").then_some(())
    });
    // A taint of the autoscaler's makes the node one that gets no new connections.
    let taint =
        json!({"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}});
    cluster.runtime.block_on(nodes.patch("node-1", &PatchParams::default(), &Patch::Merge(taint))).unwrap();
    until("/healthz says so", || (get(10256, "/healthz").0 == 503).then_some(()));
    assert_eq!(get(10256, "/livez").0, 200);
}

fn a_kill_changes_nothing_and_a_restart_adopts(cluster: &Cluster) {
    cluster.set_web(&["10.244.1.5", "10.244.2.5", "10.244.2.6"]);
    let agent = cluster.agent();
    until_endpoints(3);
    // An order of its own.
    cluster.set_web(&["10.244.1.5", "10.244.2.6", "10.244.2.7"]);
    until("the endpoint has moved", || {
        nft(&["list", "table", "ip", "seaway"]).contains("10.244.2.7").then_some(())
    });
    agent.settled();
    let before = (generation(), nft(&["list", "ruleset"]));
    agent.kill();
    assert_eq!((generation(), nft(&["list", "ruleset"])), before);
    let agent = cluster.agent();
    let status = agent.settled();
    assert_eq!(status["parts"]["services"]["lastOperations"], 0, "{status}");
    assert_eq!(status["parts"]["overlay"]["lastOperations"], 0, "{status}");
    assert_eq!((generation(), nft(&["list", "ruleset"])), before);
    // What changes while it is away it makes up for.
    agent.kill();
    cluster.set_web(&["10.244.1.5"]);
    assert_eq!(endpoints(), 3);
    let _agent = cluster.agent();
    until_endpoints(1);
}

fn what_others_delete_comes_back(cluster: &Cluster) {
    cluster.set_web(&["10.244.1.5", "10.244.2.5"]);
    let agent = cluster.agent();
    until_endpoints(2);
    agent.settled();
    nft(&["add", "table", "ip", "foreign"]);
    for damage in [
        &["delete", "table", "ip", "seaway"][..],
        &["flush", "ruleset"],
        &["flush", "table", "ip", "seaway"],
        &["flush", "map", "ip", "seaway", "endpoints"],
    ] {
        nft(damage);
        until(&format!("nft {damage:?} is undone"), || {
            let whole = nft(&["list", "table", "ip", "seaway"]).contains("vmap @services");
            (whole && endpoints() == 2).then_some(())
        });
        agent.settled();
    }
}

fn without_the_api_server_the_state_stays(cluster: &Cluster) {
    cluster.set_web(&["10.244.1.5", "10.244.2.5"]);
    let agent = cluster.agent();
    until_endpoints(2);
    agent.settled();
    let before = generation();
    agent.kill();
    // An agent that starts without an API server touches nothing.
    let kubeconfig = std::fs::read_to_string(cluster.path("kubeconfig")).unwrap();
    let port = format!(":{}", cluster.server.addresses()[0].port());
    std::fs::write(cluster.path("kubeconfig"), kubeconfig.replace(&port, ":1")).unwrap();
    let agent = cluster.agent();
    let status = until("the agent has tried and says so", || {
        let status = agent.get("/v1/status")?;
        status["api"]["kinds"]["Service"]["lastError"].is_string().then_some(status)
    });
    assert_eq!(
        (&status["api"]["synced"], &status["api"]["connected"]),
        (&json!(false), &json!(false)),
        "{status}"
    );
    assert_eq!(agent.get("/v1/plan"), None);
    assert_eq!((generation(), endpoints()), (before, 2));
}

fn a_dry_run_changes_nothing(cluster: &Cluster) {
    cluster.set_web(&["10.244.1.5"]);
    let before = generation();
    let output = cluster.command().arg("--dry-run").stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("add table ip seaway") && text.contains("10.96.7.7 . tcp . 80 : goto pick_1"),
        "{text}"
    );
    assert_eq!(generation(), before);
}
