//! Real sockets on the loopback interface.

mod options;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::strategy::{Strategy, ValueTree};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::*;
use crate::config::{Outside, read};
use crate::corefile::{Disk, parse};
use crate::instance::{Instance, Shared};
use crate::kubernetes::Clusters;
use crate::metrics::Metrics;

/// A server with a Corefile, at a port that the kernel chose.
struct Rig {
    address: SocketAddr,
    shared: Shared,
    fatal: mpsc::Receiver<String>,
    listeners: Listeners,
    instance: Instance,
}

async fn instance(corefile: &str, shared: &Shared) -> Instance {
    let blocks = parse("Corefile", corefile, &|_| None, &Disk).unwrap();
    let outside = Outside { port: 0, read_file: &|path| std::fs::read_to_string(path) };
    Instance::new(read(&blocks, &outside).unwrap(), shared).await.unwrap()
}

async fn start(corefile: &str) -> Rig {
    let metrics = Arc::new(Metrics::new());
    let (tell, fatal) = mpsc::channel(1);
    let shared = Shared { metrics: metrics.clone(), clusters: Clusters::new(None, metrics), fatal: tell };
    let mut instance = instance(corefile, &shared).await;
    let mut listeners = Listeners::default();
    // The TCP port of the same number as the UDP port that the kernel chose may be taken: then another one.
    let opened = loop {
        match listeners.open(&instance.routes).await {
            Ok(opened) => break opened,
            Err(error) => assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse, "{error}"),
        }
    };
    listeners.switch(&instance.routes, opened);
    instance.listening();
    let address = listeners.addresses()[0];
    Rig { address, shared, fatal, listeners, instance }
}

fn question(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), record_type));
    message
}

const PATIENCE: Duration = Duration::from_secs(20);

async fn udp_raw(address: SocketAddr, bytes: &[u8], patience: Duration) -> Option<Message> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(address).await.unwrap();
    socket.send(bytes).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let length = tokio::time::timeout(patience, socket.recv(&mut buffer)).await.ok()?.unwrap();
    Some(Message::from_vec(&buffer[..length]).unwrap())
}

async fn udp(address: SocketAddr, message: &Message) -> Message {
    let reply = udp_raw(address, &message.to_vec().unwrap(), PATIENCE).await.expect("a reply");
    assert_eq!(reply.id, message.id);
    reply
}

async fn tcp(address: SocketAddr, messages: &[Message]) -> Vec<Message> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut bytes = Vec::new();
    for message in messages {
        let message = message.to_vec().unwrap();
        bytes.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
        bytes.extend(message);
    }
    stream.write_all(&bytes).await.unwrap();
    let mut replies = Vec::new();
    for _ in messages {
        let mut reply = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut reply).await.unwrap();
        replies.push(Message::from_vec(&reply).unwrap());
    }
    replies
}

/// What the small upstream of ours has been asked.
#[derive(Default)]
struct Asked {
    udp: AtomicUsize,
    tcp: AtomicUsize,
}

/// An upstream on UDP and TCP: `N.many.example` has N addresses, `slow.example` is never answered, `refused.example` is
/// refused, all else has one address.
async fn upstream() -> (SocketAddr, Arc<Asked>) {
    let (udp, tcp, address) = loop {
        if let Ok(bound) = bind((Ipv4Addr::LOCALHOST, 0).into()).await {
            break bound;
        }
    };
    let asked = Arc::new(Asked::default());
    let by_tcp = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let asked = by_tcp.clone();
            tokio::spawn(async move {
                while let Ok(length) = stream.read_u16().await {
                    let mut query = vec![0; length.into()];
                    stream.read_exact(&mut query).await.unwrap();
                    asked.tcp.fetch_add(1, Ordering::SeqCst);
                    let reply = upstream_reply(&query).unwrap().to_vec().unwrap();
                    stream.write_u16(reply.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&reply).await.unwrap();
                }
            });
        }
    });
    let by_udp = asked.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
            by_udp.udp.fetch_add(1, Ordering::SeqCst);
            let Some(mut reply) = upstream_reply(&buffer[..length]) else { continue };
            if reply.answers.len() > 20 {
                reply.answers.clear();
                reply.metadata.truncation = true;
            }
            // A forged reply first: another number.
            let mut forged = reply.clone();
            forged.metadata.id = !reply.id;
            forged.answers.clear();
            udp.send_to(&forged.to_vec().unwrap(), client).await.unwrap();
            udp.send_to(&reply.to_vec().unwrap(), client).await.unwrap();
        }
    });
    (address, asked)
}

