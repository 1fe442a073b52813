//! Logs, exec and the like of a pod, passed through to the kubelet of its node.
//!
//! The server speaks HTTP/1.1 over TLS to `https://NODE:10250` with a client certificate of its own. A request that upgrades
//! (WebSocket, SPDY/3.1) is passed on with its headers, and from the 101 on the bytes go both ways unseen.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use seaway_apis::StatusError;
use seaway_http::Place;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::app::{App, text};
use crate::pki::{self, Pki};
use crate::reply::{Body, Reply, full};
use crate::request::{Query, Target, encode};

/// The port of a kubelet that doesn't say another.
const KUBELET_PORT: u16 = 10250;
/// A kubelet that can't be reached within this is given up.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long a kubelet may take to begin its answer.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// What is read of a kubelet's error.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Headers that belong to one connection and are not passed on (RFC 9110 section 7.6.1), and the caller's identity.
const NOT_PASSED: [HeaderName; 6] = [
    header::HOST,
    header::AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::CONTENT_LENGTH,
];

/// The client side to the kubelets.
pub(crate) struct Kubelets {
    tls: TlsConnector,
}

impl Kubelets {
    /// With a client certificate of the cluster's CA, by which kubelets' certificates are checked too.
    pub(crate) fn new(pki: &Pki) -> Result<Kubelets, String> {
        let own = pki
            .client_certificate("kube-apiserver-kubelet-client", &["system:masters"])
            .map_err(|e| e.to_string())?;
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|e| e.to_string())?
                .with_root_certificates(pki::roots(pki.ca_certificate())?)
                .with_client_auth_cert(pki::certificates(&own.certificate)?, pki::private_key(&own.key)?)
                .map_err(|e| e.to_string())?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Kubelets { tls: TlsConnector::from(Arc::new(config)) })
    }

    async fn connect(&self, address: SocketAddr) -> std::io::Result<http1::SendRequest<Incoming>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(ServerName::IpAddress(address.ip().into()), stream).await?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a kubelet ended");
            }
        });
        Ok(sender)
    }
}

/// Passes a request for a pod's `log`, `exec`, `attach` or `portforward` to its kubelet.
pub(crate) async fn pod(
    app: &Arc<App>,
    target: &Target,
    query: &Query,
    mut request: http::Request<Incoming>,
) -> Result<Reply, StatusError> {
    let pod = app.core_object("pods", &target.namespace, &target.name)?.value();
    let path = kubelet_path(target, query, &pod)?;
    let node = text(&pod, &["spec", "nodeName"]);
    if node.is_empty() {
        return Err(StatusError::bad_request(format!("pod {} does not have a host assigned", target.name)));
    }
    let address = kubelet_address(&app.core_object("nodes", "", node)?.value()).ok_or_else(|| {
        StatusError::internal(format!("node {node} has no InternalIP in its status.addresses"))
    })?;
    let unreachable = |why: String| {
        let method = request_method(&target.sub);
        StatusError::internal(format!("{method} \"https://{address}{path}\": {why}"))
    };
    let caller = hyper::upgrade::on(&mut request);
    let place = request.extensions().get::<Place>().cloned();
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let onward = onward(request, address, &path).map_err(|e| unreachable(e.to_string()))?;
    let mut sender = match tokio::time::timeout(CONNECT_TIME, app.kubelets.connect(address)).await {
        Ok(Ok(sender)) => sender,
        Ok(Err(error)) => return Err(unreachable(format!("dial tcp {address}: {error}"))),
        Err(_) => return Err(unreachable(format!("dial tcp {address}: i/o timeout"))),
    };
    let mut answer = match tokio::time::timeout(ANSWER_TIME, sender.send_request(onward)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(unreachable(error.to_string())),
        Err(_) => return Err(unreachable("the kubelet does not answer".to_owned())),
    };
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS && upgrades {
        let kubelet = hyper::upgrade::on(&mut answer);
        let stopping = app.stopping.clone();
        tokio::spawn(async move {
            join(caller, kubelet, stopping).await;
            drop(place);
        });
        return Ok(answer.map(|_| full("")));
    }
    if answer.status().is_client_error() || answer.status().is_server_error() {
        return Err(kubelet_error(answer).await);
    }
    let (mut parts, body) = answer.into_parts();
    for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    let body: Body = body.map_err(Into::into).boxed_unsync();
    Ok(Reply::from_parts(parts, body))
}

fn request_method(sub: &str) -> &'static str {
    if sub == "log" { "Get" } else { "Post" }
}

/// The request as the kubelet gets it.
fn onward(
    request: http::Request<Incoming>,
    address: SocketAddr,
    path: &str,
) -> Result<http::Request<Incoming>, http::Error> {
    let (parts, body) = request.into_parts();
    let mut headers: HeaderMap = parts.headers;
    for name in NOT_PASSED {
        headers.remove(name);
    }
    if !headers.contains_key(header::UPGRADE) {
        headers.remove(header::CONNECTION);
    }
    headers.insert(header::HOST, HeaderValue::try_from(address.to_string())?);
    let method = if parts.method == Method::HEAD { Method::GET } else { parts.method };
    let mut onward = http::Request::new(body);
    *onward.method_mut() = method;
    *onward.uri_mut() = Uri::try_from(path)?;
    *onward.headers_mut() = headers;
    Ok(onward)
}

