//! Starting and stopping, and everything between a socket and a request: TLS, connections, limits, authentication.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use seaway_apis::{StatusError, resources};
use seaway_http::Place;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::Config;
use crate::alloc::Allocator;
use crate::app::App;
use crate::auth::{User, authenticate, certificate_user};
use crate::metrics::{Asked, Metrics};
use crate::pki::{self, Pki, PkiError};
use crate::proxy::Kubelets;
use crate::reply::{self, Reply};
use crate::request::{Query, Target};
use crate::rest::{self, Pages};
use crate::store::{DiskError, Store};
use crate::token::Tokens;
use crate::{bootstrap, discovery, expiry};

/// Connections at a time, sessions with pods among them; more wait.
const MAX_CONNECTIONS: usize = 4096;
/// Streams (requests, watches) in one HTTP/2 connection.
const MAX_STREAMS: u32 = 1000;
/// For a TLS handshake, for the headers of a request, and for the first request of a connection.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// The end of a connection on which nobody was known: strangers must not keep others out by staying.
const STRANGER_TIME: Duration = Duration::from_secs(60);
/// The largest head of a request.
const MAX_HEAD_BYTES: u32 = 64 << 10;
/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(20);
/// What running requests get when the server stops.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Keys or certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The store's file.
    #[error(transparent)]
    Store(#[from] DiskError),
    /// There is nothing to listen on.
    #[error("the configuration has no listening socket")]
    NoListener,
    /// A listening socket can't be used.
    #[error("cannot use the listening socket {address}: {source}")]
    Listener {
        /// Its address.
        address: SocketAddr,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The certificates don't make a TLS server.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// The first objects can't be made.
    #[error("cannot create the cluster's first objects: {0}")]
    Bootstrap(StatusError),
}

/// A running server. Dropping it leaves it running; [`Server::shutdown`] ends it.
pub struct Server {
    addresses: Vec<SocketAddr>,
    pki: Arc<Pki>,
    store: Arc<Store>,
    stop: watch::Sender<bool>,
    connections: Arc<Semaphore>,
}

impl Server {
    /// Where it listens, in the order of [`Config::listeners`].
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its certificate authority.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Takes no more connections, gives running requests a moment, and closes the store.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(DRAIN_TIME, self.connections.acquire_many(all)).await;
        let store = self.store;
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
    }
}

/// Starts a server; it answers when this returns.
pub async fn serve(config: Config) -> Result<Server, ServeError> {
    let first = config.listeners.first().ok_or(ServeError::NoListener)?;
    let port = first.local_addr().map_or(0, |address| address.port());
    let advertised = SocketAddr::new(config.advertise_address, port);
    let allocator = Allocator::new(&config.service_cidrs, config.node_ports);
    let pki = Arc::new(Pki::ensure(&config.cert_dir, &names(&config, &allocator.first_addresses()))?);
    let acceptor = TlsAcceptor::from(Arc::new(tls(&pki).map_err(ServeError::Tls)?));
    let data_dir = config.data_dir.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&data_dir)).await;
    let store = opened.map_err(|e| ServeError::Tls(e.to_string()))??;
    let (stop, stopping) = watch::channel(false);
    let app = Arc::new(App {
        store: store.clone(),
        registry: resources(),
        allocator: Mutex::new(taken(allocator, &store)),
        pages: Mutex::new(Pages::default()),
        tokens: Tokens::new(pki.account_key_der()).map_err(ServeError::Tls)?,
        kubelets: Kubelets::new(&pki).map_err(ServeError::Tls)?,
        metrics: Arc::new(Metrics::new()),
        advertised,
        // Times of the API are whole seconds.
        started: jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default(),
        stopping,
    });
    bootstrap::ensure(&app).await.map_err(ServeError::Bootstrap)?;
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut addresses = Vec::new();
    for listener in config.listeners {
        let address = listener.local_addr().unwrap_or(advertised);
        let unusable = |source| ServeError::Listener { address, source };
        listener.set_nonblocking(true).map_err(unusable)?;
        let listener = TcpListener::from_std(listener).map_err(unusable)?;
        tracing::info!(%address, "serving the Kubernetes API");
        addresses.push(address);
        tokio::spawn(accept(app.clone(), listener, acceptor.clone(), connections.clone()));
    }
    tokio::spawn(bootstrap::keep(app.clone()));
    tokio::spawn(expiry::keep(app.clone()));
    Ok(Server { addresses, pki, store, stop, connections })
}

