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
                let target = Target::of(place.ip, &place.ports, action)?;
                let fail = format!("Get \"{}\": context deadline exceeded", target.url());
                tokio::time::timeout(timeout, get(&target, action)).await.unwrap_or_else(late(fail))
            }
            Self::Tcp(action) => {
                let (host, port) =
                    (host(place.ip, action.host.as_deref())?, number(&place.ports, &action.port)?);
                let place = authority(&host, port);
                let fail = format!("dial tcp {place}: i/o timeout");
                let connecting = async {
                    let connected = TcpStream::connect((host.as_str(), port)).await;
                    connected.map(drop).map_err(|error| format!("dial tcp {place}: {error}"))
                };
                tokio::time::timeout(timeout, connecting).await.unwrap_or_else(late(fail))
            }
        }
    }
}

/// Host and port; an IPv6 address in brackets (RFC 3986, section 3.2.2).
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

async fn exec(place: &Place, command: Vec<String>, timeout: Duration) -> Result<(), String> {
    let (code, output) = crate::container::run_in(&place.container, command, timeout, MAX_OUTPUT).await?;
    match code {
        0 => Ok(()),
        _ => Err(String::from_utf8_lossy(&output).into_owned()),
    }
}

fn host(pod: Option<IpAddr>, host: Option<&str>) -> Result<String, String> {
    match host.filter(|host| !host.is_empty()) {
        Some(host) => Ok(host.to_owned()),
        None => pod.map(|ip| ip.to_string()).ok_or_else(|| "the pod has no address".to_owned()),
    }
}

fn number(named: &BTreeMap<String, u16>, port: &IntOrString) -> Result<u16, String> {
    match port {
        IntOrString::Int(port) => u16::try_from(*port).map_err(|_| format!("invalid port number: {port}")),
        IntOrString::String(name) => {
            let port = named.get(name).copied().or_else(|| name.parse().ok());
            port.ok_or_else(|| format!("couldn't find port: {name:?}"))
        }
    }
}

/// Where a request goes.
#[derive(Debug)]
struct Target {
    https: bool,
    host: String,
    port: u16,
    path: String,
}

impl Target {
    fn of(
        pod: Option<IpAddr>,
        ports: &BTreeMap<String, u16>,
        action: &HTTPGetAction,
    ) -> Result<Self, String> {
        let path = action.path.as_deref().unwrap_or("/");
        Ok(Self {
            https: action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            host: host(pod, action.host.as_deref())?,
            port: number(ports, &action.port)?,
            path: format!("/{}", path.strip_prefix('/').unwrap_or(path)),
        })
    }

    /// Host and port, as a URL and the `Host` header have them.
    fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// A GET request as kubelet's prober makes it: any answer from 200 to 399 is good.
async fn get(target: &Target, action: &HTTPGetAction) -> Result<(), String> {
    let fail = |error: String| -> String { format!("Get \"{}\": {error}", target.url()) };
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await;
    let stream = stream.map_err(|error| fail(format!("dial tcp {}: {error}", target.authority())))?;
    let mut request = hyper::Request::get(&target.path)
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| fail(error.to_string()))?;
    add_headers(&mut request, action, &target.authority())?;
    let status = if target.https {
        let stream = super::tls::connect_unverified(stream, &target.host).await.map_err(fail)?;
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
    authority: &str,
) -> Result<(), String> {
    use hyper::header::{HeaderName, HeaderValue};
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static("kube-probe/1.36"));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let bad = |what: &str| format!("httpHeaders: bad {what}");
    headers.insert(HOST, HeaderValue::try_from(authority).map_err(|_| bad("host"))?);
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

#[cfg(test)]
mod tests {
    use axum::extract::Path;
    use axum::http::{HeaderMap, StatusCode};
    use serde_json::json;

    use super::*;

    fn action(json: serde_json::Value) -> HTTPGetAction {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn targets() {
        let ports = BTreeMap::from([("web".to_owned(), 8080)]);
        for (pod, get, expected) in [
            ("10.0.0.2", json!({"port": 80}), Ok("http://10.0.0.2:80/")),
            ("10.0.0.2", json!({"port": "web", "path": "a?b=:80"}), Ok("http://10.0.0.2:8080/a?b=:80")),
            ("10.0.0.2", json!({"port": 80, "host": "h", "scheme": "HTTPS"}), Ok("https://h:80/")),
            ("fd00::80", json!({"port": 80, "path": "/x"}), Ok("http://[fd00::80]:80/x")),
            ("10.0.0.2", json!({"port": "none"}), Err("couldn't find port: \"none\"")),
            ("10.0.0.2", json!({"port": 70000}), Err("invalid port number: 70000")),
        ] {
            let target = Target::of(pod.parse().ok(), &ports, &action(get.clone()));
            let url = target.map(|target| target.url());
            assert_eq!(url.as_deref().map_err(String::as_str), expected, "{get}");
        }
    }

    #[tokio::test]
    async fn answers_are_judged_by_their_status() {
        let answer = |Path(code): Path<u16>, headers: HeaderMap| async move {
            let known = headers["user-agent"].to_str().unwrap().starts_with("kube-probe/");
            let own = headers.get("x-own").is_some_and(|value| value == "1");
            if known && own { StatusCode::from_u16(code).unwrap() } else { StatusCode::IM_A_TEAPOT }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().route("/{code}", axum::routing::get(answer));
        let server = tokio::spawn(seaway_http::serve(listener, app));
        for (code, good) in [(200, true), (302, true), (399, true), (400, false), (404, false), (500, false)]
        {
            let headers = json!([{"name": "X-Own", "value": "1"}]);
            let action =
                action(json!({"port": address.port(), "path": code.to_string(), "httpHeaders": headers}));
            let target = Target::of(Some(address.ip()), &BTreeMap::new(), &action).unwrap();
            let judged = get(&target, &action).await;
            assert_eq!(judged.is_ok(), good, "{judged:?}");
        }
        server.abort();
    }
}
