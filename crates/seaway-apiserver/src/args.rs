//! `seaway apiserver`: the command line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use ipnet::IpNet;

use crate::{Config, NodePorts, pki, serve};

/// Runs the embedded Kubernetes API server.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  seaway apiserver --data-dir /var/lib/seaway/apiserver --cert-dir /etc/seaway/pki --advertise-address 172.18.0.2
  seaway apiserver --data-dir d --cert-dir c --advertise-address 127.0.0.1 --secure-port 0 --write-kubeconfig admin.conf

Every authenticated identity may do everything: there is no RBAC here.")]
pub struct ApiserverArgs {
    /// Directory of the store (store.redb); made when it is not there
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Directory of the certificate authority, the serving certificate and the service account key; made when not there
    #[arg(long, value_name = "DIR")]
    pub cert_dir: PathBuf,
    /// Address by which the cluster reaches this server: the endpoint of the service `kubernetes`
    #[arg(long, value_name = "IP")]
    pub advertise_address: IpAddr,
    /// Address to listen on
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind_address: IpAddr,
    /// Port to listen on; 0 for any free one
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub secure_port: u16,
    /// An inherited, already listening TCP socket to serve too (repeatable)
    #[arg(long, value_name = "N")]
    pub listen_fd: Vec<i32>,
    /// Addresses of services: a network, or two of different families
    #[arg(long, value_name = "CIDR[,CIDR]", default_value = "10.96.0.0/12", value_delimiter = ',')]
    pub service_cluster_ip_range: Vec<IpNet>,
    /// Node ports of services, FIRST-LAST
    #[arg(long, value_name = "RANGE", default_value = "30000-32767")]
    pub service_node_port_range: NodePorts,
    /// A further name or address for the serving certificate (repeatable)
    #[arg(long, value_name = "NAME")]
    pub tls_san: Vec<String>,
    /// Write a kubeconfig of an administrator for the listening address here
    #[arg(long, value_name = "FILE")]
    pub write_kubeconfig: Option<PathBuf>,
}

/// Runs the server until SIGTERM or SIGINT.
pub fn run(args: ApiserverArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run_until_signal(args))
}

async fn run_until_signal(args: ApiserverArgs) -> anyhow::Result<ExitCode> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;

    check_ranges(&args.service_cluster_ip_range)?;
    let bind = SocketAddr::new(args.bind_address, args.secure_port);
    let mut listeners = vec![TcpListener::bind(bind).with_context(|| format!("cannot listen on {bind}"))?];
    for fd in &args.listen_fd {
        listeners.push(inherited(*fd).with_context(|| format!("--listen-fd {fd} is not a usable socket"))?);
    }
    let server = serve(Config {
        data_dir: args.data_dir,
        cert_dir: args.cert_dir,
        advertise_address: args.advertise_address,
        listeners,
        service_cidrs: args.service_cluster_ip_range,
        node_ports: args.service_node_port_range,
        tls_sans: args.tls_san,
    })
    .await?;
    if let Some(path) = &args.write_kubeconfig {
        let port = server.addresses().first().map_or(args.secure_port, SocketAddr::port);
        let host =
            if args.bind_address.is_unspecified() { args.advertise_address } else { args.bind_address };
        let url = format!("https://{}", SocketAddr::new(host, port));
        pki::write(path, &server.pki().kubeconfig(&url, "kubernetes-admin", &["system:masters"])?, 0o600)?;
    }
    tokio::select! {
        _ = terminate.recv() => tracing::info!("stopping on SIGTERM"),
        _ = interrupt.recv() => tracing::info!("stopping on SIGINT"),
    }
    server.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

/// One network, or one of each family (kube-apiserver takes no more).
fn check_ranges(ranges: &[IpNet]) -> anyhow::Result<()> {
    match ranges {
        [_] => Ok(()),
        [one, other] if one.addr().is_ipv4() != other.addr().is_ipv4() => Ok(()),
        _ => anyhow::bail!("--service-cluster-ip-range takes one network, or an IPv4 and an IPv6 one"),
    }
}

/// A duplicate of an inherited descriptor; the kernel makes it, so no unchecked number becomes an owned descriptor.
fn inherited(fd: i32) -> std::io::Result<TcpListener> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let me = pidfd_open(getpid(), PidfdFlags::empty())?;
    let own: OwnedFd = pidfd_getfd(&me, fd, PidfdGetfdFlags::empty())?;
    let listener = TcpListener::from(own);
    listener.local_addr()?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn takes_over_a_listening_socket() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let second = inherited(first.as_raw_fd()).unwrap();
        assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
        assert!(inherited(100_000).is_err());
    }
}
