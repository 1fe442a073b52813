//! A server that is killed while it writes has kept every write that it acknowledged.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something fails")]

mod common;

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;

/// With this variable, this very program is the server; its value is the server's arguments, separated by blanks.
const ARGUMENTS: &str = "SEAWAY_TEST_APISERVER";

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    args: seaway_apiserver::ApiserverArgs,
}

/// Not a test of its own: the process that the other one kills.
#[test]
fn child_process() {
    if let Ok(arguments) = std::env::var(ARGUMENTS) {
        let arguments = Arguments::parse_from(std::iter::once("apiserver").chain(arguments.split(' ')));
        seaway_apiserver::run(arguments.args).unwrap();
    }
}

fn start(directory: &Path) -> Child {
    let kubeconfig = directory.join("kubeconfig");
    let _ = std::fs::remove_file(&kubeconfig);
    let arguments = format!(
        "--data-dir {0}/data --cert-dir {0}/pki --advertise-address 127.0.0.1 --bind-address 127.0.0.1 --secure-port 0 \
         --write-kubeconfig {0}/kubeconfig",
        directory.display()
    );
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["child_process", "--exact", "--nocapture"])
        .env(ARGUMENTS, arguments)
        .spawn()
        .unwrap();
    while !kubeconfig.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

async fn client(directory: &Path) -> Client {
    Client::try_from(common::client_config(&directory.join("kubeconfig")).await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = start(directory.path());
    let api: Api<ConfigMap> = Api::default_namespaced(client(directory.path()).await);
    let count = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let (api, count) = (api.clone(), count.clone());
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for n in 0.. {
                    let map = serde_json::from_value(json!({"metadata": {"name": format!("w{writer}-{n}")}}))
                        .unwrap();
                    match api.create(&PostParams::default(), &map).await {
                        Ok(map) => acknowledged.push((map.name_any(), map.resource_version().unwrap())),
                        Err(_) => break,
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
                acknowledged
            })
        })
        .collect();
    while count.load(Ordering::Relaxed) < 500 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    assert!(acknowledged.len() >= 500);

    let mut child = start(directory.path());
    let api: Api<ConfigMap> = Api::default_namespaced(client(directory.path()).await);
    let list = api.list(&ListParams::default()).await.unwrap();
    let stored: std::collections::HashMap<String, String> =
        list.iter().map(|map| (map.name_any(), map.resource_version().unwrap())).collect();
    for (name, version) in &acknowledged {
        assert_eq!(stored.get(name), Some(version), "{name}");
    }
    // Versions go on from where they were.
    let map = serde_json::from_value(json!({"metadata": {"name": "after"}})).unwrap();
    let after: u64 =
        api.create(&PostParams::default(), &map).await.unwrap().resource_version().unwrap().parse().unwrap();
    assert!(acknowledged.iter().all(|(_, version)| version.parse::<u64>().unwrap() < after));
    child.kill().unwrap();
    child.wait().unwrap();
}