fn upstream_reply(query: &[u8]) -> Option<Message> {
    let query = Message::from_vec(query).unwrap();
    let name = query.queries[0].name().clone();
    let text = name.to_ascii().to_lowercase();
    let mut reply = Message::response(query.id, OpCode::Query);
    reply.metadata.recursion_available = true;
    reply.metadata.recursion_desired = query.recursion_desired;
    reply.add_query(query.queries[0].clone());
    let count = match text.split_once('.') {
        _ if text == "slow.example." => return None,
        _ if text == "refused.example." => {
            reply.metadata.response_code = ResponseCode::Refused;
            0
        }
        Some((n, "many.example.")) => n.parse().unwrap(),
        _ => 1,
    };
    for i in 0..count {
        let data = RData::A(Ipv4Addr::from(0xc000_0200 + i).into());
        reply.add_answer(Record::from_rdata(name.clone(), 300, data));
    }
    Some(reply)
}

fn forwarding(to: SocketAddr, extra: &str) -> String {
    format!(". {{\n bind 127.0.0.1\n errors\n prometheus\n forward . {to} {{\n{extra}\n }}\n}}\n")
}

#[tokio::test]
async fn a_query_is_forwarded_on_both_transports() {
    let (to, asked) = upstream().await;
    let rig = start(&forwarding(to, "")).await;
    let query = question("Www.Example.", RecordType::A);
    let reply = udp(rig.address, &query).await;
    assert_eq!((reply.response_code, reply.answers.len()), (ResponseCode::NoError, 1));
    assert!(reply.recursion_available && reply.recursion_desired && !reply.authoritative);
    assert!(reply.queries[0].name().eq_case(query.queries[0].name()));
    let many: Vec<Message> =
        (1..=30).map(|i| question(&format!("{i}.many.example."), RecordType::A)).collect();
    let replies = tcp(rig.address, &many).await;
    for (i, query) in many.iter().enumerate() {
        let reply = replies.iter().find(|reply| reply.id == query.id).expect("a reply to each");
        assert_eq!(reply.answers.len(), i + 1);
    }
    assert_eq!((asked.udp.load(Ordering::SeqCst), asked.tcp.load(Ordering::SeqCst)), (1, 30));
    let metrics = rig.shared.metrics.text();
    for line in [
        format!(
            "coredns_proxy_request_duration_seconds_count{{proxy_name=\"forward\",to=\"{to}\",rcode=\"NOERROR\"}} 31"
        ),
        "proto=\"tcp\",family=\"1\",type=\"A\"} 30".to_owned(),
    ] {
        assert!(metrics.contains(&line), "no {line} in\n{metrics}");
    }
}

#[tokio::test]
async fn a_truncated_reply_is_asked_for_over_tcp_and_cut_for_the_client() {
    let (to, asked) = upstream().await;
    let rig = start(&forwarding(to, "")).await;
    let query = question("100.many.example.", RecordType::A);
    let reply = udp(rig.address, &query).await;
    assert!(reply.truncation && !reply.answers.is_empty() && reply.answers.len() < 100);
    assert_eq!((asked.udp.load(Ordering::SeqCst), asked.tcp.load(Ordering::SeqCst)), (1, 1));
    let [reply] = &tcp(rig.address, &[query]).await[..] else { panic!() };
    assert!(!reply.truncation);
    assert_eq!(reply.answers.len(), 100);
}

