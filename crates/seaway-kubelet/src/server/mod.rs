//! The kubelet's own server: logs, sessions and ports of pods, for the API server.

mod attach;
mod channels;
mod logs;
mod port_forward;
mod session;
mod streams;
mod tls;
mod upgrade;

use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper_util::rt::TokioIo;
use seaway_http::Place;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::kubelet::Kubelet;
use port_forward::port_forward;
use tls::Caller;

/// Connections at a time, sessions among them.
const MAX_CONNECTIONS: usize = 1024;

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
    let (acceptor, router) = (TlsAcceptor::from(config), router(kubelet));
    tokio::spawn(seaway_http::accept(listener, MAX_CONNECTIONS, move |stream, _, place| {
        handle(stream, acceptor.clone(), router.clone(), place)
    }));
    Ok(())
}

fn router(kubelet: Arc<Kubelet>) -> Router {
    Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::container_logs))
        .route("/exec/{namespace}/{pod}/{container}", get(attach::exec).post(attach::exec))
        .route("/attach/{namespace}/{pod}/{container}", get(attach::attach).post(attach::attach))
        .route("/portForward/{namespace}/{pod}", get(port_forward).post(port_forward))
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

async fn handle(stream: TcpStream, acceptor: TlsAcceptor, router: Router, place: Place) {
    let Ok(Ok(stream)) = tokio::time::timeout(seaway_http::PATIENCE, acceptor.accept(stream)).await else {
        return;
    };
    let caller = tls::caller(stream.get_ref().1);
    seaway_http::connection(TokioIo::new(stream), router.layer(Extension(caller)), place).await;
}
