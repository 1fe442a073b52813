mod explain;

use std::net::SocketAddr;

use proptest::prelude::*;
use rpds::RedBlackTreeMapSync;
use seaway_model::{
    Changes, Endpoint, EndpointPort, EndpointSlice, Namespace, ObjectName, Pod, Protocol, Service,
    ServicePort, ServiceType, Snapshot, TargetRef,
};

use super::*;
use crate::message::Transport;
use crate::name::lower_text;
use crate::plugin::Chain;
use crate::plugins::Fallthrough;

fn port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol, port, node_port: None }
}

fn service(ips: &[&str], ports: &[ServicePort]) -> Service {
    Service {
        cluster_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        headless: ips.is_empty(),
        ports: ports.to_vec(),
        ..Service::default()
    }
}

fn endpoint(ip: &str, pod: &str) -> Endpoint {
    Endpoint {
        addresses: vec![ip.parse().unwrap()],
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node_name: None,
        zone: None,
        zone_hints: vec![],
        node_hints: vec![],
        target: Some(TargetRef { kind: "Pod".into(), name: ObjectName::new("default", pod) }),
    }
}

fn slice(service: &ObjectName, ports: &[(&str, u16)], endpoints: Vec<Endpoint>) -> EndpointSlice {
    let port = |(name, port): &(&str, u16)| EndpointPort {
        name: (*name).into(),
        protocol: Protocol::Tcp,
        port: *port,
    };
    EndpointSlice { service: service.clone(), ports: ports.iter().map(port).collect(), endpoints }
}

fn put(snapshot: &mut Snapshot, name: &str, service: Service, slices: &[EndpointSlice]) {
    let (namespace, name) = name.split_once('/').unwrap();
    let name = ObjectName::new(namespace, name);
    let mut map = RedBlackTreeMapSync::new_sync();
    for (i, slice) in slices.iter().enumerate() {
        map.insert_mut(
            format!("s{i}").into(),
            Arc::new(EndpointSlice { service: name.clone(), ..slice.clone() }),
        );
    }
    snapshot.services.insert_mut(name.clone(), Arc::new(service));
    snapshot.slices.insert_mut(name, map);
}

/// The seeds' cluster, and a Service of each kind.
fn cluster() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for namespace in ["default", "monitoring", "kube-system", "empty"] {
        snapshot.namespaces.insert_mut(namespace.into(), Arc::new(Namespace::default()));
    }
    let any = ObjectName::new("", "");
    let tcp = |name, number| port(name, Protocol::Tcp, number);
    put(
        &mut snapshot,
        "default/nginx-svc",
        service(&["10.101.112.166"], &[tcp("", 80)]),
        &[slice(&any, &[("", 80)], vec![endpoint("172.41.10.200", "nginx-1")])],
    );
    put(&mut snapshot, "monitoring/prometheus-k8s", service(&["10.99.54.68"], &[tcp("web", 9090)]), &[]);
    put(
        &mut snapshot,
        "default/dual",
        service(&["10.96.0.77", "fd00::77"], &[tcp("http", 80), port("dns", Protocol::Udp, 53)]),
        &[],
    );
    let mut named = endpoint("172.41.1.1", "web-0");
    named.hostname = Some("Web-0".into());
    let mut unready = endpoint("172.41.1.9", "web-9");
    unready.ready = false;
    put(
        &mut snapshot,
        "default/web",
        service(&[], &[tcp("http", 80)]),
        &[
            slice(&any, &[("http", 8080)], vec![named, endpoint("172.41.1.2", "web-1"), unready.clone()]),
            slice(&any, &[("http", 8080)], vec![endpoint("fd00::1:0", "web-1")]),
        ],
    );
    put(
        &mut snapshot,
        "default/lonely",
        service(&[], &[tcp("http", 80)]),
        &[slice(&any, &[], vec![unready.clone()])],
    );
    let eager = Service { publish_not_ready: true, ..service(&[], &[]) };
    put(&mut snapshot, "default/eager", eager, &[slice(&any, &[], vec![unready])]);
    let external = |target: &str| Service {
        kind: ServiceType::ExternalName,
        external_name: Some(target.into()),
        ..Service::default()
    };
    put(&mut snapshot, "default/site", external("www.example.com"), &[]);
    put(&mut snapshot, "default/inner", external("nginx-svc.default.svc.cluster.local"), &[]);
    put(&mut snapshot, "default/circle", external("circle2.default.svc.cluster.local"), &[]);
    put(&mut snapshot, "default/circle2", external("circle.default.svc.cluster.local"), &[]);
    put(&mut snapshot, "default/number", external("192.0.2.1"), &[]);
    put(
        &mut snapshot,
        "kube-system/kube-dns",
        service(&["10.96.0.10"], &[port("dns", Protocol::Udp, 53), tcp("dns-tcp", 53)]),
        &[slice(&any, &[("dns-tcp", 53)], vec![endpoint("172.41.0.2", "dns")])],
    );
    let pod = Pod { ips: vec!["172.41.10.200".parse().unwrap()], ..Pod::default() };
    snapshot.pods.insert_mut(ObjectName::new("default", "nginx-1"), Arc::new(pod));
    let done = Pod { ips: vec!["172.41.10.201".parse().unwrap()], finished: true, ..Pod::default() };
    snapshot.pods.insert_mut(ObjectName::new("default", "job"), Arc::new(done));
    snapshot
}