/// The names and addresses of the serving certificate.
fn names(config: &Config, services: &[IpAddr]) -> Vec<String> {
    let mut names: Vec<String> = [
        "kubernetes.default.svc.cluster.local",
        "kubernetes.default.svc",
        "kubernetes.default",
        "kubernetes",
        "localhost",
    ]
    .map(str::to_owned)
    .to_vec();
    let own = [IpAddr::from(Ipv4Addr::LOCALHOST), config.advertise_address];
    names.extend(own.iter().chain(services).map(ToString::to_string));
    let bound = config.listeners.iter().filter_map(|listener| listener.local_addr().ok());
    names
        .extend(bound.map(|address| address.ip()).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()));
    names.extend(config.tls_sans.iter().cloned());
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn tls(pki: &Pki) -> Result<ServerConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(pki::roots(pki.ca_certificate())?, provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|e| e.to_string())?;
    let own = pki.serving();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(clients)
        .with_single_cert(pki::certificates(&own.certificate)?, pki::private_key(&own.key)?)
        .map_err(|e| e.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The addresses and ports of the stored services are taken.
fn taken(mut allocator: Allocator, store: &Store) -> Allocator {
    for service in store.list("/services", None).objects {
        allocator.replace(&service.key, None, Some(&service.value()));
    }
    allocator
}

async fn accept(app: Arc<App>, listener: TcpListener, acceptor: TlsAcceptor, connections: Arc<Semaphore>) {
    let mut stopping = app.stopping.clone();
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.changed() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(app.clone(), stream, acceptor.clone(), permit.into()));
            }
            Err(error) => {
                // Out of descriptors, most likely: others will be closed.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(app: Arc<App>, stream: TcpStream, acceptor: TlsAcceptor, place: Place) {
    seaway_http::prepare(&stream);
    let stream = match tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let user = certificates.and_then(|list| list.first()).and_then(certificate_user).map(Arc::new);
    let peer = Arc::new(Peer { user, asked: AtomicBool::new(false), known: AtomicBool::new(false) });
    let mut stopping = app.stopping.clone();
    let answering = peer.clone();
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(place.clone());
        answering.asked.store(true, Ordering::Relaxed);
        let (app, peer) = (app.clone(), answering.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(app, peer, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_TIME).max_buf_size(512 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(PING))
        .keep_alive_timeout(PING)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES);
    let mut serving = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = peer.overstays() => {
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN_TIME, serving).await {
                Ok(ended) => ended,
                Err(_) => return tracing::debug!("a connection by nobody who is known was cut"),
            }
        }
        _ = stopping.changed() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection ended");
    }
}

/// The other end of a connection.
struct Peer {
    /// Who it is by its certificate.
    user: Option<Arc<User>>,
    /// Whether it has asked for anything.
    asked: AtomicBool,
    /// Whether any of its requests was by someone who is known.
    known: AtomicBool,
}

impl Peer {
    /// Ends when it has kept its connection for longer than it may; never where it is known.
    async fn overstays(&self) {
        tokio::time::sleep(HANDSHAKE_TIME).await;
        if self.asked.load(Ordering::Relaxed) {
            tokio::time::sleep(STRANGER_TIME - HANDSHAKE_TIME).await;
            if self.known.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn answer(app: Arc<App>, peer: Arc<Peer>, request: http::Request<Incoming>) -> Reply {
    let began = Instant::now();
    let metrics = app.metrics.clone();
    let mut asked = Asked { verb: "get", ..Asked::default() };
    let result = route(app, &peer, request, &mut asked).await;
    let response = result.unwrap_or_else(|error| reply::error(&error));
    metrics.answered(&asked, response.status().as_u16(), began.elapsed());
    response
}

async fn route(
    app: Arc<App>,
    peer: &Peer,
    request: http::Request<Incoming>,
    asked: &mut Asked,
) -> Result<Reply, StatusError> {
    let path = request.uri().path().to_owned();
    let user = authenticate(request.headers(), &peer.user, &app.tokens, &app.store)?;
    if !user.is_anonymous() {
        peer.known.store(true, Ordering::Relaxed);
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let target = Target::parse(&path, app.registry);
    let verb = target.as_ref().and_then(|target| target.verb(request.method(), &query));
    if let Some(target) = &target {
        asked.verb = verb.unwrap_or("get");
        asked.group = target.resource.group.to_string();
        asked.version = target.resource.version.to_string();
        asked.resource = target.resource.plural.to_string();
        asked.subresource.clone_from(&target.sub);
    }
    if user.is_anonymous() && !discovery::is_public(&path) {
        return Err(match (&target, verb) {
            (Some(t), Some(verb)) => StatusError::forbidden_user(
                &t.resource,
                t.subresource(),
                &t.name,
                &user.name,
                verb,
                &t.namespace,
            ),
            _ => StatusError::new(
                403,
                "Forbidden",
                format!("forbidden: User \"{}\" cannot get path \"{path}\"", user.name),
            ),
        });
    }
    match (target, verb) {
        (Some(target), Some(verb)) => rest::handle(app, target, verb, query, user, request).await,
        (Some(_), None) => Err(StatusError::method_not_allowed()),
        (None, _) => discovery::answer(&app, &request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_who_is_known_may_stay() {
        for (asked, known, expected) in
            [(false, false, Some(HANDSHAKE_TIME)), (true, false, Some(STRANGER_TIME)), (true, true, None)]
        {
            let peer = Peer { user: None, asked: asked.into(), known: known.into() };
            let began = tokio::time::Instant::now();
            let ended = tokio::time::timeout(Duration::from_secs(86_400), peer.overstays()).await;
            assert_eq!(ended.ok().map(|()| began.elapsed()), expected, "{asked} {known}");
        }
    }
}