#[tokio::test]
async fn upstreams_that_fail() {
    let (good, _) = upstream().await;
    // Nobody listens at a port that has just been given back.
    let dead = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let table = [
        (format!("{dead} {good}"), "policy sequential\n", "www.example.", ResponseCode::NoError),
        (format!("{dead}"), "", "www.example.", ResponseCode::ServFail),
        (format!("{good}"), "read_timeout 50ms\n", "slow.example.", ResponseCode::ServFail),
        (format!("{good}"), "", "refused.example.", ResponseCode::Refused),
        (format!("{good}"), "except example\n", "www.example.", ResponseCode::Refused),
    ];
    for (to, extra, name, code) in table {
        let corefile = format!(". {{\n bind 127.0.0.1\n errors\n forward . {to} {{\n{extra} }}\n}}\n");
        let rig = start(&corefile).await;
        let reply = udp(rig.address, &question(name, RecordType::A)).await;
        assert_eq!(reply.response_code, code, "{corefile} {name}");
        assert_eq!(reply.answers.len(), usize::from(code == ResponseCode::NoError));
    }
}

#[tokio::test]
async fn too_many_at_a_time_are_refused() {
    let (to, asked) = upstream().await;
    let rig = start(&forwarding(to, "max_concurrent 2\n read_timeout 500ms")).await;
    let address = rig.address;
    let slow: Vec<_> = (0..2)
        .map(|_| tokio::spawn(async move { udp(address, &question("slow.example.", RecordType::A)).await }))
        .collect();
    while asked.udp.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    let reply = udp(address, &question("www.example.", RecordType::A)).await;
    assert_eq!(reply.response_code, ResponseCode::Refused);
    for slow in slow {
        assert_eq!(slow.await.unwrap().response_code, ResponseCode::ServFail);
    }
    assert!(rig.shared.metrics.text().contains("coredns_forward_max_concurrent_rejects_total 1"));
    assert_eq!(udp(address, &question("www.example.", RecordType::A)).await.answers.len(), 1);
}

#[tokio::test]
async fn the_cache_asks_once() {
    let (to, asked) = upstream().await;
    let rig = start(&format!(". {{\n bind 127.0.0.1\n cache 30\n forward . {to}\n}}\n")).await;
    for _ in 0..3 {
        let reply = udp(rig.address, &question("www.example.", RecordType::A)).await;
        assert!(reply.answers[0].ttl <= 30);
    }
    assert_eq!(asked.udp.load(Ordering::SeqCst), 1);
    let metrics = rig.shared.metrics.text();
    assert!(
        metrics.contains(
            "coredns_cache_hits_total{server=\"dns://127.0.0.1:0\",type=\"success\",zones=\".\",view=\"\"} 2"
        ),
        "{metrics}"
    );
}

#[tokio::test]
async fn the_longest_zone_answers_and_a_foreign_name_is_refused() {
    let rig = start(
        "a.example {\n bind 127.0.0.1\n hosts /dev/null {\n  192.0.2.1 x.a.example\n }\n}\n\
         b.a.example {\n bind 127.0.0.1\n hosts /dev/null {\n  192.0.2.2 x.b.a.example\n }\n}\n",
    )
    .await;
    for (name, code, address) in [
        ("x.a.example.", ResponseCode::NoError, Some("192.0.2.1")),
        ("x.b.a.example.", ResponseCode::NoError, Some("192.0.2.2")),
        ("y.b.a.example.", ResponseCode::NXDomain, None),
        ("other.", ResponseCode::Refused, None),
    ] {
        let reply = udp(rig.address, &question(name, RecordType::A)).await;
        assert_eq!(reply.response_code, code, "{name}");
        assert_eq!(reply.answers.first().map(|r| r.data.to_string()).as_deref(), address, "{name}");
    }
}