fn options() -> Options {
    let zone = |text| ZoneName::parse(text).unwrap();
    Options {
        zones: vec![zone("cluster.local"), zone("in-addr.arpa"), zone("ip6.arpa")],
        pods: PodMode::Insecure,
        ttl: 30,
        fallthrough: Fallthrough::Zones(vec![zone("in-addr.arpa"), zone("ip6.arpa")]),
        ..Options::default()
    }
}

fn plugin(options: Options, snapshot: &Snapshot) -> Kubernetes {
    let state = State { index: Index::build(snapshot, &options), serial: 1_700_000_000 };
    let state = Arc::new(ArcSwapOption::from_pointee(state));
    Kubernetes::new(Arc::new(options), state, vec!["172.41.0.2".parse().unwrap()])
}

fn query(name: &str, record_type: RecordType) -> Query {
    let name = Name::from_ascii(name).unwrap();
    Query {
        id: 1,
        lower: lower_text(&name).into(),
        name,
        record_type,
        class: hickory_proto::rr::DNSClass::IN,
        recursion_desired: true,
        checking_disabled: false,
        authentic_data: false,
        edns: None,
        client: SocketAddr::from(([10, 0, 0, 1], 4000)),
        transport: Transport::Udp,
        size: 50,
        depth: 0,
    }
}

/// Stands for the outside world: every name has one address.
#[derive(Debug)]
struct Outside;

impl Plugin for Outside {
    fn name(&self) -> &'static str {
        "outside"
    }

    fn serve<'a>(&'a self, query: &'a Query, _next: Next) -> BoxFuture<'a, Outcome> {
        let data = hickory_proto::rr::RData::A(std::net::Ipv4Addr::new(198, 51, 100, 1).into());
        let answers = match query.record_type {
            RecordType::A => vec![Record::from_rdata(query.name.clone(), 60, data)],
            _ => vec![],
        };
        Box::pin(std::future::ready(Ok(Reply { answers, ..Reply::default() })))
    }

    fn explain(&self, query: &Query, next: &Next) -> Explanation {
        let outcome = futures::executor::block_on(self.serve(query, next.clone()));
        Explanation::answer("outside", DataOrigin::default(), outcome)
    }
}

fn ask(plugin: Kubernetes, name: &str, record_type: RecordType) -> Outcome {
    let chain = Chain::new(vec![Arc::new(plugin), Arc::new(Outside)]);
    let query = query(name, record_type);
    futures::executor::block_on(async { chain.start().run(&query).await })
}

