//! What the command line means by FROM and TO. Pure.

use std::net::{IpAddr, SocketAddr};

use seaway_model::ObjectName;

use crate::explain::Caller;

/// What is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// As it was written.
    pub(crate) text: String,
    /// Whom.
    pub(crate) host: TargetHost,
    /// The port, if it was written.
    pub(crate) port: Option<u16>,
    /// The scheme, if it was written: `http`, `https`, `tcp`, `udp`.
    pub(crate) scheme: Option<String>,
    /// The path of a URL.
    pub(crate) path: String,
}

/// Whom a target means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TargetHost {
    /// An address.
    Address(IpAddr),
    /// A name, to be looked up as the caller would.
    Name(String),
    /// A Service's cluster IP.
    Service(ObjectName),
    /// A pod's address.
    Pod(ObjectName),
    /// A node's address.
    Node(String),
}

/// What is wrong with FROM or TO.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {problem}")]
pub(crate) struct TargetError {
    text: String,
    problem: String,
}

impl TargetError {
    fn new(text: &str, problem: impl Into<String>) -> Self {
        Self { text: text.to_owned(), problem: problem.into() }
    }
}

/// Reads FROM.
///
/// # Errors
/// It is none of the forms that are accepted.
pub(crate) fn caller(text: &str) -> Result<Caller, TargetError> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        ["node", name] if !name.is_empty() => Ok(Caller::Node((*name).to_owned())),
        ["internet", name] if !name.is_empty() => Ok(Caller::Host((*name).to_owned())),
        ["pod", namespace, name] | [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
            Ok(Caller::Pod(ObjectName::new(*namespace, *name)))
        }
        _ => Err(TargetError::new(text, "give a pod as NAMESPACE/NAME, node/NAME or internet/HOST")),
    }
}

/// Reads TO.
///
/// # Errors
/// What cannot be read, and the forms that are accepted.
pub(crate) fn target(text: &str) -> Result<Target, TargetError> {
    let fail = |problem: &str| TargetError::new(text, problem);
    let object = |rest: &str, kind: &str| -> Result<(ObjectName, Option<u16>), TargetError> {
        let (name, port) =
            split_port(rest).ok_or_else(|| fail("the port must be a number from 1 to 65535"))?;
        let (namespace, name) =
            name.split_once('/').ok_or_else(|| fail(&format!("give it as {kind}/NAMESPACE/NAME:PORT")))?;
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            return Err(fail(&format!("give it as {kind}/NAMESPACE/NAME:PORT")));
        }
        Ok((ObjectName::new(namespace, name), port))
    };
    let plain = |host, port| Target { text: text.to_owned(), host, port, scheme: None, path: "/".to_owned() };
    for (prefix, kind) in [("svc/", "svc"), ("service/", "svc")] {
        if let Some(rest) = text.strip_prefix(prefix) {
            let (name, port) = object(rest, kind)?;
            return Ok(plain(TargetHost::Service(name), port));
        }
    }
    if let Some(rest) = text.strip_prefix("pod/") {
        let (name, port) = object(rest, "pod")?;
        return Ok(plain(TargetHost::Pod(name), port));
    }
    if let Some(rest) = text.strip_prefix("node/") {
        let (name, port) =
            split_port(rest).ok_or_else(|| fail("the port must be a number from 1 to 65535"))?;
        return Ok(plain(TargetHost::Node(name.to_owned()), port));
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, text),
    };
    if let Some(scheme) = &scheme
        && !["http", "https", "tcp", "udp"].contains(&scheme.as_str())
    {
        return Err(fail("the scheme must be http, https, tcp or udp"));
    }
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let (host, port) =
        host_and_port(authority).ok_or_else(|| fail("the port must be a number from 1 to 65535"))?;
    if host.is_empty() || host.chars().any(char::is_whitespace) || host.len() > 254 {
        return Err(fail(
            "give a name, a URL, svc/NAMESPACE/NAME:PORT, pod/NAMESPACE/NAME:PORT or ADDRESS:PORT",
        ));
    }
    let host = match host.parse() {
        Ok(address) => TargetHost::Address(address),
        Err(_) => TargetHost::Name(host),
    };
    Ok(Target { text: text.to_owned(), host, port, scheme, path: path.to_owned() })
}

/// `[v6]:port`, `v6`, `v4:port`, `name:port`, `name`.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address.to_string(), None));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some((socket.ip().to_string(), Some(socket.port()).filter(|port| *port != 0)));
    }
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return Some((address.to_owned(), None));
    }
    split_port(text).map(|(host, port)| (host.to_owned(), port))
}

fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    match text.rsplit_once(':') {
        None => Some((text, None)),
        Some((host, port)) => port.parse().ok().filter(|port| *port != 0).map(|port| (host, Some(port))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers() {
        assert_eq!(caller("default/app"), Ok(Caller::Pod(ObjectName::new("default", "app"))));
        assert_eq!(caller("pod/default/app"), Ok(Caller::Pod(ObjectName::new("default", "app"))));
        assert_eq!(caller("node/node-1"), Ok(Caller::Node("node-1".into())));
        assert_eq!(caller("internet/google.com"), Ok(Caller::Host("google.com".into())));
        for wrong in ["app", "", "/", "a/b/c", "node/", "default/"] {
            assert!(caller(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn targets() {
        let address = |text: &str| TargetHost::Address(text.parse().unwrap());
        let name = |text: &str| TargetHost::Name(text.into());
        for (text, host, port, scheme, path) in [
            ("google.com", name("google.com"), None, None, "/"),
            ("google.com.", name("google.com."), None, None, "/"),
            ("http://a.example:8080/x?y", name("a.example"), Some(8080), Some("http"), "/x?y"),
            ("https://a.example", name("a.example"), None, Some("https"), "/"),
            ("198.51.100.10:80", address("198.51.100.10"), Some(80), None, "/"),
            ("198.51.100.10", address("198.51.100.10"), None, None, "/"),
            ("[2001:db8::1]:80", address("2001:db8::1"), Some(80), None, "/"),
            ("2001:db8::1", address("2001:db8::1"), None, None, "/"),
            ("svc/a/b:80", TargetHost::Service(ObjectName::new("a", "b")), Some(80), None, "/"),
            ("svc/a/b", TargetHost::Service(ObjectName::new("a", "b")), None, None, "/"),
            ("pod/a/b:80", TargetHost::Pod(ObjectName::new("a", "b")), Some(80), None, "/"),
            ("node/node-1:10250", TargetHost::Node("node-1".into()), Some(10250), None, "/"),
        ] {
            let seen = target(text).unwrap();
            let seen = (seen.host, seen.port, seen.scheme, seen.path);
            assert_eq!(seen, (host, port, scheme.map(str::to_owned), path.to_owned()), "{text}");
        }
        for wrong in ["", "a b", "x:0", "x:99999", "svc/a:80", "svc//b:80", "ftp://a", "pod/a/b/c:1"] {
            assert!(target(wrong).is_err(), "{wrong:?}");
        }
    }
}
