use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::SOA;

use super::*;
use crate::corefile::{Disk, parse};
use crate::message::{Transport, decode};
use crate::plugin::Chain;

/// Counts questions and answers by the first label of the name.
#[derive(Debug, Default)]
struct Upstream(AtomicU32);

impl Plugin for Upstream {
    fn name(&self) -> &'static str {
        "upstream"
    }

    fn serve<'a>(&'a self, query: &'a Query, _next: Next) -> BoxFuture<'a, Outcome> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let record = |ttl, data| Record::from_rdata(query.name.clone(), ttl, data);
        let a = |ttl| record(ttl, RData::A(Ipv4Addr::new(192, 0, 2, 1).into()));
        let root = Name::root;
        let soa = |ttl, minimum| record(ttl, RData::SOA(SOA::new(root(), root(), 1, 1, 1, 1, minimum)));
        let (kind, _) = query.lower.split_once('.').unwrap();
        let reply = match kind {
            "long" => {
                Reply { answers: vec![a(1000), a(2000)], recursion_available: true, ..Reply::default() }
            }
            "short" => Reply { answers: vec![a(1)], ..Reply::default() },
            "nodata" => Reply { authorities: vec![soa(500, 20)], ..Reply::default() },
            "nx" => {
                Reply { code: ResponseCode::NXDomain, authorities: vec![soa(10, 500)], ..Reply::default() }
            }
            "nxbare" => Reply::of_code(ResponseCode::NXDomain),
            "refused" => Reply::of_code(ResponseCode::Refused),
            "servfail" => Reply::of_code(ResponseCode::ServFail),
            "local" => Reply { answers: vec![a(30)], origin: Origin::Local, ..Reply::default() },
            "cut" => Reply { answers: vec![a(30)], truncated: true, ..Reply::default() },
            _ => {
                return Box::pin(std::future::ready(Err(crate::plugin::Failure::server("upstream", "gone"))));
            }
        };
        Box::pin(std::future::ready(Ok(reply)))
    }
}

fn settings(directive: &str) -> Settings {
    let blocks = parse("Corefile", &format!(". {{\n{directive}\n}}\n"), &|_| None, &Disk).unwrap();
    Settings::parse(&blocks[0].directives[0], &[ZoneName::parse(".").unwrap()]).unwrap()
}

fn rig(directive: &str) -> (Arc<Cache>, Arc<Upstream>, Chain) {
    let block = BlockLabels { server: "dns://:53".into(), zone: ".".into(), view: "".into() };
    let cache = Arc::new(Cache::new(settings(directive), Arc::new(Metrics::new()), &block));
    let upstream = Arc::new(Upstream::default());
    let chain = Chain::new(vec![cache.clone(), upstream.clone()]);
    (cache, upstream, chain)
}

fn query(name: &str, record_type: RecordType) -> Query {
    use hickory_proto::op::{Message, MessageType, OpCode};
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii(name).unwrap();
    message.add_query(hickory_proto::op::Query::query(name, record_type));
    let client = SocketAddr::from(([192, 0, 2, 9], 999));
    decode(&message.to_vec().unwrap(), client, Transport::Udp).unwrap()
}

/// How often the upstream is asked when a client asks three times, and the TTL of the third reply.
async fn thrice(directive: &str, name: &str) -> (u32, Option<u32>) {
    let (_, upstream, chain) = rig(directive);
    let mut ttl = None;
    for _ in 0..3 {
        let reply = chain.start().run(&query(name, RecordType::A)).await.unwrap_or_default();
        ttl = reply.answers.iter().chain(&reply.authorities).map(|r| r.ttl).max();
    }
    (upstream.0.load(Ordering::Relaxed), ttl)
}

#[tokio::test]
async fn what_is_kept_and_how_long() {
    // (directive, name, questions to the upstream, TTL that the client sees)
    for (directive, name, asked, ttl) in [
        ("cache", "long.example.", 1, Some(999..=1000)),
        ("cache 30", "long.example.", 1, Some(29..=30)),
        ("cache 30", "short.example.", 1, Some(4..=5)),
        ("cache 30", "nodata.example.", 1, Some(19..=20)),
        ("cache 30", "nx.example.", 1, Some(9..=10)),
        ("cache 30", "nxbare.example.", 3, None),
        ("cache 30", "refused.example.", 3, None),
        ("cache 30", "servfail.example.", 1, None),
        ("cache 30", "fails.example.", 3, None),
        ("cache 30", "local.example.", 3, Some(30..=30)),
        ("cache 30", "cut.example.", 3, Some(30..=30)),
        ("cache 30 other.example", "long.example.", 3, Some(2000..=2000)),
        ("cache 30 {\n disable success example\n}", "long.example.", 3, Some(2000..=2000)),
        ("cache 30 {\n disable denial\n}", "nx.example.", 3, Some(10..=10)),
        ("cache 30 {\n success 0\n}", "long.example.", 3, Some(2000..=2000)),
        ("cache 30 {\n servfail 0\n}", "servfail.example.", 3, None),
        ("cache 30 {\n keepttl\n}", "long.example.", 1, Some(2000..=2000)),
    ] {
        let (got_asked, got_ttl) = thrice(directive, name).await;
        assert_eq!(got_asked, asked, "{directive}: {name}");
        match ttl {
            Some(range) => assert!(range.contains(&got_ttl.unwrap()), "{directive}: {name}: {got_ttl:?}"),
            None => assert_eq!(got_ttl, None, "{directive}: {name}"),
        }
    }
}

#[tokio::test]
async fn a_kept_answer_is_authoritative_and_each_question_has_its_own() {
    let (_, upstream, chain) = rig("cache 30");
    let ask = |name: &'static str, record_type| {
        let chain = chain.clone();
        async move { chain.start().run(&query(name, record_type)).await.unwrap() }
    };
    assert!(!ask("long.example.", RecordType::A).await.authoritative);
    let kept = ask("LONG.example.", RecordType::A).await;
    assert!(kept.authoritative && kept.recursion_available);
    assert_eq!(upstream.0.load(Ordering::Relaxed), 1);
    ask("long.example.", RecordType::AAAA).await;
    ask("long.other.", RecordType::A).await;
    assert_eq!(upstream.0.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_full_cache_stays_full() {
    let (cache, _, chain) = rig("cache 30 {\n success 128\n}");
    for i in 0..1000 {
        chain.start().run(&query(&format!("long.x{i}."), RecordType::A)).await.unwrap();
    }
    assert!(cache.0.success.len() <= 128);
    assert!(cache.0.success.len() > 100);
}