/// `CODE answers | additionals`, with `*` for AA and `soa` where the authority section has it.
fn summary(outcome: Outcome) -> String {
    let reply = match outcome {
        Ok(reply) => reply,
        Err(failure) => return failure.code.to_string(),
    };
    let text = |records: &[Record]| {
        let mut all: Vec<String> = records
            .iter()
            .map(|r| {
                format!("{} {} {}", r.name, r.record_type(), r.data)
                    .replace(".default.svc.cluster.local.", "~")
            })
            .collect();
        all.sort();
        all.join(", ")
    };
    let code = match reply.code {
        ResponseCode::NoError => "",
        ResponseCode::NXDomain => "NX",
        ResponseCode::Refused => "REFUSED",
        _ => "?",
    };
    let soa = reply.authorities.iter().any(|r| r.record_type() == RecordType::SOA);
    let mut out = format!("{code}{}", if reply.authoritative { "*" } else { "" });
    if soa {
        out += "soa";
    }
    for part in [&reply.answers, &reply.additionals] {
        if !part.is_empty() {
            out += &format!("{}{}", if part == &reply.answers { " " } else { " | " }, text(part));
        }
    }
    out
}

#[test]
fn the_records_of_a_cluster() {
    use RecordType::{A, AAAA, ANY, AXFR, CNAME, MX, NS, PTR, SRV, TXT};
    let table = [
        // The seeds' own questions.
        ("nginx-svc.default.svc.cluster.local.", A, "* nginx-svc~ A 10.101.112.166"),
        ("nginx-svc.default.svc.cluster.local.", AAAA, "*soa"),
        ("prometheus-k8s.monitoring.default.svc.cluster.local.", A, "NX*soa"),
        (
            "prometheus-k8s.monitoring.svc.cluster.local.",
            A,
            "* prometheus-k8s.monitoring.svc.cluster.local. A 10.99.54.68",
        ),
        ("prometheus-k8s.monitoring.svc.cluster.local.", AAAA, "*soa"),
        ("www.baidu.com.default.svc.cluster.local.", A, "NX*soa"),
        ("www.baidu.com.svc.cluster.local.", AAAA, "NX*soa"),
        ("www.baidu.com.cluster.local.", A, "NX*soa"),
        ("www.baidu.com.", A, " www.baidu.com. A 198.51.100.1"),
        ("200.10.41.172.in-addr.arpa.", PTR, "* 200.10.41.172.in-addr.arpa. PTR 172-41-10-200.nginx-svc~"),
        ("166.112.101.10.in-addr.arpa.", PTR, "* 166.112.101.10.in-addr.arpa. PTR nginx-svc~"),
        // Spelling is kept.
        (
            "NGINX-svc.Default.SVC.cluster.local.",
            A,
            "* NGINX-svc.Default.SVC.cluster.local. A 10.101.112.166",
        ),
        // Both families.
        ("dual.default.svc.cluster.local.", A, "* dual~ A 10.96.0.77"),
        ("dual.default.svc.cluster.local.", AAAA, "* dual~ AAAA fd00::77"),
        ("dual.default.svc.cluster.local.", MX, "*soa"),
        ("dual.default.svc.cluster.local.", ANY, "*soa"),
        // SRV.
        (
            "_web._tcp.prometheus-k8s.monitoring.svc.cluster.local.",
            SRV,
            "* _web._tcp.prometheus-k8s.monitoring.svc.cluster.local. SRV 0 100 9090 prometheus-k8s.monitoring.svc.cluster.local. \
             | prometheus-k8s.monitoring.svc.cluster.local. A 10.99.54.68",
        ),
        (
            "_http._tcp.dual.default.svc.cluster.local.",
            SRV,
            "* _http._tcp.dual~ SRV 0 50 80 dual~ | dual~ A 10.96.0.77, dual~ AAAA fd00::77",
        ),
        ("_HTTP._TCP.dual.default.svc.cluster.local.", A, "*soa"),
        ("_http._udp.dual.default.svc.cluster.local.", SRV, "NX*soa"),
        ("_none._tcp.dual.default.svc.cluster.local.", SRV, "NX*soa"),
        ("http.tcp.dual.default.svc.cluster.local.", SRV, "NX*soa"),
        ("a._http._tcp.dual.default.svc.cluster.local.", SRV, "NX*soa"),
        (
            "dual.default.svc.cluster.local.",
            SRV,
            "* dual~ SRV 0 25 53 dual~, dual~ SRV 0 25 80 dual~ | dual~ A 10.96.0.77, dual~ AAAA fd00::77",
        ),
        (
            "nginx-svc.default.svc.cluster.local.",
            SRV,
            "* nginx-svc~ SRV 0 100 80 nginx-svc~ | nginx-svc~ A 10.101.112.166",
        ),
        (
            "_http._tcp.web.default.svc.cluster.local.",
            SRV,
            "* _http._tcp.web~ SRV 0 33 8080 172-41-1-2.web~, _http._tcp.web~ SRV 0 33 8080 fd00--1-0.web~, \
             _http._tcp.web~ SRV 0 33 8080 web-0.web~ \
             | 172-41-1-2.web~ A 172.41.1.2, fd00--1-0.web~ AAAA fd00::1:0, web-0.web~ A 172.41.1.1",
        ),
        // Headless.
        ("web.default.svc.cluster.local.", A, "* web~ A 172.41.1.1, web~ A 172.41.1.2"),
        ("web.default.svc.cluster.local.", AAAA, "* web~ AAAA fd00::1:0"),
        ("web.default.svc.cluster.local.", TXT, "*soa"),
        ("lonely.default.svc.cluster.local.", A, "NX*soa"),
        ("eager.default.svc.cluster.local.", A, "* eager~ A 172.41.1.9"),
        ("eager.default.svc.cluster.local.", SRV, "*soa"),
        ("web-0.web.default.svc.cluster.local.", A, "* web-0.web~ A 172.41.1.1"),
        ("web-0.web.default.svc.cluster.local.", AAAA, "*soa"),
        ("172-41-1-2.web.default.svc.cluster.local.", A, "* 172-41-1-2.web~ A 172.41.1.2"),
        ("fd00--1-0.web.default.svc.cluster.local.", AAAA, "* fd00--1-0.web~ AAAA fd00::1:0"),
        ("172-41-1-9.web.default.svc.cluster.local.", A, "NX*soa"),
        ("web-1.web.default.svc.cluster.local.", A, "NX*soa"),
        (
            "172-41-10-200.nginx-svc.default.svc.cluster.local.",
            A,
            "* 172-41-10-200.nginx-svc~ A 172.41.10.200",
        ),
        // Names that are there without being anything.
        ("cluster.local.", A, "*soa"),
        ("svc.cluster.local.", A, "*soa"),
        ("pod.cluster.local.", A, "*soa"),
        ("default.svc.cluster.local.", A, "*soa"),
        ("empty.svc.cluster.local.", A, "*soa"),
        ("none.svc.cluster.local.", A, "NX*soa"),
        ("x.none.svc.cluster.local.", A, "NX*soa"),
        ("none.default.svc.cluster.local.", A, "NX*soa"),
        ("*.default.svc.cluster.local.", A, "NX*soa"),
        ("a.b.c.nginx-svc.default.svc.cluster.local.", A, "NX*soa"),
        // ExternalName.
        (
            "site.default.svc.cluster.local.",
            A,
            "* site~ CNAME www.example.com., www.example.com. A 198.51.100.1",
        ),
        ("site.default.svc.cluster.local.", AAAA, "* site~ CNAME www.example.com."),
        ("site.default.svc.cluster.local.", CNAME, "* site~ CNAME www.example.com."),
        ("site.default.svc.cluster.local.", SRV, "*soa"),
        ("x.site.default.svc.cluster.local.", A, "NX*soa"),
        ("inner.default.svc.cluster.local.", A, "* inner~ CNAME nginx-svc~, nginx-svc~ A 10.101.112.166"),
        ("number.default.svc.cluster.local.", A, "NX*soa"),
        // Pods.
        (
            "172-41-10-200.default.pod.cluster.local.",
            A,
            "* 172-41-10-200.default.pod.cluster.local. A 172.41.10.200",
        ),
        ("1-2-3-4.default.pod.cluster.local.", A, "* 1-2-3-4.default.pod.cluster.local. A 1.2.3.4"),
        ("1-2-3-4.default.pod.cluster.local.", AAAA, "*soa"),
        ("fd00--1.default.pod.cluster.local.", AAAA, "* fd00--1.default.pod.cluster.local. AAAA fd00::1"),
        ("1-2-3.default.pod.cluster.local.", A, "NX*soa"),
        ("1-2-3-4.none.pod.cluster.local.", A, "NX*soa"),
        ("x.1-2-3-4.default.pod.cluster.local.", A, "NX*soa"),
        ("default.pod.cluster.local.", A, "*soa"),
        // Reverse names that are not the cluster's go on.
        ("1.2.0.192.in-addr.arpa.", PTR, ""),
        ("0.0.127.in-addr.arpa.", PTR, ""),
        ("77.0.96.10.in-addr.arpa.", A, "*soa"),
        // The zone itself.
        ("dns-version.cluster.local.", TXT, "* dns-version.cluster.local. TXT 1.1.0"),
        ("dns-version.cluster.local.", A, "*soa"),
        (
            "cluster.local.",
            NS,
            "* cluster.local. NS kube-dns.kube-system.svc.cluster.local. \
            | kube-dns.kube-system.svc.cluster.local. A 10.96.0.10",
        ),
        ("ns.dns.cluster.local.", A, "* ns.dns.cluster.local. A 10.96.0.10"),
        ("cluster.local.", AXFR, "REFUSED"),
    ];
    let snapshot = cluster();
    for (name, record_type, expected) in table {
        let got = summary(ask(plugin(options(), &snapshot), name, record_type));
        assert_eq!(got, expected, "{name} {record_type}");
    }
}

