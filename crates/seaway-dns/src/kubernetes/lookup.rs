//! What a name of the cluster stands for (kubernetes/dns, docs/specification.md, version 1.1.0).

use std::collections::HashSet;
use std::net::IpAddr;

use hickory_proto::rr::rdata::{CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::index::{EndpointRecord, Index, Port, ServiceKind, ServiceRecord, undashed};
use super::options::{Options, PodMode};
use crate::name::{ZoneName, address_of_reverse};

/// The version of the specification, which `dns-version.<zone>` tells.
const SCHEMA_VERSION: &str = "1.1.0";
/// Seconds that the version may be kept.
const SCHEMA_TTL: u32 = 28_800;
/// Seconds that a negative answer's SOA record may be kept, at most.
const SOA_MAX_TTL: u32 = 300;
/// SOA timers: refresh, retry, expire.
const SOA_TIMERS: [i32; 3] = [7200, 1800, 86_400];

/// What there is to say about a name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Records, and those that a client will ask for next.
    Records {
        /// The answer section.
        answers: Vec<Record>,
        /// The additional section.
        additionals: Vec<Record>,
    },
    /// The name is another one's, whose records belong into the answer too.
    Alias {
        /// The CNAME record.
        cname: Box<Record>,
        /// Where it leads.
        target: Name,
    },
    /// The name exists, without records of the type.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// Zone transfers are not for everyone.
    Refused,
}

impl Found {
    fn records(answers: Vec<Record>) -> Self {
        if answers.is_empty() { Self::NoData } else { Self::Records { answers, additionals: Vec::new() } }
    }
}

/// A question about a name of one zone.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// The data.
    pub index: &'a Index,
    /// The directive's settings.
    pub options: &'a Options,
    /// The zone that the name is in.
    pub zone: &'a ZoneName,
    /// The server's own addresses, for the zone's NS records.
    pub own: &'a [IpAddr],
}

impl Lookup<'_> {
    /// What there is at `name`, whose text in lower case is `lower`, of `record_type`.
    pub fn find(&self, name: &Name, lower: &str, record_type: RecordType) -> Found {
        if matches!(record_type, RecordType::AXFR | RecordType::IXFR) {
            return Found::Refused;
        }
        let Some(below) = self.zone.below(lower) else { return Found::NxDomain };
        if self.zone.is_reverse() && !below.is_empty() {
            return self.reverse(name, lower, record_type);
        }
        let ask = Ask { lookup: self, name, record_type };
        match below {
            "" => ask.apex(),
            "svc" => Found::NoData,
            "pod" => Found::NoData,
            "dns-version" => match record_type {
                RecordType::TXT => {
                    let text = RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()]));
                    Found::records(vec![Record::from_rdata(name.clone(), SCHEMA_TTL, text)])
                }
                _ => Found::NoData,
            },
            "dns" => Found::NoData,
            "ns.dns" => ask.addresses(self.name_servers().into_iter().flat_map(|(_, ips)| ips)),
            _ => {
                if let Some(rest) = below.strip_suffix(".svc") {
                    ask.service_name(rest)
                } else if let Some(rest) = below.strip_suffix(".pod") {
                    ask.pod_name(rest)
                } else {
                    Found::NxDomain
                }
            }
        }
    }

    fn reverse(&self, name: &Name, lower: &str, record_type: RecordType) -> Found {
        let Some(holders) = address_of_reverse(lower).and_then(|ip| self.index.holders(ip)) else {
            return Found::NxDomain;
        };
        let Some(zone) = self.options.primary_zone() else { return Found::NxDomain };
        let mut targets: Vec<String> =
            holders.services.iter().take(1).map(|key| format!("{key}.svc.{zone}")).collect();
        if targets.is_empty() {
            targets =
                holders.endpoints.iter().map(|(key, label)| format!("{label}.{key}.svc.{zone}")).collect();
        }
        if record_type != RecordType::PTR {
            return Found::NoData;
        }
        let records = targets.iter().filter_map(|target| Name::from_ascii(target).ok());
        Found::records(records.map(|target| self.record(name, RData::PTR(PTR(target)))).collect())
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.options.ttl, data)
    }

    fn name_in_zone(&self, below: &str) -> Option<Name> {
        Name::from_ascii(format!("{below}.{}", self.zone)).ok()
    }

    /// The zone's SOA record, as negative answers have it; `serial` is the time of the last change.
    pub fn soa(&self, serial: u32) -> Option<Record> {
        let ttl = self.options.ttl;
        let [refresh, retry, expire] = SOA_TIMERS;
        let soa = SOA::new(
            self.name_in_zone("ns.dns")?,
            self.name_in_zone("hostmaster")?,
            serial,
            refresh,
            retry,
            expire,
            ttl,
        );
        Some(Record::from_rdata(self.zone.name().clone(), ttl.min(SOA_MAX_TTL), RData::SOA(soa)))
    }

    /// The names and addresses of the zone's servers: the Services that this server is an endpoint of, else
    /// `ns.dns.<zone>` with its own addresses.
    fn name_servers(&self) -> Vec<(String, Vec<IpAddr>)> {
        let mut servers: Vec<(String, Vec<IpAddr>)> = Vec::new();
        let holders = self.own.iter().filter_map(|ip| self.index.holders(*ip).map(|h| (ip, h)));
        for (ip, (key, label)) in holders.flat_map(|(ip, h)| h.endpoints.iter().map(move |e| (ip, e))) {
            let server = match self.index.service(key).map(|service| &service.kind) {
                Some(ServiceKind::Cluster(ips)) => (format!("{key}.svc"), ips.clone()),
                _ => (format!("{label}.{key}.svc"), vec![*ip]),
            };
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        if servers.is_empty() {
            servers.push(("ns.dns".to_owned(), self.own.to_vec()));
        }
        servers
    }
}

