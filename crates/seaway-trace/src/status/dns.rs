//! What a DNS pod serves and how it fares: its Corefile, its health endpoints and its metrics, from inside its network.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use seaway_dns::corefile::{self, Directive, Files, Loaded};
use seaway_dns::resolvconf::ResolvConf;
use seaway_lab::Place;
use seaway_net::netns::NetNs;
use serde::Serialize;

/// How long a DNS pod may take for one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than this is read of no answer.
const MAX_ANSWER: u64 = 4 << 20;

/// A server block of the Corefile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ServerBlock {
    /// What it serves, such as `.:53`.
    pub(crate) zones: Vec<String>,
    /// Zones answered from the cluster's objects.
    pub(crate) cluster: Vec<String>,
    /// Who is asked about the rest; a file's name with the servers in it.
    pub(crate) upstreams: Vec<String>,
    /// Seconds that answers are kept at most; absent without a cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache: Option<u64>,
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
    pub(crate) servers: Vec<ServerBlock>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) counts: Option<DnsCounts>,
    /// Why some of it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Looks at the DNS pod that runs at `place`. Blocks.
pub(crate) fn look(place: &Place) -> DnsFacts {
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
    let resolv_conf = resolv_conf(place).map(|conf| conf.nameservers).unwrap_or_default();
    let read =
        std::fs::read_to_string(place.path("/etc/coredns/Corefile")).map_err(|error| error.to_string());
    match read.and_then(|text| servers(&text, &resolv_conf)) {
        Ok(servers) => facts.servers = servers,
        Err(error) => facts.error = Some(format!("/etc/coredns/Corefile: {error}")),
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

/// Other files belong to the pod: they are not looked at from here.
struct NoFiles;

impl Files for NoFiles {
    fn import(&self, _: &Path, pattern: &str) -> std::io::Result<Vec<Loaded>> {
        Err(std::io::Error::other(format!("{pattern} is not looked at")))
    }
}

/// The longest time that `cache` keeps answers unless told otherwise (CoreDNS's plugin of this name).
const DEFAULT_CACHE: u64 = 3600;

/// The server blocks of a Corefile, where `resolv_conf` has the servers of the pod's /etc/resolv.conf.
fn servers(text: &str, resolv_conf: &[String]) -> Result<Vec<ServerBlock>, String> {
    let blocks = corefile::parse("Corefile", text, &|_| None, &NoFiles).map_err(|error| error.to_string())?;
    Ok(blocks
        .iter()
        .map(|block| {
            let of = |name: &'static str| block.directives.iter().filter(move |one| one.name.text == name);
            let words = |one: &Directive| one.args.iter().map(|word| word.text.clone()).collect::<Vec<_>>();
            let upstream = |to: String| {
                if to == "/etc/resolv.conf" && !resolv_conf.is_empty() {
                    format!("{} (of /etc/resolv.conf)", resolv_conf.join(", "))
                } else {
                    to
                }
            };
            ServerBlock {
                zones: block.keys.iter().map(|key| key.text.clone()).collect(),
                cluster: of("kubernetes").flat_map(words).collect(),
                upstreams: of("forward")
                    .flat_map(|one| words(one).into_iter().skip(1))
                    .map(upstream)
                    .collect(),
                cache: of("cache").next().map(|one| {
                    one.args.first().and_then(|word| word.text.parse().ok()).unwrap_or(DEFAULT_CACHE)
                }),
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corefile_in_short() {
        let text = ".:53 {\n errors\n kubernetes cluster.local in-addr.arpa {\n  pods insecure\n }\n forward . /etc/resolv.conf\n cache 30\n}\nshop.test {\n forward . 192.0.2.7 192.0.2.8\n}\n";
        let found = servers(text, &["192.0.2.53".to_owned()]).unwrap();
        assert_eq!(found[0].zones, [".:53"]);
        assert_eq!(found[0].cluster, ["cluster.local", "in-addr.arpa"]);
        assert_eq!(found[0].upstreams, ["192.0.2.53 (of /etc/resolv.conf)"]);
        assert_eq!((found[0].cache, found[1].cache), (Some(30), None));
        assert_eq!(found[1].upstreams, ["192.0.2.7", "192.0.2.8"]);
        assert!(servers(". {", &[]).is_err());
    }

    #[test]
    fn metrics_are_summed() {
        let text = "# TYPE x counter\ncoredns_cache_hits_total{type=\"success\"} 3\ncoredns_cache_hits_total{type=\"denial\"} 4\ncoredns_cache_hits_total_x 9\ncoredns_cache_entries{a=\"b c\"} 2\n";
        let found = counts(text);
        assert_eq!((found.cache_hits, found.cache_entries, found.requests), (7, 2, 0));
    }
}
