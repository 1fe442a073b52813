//! What the server would answer right now, and why: told without asking anyone, keeping or counting anything.
//!
//! ```text
//! GET /v1/explain?name=NAME&type=A&client=IP[&server=IP:PORT]   Explained
//! GET /v1/status                                                Status
//! ```
//!
//! Served on a unix socket (`--explain-socket`) for `seaway trace`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{self, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use seaway_observe::api::DnsRecord;
use serde::{Deserialize, Serialize};

use crate::instance::{Served, serving};
use crate::message::{Query, Transport};
use crate::metrics::rcode_label;
use crate::name::lower_text;
use crate::plugin::{Explanation, Outcome};

/// What the server would answer to a query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Explained {
    /// The name asked for, absolute, in lower case.
    pub name: String,
    /// The type asked for.
    pub kind: String,
    /// The RCODE's name, such as `NXDOMAIN`; absent where an upstream decides.
    pub rcode: Option<String>,
    /// The answer section, or what of it is known before an upstream has spoken.
    pub answers: Vec<DnsRecord>,
    /// Where the data come from.
    pub origin: DataOrigin,
    /// The plugin that decides.
    pub plugin: String,
    /// The server block, as `dns://:53 cluster.local.`; absent where none is for the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
    /// Why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The name is an alias: what the server says of the name behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<Box<Explained>>,
}

/// Where an answer's data come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataOrigin {
    /// What it is.
    pub kind: OriginKind,
    /// The cluster's zone that the name is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The upstreams that may be asked: in this order, or, with a policy other than `sequential`, in any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<SocketAddr>,
    /// Seconds that the cache keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_left: Option<u64>,
    /// The cache has it that there is no such name or record, or that the upstream failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative: Option<bool>,
}

/// Kinds of [`DataOrigin`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OriginKind {
    /// The cluster's Services, endpoints and pods.
    Cluster,
    /// What was kept of an earlier answer.
    Cache,
    /// Another server.
    Forward,
    /// A hosts file.
    Hosts,
    /// The server itself.
    #[default]
    None,
}

impl DataOrigin {
    /// Nothing but its kind.
    pub(crate) fn of(kind: OriginKind) -> Self {
        Self { kind, ..Self::default() }
    }
}

/// The server's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// What is served, by address and zone.
    pub blocks: Vec<BlockStatus>,
}

/// A zone that is served at an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockStatus {
    /// Where it listens; `[::]` is all addresses of both families.
    pub listen: SocketAddr,
    /// The zone.
    pub zone: String,
    /// The plugins that answer, in the order in which they are asked.
    pub plugins: Vec<PluginStatus>,
}

/// A plugin's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PluginStatus {
    /// Its name in the Corefile.
    pub name: String,
    /// `cache`: entries of each kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub entries: BTreeMap<String, usize>,
    /// `forward`: the upstreams.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<UpstreamStatus>,
    /// `kubernetes`: the zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// `kubernetes`: when the names last changed, in seconds of Unix time (the zones' serial); absent before the API
    /// server's first lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<u32>,
}

/// An upstream of `forward`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamStatus {
    /// Its address.
    pub address: SocketAddr,
    /// Health checks that failed since it last answered.
    pub failed_checks: u32,
    /// It is passed over.
    pub down: bool,
}

/// What is served at an address.
pub(crate) type Route = (SocketAddr, Arc<[Served]>);

/// What the socket tells of; changes with the Corefile.
pub(crate) type Routes = Arc<ArcSwap<Vec<Route>>>;

/// What the socket serves.
pub(crate) fn router(routes: Routes) -> Router {
    Router::new().route("/v1/explain", get(explain)).route("/v1/status", get(status)).with_state(routes)
}

#[derive(Debug, Deserialize)]
struct Asked {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    client: Option<IpAddr>,
    server: Option<SocketAddr>,
}