#[test]
fn the_soa_record() {
    let reply = ask(plugin(options(), &cluster()), "x.Cluster.LOCAL.", RecordType::A).unwrap();
    assert_eq!(
        reply.authorities[0].to_string(),
        "Cluster.LOCAL. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1700000000 7200 1800 86400 30"
    );
    let long = Options { ttl: 3600, ..options() };
    let reply = ask(plugin(long, &cluster()), "cluster.local.", RecordType::SOA).unwrap();
    assert_eq!((reply.answers[0].ttl, reply.authorities.len()), (300, 0));
    assert!(reply.authoritative && !reply.recursion_available);
}

#[test]
fn sizes_are_those_of_the_capture() {
    // (name, type, octets of the reply in the seed)
    for (name, record_type, size) in [
        ("www.baidu.com.default.svc.cluster.local.", RecordType::A, 150),
        ("www.baidu.com.svc.cluster.local.", RecordType::AAAA, 142),
        ("www.baidu.com.cluster.local.", RecordType::A, 138),
        ("nginx-svc.default.svc.cluster.local.", RecordType::A, 104),
        ("nginx-svc.default.svc.cluster.local.", RecordType::AAAA, 146),
        ("prometheus-k8s.monitoring.default.svc.cluster.local.", RecordType::A, 162),
        ("prometheus-k8s.monitoring.svc.cluster.local.", RecordType::A, 120),
        ("prometheus-k8s.monitoring.svc.cluster.local.", RecordType::AAAA, 154),
    ] {
        let reply = ask(plugin(options(), &cluster()), name, record_type).unwrap();
        let bytes = crate::message::encode(&query(name, record_type), &reply).bytes;
        assert_eq!(bytes.len(), size, "{name} {record_type}");
    }
}

