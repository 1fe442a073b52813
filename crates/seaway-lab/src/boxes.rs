//! The sandboxes that a lab consists of: which program runs in which namespaces, with which files. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use seaway_net::sandbox::{Mount, Ns, Root, Spec};

use crate::addresses::NodePlan;
use crate::cloud;
use crate::file::Host;
use crate::internet::{HostConfig, Zone};
use crate::paths::Paths;
use crate::state::Design;
use crate::system;

/// Where every sandbox finds this binary.
const SEAWAY: &str = "/.seaway/seaway";
/// The internet's resolver is a host of this name.
pub(crate) const RESOLVER: &str = "resolver";

/// A process of the lab and what it is called in `lab status` and `lab exec`.
#[derive(Clone, Debug)]
pub(crate) struct LabBox {
    pub(crate) spec: Spec,
    /// The file under `logs/` that it writes to.
    pub(crate) log: String,
}

/// Credentials of a node's processes, as the files that they read.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct NodeFiles {
    /// Absolute path in the node, contents.
    pub(crate) files: Vec<(PathBuf, String)>,
}

/// The root file systems and namespaces of a lab's boxes.
pub(crate) struct Boxes<'a> {
    pub(crate) design: &'a Design,
    pub(crate) paths: &'a Paths,
    /// An empty directory on which each root is mounted.
    pub(crate) root_dir: PathBuf,
}

impl Boxes<'_> {
    fn base(&self, label: &str, hostname: &str, netns: &Path, argv: Vec<String>) -> Spec {
        let mut spec = Spec::new(label, argv);
        spec.net = Ns::Path(netns.to_owned());
        spec.mount = Ns::New;
        spec.uts = Ns::New;
        spec.hostname = Some(hostname.to_owned());
        spec.root = Some(Root { dir: self.root_dir.clone(), mounts: self.system_mounts(hostname) });
        spec.env = environment();
        spec
    }

    fn system_mounts(&self, hostname: &str) -> Vec<Mount> {
        let file =
            |target: &str, contents: String| Mount::File { target: target.into(), contents, mode: 0o644 };
        vec![
            Mount::HostUserland,
            Mount::Proc,
            Mount::Sysfs,
            Mount::Dev,
            Mount::SelfExe { target: SEAWAY.into() },
            file("/etc/resolv.conf", self.resolv_conf()),
            file("/etc/hosts", format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {hostname}\n")),
            file(
                "/etc/nsswitch.conf",
                "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n".into(),
            ),
            file("/etc/hostname", format!("{hostname}\n")),
        ]
    }

    fn resolv_conf(&self) -> String {
        let servers = self.design.internet.resolver.iter();
        servers.map(|address| format!("nameserver {address}\n")).collect()
    }

    /// A host of the internet.
    pub(crate) fn internet_host(&self, host: &Host, netns: &Path) -> anyhow::Result<LabBox> {
        let config = HostConfig {
            name: host.name.clone(),
            addresses: host.addresses.clone(),
            allow: host.allow.clone(),
            zone: None,
        };
        self.internet_box(&config, netns)
    }

    /// The internet's resolver.
    pub(crate) fn resolver(&self, netns: &Path) -> anyhow::Result<LabBox> {
        let zone = Some(Zone::new(&self.design.internet));
        let addresses = self.design.internet.resolver.to_vec();
        self.internet_box(&HostConfig { name: RESOLVER.into(), addresses, allow: None, zone }, netns)
    }

    fn internet_box(&self, config: &HostConfig, netns: &Path) -> anyhow::Result<LabBox> {
        let argv = argv(["lab", "internet-host", "--config", &serde_json::to_string(config)?]);
        let hostname = config.name.split('.').next().unwrap_or("host");
        let spec = self.base(&format!("internet/{}", config.name), hostname, netns, argv);
        Ok(LabBox { spec, log: format!("internet-{}", config.name) })
    }

    /// The cloud's router.
    pub(crate) fn gateway(&self, netns: &Path) -> LabBox {
        let argv = argv(["lab", "gateway", &format!("--cloud={}", cloud::FOLDER)]);
        let mut spec = self.base("gateway", "gateway", netns, argv);
        self.show_cloud(&mut spec);
        LabBox { spec, log: "gateway".into() }
    }

    /// The API server, which also takes connections from the host at the listening descriptor `listener`.
    pub(crate) fn apiserver(&self, netns: &Path, listener: i32) -> LabBox {
        let advertised = &self.design.cloud.control_plane;
        let any = any_address(advertised);
        let argv = argv([
            "apiserver",
            "--data-dir=/var/lib/apiserver",
            "--cert-dir=/etc/seaway/pki",
            &format!("--advertise-address={}", advertised[0]),
            &format!("--bind-address={any}"),
            "--secure-port=6443",
            &format!("--listen-fd={listener}"),
            &format!("--service-cluster-ip-range={}", list(&self.design.service_cidrs)),
        ]);
        let mut spec = self.base("control-plane/apiserver", "control-plane", netns, argv);
        spec.keep_fds = vec![listener];
        self.bind(&mut spec, self.paths.store(), "/var/lib/apiserver");
        self.bind(&mut spec, self.paths.pki(), "/etc/seaway/pki");
        LabBox { spec, log: "apiserver".into() }
    }

    /// The controllers.
    pub(crate) fn controllers(&self, netns: &Path, kubeconfig: String) -> LabBox {
        let argv = argv([
            "controllers",
            "--kubeconfig=/etc/seaway/kubeconfig",
            &format!("--cluster-cidr={}", list(&self.design.pod_cidrs)),
            "--node-cidr-mask-size=24",
            "--node-monitor-grace-period=4s",
            "--node-monitor-period=500ms",
            &format!("--cloud-instances={}/{}", cloud::FOLDER, cloud::INSTANCES),
        ]);
        let mut spec = self.base("control-plane/controllers", "control-plane", netns, argv);
        add_file(&mut spec, "/etc/seaway/kubeconfig".into(), kubeconfig);
        self.show_cloud(&mut spec);
        LabBox { spec, log: "controllers".into() }
    }

    /// A node: a PID namespace of its own, in which `seaway lab node` runs the agent and the kubelet.
    pub(crate) fn node(&self, node: &NodePlan, netns: &Path, files: &NodeFiles) -> LabBox {
        let argv = argv([
            "lab",
            "node-main",
            &format!("--node-name={}", node.name),
            &format!("--node-ip={}", list(&node.addresses)),
            &format!("--cluster-dns={}", self.design.service_addresses(10)[0]),
            &format!("--zone={}", node.zone.as_deref().unwrap_or_default()),
        ]);
        let mut spec = self.base(&format!("node/{}", node.name), &node.name, netns, argv);
        spec.pid = Ns::New;
        spec.ipc = Ns::New;
        spec.reaper = true;
        self.bind(&mut spec, self.paths.node_disk(&node.name), "/var/lib");
        if let Some(root) = &mut spec.root {
            // What the agent would install there; it finds that it is there already and copies nothing.
            root.mounts.push(Mount::SelfExe { target: "/opt/cni/bin/seaway".into() });
        }
        add_file(&mut spec, "/etc/kube-flannel/net-conf.json".into(), system::net_conf(self.design));
        for (path, contents) in &files.files {
            add_file(&mut spec, path.clone(), contents.clone());
        }
        LabBox { spec, log: node.name.clone() }
    }

    fn bind(&self, spec: &mut Spec, source: PathBuf, target: &str) {
        if let Some(root) = &mut spec.root {
            root.mounts.push(Mount::Bind { source, target: target.into(), read_only: false });
        }
    }

    fn show_cloud(&self, spec: &mut Spec) {
        if let Some(root) = &mut spec.root {
            let source = self.paths.cloud();
            root.mounts.push(Mount::Bind { source, target: cloud::FOLDER.into(), read_only: true });
        }
    }
}