async fn explain(State(routes): State<Routes>, extract::Query(asked): extract::Query<Asked>) -> Response {
    match explained(&routes.load(), &asked) {
        Ok(explained) => axum::Json(explained).into_response(),
        Err(problem) => (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response(),
    }
}

async fn status(State(routes): State<Routes>) -> Response {
    let routes = routes.load();
    let all = routes.iter().flat_map(|(listen, served)| served.iter().map(move |part| part.status(*listen)));
    axum::Json(Status { blocks: all.collect() }).into_response()
}

fn explained(routes: &[Route], asked: &Asked) -> Result<Explained, String> {
    let query = asked.query()?;
    let (name, kind) = (query.lower.to_string(), query.record_type.to_string());
    let Some(served) = asked.route(routes)?.and_then(|served| serving(served, &query)) else {
        let rcode = Some("REFUSED".to_owned());
        return Ok(Explained { name, kind, rcode, ..Explained::default() });
    };
    Ok(Explained { block: Some(served.label()), ..told(&query, served.explain(&query)) })
}

impl Asked {
    fn query(&self) -> Result<Query, String> {
        let wrong = |what: &str, text: &str| format!("{what}={text}: not known");
        let name = Name::from_ascii(format!("{}.", self.name.trim_end_matches('.')))
            .map_err(|error| format!("name={}: {error}", self.name))?;
        let record_type: RecordType =
            self.kind.to_ascii_uppercase().parse().map_err(|_| wrong("type", &self.kind))?;
        Ok(Query {
            id: 0,
            lower: lower_text(&name).into(),
            name,
            record_type,
            class: DNSClass::IN,
            recursion_desired: true,
            checking_disabled: false,
            authentic_data: false,
            edns: None,
            client: SocketAddr::new(self.client.unwrap_or(Ipv4Addr::LOCALHOST.into()), 0),
            transport: Transport::Udp,
            size: 0,
            depth: 0,
        })
    }

    /// What is served at the address asked; port 53 where none is given, or the only one there is.
    fn route<'a>(&self, routes: &'a [Route]) -> Result<Option<&'a [Served]>, String> {
        let mut fitting: Vec<&Route> = routes
            .iter()
            .filter(|(listen, _)| match self.server {
                Some(server) => {
                    let ip = listen.ip().to_canonical();
                    listen.port() == server.port()
                        && (ip.is_unspecified() || ip == server.ip().to_canonical())
                }
                None => listen.port() == 53 || routes.len() == 1,
            })
            .collect();
        // An address of its own goes before all addresses.
        fitting.sort_by_key(|(listen, _)| listen.ip().is_unspecified());
        if fitting.is_empty() && self.server.is_none() {
            let all: Vec<String> = routes.iter().map(|(listen, _)| listen.to_string()).collect();
            return Err(format!("give server=IP:PORT, one of {}", all.join(", ")));
        }
        Ok(fitting.first().map(|(_, served)| &served[..]))
    }
}

/// An explanation in the form in which it is told.
fn told(query: &Query, explanation: Explanation) -> Explained {
    let Explanation { outcome, known, origin, plugin, alias } = explanation;
    let (rcode, answers, reason) = match outcome {
        None => (None, known, None),
        Some(Outcome::Ok(reply)) => (Some(rcode_label(reply.code)), reply.answers, None),
        Some(Outcome::Err(failure)) => (Some(rcode_label(failure.code)), Vec::new(), Some(failure.reason)),
    };
    Explained {
        name: query.lower.to_string(),
        kind: query.record_type.to_string(),
        rcode,
        answers: answers.iter().map(record).collect(),
        origin,
        plugin: plugin.to_owned(),
        block: None,
        reason,
        alias: alias.map(|alias| Box::new(told(&alias.0, alias.1))),
    }
}

fn record(record: &Record) -> DnsRecord {
    DnsRecord {
        name: lower_text(&record.name),
        kind: record.record_type().to_string(),
        ttl: record.ttl,
        data: record.data.to_string(),
    }
}

#[cfg(test)]
mod tests;
