//! kube-proxy's iptables layout (pkg/proxy/iptables of Kubernetes 1.28 and later): a rule per service in one chain, a chain per
//! service and per endpoint, given to `iptables-restore` as text.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::cluster::{Cluster, PORT};
use crate::measure::{Outcome, Parts, children, cost, median};

/// Which of Debian's two programs loads the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The kernel's own iptables.
    Legacy,
    /// nf_tables, by translation.
    Nft,
}

impl Backend {
    const fn name(self) -> &'static str {
        match self {
            Self::Legacy => "iptables layout, legacy",
            Self::Nft => "iptables layout, iptables-nft",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Legacy => "iptables-legacy-restore",
            Self::Nft => "iptables-nft-restore",
        }
    }

    /// Adds what `text` says, and replaces the chains that it declares.
    pub(crate) fn restore(self, text: &str) -> anyhow::Result<()> {
        let program = self.program();
        let mut child = Command::new(program)
            .args(["--noflush", "--counters"])
            .stdin(Stdio::piped())
            .spawn()
            .with_context(|| format!("running {program} (Debian package iptables)"))?;
        child.stdin.take().context("standard input")?.write_all(text.as_bytes())?;
        let status = child.wait()?;
        ensure!(status.success(), "{program}: {status}");
        Ok(())
    }
}

/// The layout through `iptables-restore`, as kube-proxy does it.
pub(crate) fn run(cluster: &Cluster, rounds: u32, backend: Backend) -> anyhow::Result<Outcome> {
    let load = |build: &dyn Fn() -> String| -> anyhow::Result<Parts> {
        let before = children();
        let start = Instant::now();
        let mut generate = start.elapsed();
        let mut bytes = 0;
        let (result, total) = cost(|| {
            let text = build();
            generate = start.elapsed();
            bytes = text.len();
            backend.restore(&text)
        });
        result?;
        let after = children();
        let (user, system) = (after.0 - before.0, after.1 - before.1);
        Ok(Parts { generate, parse: Some(user), encode: None, kernel: system, bytes, total })
    };
    let full = load(&|| everything(cluster))?;
    let mut more = Vec::new();
    for round in 0..rounds {
        let index = cluster.services + round;
        more.push(load(&|| text(cluster, index + 1, index..index + 1))?);
    }
    Ok(Outcome { name: backend.name(), full, one_more: median(more), adopt: None })
}

/// All services.
pub(crate) fn everything(cluster: &Cluster) -> String {
    text(cluster, cluster.services, 0..cluster.services)
}

/// The table with `services` services. A sync writes out the chains of the `changed` ones alone, but always all of
/// KUBE-SERVICES: a chain is replaced as a whole.
fn text(cluster: &Cluster, services: u32, changed: std::ops::Range<u32>) -> String {
    let mut text = String::from("*nat\n");
    for chain in ["KUBE-SERVICES", "KUBE-MARK-MASQ", "KUBE-POSTROUTING"] {
        let _ = writeln!(text, ":{chain} - [0:0]");
    }
    for index in changed.clone() {
        let _ = writeln!(text, ":{} - [0:0]", service_chain(index));
        for endpoint in cluster.endpoints(index) {
            let _ = writeln!(text, ":{} - [0:0]", endpoint_chain(index, endpoint));
        }
    }
    text.push_str(
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n",
    );
    for index in 0..services {
        let (name, ip, chain) = (name(index), Cluster::cluster_ip(index), service_chain(index));
        let _ = writeln!(
            text,
            "-A KUBE-SERVICES -m comment --comment \"{name} cluster IP\" -m tcp -p tcp -d {ip} --dport {PORT} -j {chain}"
        );
    }
    for index in changed {
        service(cluster, index, &mut text);
    }
    // The first time the chains are hooked in; kube-proxy does that with calls of `iptables` of its own.
    if cluster.services == services {
        for (hook, chain) in [
            ("PREROUTING", "KUBE-SERVICES"),
            ("OUTPUT", "KUBE-SERVICES"),
            ("POSTROUTING", "KUBE-POSTROUTING"),
        ] {
            let _ = writeln!(text, "-A {hook} -j {chain}");
        }
    }
    text.push_str("COMMIT\n");
    text
}

fn service(cluster: &Cluster, index: u32, text: &mut String) {
    let (name, ip, chain) = (name(index), Cluster::cluster_ip(index), service_chain(index));
    let pods = Cluster::pod_network();
    let _ = writeln!(
        text,
        "-A {chain} -m comment --comment \"{name} cluster IP\" -m tcp -p tcp -d {ip} --dport {PORT} ! -s {pods} -j KUBE-MARK-MASQ"
    );
    let endpoints: Vec<Ipv4Addr> = cluster.endpoints(index).collect();
    for (left, endpoint) in (1..=endpoints.len()).rev().zip(&endpoints) {
        let target = endpoint_chain(index, *endpoint);
        let chance = match left {
            1 => String::new(),
            left => format!(" -m statistic --mode random --probability {:.10}", 1.0 / left as f64),
        };
        let _ = writeln!(
            text,
            "-A {chain} -m comment --comment \"{name} -> {endpoint}:{PORT}\"{chance} -j {target}"
        );
    }
    for endpoint in endpoints {
        let chain = endpoint_chain(index, endpoint);
        let _ = writeln!(text, "-A {chain} -m comment --comment {name} -s {endpoint} -j KUBE-MARK-MASQ");
        let _ = writeln!(
            text,
            "-A {chain} -m comment --comment {name} -m tcp -p tcp -j DNAT --to-destination {endpoint}:{PORT}"
        );
    }
}

fn name(index: u32) -> String {
    format!("default/{}:http", Cluster::name(index))
}

/// Sixteen letters and digits stand for a hash of the rest.
fn service_chain(index: u32) -> String {
    format!("KUBE-SVC-{:016X}", u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn endpoint_chain(index: u32, endpoint: Ipv4Addr) -> String {
    let both = u64::from(index) << 32 | u64::from(endpoint.to_bits());
    format!("KUBE-SEP-{:016X}", both.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
