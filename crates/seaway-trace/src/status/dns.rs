//! What a DNS pod serves and how it fares: what it says itself on its socket, its health endpoints and its metrics, from
//! inside its network.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use seaway_dns::explain::{BlockStatus, Status, UpstreamStatus};
use seaway_dns::resolvconf::ResolvConf;
use seaway_http::unix;
use seaway_lab::Place;
use seaway_net::netns::NetNs;
use serde::Serialize;

use crate::patience::patiently;

/// How long a DNS pod may take for one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Where a DNS pod serves what it says of itself (ARCHITECTURE.md, registry).
pub(crate) const SOCKET: &str = "/run/seaway/dns.sock";
/// More than this is read of no answer.
const MAX_ANSWER: u64 = 4 << 20;

/// A zone that is served at an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// What it serves, such as `.`.
    pub(crate) zone: String,
    /// The plugins that answer, in the order in which they are asked.
    pub(crate) plugins: Vec<String>,
    /// Zones answered from the cluster's objects.
    pub(crate) cluster: Vec<String>,
    /// Who is asked about the rest.
    pub(crate) upstreams: Vec<UpstreamStatus>,
    /// Answers kept now, by kind; absent without a cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache: Option<BTreeMap<String, usize>>,
}

/// Counts since the pod started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DnsCounts {
    pub(crate) requests: u64,
    pub(crate) cache_hits: u64,
    pub(crate) cache_misses: u64,
    pub(crate) cache_entries: u64,
}

/// A DNS pod, looked at from inside.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct DnsFacts {
    pub(crate) healthy: bool,
    pub(crate) ready: bool,
    pub(crate) servers: Vec<Server>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) counts: Option<DnsCounts>,
    /// Why some of it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Asks the DNS pod that runs at `place`.
pub(crate) async fn ask(place: &Place) -> DnsFacts {
    let looked = place.clone();
    let facts = tokio::task::spawn_blocking(move || look(&looked)).await;
    let mut facts =
        facts.unwrap_or_else(|error| DnsFacts { error: Some(error.to_string()), ..DnsFacts::default() });
    match patiently(unix::get::<Status>(&place.path(SOCKET), "/v1/status")).await {
        Ok(status) => facts.servers = status.blocks.into_iter().map(server).collect(),
        Err(error) => facts.error = Some(format!("{SOCKET}: {error}")),
    }
    facts
}

/// Looks at the endpoints of the DNS pod that runs at `place`. Blocks.
fn look(place: &Place) -> DnsFacts {
    let mut facts = DnsFacts::default();
    match NetNs::of_process(place.pid) {
        Ok(namespace) => {
            let is_well =
                |port, path| http_get(&namespace, port, path).is_ok_and(|(status, _)| status == 200);
            facts.healthy = is_well(8080, "/health");
            facts.ready = is_well(8181, "/ready");
            match http_get(&namespace, 9153, "/metrics") {
                Ok((200, text)) => facts.counts = Some(counts(&text)),
                Ok((status, _)) => facts.error = Some(format!("/metrics: HTTP status {status}")),
                Err(error) => facts.error = Some(format!("/metrics: {error}")),
            }
        }
        Err(error) => facts.error = Some(format!("its network namespace: {error}")),
    }
    facts
}

/// The place's `resolv.conf`.
pub(crate) fn resolv_conf(place: &Place) -> Option<ResolvConf> {
    let text = std::fs::read_to_string(place.path("/etc/resolv.conf")).ok()?;
    Some(ResolvConf::parse_host(&text))
}

fn http_get(namespace: &NetNs, port: u16, path: &str) -> std::io::Result<(u16, String)> {
    let ask = || {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        Ok((status, body))
    };
    namespace.run(ask)?
}

/// Sums of the samples of some metrics in Prometheus' text format.
fn counts(text: &str) -> DnsCounts {
    let sum = |name: &str| -> u64 {
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        });
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    };
    DnsCounts {
        requests: sum("coredns_dns_requests_total"),
        cache_hits: sum("coredns_cache_hits_total"),
        cache_misses: sum("coredns_cache_misses_total"),
        cache_entries: sum("coredns_cache_entries"),
    }
}

fn server(block: BlockStatus) -> Server {
    let mut server = Server {
        listen: block.listen,
        zone: block.zone,
        plugins: block.plugins.iter().map(|plugin| plugin.name.clone()).collect(),
        cluster: Vec::new(),
        upstreams: Vec::new(),
        cache: None,
    };
    for plugin in block.plugins {
        server.cluster.extend(plugin.zones);
        server.upstreams.extend(plugin.upstreams);
        if plugin.name == "cache" {
            server.cache = Some(plugin.entries);
        }
    }
    server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_block_in_short() {
        let told = r#"{"listen": "[::]:53", "zone": ".", "plugins": [
            {"name": "cache", "entries": {"denial": 1, "success": 2}},
            {"name": "kubernetes", "zones": ["cluster.local.", "in-addr.arpa."], "serial": 17},
            {"name": "forward", "upstreams": [{"address": "192.0.2.53:53", "failedChecks": 3, "down": true}]}]}"#;
        let found = server(serde_json::from_str(told).unwrap());
        assert_eq!(found.plugins, ["cache", "kubernetes", "forward"]);
        assert_eq!(found.cluster, ["cluster.local.", "in-addr.arpa."]);
        assert_eq!(found.cache.unwrap().values().sum::<usize>(), 3);
        assert!(found.upstreams[0].down);
        let bare = r#"{"listen": "10.0.0.1:53", "zone": "a.", "plugins": []}"#;
        assert_eq!(server(serde_json::from_str(bare).unwrap()).cache, None);
    }

    #[test]
    fn metrics_are_summed() {
        let text = "# TYPE x counter\ncoredns_cache_hits_total{type=\"success\"} 3\ncoredns_cache_hits_total{type=\"denial\"} 4\ncoredns_cache_hits_total_x 9\ncoredns_cache_entries{a=\"b c\"} 2\n";
        let found = counts(text);
        assert_eq!((found.cache_hits, found.cache_entries, found.requests), (7, 2, 0));
    }
}