#[test]
fn settings_change_what_there_is() {
    use RecordType::{A, PTR, SRV};
    type Change = fn(&mut Options);
    let table: [(&str, Change, &str, RecordType, &str); 14] = [
        ("pods disabled", |o| o.pods = PodMode::Disabled, "1-2-3-4.default.pod.cluster.local.", A, "NX*soa"),
        ("pods disabled", |o| o.pods = PodMode::Disabled, "default.pod.cluster.local.", A, "NX*soa"),
        (
            "pods verified",
            |o| o.pods = PodMode::Verified,
            "172-41-10-200.default.pod.cluster.local.",
            A,
            "* 172-41-10-200.default.pod.cluster.local. A 172.41.10.200",
        ),
        (
            "pods verified",
            |o| o.pods = PodMode::Verified,
            "172-41-10-200.monitoring.pod.cluster.local.",
            A,
            "NX*soa",
        ),
        (
            "pods verified",
            |o| o.pods = PodMode::Verified,
            "172-41-10-201.default.pod.cluster.local.",
            A,
            "NX*soa",
        ),
        (
            "pod names",
            |o| o.endpoint_pod_names = true,
            "web-1.web.default.svc.cluster.local.",
            A,
            "* web-1.web~ A 172.41.1.2",
        ),
        (
            "pod names",
            |o| o.endpoint_pod_names = true,
            "200.10.41.172.in-addr.arpa.",
            PTR,
            "* 200.10.41.172.in-addr.arpa. PTR nginx-1.nginx-svc~",
        ),
        (
            "namespaces",
            |o| o.namespaces.extend(["monitoring".to_owned()]),
            "nginx-svc.default.svc.cluster.local.",
            A,
            "NX*soa",
        ),
        (
            "namespaces",
            |o| o.namespaces.extend(["monitoring".to_owned()]),
            "200.10.41.172.in-addr.arpa.",
            PTR,
            "",
        ),
        ("noendpoints", |o| o.no_endpoints = true, "web.default.svc.cluster.local.", A, "NX*soa"),
        (
            "ignore",
            |o| o.ignore_empty_service = true,
            "prometheus-k8s.monitoring.svc.cluster.local.",
            A,
            "NX*soa",
        ),
        (
            "ignore",
            |o| o.ignore_empty_service = true,
            "_http._tcp.dual.default.svc.cluster.local.",
            SRV,
            "NX*soa",
        ),
        (
            "fallthrough",
            |o| o.fallthrough = Fallthrough::Always,
            "none.default.svc.cluster.local.",
            A,
            " none~ A 198.51.100.1",
        ),
        ("no fallthrough", |o| o.fallthrough = Fallthrough::Never, "1.2.0.192.in-addr.arpa.", PTR, "NX*soa"),
    ];
    for (what, change, name, record_type, expected) in table {
        let mut options = options();
        change(&mut options);
        let got = summary(ask(plugin(options, &cluster()), name, record_type));
        assert_eq!(got, expected, "{what}: {name} {record_type}");
    }
}

