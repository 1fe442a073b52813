//! The kubelet's own server: logs and sessions of containers, for the API server.

mod attach;
mod channels;
mod logs;
mod tls;

use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::kubelet::Kubelet;
use tls::Caller;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 1024;
/// What a handshake and a request's head may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Listens; the server runs in the background from then on.
pub(crate) async fn start(kubelet: Arc<Kubelet>) -> anyhow::Result<()> {
    let args = &kubelet.args;
    let config = tls::config(args).context("TLS of the kubelet's server")?;
    // All addresses, as kubelet: the node's network is where the API server comes from.
    let listener = match TcpListener::bind(("::", args.port)).await {
        Ok(listener) => listener,
        Err(_) => {
            let bound = TcpListener::bind(("0.0.0.0", args.port)).await;
            bound.with_context(|| format!("listening on port {}", args.port))?
        }
    };
    tokio::spawn(serve(listener, TlsAcceptor::from(config), router(kubelet)));
    Ok(())
}

fn router(kubelet: Arc<Kubelet>) -> Router {
    Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::container_logs))
        .route("/exec/{namespace}/{pod}/{container}", get(attach::exec))
        .route("/attach/{namespace}/{pod}/{container}", get(attach::attach))
        .route_layer(from_fn_with_state((), authorize))
        .route("/healthz", get(|| async { "ok" }))
        .with_state(kubelet)
}

/// Lets through who may do everything in the cluster; the API server says so of itself by its certificate.
async fn authorize(
    State(()): State<()>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    match caller {
        Caller::Allowed => next.run(request).await,
        Caller::Other(name) => (
            StatusCode::FORBIDDEN,
            format!("Forbidden (user={name}, verb=get, resource=nodes, subresource=proxy)\n"),
        )
            .into_response(),
        Caller::Unknown => (StatusCode::UNAUTHORIZED, "Unauthorized\n").into_response(),
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, router: Router) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    serve_one(stream, &acceptor, router).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_one(stream: TcpStream, acceptor: &TlsAcceptor, router: Router) {
    // Keystrokes and their echoes go out as they come.
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await else { return };
    let caller = tls::caller(stream.get_ref().1);
    let service = TowerToHyperService::new(router.layer(Extension(caller)));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    // A client that breaks off is the client's concern.
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}