#[tokio::test]
async fn rubbish_does_no_harm() {
    let rig = start(". {\n bind 127.0.0.1\n whoami\n}\n").await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let bytes = proptest::collection::vec(proptest::num::u8::ANY, 0..300);
    let good = question("www.example.", RecordType::A).to_vec().unwrap();
    for round in 0..3000usize {
        let mut packet = bytes.new_tree(&mut runner).unwrap().current();
        if round % 2 == 0 {
            let mut damaged = good.clone();
            for (i, byte) in packet.iter().take(3).enumerate() {
                damaged[(usize::from(*byte) + 7 * i) % good.len()] = *byte;
            }
            packet = damaged;
        }
        socket.send_to(&packet, rig.address).await.unwrap();
    }
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(&[0, 5, 1, 2, 3, 4, 5, 255, 255, 1]).await.unwrap();
    drop(stream);
    let query = question("www.example.", RecordType::A);
    // The queue of the socket may be full of rubbish: as a client would, ask again.
    let mut reply = None;
    for _ in 0..50 {
        reply = udp_raw(rig.address, &query.to_vec().unwrap(), Duration::from_millis(400)).await;
        if reply.is_some() {
            break;
        }
    }
    let reply = reply.expect("the server lives");
    assert_eq!(reply.additionals[0].data.to_string(), "127.0.0.1");
    assert_eq!(tcp(rig.address, &[query]).await[0].additionals[0].record_type(), RecordType::A);
}

#[tokio::test]
async fn a_new_corefile_takes_over_the_same_socket() {
    let hosts = |ip: &str| format!(". {{\n bind 127.0.0.1\n hosts /dev/null {{\n  {ip} x.example\n }}\n}}\n");
    let mut rig = start(&hosts("192.0.2.1")).await;
    let query = question("x.example.", RecordType::A);
    assert_eq!(udp(rig.address, &query).await.answers[0].data.to_string(), "192.0.2.1");
    rig.instance = instance(&hosts("192.0.2.2"), &rig.shared).await;
    let opened = rig.listeners.open(&rig.instance.routes).await.unwrap();
    rig.listeners.switch(&rig.instance.routes, opened);
    assert_eq!(rig.listeners.addresses(), [rig.address]);
    assert_eq!(udp(rig.address, &query).await.answers[0].data.to_string(), "192.0.2.2");
}

#[tokio::test]
async fn a_loop_is_found_out() {
    // The port of the upstream has to be known before the server listens.
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let corefile = format!(".:{} {{\n bind 127.0.0.1\n loop\n forward . {free}\n}}\n", free.port());
    let mut rig = start(&corefile).await;
    let reason = tokio::time::timeout(PATIENCE, rig.fatal.recv()).await.expect("found").unwrap();
    assert!(reason.contains("plugin/loop") && reason.contains(&free.to_string()), "{reason}");
}

#[tokio::test]
async fn where_the_upstream_is_another_server_there_is_no_loop() {
    let (to, _) = upstream().await;
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let corefile = format!(".:{} {{\n bind 127.0.0.1\n loop\n forward . {to}\n}}\n", free.port());
    let mut rig = start(&corefile).await;
    assert_eq!(udp(rig.address, &question("www.example.", RecordType::A)).await.answers.len(), 1);
    assert!(rig.fatal.try_recv().is_err());
}

#[tokio::test]
async fn a_bind_to_all_addresses_takes_both_families() {
    let rig = start(". {\n whoami\n}\n").await;
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), "::1".parse().unwrap()] {
        if ip.is_ipv6() && std::net::UdpSocket::bind("[::1]:0").is_err() {
            // A host without IPv6: then all addresses are those of IPv4.
            assert!(rig.address.is_ipv4());
            continue;
        }
        let socket = UdpSocket::bind((ip, 0)).await.unwrap();
        let query = question("x.", RecordType::A).to_vec().unwrap();
        socket.send_to(&query, (ip, rig.address.port())).await.unwrap();
        let mut buffer = [0; 512];
        let (length, from) =
            tokio::time::timeout(PATIENCE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(from.ip(), ip);
        let reply = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(reply.additionals[0].data.to_string(), ip.to_string());
    }
}