fn add_file(spec: &mut Spec, target: PathBuf, contents: String) {
    if let Some(root) = &mut spec.root {
        root.mounts.push(Mount::File { target, contents, mode: 0o600 });
    }
}

/// A command line of this binary.
pub(crate) fn argv<const N: usize>(arguments: [&str; N]) -> Vec<String> {
    std::iter::once(SEAWAY).chain(arguments).map(str::to_owned).collect()
}

/// The environment of a lab's processes: nothing of the caller's but the log filter.
pub(crate) fn environment() -> Vec<(String, String)> {
    let mut env = vec![
        ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOME".to_owned(), "/root".to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ];
    env.extend(std::env::var("SEAWAY_LOG").ok().map(|filter| ("SEAWAY_LOG".to_owned(), filter)));
    env
}

/// Several values of one option.
pub(crate) fn list<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// What to listen on to be reached at all of `addresses`: a socket on `::` takes IPv4 too.
pub(crate) fn any_address(addresses: &[IpAddr]) -> IpAddr {
    let six = addresses.iter().any(IpAddr::is_ipv6);
    if six { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// All hosts of the internet with their addresses, the resolver among them.
pub(crate) fn internet_addresses(design: &Design) -> Vec<(String, Vec<IpAddr>)> {
    let resolver = (RESOLVER.to_owned(), design.internet.resolver.to_vec());
    std::iter::once(resolver)
        .chain(design.internet.hosts.iter().map(|host| (host.name.clone(), host.addresses.clone())))
        .collect()
}
