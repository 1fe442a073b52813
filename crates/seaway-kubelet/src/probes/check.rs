//! One look at a container: a command, a request, a connection.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ContainerPort, ExecAction, HTTPGetAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::container::Container;

/// Bytes of a page or of a command's output that a message repeats.
const MAX_OUTPUT: usize = 10 * 1024;

/// What to look at.
#[derive(Debug, Clone)]
pub(crate) enum Check {
    Exec(ExecAction),
    Http(HTTPGetAction),
    Tcp(TCPSocketAction),
}

/// Where: the pod's address and the container.
#[derive(Clone)]
pub(crate) struct Place {
    pub ip: Option<IpAddr>,
    pub ports: BTreeMap<String, u16>,
    pub container: Arc<Container>,
}

/// The ports that a container names.
pub(crate) fn named_ports(ports: Option<&[ContainerPort]>) -> BTreeMap<String, u16> {
    let named = |port: &ContainerPort| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?));
    ports.unwrap_or_default().iter().filter_map(named).collect()
}

impl Check {
    /// Looks once; the error is what a person reads.
    pub(crate) async fn run(&self, place: &Place, timeout: Duration) -> Result<(), String> {
        let late = |what: String| move |_| Err(what);
        match self {
            Self::Exec(action) => exec(place, action.command.clone().unwrap_or_default(), timeout).await,
            Self::Http(action) => {
                let url = url(place, action)?;
                let fail = format!("Get \"{url}\": context deadline exceeded");
                tokio::time::timeout(timeout, get(place, action, &url)).await.unwrap_or_else(late(fail))
            }
            Self::Tcp(action) => {
                let (host, port) = (host(place, action.host.as_deref())?, number(place, &action.port)?);
                let fail = format!("dial tcp {host}:{port}: i/o timeout");
                let connecting = async {
                    let connected = TcpStream::connect((host.as_str(), port)).await;
                    connected.map(drop).map_err(|error| format!("dial tcp {host}:{port}: {error}"))
                };
                tokio::time::timeout(timeout, connecting).await.unwrap_or_else(late(fail))
            }
        }
    }
}

async fn exec(place: &Place, command: Vec<String>, timeout: Duration) -> Result<(), String> {
    let (code, output) = crate::container::run_in(&place.container, command, timeout, MAX_OUTPUT).await?;
    match code {
        0 => Ok(()),
        _ => Err(String::from_utf8_lossy(&output).into_owned()),
    }
}

fn host(place: &Place, host: Option<&str>) -> Result<String, String> {
    match host.filter(|host| !host.is_empty()) {
        Some(host) => Ok(host.to_owned()),
        None => place.ip.map(|ip| ip.to_string()).ok_or_else(|| "the pod has no address".to_owned()),
    }
}

fn number(place: &Place, port: &IntOrString) -> Result<u16, String> {
    match port {
        IntOrString::Int(port) => u16::try_from(*port).map_err(|_| format!("invalid port number: {port}")),
        IntOrString::String(name) => {
            let named = place.ports.get(name).copied().or_else(|| name.parse().ok());
            named.ok_or_else(|| format!("couldn't find port: {name:?}"))
        }
    }
}

fn url(place: &Place, action: &HTTPGetAction) -> Result<String, String> {
    let host = host(place, action.host.as_deref())?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let port = number(place, &action.port)?;
    let path = action.path.as_deref().unwrap_or("/");
    let path = path.strip_prefix('/').unwrap_or(path);
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    Ok(format!("{scheme}://{host}:{port}/{path}"))
}

/// A GET request as kubelet's prober makes it: any answer from 200 to 399 is good.
async fn get(place: &Place, action: &HTTPGetAction, url: &str) -> Result<(), String> {
    let fail = |error: String| -> String { format!("Get \"{url}\": {error}") };
    let (host, port) = (host(place, action.host.as_deref())?, number(place, &action.port)?);
    let stream = TcpStream::connect((host.as_str(), port)).await;
    let stream = stream.map_err(|error| fail(format!("dial tcp {host}:{port}: {error}")))?;
    let mut request = hyper::Request::get(url.split_once(&format!(":{port}")).map_or("/", |(_, path)| path))
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| fail(error.to_string()))?;
    add_headers(&mut request, action, &host, port)?;
    let https = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let status = if https {
        let stream = super::tls::connect_unverified(stream, &host).await.map_err(fail)?;
        exchange(TokioIo::new(stream), request).await
    } else {
        exchange(TokioIo::new(stream), request).await
    };
    match status.map_err(fail)? {
        200..400 => Ok(()),
        status => Err(format!("HTTP probe failed with statuscode: {status}")),
    }
}

fn add_headers<B>(
    request: &mut hyper::Request<B>,
    action: &HTTPGetAction,
    host: &str,
    port: u16,
) -> Result<(), String> {
    use hyper::header::{HeaderName, HeaderValue};
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static("kube-probe/1.36"));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let bad = |what: &str| format!("httpHeaders: bad {what}");
    headers.insert(HOST, HeaderValue::try_from(format!("{host}:{port}")).map_err(|_| bad("host"))?);
    for header in action.http_headers.iter().flatten() {
        let name = HeaderName::try_from(&header.name).map_err(|_| bad(&header.name))?;
        headers.insert(name, HeaderValue::try_from(&header.value).map_err(|_| bad(&header.name))?);
    }
    Ok(())
}

/// Sends the request; the answer's status.
async fn exchange<S>(stream: S, request: hyper::Request<Empty<bytes::Bytes>>) -> Result<u16, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(|error| error.to_string())?;
    let driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    // Read so that the server does not see its connection reset; what is said beyond the limit is left.
    let _ = Limited::new(response.into_body(), MAX_OUTPUT).collect().await;
    drop(driver);
    Ok(status)
}
