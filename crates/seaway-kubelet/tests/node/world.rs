//! The world of the test: a node with an API server on its loopback.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::{DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use seaway_net::sandbox::{Mount, Root};
use serde_json::{Value, json};

use crate::cases;

/// No wait of a test is longer: it is a failure then.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The node's address, on a link that leads nowhere.
const NODE_IP: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 11);

fn bring_up_the_network() -> anyhow::Result<()> {
    let mut links = seaway_net::rtnl::Rtnl::open()?;
    links.add_veth("uplink", "nowhere", None, Some(1500))?;
    let uplink = links.link_by_name("uplink")?.context("the uplink")?;
    links.add_address(uplink.index, "172.18.0.11/16".parse()?)?;
    links.set_up(uplink.index)?;
    Ok(())
}

/// The world's file system: the host's programs, and this binary where a test build has it.
pub(crate) fn root(dir: &Path) -> anyhow::Result<Root> {
    let exe = std::env::current_exe()?;
    Ok(Root {
        dir: dir.to_owned(),
        mounts: vec![
            Mount::HostUserland,
            Mount::Proc,
            Mount::Sysfs,
            Mount::Dev,
            Mount::SelfExe { target: exe },
            Mount::SelfExe { target: "/opt/cni/bin/seaway".into() },
            Mount::File {
                target: "/etc/hosts".into(),
                contents: "127.0.0.1\tlocalhost\n".into(),
                mode: 0o644,
            },
            Mount::File {
                target: "/etc/resolv.conf".into(),
                contents: "nameserver 192.0.2.53\n".into(),
                mode: 0o644,
            },
            Mount::Dir { target: "/run/netns".into(), mode: 0o755 },
            Mount::Dir { target: "/etc/cni/net.d".into(), mode: 0o755 },
        ],
    })
}

/// The API server, the kubelet and a client.
pub(crate) struct World {
    pub(crate) client: Client,
    kubelet: Option<Child>,
    kubeconfig: PathBuf,
}

impl World {
    async fn start() -> anyhow::Result<Self> {
        bring_up_the_network()?;
        let listener = TcpListener::bind((NODE_IP, 0))?;
        let server = seaway_apiserver::serve(seaway_apiserver::Config {
            data_dir: "/var/lib/api".into(),
            cert_dir: "/var/lib/pki".into(),
            advertise_address: IpAddr::V4(NODE_IP),
            listeners: vec![listener],
            service_cidrs: vec!["10.96.0.0/12".parse()?],
            node_ports: seaway_apiserver::NodePorts::default(),
            tls_sans: vec![],
        })
        .await?;
        let url = format!("https://{}", server.addresses()[0]);
        let pki = server.pki();
        let text = pki.kubeconfig(&url, "system:node:node-1", &["system:masters"])?;
        let kubeconfig = PathBuf::from("/root/kubeconfig");
        std::fs::write(&kubeconfig, &text)?;
        let serving = pki.serving_certificate(&["node-1".to_owned()], &[IpAddr::V4(NODE_IP)])?;
        std::fs::write("/root/kubelet.crt", serving.certificate)?;
        std::fs::write("/root/kubelet.key", serving.key)?;
        std::fs::write("/root/ca.crt", pki.ca_certificate())?;
        // Kept for as long as the process runs.
        std::mem::forget(server);
        let config =
            Config::from_custom_kubeconfig(Kubeconfig::from_yaml(&text)?, &KubeConfigOptions::default())
                .await?;
        Ok(Self { client: Client::try_from(config)?, kubelet: None, kubeconfig })
    }

