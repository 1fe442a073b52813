//! A server of a test's own on a free port of loopback, and kubectl and kube-rs pointed at it.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use kube::config::{KubeConfigOptions, Kubeconfig};
use seaway_apiserver::{Config, NodePorts, Server, serve};
use tokio::runtime::Runtime;

pub(crate) struct TestServer {
    pub(crate) runtime: Runtime,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) server: Option<Server>,
    pub(crate) url: String,
}

impl TestServer {
    pub(crate) fn start() -> TestServer {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    pub(crate) fn start_in(directory: tempfile::TempDir) -> TestServer {
        let runtime = Runtime::new().unwrap();
        let server = runtime.block_on(serve(config(directory.path()))).unwrap();
        let url = format!("https://{}", server.addresses()[0]);
        let kubeconfig = server.pki().kubeconfig(&url, "kubernetes-admin", &["system:masters"]).unwrap();
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig).unwrap();
        TestServer { runtime, directory, server: Some(server), url }
    }

    /// Stops the server and starts another one on its files.
    pub(crate) fn restart(mut self) -> TestServer {
        self.runtime.block_on(self.server.take().unwrap().shutdown());
        self.runtime.shutdown_background();
        Self::start_in(self.directory)
    }

    pub(crate) fn client(&self) -> kube::Client {
        self.runtime.block_on(async { kube::Client::try_from(self.client_config().await).unwrap() })
    }

    pub(crate) async fn client_config(&self) -> kube::Config {
        client_config(&self.directory.path().join("kubeconfig")).await
    }

    /// Runs kubectl; the arguments are separated by blanks.
    pub(crate) fn kubectl(&self, arguments: &str) -> Output {
        self.kubectl_with(&arguments.split_whitespace().collect::<Vec<_>>(), "")
    }

    pub(crate) fn kubectl_with(&self, arguments: &[&str], stdin: &str) -> Output {
        use std::io::Write as _;
        use std::process::Stdio;
        let mut child = kubectl(self.directory.path())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl must be in PATH: apt-get install kubectl, or https://kubernetes.io/docs/tasks/tools/");
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// The standard output of a kubectl that must succeed.
    pub(crate) fn ok(&self, arguments: &str) -> String {
        succeeded(arguments, self.kubectl(arguments))
    }

    pub(crate) fn apply(&self, manifest: &str) -> String {
        succeeded("apply", self.kubectl_with(&["apply", "-f", "-"], manifest))
    }

    /// The error output of a kubectl that must fail.
    pub(crate) fn fails(&self, arguments: &str) -> String {
        let output = self.kubectl(arguments);
        assert!(!output.status.success(), "kubectl {arguments} succeeded: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

pub(crate) fn succeeded(what: &str, output: Output) -> String {
    assert!(output.status.success(), "kubectl {what}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// kubectl with a home and a kubeconfig of the test's own.
pub(crate) fn kubectl(directory: &Path) -> Command {
    let mut command = Command::new("kubectl");
    command.env("HOME", directory).env("KUBECONFIG", directory.join("kubeconfig"));
    command
}

pub(crate) fn config(directory: &Path) -> Config {
    Config {
        data_dir: directory.join("data"),
        cert_dir: directory.join("pki"),
        advertise_address: [127, 0, 0, 1].into(),
        listeners: vec![TcpListener::bind("127.0.0.1:0").unwrap()],
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        node_ports: NodePorts::default(),
        tls_sans: Vec::new(),
    }
}

pub(crate) async fn client_config(kubeconfig: &Path) -> kube::Config {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
}