#[test]
fn names_that_lead_in_a_circle_end() {
    let reply =
        ask(plugin(options(), &cluster()), "circle.default.svc.cluster.local.", RecordType::A).unwrap();
    assert!(reply.answers.len() <= 10, "{}", reply.answers.len());
}

#[test]
fn nothing_is_answered_before_the_first_lists() {
    let plugin = || Kubernetes::new(Arc::new(options()), Arc::default(), vec![]);
    assert_eq!(
        summary(ask(plugin(), "a.default.svc.cluster.local.", RecordType::A)),
        ResponseCode::ServFail.to_string()
    );
    assert_eq!(summary(ask(plugin(), "www.example.com.", RecordType::A)), " www.example.com. A 198.51.100.1");
    assert!(!Readiness::is_ready(&plugin()));
}

/// A change to a cluster of few names, so that they meet.
#[derive(Clone, Debug)]
enum Step {
    Service { name: u8, ip: Option<u8>, ports: u8 },
    NoService(u8),
    Slice { name: u8, slice: u8, ips: Vec<(u8, bool)>, ports: u8 },
    NoSlice { name: u8, slice: u8 },
    Namespace(u8, bool),
    Pod { name: u8, ips: Vec<u8>, finished: bool },
    NoPod(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u8..4, proptest::option::of(0u8..4), 0u8..3).prop_map(|(name, ip, ports)| Step::Service {
            name,
            ip,
            ports
        }),
        (0u8..4).prop_map(Step::NoService),
        (0u8..4, 0u8..2, proptest::collection::vec((0u8..5, any::<bool>()), 0..4), 0u8..3)
            .prop_map(|(name, slice, ips, ports)| Step::Slice { name, slice, ips, ports }),
        (0u8..4, 0u8..2).prop_map(|(name, slice)| Step::NoSlice { name, slice }),
        (0u8..2, any::<bool>()).prop_map(|(name, exists)| Step::Namespace(name, exists)),
        (0u8..3, proptest::collection::vec(0u8..4, 0..3), any::<bool>())
            .prop_map(|(name, ips, finished)| Step::Pod { name, ips, finished }),
        (0u8..3).prop_map(Step::NoPod),
    ];
    proptest::collection::vec(step, 1..40)
}

fn object(kind: &str, name: u8) -> ObjectName {
    ObjectName::new(format!("ns{}", name % 2), format!("{kind}{}", name / 2))
}