/// One question, with its name as the client spelt it.
#[derive(Clone, Copy)]
struct Ask<'a, 'b> {
    lookup: &'a Lookup<'b>,
    name: &'a Name,
    record_type: RecordType,
}

/// An A or AAAA record's data.
fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(ip.into()),
        IpAddr::V6(ip) => RData::AAAA(ip.into()),
    }
}

impl Ask<'_, '_> {
    fn apex(&self) -> Found {
        match self.record_type {
            RecordType::NS => {
                let mut answers = Vec::new();
                let mut additionals = Vec::new();
                for (name, ips) in self.lookup.name_servers() {
                    let Some(name) = self.lookup.name_in_zone(&name) else { continue };
                    additionals.extend(ips.iter().map(|ip| self.lookup.record(&name, address(*ip))));
                    answers.push(self.lookup.record(self.name, RData::NS(NS(name))));
                }
                Found::Records { answers, additionals }
            }
            // The SOA record is made where the serial is known.
            _ => Found::NoData,
        }
    }

    fn service_name(&self, rest: &str) -> Found {
        let mut labels = rest.rsplitn(3, '.');
        let namespace = labels.next().unwrap_or_default();
        if !self.lookup.index.has_namespace(namespace) {
            return Found::NxDomain;
        }
        let Some(service) = labels.next() else { return Found::NoData };
        let key = &rest[rest.len() - namespace.len() - service.len() - 1..];
        let Some(record) = self.lookup.index.service(key) else { return Found::NxDomain };
        match labels.next() {
            None => self.service(key, record),
            Some(part) => match part.split_once('.') {
                None => self.endpoint(key, record, part),
                Some((port, protocol)) => self.port(key, record, port, protocol),
            },
        }
    }

    fn is_empty(&self, record: &ServiceRecord) -> bool {
        self.lookup.options.ignore_empty_service && record.endpoints.is_empty()
    }

    fn service(&self, key: &str, record: &ServiceRecord) -> Found {
        match &record.kind {
            ServiceKind::External(target) => self.external(target),
            ServiceKind::Headless if record.endpoints.is_empty() => Found::NxDomain,
            ServiceKind::Cluster(_) if self.is_empty(record) => Found::NxDomain,
            _ if self.record_type == RecordType::SRV => self.srv(key, record, |_| true),
            ServiceKind::Headless => self.addresses(record.endpoints.iter().map(|e| e.ip)),
            ServiceKind::Cluster(ips) => self.addresses(ips.iter().copied()),
        }
    }

    fn external(&self, target: &str) -> Found {
        // An address in spec.externalName is no name to point at.
        let target = target.strip_suffix('.').unwrap_or(target);
        if target.is_empty() || target.parse::<IpAddr>().is_ok() {
            return Found::NxDomain;
        }
        let Ok(target) = Name::from_ascii(format!("{target}.")) else { return Found::NxDomain };
        if target == *self.name {
            return Found::NoData;
        }
        let cname = self.lookup.record(self.name, RData::CNAME(CNAME(target.clone())));
        match self.record_type {
            RecordType::A | RecordType::AAAA => Found::Alias { cname: Box::new(cname), target },
            RecordType::CNAME => Found::records(vec![cname]),
            _ => Found::NoData,
        }
    }