    /// Starts the kubelet.
    pub(crate) fn start_kubelet(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["kubelet", "--node-name", "node-1", "--node-ip", "172.18.0.11", "--kubeconfig"])
            .arg(&self.kubeconfig);
        command.args([
            "--cert",
            "/root/kubelet.crt",
            "--key",
            "/root/kubelet.key",
            "--client-ca",
            "/root/ca.crt",
        ]);
        command.args([
            "--lease-renew",
            "1",
            "--restart-backoff-base",
            "0.2",
            "--node-status-report-frequency",
            "1",
        ]);
        command
            .stdout(Stdio::null())
            .stderr(std::fs::File::options().create(true).append(true).open("/root/kubelet.log")?);
        self.kubelet = Some(command.spawn()?);
        Ok(())
    }

    pub(crate) fn kubelet_pid(&self) -> Option<u32> {
        self.kubelet.as_ref().map(Child::id)
    }

    /// Whether the kubelet has ended, by itself or because it was told to.
    pub(crate) fn kubelet_has_ended(&mut self) -> anyhow::Result<bool> {
        match &mut self.kubelet {
            Some(kubelet) => Ok(kubelet.try_wait()?.is_some()),
            None => Ok(true),
        }
    }

    /// Kills the kubelet as a crash would.
    pub(crate) fn kill_kubelet(&mut self) -> anyhow::Result<()> {
        if let Some(mut kubelet) = self.kubelet.take() {
            kubelet.kill()?;
            kubelet.wait()?;
        }
        Ok(())
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates a pod on the node.
    pub(crate) async fn create(&self, name: &str, mut spec: Value) -> anyhow::Result<Pod> {
        spec["nodeName"] = json!("node-1");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec});
        Ok(self.pods().create(&PostParams::default(), &serde_json::from_value(pod)?).await?)
    }

    /// Waits until the pod is as `is` wants it.
    pub(crate) async fn until(
        &self,
        name: &str,
        what: &str,
        is: impl Fn(&Pod) -> bool,
    ) -> anyhow::Result<Pod> {
        let began = Instant::now();
        loop {
            let pod = self.pods().get(name).await?;
            if is(&pod) {
                return Ok(pod);
            }
            if began.elapsed() > PATIENCE {
                anyhow::bail!(
                    "pod {name} never became {what}: {}",
                    serde_json::to_string_pretty(&pod.status)?
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn ready(&self, name: &str) -> anyhow::Result<Pod> {
        self.until(name, "ready", is_ready).await
    }

    /// Deletes the pod and waits until it is gone; how long it took.
    pub(crate) async fn delete(&self, name: &str) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.pods().delete(name, &DeleteParams::default()).await?;
        while self.pods().get_opt(name).await?.is_some() {
            if began.elapsed() > PATIENCE {
                anyhow::bail!("pod {name} never went");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(began.elapsed())
    }

    /// Runs a command in a pod through the API server; exit code and output.
    pub(crate) async fn exec(&self, pod: &str, command: &[&str]) -> anyhow::Result<(i32, String)> {
        use tokio::io::AsyncReadExt as _;
        let params = kube::api::AttachParams::default().stdin(false).stderr(true).stdout(true);
        let mut session = self.pods().exec(pod, command.iter().copied(), &params).await?;
        let status = session.take_status();
        let mut text = String::new();
        if let Some(mut stdout) = session.stdout() {
            stdout.read_to_string(&mut text).await?;
        }
        if let Some(mut stderr) = session.stderr() {
            stderr.read_to_string(&mut text).await?;
        }
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        let cause = status.and_then(|status| status.details?.causes?.into_iter().next()?.message);
        Ok((cause.and_then(|code| code.parse().ok()).unwrap_or(0), text))
    }
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Brings the world up and runs the cases in it.
pub(crate) fn run(filter: Option<&str>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut world = World::start().await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(world.client.clone(), "default");
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        if namespaces.get_opt("default").await?.is_none() {
            let namespace = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
            namespaces.create(&PostParams::default(), &namespace).await?;
        }
        let account = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
        accounts.create(&PostParams::default(), &account).await?;
        let roots: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(world.client.clone(), "default");
        let ca = serde_json::from_value(json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": std::fs::read_to_string("/root/ca.crt")?}}))?;
        roots.create(&PostParams::default(), &ca).await?;
        world.start_kubelet()?;
        let failed = cases::run_all(&mut world, filter).await;
        world.kill_kubelet()?;
        if failed > 0 {
            eprintln!("the kubelet's log:\n{}", std::fs::read_to_string("/root/kubelet.log")?);
        }
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
