//! Certificates and kubeconfigs for all that reach the API server.

use std::net::SocketAddr;
use std::path::PathBuf;

use seaway_apiserver::pki::Pki;

use crate::addresses::NodePlan;
use crate::boxes::NodeFiles;
use crate::cloud::CloudState;
use crate::paths::Paths;
use crate::state::Design;
use crate::supervisor::Task;

/// Makes those that a lab starts with; `port` is where the API server listens on the host's loopback, `listener` the descriptor.
pub(crate) fn make(
    design: &Design,
    cloud: CloudState,
    paths: &Paths,
    port: u16,
    listener: i32,
) -> anyhow::Result<Task> {
    let pki = authority(design, paths)?;
    let admin =
        pki.kubeconfig(&format!("https://127.0.0.1:{port}"), "kubernetes-admin", &["system:masters"])?;
    crate::state::replace(&paths.admin_kubeconfig(), admin.as_bytes())?;
    let controllers_kubeconfig = pki.kubeconfig(&inside(design), "system:kube-controller-manager", &[])?;
    let node_files = design
        .cloud
        .nodes
        .iter()
        .map(|node| Ok((node.name.clone(), node_files(&pki, design, node)?)))
        .collect::<anyhow::Result<_>>()?;
    Ok(Task { design: design.clone(), cloud, listener, controllers_kubeconfig, node_files })
}

/// Makes those of a node that comes later.
pub(crate) fn of_node(design: &Design, paths: &Paths, node: &NodePlan) -> anyhow::Result<NodeFiles> {
    node_files(&authority(design, paths)?, design, node)
}

/// The lab's certificate authority.
fn authority(design: &Design, paths: &Paths) -> anyhow::Result<Pki> {
    let names = [
        "127.0.0.1",
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let services = design.service_addresses(1);
    let addresses = design.cloud.control_plane.iter().chain(&services).map(ToString::to_string);
    let names: Vec<String> = names.map(str::to_owned).into_iter().chain(addresses).collect();
    Ok(Pki::ensure(&paths.pki(), &names)?)
}

/// The API server, as the nodes and the controllers reach it.
fn inside(design: &Design) -> String {
    format!("https://{}", SocketAddr::new(design.cloud.control_plane[0], 6443))
}

fn node_files(pki: &Pki, design: &Design, node: &NodePlan) -> anyhow::Result<NodeFiles> {
    let server = &inside(design);
    let kubelet = pki.kubeconfig(server, &format!("system:node:{}", node.name), &["system:nodes"])?;
    let agent =
        pki.kubeconfig(server, &format!("system:seaway-agent:{}", node.name), &["system:seaway-agents"])?;
    let serving = pki.serving_certificate(std::slice::from_ref(&node.name), &node.addresses)?;
    let file = |name: &str, contents: String| (PathBuf::from("/etc/seaway").join(name), contents);
    Ok(NodeFiles {
        files: vec![
            file("kubelet.kubeconfig", kubelet),
            file("agent.kubeconfig", agent),
            file("kubelet.crt", serving.certificate),
            file("kubelet.key", serving.key),
            file("ca.crt", pki.ca_certificate().to_owned()),
        ],
    })
}