    fn endpoint(&self, key: &str, record: &ServiceRecord, label: &str) -> Found {
        let endpoints = record.endpoints_named(label);
        if endpoints.is_empty() || matches!(record.kind, ServiceKind::External(_)) {
            return Found::NxDomain;
        }
        if self.record_type == RecordType::SRV {
            return self.srv_of(key, endpoints, |_| true);
        }
        self.addresses(endpoints.iter().map(|e| e.ip))
    }

    /// `_port._protocol.service…`
    fn port(&self, key: &str, record: &ServiceRecord, port: &str, protocol: &str) -> Found {
        let (Some(name), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
            return Found::NxDomain;
        };
        let matches = |p: &Port| !p.name.is_empty() && *p.name == *name && p.protocol.label() == protocol;
        let exists = match record.kind {
            ServiceKind::External(_) => false,
            ServiceKind::Headless => record.endpoints.iter().any(|e| e.ports.iter().any(matches)),
            ServiceKind::Cluster(_) => !self.is_empty(record) && record.ports.iter().any(matches),
        };
        match (exists, self.record_type) {
            (false, _) => Found::NxDomain,
            (true, RecordType::SRV) => self.srv(key, record, matches),
            (true, _) => Found::NoData,
        }
    }

    fn srv(&self, key: &str, record: &ServiceRecord, wanted: impl Fn(&Port) -> bool) -> Found {
        match &record.kind {
            ServiceKind::External(_) => Found::NoData,
            ServiceKind::Headless => self.srv_of(key, &record.endpoints, wanted),
            ServiceKind::Cluster(ips) => {
                let ports: Vec<&Port> = record.ports.iter().filter(|p| wanted(p)).collect();
                let all: Vec<_> = ports
                    .iter()
                    .flat_map(|port| ips.iter().map(|ip| (format!("{key}.svc"), *ip, port.port)))
                    .collect();
                self.srv_records(&all)
            }
        }
    }

    fn srv_of(&self, key: &str, endpoints: &[EndpointRecord], wanted: impl Fn(&Port) -> bool) -> Found {
        let mut all = Vec::new();
        for endpoint in endpoints {
            for port in endpoint.ports.iter().filter(|p| wanted(p)) {
                all.push((format!("{}.{key}.svc", endpoint.label), endpoint.ip, port.port));
            }
        }
        self.srv_records(&all)
    }

    /// SRV records to (target below the zone, its address, port), with the targets' addresses.
    fn srv_records(&self, all: &[(String, IpAddr, u16)]) -> Found {
        let weight = u16::try_from(100 / all.len().max(1)).unwrap_or(100).max(1);
        let mut answers = Vec::new();
        let mut additionals = Vec::new();
        let mut told = HashSet::new();
        let mut addressed = HashSet::new();
        for (target, ip, port) in all {
            let Some(name) = self.lookup.name_in_zone(target) else { continue };
            if addressed.insert((target, ip)) {
                additionals.push(self.lookup.record(&name, address(*ip)));
            }
            if told.insert((target, port)) {
                let srv = SRV::new(0, weight, *port, name);
                answers.push(self.lookup.record(self.name, RData::SRV(srv)));
            }
        }
        if answers.is_empty() { Found::NoData } else { Found::Records { answers, additionals } }
    }

    /// The addresses of the family asked for, each once.
    fn addresses(&self, ips: impl IntoIterator<Item = IpAddr>) -> Found {
        let mut seen = HashSet::new();
        let wanted = ips.into_iter().filter(|ip| match self.record_type {
            RecordType::A => ip.is_ipv4(),
            RecordType::AAAA => ip.is_ipv6(),
            _ => false,
        });
        Found::records(
            wanted
                .filter(|ip| seen.insert(*ip))
                .map(|ip| self.lookup.record(self.name, address(ip)))
                .collect(),
        )
    }

    fn pod_name(&self, rest: &str) -> Found {
        let (pod, namespace) = match rest.rsplit_once('.') {
            Some((pod, namespace)) => (Some(pod), namespace),
            None => (None, rest),
        };
        let mode = self.lookup.options.pods;
        if mode == PodMode::Disabled || !self.lookup.index.has_namespace(namespace) {
            return Found::NxDomain;
        }
        let Some(pod) = pod else { return Found::NoData };
        match undashed(pod) {
            Some(ip) if mode == PodMode::Insecure || self.lookup.index.has_pod(ip, namespace) => {
                self.addresses([ip])
            }
            _ => Found::NxDomain,
        }
    }
}