impl Step {
    fn apply(&self, snapshot: &mut Snapshot) -> Changes {
        let mut changes = Changes::default();
        let ports = |n: u8| (0..n).map(|i| (format!("p{i}"), u16::from(i) + 80));
        match self {
            Self::Service { name, ip, ports: n } => {
                let name = object("s", *name);
                let cluster_ips = ip.iter().map(|ip| IpAddr::from([10, 96, 0, *ip])).collect::<Vec<_>>();
                let ports = ports(*n).map(|(name, number)| port(&name, Protocol::Tcp, number)).collect();
                let service =
                    Service { headless: cluster_ips.is_empty(), cluster_ips, ports, ..Service::default() };
                snapshot.services.insert_mut(name.clone(), Arc::new(service));
                changes.services.insert(name);
            }
            Self::NoService(name) => {
                snapshot.services.remove_mut(&object("s", *name));
                changes.services.insert(object("s", *name));
            }
            Self::Slice { name, slice, ips, ports: n } => {
                let name = object("s", *name);
                let endpoints = ips
                    .iter()
                    .map(|(ip, ready)| Endpoint { ready: *ready, ..endpoint(&format!("10.244.0.{ip}"), "p") })
                    .collect();
                let ports = ports(*n)
                    .map(|(name, port)| EndpointPort { name: name.into(), protocol: Protocol::Tcp, port })
                    .collect();
                let value = EndpointSlice { service: name.clone(), ports, endpoints };
                let mut slices =
                    snapshot.slices.get(&name).cloned().unwrap_or_else(RedBlackTreeMapSync::new_sync);
                slices.insert_mut(format!("x{slice}").into(), Arc::new(value));
                snapshot.slices.insert_mut(name.clone(), slices);
                changes.services.insert(name);
            }
            Self::NoSlice { name, slice } => {
                let name = object("s", *name);
                if let Some(mut slices) = snapshot.slices.get(&name).cloned() {
                    slices.remove_mut(&*format!("x{slice}"));
                    snapshot.slices.insert_mut(name.clone(), slices);
                }
                changes.services.insert(name);
            }
            Self::Namespace(name, exists) => {
                let name: Arc<str> = format!("ns{name}").into();
                if *exists {
                    snapshot.namespaces.insert_mut(name.clone(), Arc::new(Namespace::default()));
                } else {
                    snapshot.namespaces.remove_mut(&name);
                }
                changes.namespaces.insert(name);
            }
            Self::Pod { name, ips, finished } => {
                let name = object("p", *name);
                let ips = ips.iter().map(|ip| IpAddr::from([10, 244, 0, *ip])).collect();
                let pod = Pod { ips, finished: *finished, ..Pod::default() };
                snapshot.pods.insert_mut(name.clone(), Arc::new(pod));
                changes.pods.insert(name);
            }
            Self::NoPod(name) => {
                snapshot.pods.remove_mut(&object("p", *name));
                changes.pods.insert(object("p", *name));
            }
        }
        changes
    }
}

proptest! {
    #[test]
    fn following_changes_gives_what_a_fresh_start_gives(steps in steps(), together in 1usize..4) {
        let options = Options { pods: PodMode::Verified, ..options() };
        let mut snapshot = Snapshot::default();
        let mut index = Index::default();
        for batch in steps.chunks(together) {
            let mut changes = Changes::default();
            for step in batch {
                changes.merge(&step.apply(&mut snapshot));
            }
            let fresh = Index::build(&snapshot, &options);
            match index.updated(&snapshot, &changes, &options) {
                Some(updated) => index = updated,
                None => prop_assert!(index == fresh),
            }
            prop_assert!(index == fresh);
        }
    }

    #[test]
    fn no_name_makes_a_lookup_panic(
        labels in proptest::collection::vec("(_?[a-z0-9-]{1,8}|svc|pod|default|web|nginx-svc|_http|_tcp|\\PC{1,3})", 0..7),
        record_type in any::<u16>(),
    ) {
        let mut parts: Vec<&[u8]> = labels.iter().map(|l| l.as_bytes()).collect();
        parts.extend([&b"cluster"[..], b"local"]);
        if let Ok(name) = Name::from_labels(parts) {
            let plugin = plugin(options(), &cluster());
            let state = plugin.state.load_full().unwrap();
            let lookup = Lookup { index: &state.index, options: &plugin.options, zone: &plugin.options.zones[0], own: &plugin.own };
            let _ = lookup.find(&name, &lower_text(&name), record_type.into());
        }
    }
}