/// Carries bytes both ways until either side ends.
async fn join(
    caller: hyper::upgrade::OnUpgrade,
    kubelet: hyper::upgrade::OnUpgrade,
    mut stopping: tokio::sync::watch::Receiver<bool>,
) {
    let (caller, kubelet) = match tokio::try_join!(caller, kubelet) {
        Ok(pair) => pair,
        Err(error) => {
            tracing::debug!(%error, "a stream to a kubelet was not taken up");
            return;
        }
    };
    let (mut caller, mut kubelet) = (TokioIo::new(caller), TokioIo::new(kubelet));
    tokio::select! {
        ended = tokio::io::copy_bidirectional(&mut caller, &mut kubelet) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a stream to a kubelet broke");
            }
        }
        _ = stopping.changed() => {}
    }
}

/// The Status for a kubelet's own error text.
async fn kubelet_error(answer: http::Response<Incoming>) -> StatusError {
    let code = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ERROR_BYTES).collect().await;
    let message =
        body.map_or_else(|_| code.to_string(), |body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
    let message = match message.trim() {
        "" => format!("the kubelet answers {code}"),
        said => said.to_owned(),
    };
    match code.as_u16() {
        400 => StatusError::bad_request(message),
        404 => StatusError::new(404, "NotFound", message),
        401 | 403 => StatusError::internal(format!("the kubelet refuses this server: {message}")),
        _ => StatusError::internal(message),
    }
}

/// InternalIP and port of a node's kubelet.
fn kubelet_address(node: &Value) -> Option<SocketAddr> {
    let addresses = node["status"]["addresses"].as_array()?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP")?;
    let ip: IpAddr = internal["address"].as_str()?.parse().ok()?;
    let port = node
        .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
        .and_then(Value::as_u64)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0);
    Some(SocketAddr::new(ip, port.unwrap_or(KUBELET_PORT)))
}

/// Path and query of the kubelet's own API for a subresource of a pod.
fn kubelet_path(target: &Target, query: &Query, pod: &Value) -> Result<String, StatusError> {
    let (namespace, name) = (encode(&target.namespace), encode(&target.name));
    let (head, container) = match &*target.sub {
        "log" => ("containerLogs", true),
        "portforward" => ("portForward", false),
        "exec" => ("exec", true),
        _ => ("attach", true),
    };
    let mut path = format!("/{head}/{namespace}/{name}");
    if container {
        path.push('/');
        path.push_str(&encode(&container_of(target, query, pod)?));
    }
    let parameters: Vec<String> = query
        .pairs()
        .iter()
        .filter(|(name, _)| name != "container")
        .map(|(name, value)| match (&*target.sub, name.as_str()) {
            ("exec" | "attach", "stdin" | "stdout" | "stderr" | "tty") => kubelet_stream(name, value),
            _ => format!("{}={}", encode(name), encode(value)),
        })
        .filter(|parameter| !parameter.is_empty())
        .collect();
    if !parameters.is_empty() {
        path.push('?');
        path.push_str(&parameters.join("&"));
    }
    Ok(path)
}

/// `stdin=true` as the kubelet names it: `input=1`.
fn kubelet_stream(name: &str, value: &str) -> String {
    let name = match name {
        "stdin" => "input",
        "stdout" => "output",
        "stderr" => "error",
        other => other,
    };
    if matches!(value, "false" | "0") { String::new() } else { format!("{name}=1") }
}

/// The container that is meant: the one named, the default one, or the only one.
fn container_of(target: &Target, query: &Query, pod: &Value) -> Result<String, StatusError> {
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().map_or(&[][..], Vec::as_slice);
        containers.iter().filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    let containers = names("containers");
    let others = [names("initContainers"), names("ephemeralContainers")].concat();
    let default = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    match (query.get("container").or(default), containers.as_slice()) {
        (Some(name), _) if containers.iter().chain(&others).any(|n| n == name) => Ok(name.to_owned()),
        (Some(name), _) => {
            Err(StatusError::bad_request(format!("container {name} is not valid for pod {}", target.name)))
        }
        (None, [only]) => Ok(only.clone()),
        (None, several) => Err(StatusError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            target.name,
            several.join(" ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seaway_apis::resources;
    use serde_json::json;

    #[test]
    fn paths_are_the_kubelets_own() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        let path = |sub: &str, query: &str| {
            let target = Target::parse(&format!("/api/v1/namespaces/n/pods/p/{sub}"), resources()).unwrap();
            kubelet_path(&target, &Query::parse(query), &pod).map_err(|e| e.message)
        };
        let cases = [
            ("log", "container=a&follow=true&tailLines=5", "/containerLogs/n/p/a?follow=true&tailLines=5"),
            ("log", "container=i", "/containerLogs/n/p/i"),
            (
                "exec",
                "container=b&command=sh&command=-c&command=echo+a%26b&stdin=true&stdout=true&tty=false",
                "/exec/n/p/b?command=sh&command=-c&command=echo%20a%26b&input=1&output=1",
            ),
            ("portforward", "ports=80", "/portForward/n/p?ports=80"),
        ];
        for (sub, query, wanted) in cases {
            assert_eq!(path(sub, query).as_deref(), Ok(wanted));
        }
        assert_eq!(
            path("log", "").unwrap_err(),
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        assert_eq!(path("log", "container=x").unwrap_err(), "container x is not valid for pod p");
    }

    #[test]
    fn kubelets_are_found_by_their_nodes() {
        let node = json!({"status": {"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "172.18.0.11"}]}});
        assert_eq!(kubelet_address(&node).unwrap().to_string(), "172.18.0.11:10250");
        assert_eq!(kubelet_address(&json!({})), None);
    }
}
