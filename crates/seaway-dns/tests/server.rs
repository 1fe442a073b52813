//! The whole server, from its arguments to SIGTERM, against a small API server of ours.
//!
//! One test: it sends signals to its own process.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::routing::get;
use futures::StreamExt;
use hickory_proto::op::{Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use seaway_dns::explain::{Explained, OriginKind};
use seaway_dns::{DnsArgs, coredns_flags, run};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{broadcast, watch};

const PATIENCE: Duration = Duration::from_secs(30);

/// An API server: lists come once `open` is true, events are those that are sent.
#[derive(Clone)]
struct Api {
    open: watch::Receiver<bool>,
    services: broadcast::Sender<Value>,
}

async fn serve_api(api: Api) -> SocketAddr {
    let service = json!({
        "metadata": {"name": "nginx-svc", "namespace": "default", "resourceVersion": "1", "uid": "u1"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.101.112.166", "clusterIPs": ["10.101.112.166"],
                 "ports": [{"port": 80, "protocol": "TCP"}]}
    });
    let namespace = json!({"metadata": {"name": "default", "resourceVersion": "1", "uid": "u2"}});
    let kinds = [
        ("/api/v1/services", "v1", "Service", vec![service]),
        ("/api/v1/namespaces", "v1", "Namespace", vec![namespace]),
        ("/apis/discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1", "EndpointSlice", vec![]),
    ];
    let mut app = Router::new();
    for (path, version, kind, items) in kinds {
        let api = api.clone();
        let list = json!({
            "kind": format!("{kind}List"), "apiVersion": version, "metadata": {"resourceVersion": "1"}, "items": items
        });
        let handler = move |Query(params): Query<Vec<(String, String)>>| {
            let (mut api, list) = (api.clone(), list.clone());
            async move {
                if params.iter().any(|(name, value)| name == "watch" && (value == "true" || value == "1")) {
                    let events = (kind == "Service").then(|| api.services.subscribe());
                    let lines = futures::stream::unfold(events, |events| async move {
                        let Some(mut events) = events else { return std::future::pending().await };
                        let event = events.recv().await.ok()?;
                        Some((Ok::<_, Infallible>(Bytes::from(format!("{event}\n"))), Some(events)))
                    });
                    return Body::from_stream(lines.boxed());
                }
                api.open.wait_for(|open| *open).await.unwrap();
                Body::from(list.to_string())
            }
        };
        app = app.route(path, get(handler));
    }
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

async fn ask(port: u16, name: &str) -> Option<Message> {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.add_query(Question::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    socket.send(&query.to_vec().unwrap()).await.unwrap();
    let mut reply = [0; 512];
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut reply)).await.unwrap().ok()?;
    Some(Message::from_vec(&reply[..length]).unwrap())
}

/// Status and body of a GET.
async fn http(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.ok()?;
    let (head, body) = reply.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Waits until `check` says yes.
async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn free_port() -> u16 {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn signal(name: &str) {
    let pid = std::process::id().to_string();
    assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
}

struct Ports {
    dns: u16,
    health: u16,
    ready: u16,
    metrics: u16,
}

fn corefile(ports: &Ports, api: SocketAddr, ttl: &str) -> String {
    format!(
        ".:{} {{
    bind 127.0.0.1
    errors
    health 127.0.0.1:{} {{
       lameduck 2s
    }}
    ready 127.0.0.1:{}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
       endpoint http://{api}
       startup_timeout 10ms
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl {ttl}
    }}
    prometheus 127.0.0.1:{}
    cache 30
    reload
    loadbalance
}}
",
        ports.dns, ports.health, ports.ready, ports.metrics
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn from_start_to_end() {
    let (open, is_open) = watch::channel(false);
    let (events, _) = broadcast::channel(16);
    let api = serve_api(Api { open: is_open, services: events.clone() }).await;
    let ports = Ports { dns: free_port(), health: free_port(), ready: free_port(), metrics: free_port() };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Corefile");
    std::fs::write(&path, corefile(&ports, api, "30")).unwrap();
    let socket = directory.path().join("dns.sock");
    let explain_socket = Some(socket.clone());
    let args = DnsArgs {
        conf: path.clone(),
        port: 53,
        check: false,
        kubeconfig: None,
        explain_socket,
        quiet: false,
    };
    let args = |check| DnsArgs { check, ..args.clone() };
    let explain = async |name: &str| {
        let target = format!("/v1/explain?name={name}&type=A");
        seaway_http::unix::get::<Explained>(&socket, &target).await.unwrap()
    };
    let is_success = |code| format!("{code:?}") == format!("{:?}", std::process::ExitCode::SUCCESS);
    assert!(is_success(run(args(true)).await.unwrap()));
    let server = tokio::spawn(run(args(false)));

    // Before the first lists: alive, not ready, and no answer that may be wrong.
    eventually("health", async || http(ports.health, "/health").await == Some((200, "OK".into()))).await;
    eventually("an answer", async || ask(ports.dns, "nginx-svc.default.svc.cluster.local.").await.is_some())
        .await;
    let reply = ask(ports.dns, "nginx-svc.default.svc.cluster.local.").await.unwrap();
    assert_eq!(reply.response_code, ResponseCode::ServFail);
    assert_eq!(http(ports.ready, "/ready").await, Some((503, "kubernetes".into())));

    // With them: ready.
    open.send(true).unwrap();
    eventually("ready", async || http(ports.ready, "/ready").await == Some((200, "OK".into()))).await;
    let reply = ask(ports.dns, "nginx-svc.default.svc.cluster.local.").await.unwrap();
    assert_eq!((reply.answers[0].data.to_string(), reply.answers[0].ttl), ("10.101.112.166".into(), 30));
    assert!(reply.authoritative);

    // A denied name is there as soon as its Service is.
    let late = "late.default.svc.cluster.local.";
    assert_eq!(ask(ports.dns, late).await.unwrap().response_code, ResponseCode::NXDomain);
    eventually("a watch", async || events.receiver_count() > 0).await;
    let added = |name: &str, ip: &str, version: &str| {
        json!({"type": "ADDED", "object": {
            "kind": "Service", "apiVersion": "v1",
            "metadata": {"name": name, "namespace": "default", "resourceVersion": version, "uid": name},
            "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]}
        }})
    };
    events.send(added("late", "10.96.0.9", "2")).unwrap();
    eventually("the new service", async || ask(ports.dns, late).await.unwrap().answers.len() == 1).await;

    // A bad Corefile changes nothing but a metric; a good one takes over.
    let metric = async |line: &str| http(ports.metrics, "/metrics").await.unwrap().1.contains(line);
    std::fs::write(&path, corefile(&ports, api, "never")).unwrap();
    signal("-USR1");
    eventually("the failed reload", async || metric("coredns_reload_failed_total 1\n").await).await;
    assert_eq!(ask(ports.dns, late).await.unwrap().answers[0].ttl, 30);
    // Nor does one whose addresses can't all be had, however much of it could.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let ready = format!("ready 127.0.0.1:{}", ports.ready);
    let unfit = format!("ready {}", taken.local_addr().unwrap());
    let unfit = corefile(&ports, api, "16").replace(&ready, &unfit);
    std::fs::write(&path, unfit).unwrap();
    signal("-USR1");
    eventually("the second failed reload", async || metric("coredns_reload_failed_total 2\n").await).await;
    assert_eq!(ask(ports.dns, late).await.unwrap().answers[0].ttl, 30);
    events.send(added("latest", "10.96.0.8", "3")).unwrap();
    eventually("a later Service by the old Corefile", async || {
        ask(ports.dns, "latest.default.svc.cluster.local.").await.unwrap().answers.len() == 1
    })
    .await;
    std::fs::write(&path, corefile(&ports, api, "17")).unwrap();
    signal("-USR1");
    eventually("the new Corefile", async || {
        ask(ports.dns, late).await.unwrap().answers.first().is_some_and(|record| record.ttl == 17)
    })
    .await;
    assert!(metric("coredns_plugin_enabled{").await && metric("coredns_build_info{").await);

    // What it tells of itself is what it does now.
    let it = explain(late).await;
    assert_eq!((it.rcode.as_deref(), it.answers[0].data.as_str()), (Some("NOERROR"), "10.96.0.9"));
    assert_eq!((it.answers[0].ttl, it.origin.kind), (17, OriginKind::Cluster));

    // Told to stop, it still answers for the lame duck's time.
    signal("-TERM");
    eventually("not ready", async || http(ports.ready, "/ready").await == Some((503, "stopping".into())))
        .await;
    assert_eq!(ask(ports.dns, late).await.unwrap().answers.len(), 1);
    assert_eq!(http(ports.health, "/health").await, Some((200, "OK".into())));
    assert!(is_success(server.await.unwrap().unwrap()));
    assert_eq!(http(ports.health, "/health").await, None);
}

#[test]
fn the_flags_of_coredns() {
    use clap::{Args, Command, FromArgMatches};
    let read = |line: &str| {
        let line = coredns_flags(std::iter::once("dns").chain(line.split_whitespace()).map(Into::into));
        let matches = DnsArgs::augment_args(Command::new("dns")).try_get_matches_from(line).unwrap();
        let args = DnsArgs::from_arg_matches(&matches).unwrap();
        (args.conf, args.port, args.check, args.quiet)
    };
    let conf = PathBuf::from("/etc/coredns/Corefile");
    for line in [
        "-conf /etc/coredns/Corefile -dns.port 1053 -quiet",
        "-conf=/etc/coredns/Corefile -dns.port=1053 -quiet",
        "--conf /etc/coredns/Corefile -p 1053 --quiet",
        "--conf /etc/coredns/Corefile --port 1053 --quiet",
    ] {
        assert_eq!(read(line), (conf.clone(), 1053, false, true), "{line}");
    }
    assert_eq!(read("--check"), (PathBuf::from("Corefile"), 53, true, false));
}
