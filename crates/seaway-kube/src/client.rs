//! A client of the API server that notices a dead connection.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::ServiceBuilder;

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence after which the kernel probes a connection; and between probes.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long sent data or a probe may go unacknowledged before the connection is given up (RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig file cannot be read or used.
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// Not in a pod with a service account.
    #[error("no kubeconfig given, and the in-cluster configuration cannot be used: {0}")]
    InCluster(#[from] kube::config::InClusterError),
    /// Certificates, keys or credentials cannot be used.
    #[error("API client: {0}")]
    Client(#[from] kube::Error),
}

/// A client from a kubeconfig file, or from the pod's service account where `kubeconfig` is `None`.
///
/// Nothing is sent yet. Must be called inside a tokio runtime.
///
/// # Errors
/// The file or the account cannot be read, or has certificates or credentials that cannot be used.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    Ok(client(configuration(kubeconfig).await?)?)
}

/// Where the API server is and how to show who we are, from a kubeconfig file, or from the pod's service account where
/// `kubeconfig` is `None`.
///
/// # Errors
/// The file or the account cannot be read or used.
pub async fn configuration(kubeconfig: Option<&Path>) -> Result<Config, ConnectError> {
    let Some(path) = kubeconfig else { return Ok(Config::incluster()?) };
    let problem = |source| ConnectError::Kubeconfig { path: path.to_owned(), source };
    let file = Kubeconfig::read_from(path).map_err(problem)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(problem)
}

/// A client by a configuration; proxies of the environment are not used.
///
/// kube's own constructor leaves keep-alive off: a server whose machine is gone would be noticed after minutes.
///
/// # Errors
/// Certificates, keys or credentials cannot be used.
pub fn client(config: Config) -> kube::Result<Client> {
    // Whoever set a provider first wins; ours is the one that all of the workspace is built with.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE));
    tcp.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let https = config.rustls_https_connector_with_connector(tcp)?;
    let http = hyper_util::client::legacy::Builder::new(TokioExecutor::new()).build::<_, Body>(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}
