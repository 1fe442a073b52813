//! Each option of `forward` and `cache` against upstreams of ours, whose mood the test sets.

use std::sync::Mutex;
use std::sync::atomic::AtomicU8;

use super::*;

/// What an upstream does with questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Mood {
    Answer,
    Silent,
    Fail,
}

/// An upstream on UDP and TCP. Its A record is 192.0.2.`answer`, good for a second.
struct Moody {
    address: SocketAddr,
    mood: AtomicU8,
    answer: AtomicU8,
    /// Questions but those of health checks, by transport.
    udp: AtomicUsize,
    tcp: AtomicUsize,
    connections: AtomicUsize,
    /// Health checks: the name, and whether recursion is desired.
    checks: Mutex<Vec<(String, bool)>>,
}

impl Moody {
    async fn start() -> Arc<Self> {
        loop {
            if let Ok(moody) = Self::start_at((Ipv4Addr::LOCALHOST, 0).into()).await {
                return moody;
            }
        }
    }

    async fn start_at(address: SocketAddr) -> Result<Arc<Self>, ListenError> {
        let (udp, tcp, address) = bind(address).await?;
        let moody = Arc::new(Self {
            address,
            mood: AtomicU8::new(Mood::Answer as u8),
            answer: AtomicU8::new(1),
            udp: AtomicUsize::new(0),
            tcp: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            checks: Mutex::default(),
        });
        let by_udp = moody.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            loop {
                let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
                if let Some(reply) = by_udp.reply(&buffer[..length], &by_udp.udp) {
                    udp.send_to(&reply, client).await.unwrap();
                }
            }
        });
        let by_tcp = moody.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                by_tcp.connections.fetch_add(1, Ordering::SeqCst);
                let moody = by_tcp.clone();
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut query = vec![0; length.into()];
                        stream.read_exact(&mut query).await.unwrap();
                        let Some(reply) = moody.reply(&query, &moody.tcp) else { continue };
                        stream.write_u16(reply.len().try_into().unwrap()).await.unwrap();
                        stream.write_all(&reply).await.unwrap();
                    }
                });
            }
        });
        Ok(moody)
    }

    fn set(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }

    fn asked(&self) -> usize {
        self.udp.load(Ordering::SeqCst) + self.tcp.load(Ordering::SeqCst)
    }

    fn reply(&self, query: &[u8], count: &AtomicUsize) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).unwrap();
        let question = query.queries[0].clone();
        if question.query_type() == RecordType::NS {
            self.checks.lock().unwrap().push((question.name().to_ascii(), query.recursion_desired));
        } else {
            count.fetch_add(1, Ordering::SeqCst);
        }
        let mood = self.mood.load(Ordering::SeqCst);
        if mood == Mood::Silent as u8 {
            return None;
        }
        let mut reply = Message::response(query.id, OpCode::Query);
        reply.add_query(question.clone());
        if mood == Mood::Fail as u8 {
            reply.metadata.response_code = ResponseCode::ServFail;
        } else {
            let data = RData::A(Ipv4Addr::new(192, 0, 2, self.answer.load(Ordering::SeqCst)).into());
            reply.add_answer(Record::from_rdata(question.name().clone(), 1, data));
        }
        Some(reply.to_vec().unwrap())
    }
}

/// A server that forwards to `to`, with lines for `forward` and for its block.
async fn forwarder(to: &[SocketAddr], forward: &str, block: &str) -> Rig {
    let to: Vec<String> = to.iter().map(SocketAddr::to_string).collect();
    start(&format!(
        ". {{\n bind 127.0.0.1\n prometheus\n {block}\n forward . {} {{\n {forward}\n }}\n}}\n",
        to.join(" ")
    ))
    .await
}

/// Asks once, by UDP, for the address of a name; the code and the last octet of the address.
async fn ask(rig: &Rig) -> (ResponseCode, Option<u8>) {
    let reply = udp(rig.address, &question("www.example.", RecordType::A)).await;
    let octet = reply.answers.first().map(|record| match &record.data {
        RData::A(address) => address.octets()[3],
        other => panic!("{other}"),
    });
    (reply.response_code, octet)
}

/// The value of a metric, by the beginning of its line.
fn metric(rig: &Rig, name: &str) -> f64 {
    let text = rig.shared.metrics.text();
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// An address at which nobody listens: a port that was just given back, at an address of loopback that no other test uses.
fn nobody() -> SocketAddr {
    let [a, b, c] = rand::random::<[u8; 3]>();
    let own = Ipv4Addr::new(127, a | 1, b, c % 200 + 1);
    std::net::UdpSocket::bind((own, 0)).unwrap().local_addr().unwrap()
}

const ERRORS: &str = "seaway_dns_upstream_errors_total";

#[tokio::test]
async fn policies_choose_the_upstream() {
    for (policy, fits) in [
        ("sequential", (|one, two| one == 40 && two == 0) as fn(usize, usize) -> bool),
        ("round_robin", |one, two| one == 20 && two == 20),
        // That forty coins all fall on one side has a chance of two in a million millions.
        ("random", |one, two| one > 0 && two > 0 && one + two == 40),
    ] {
        let (one, two) = (Moody::start().await, Moody::start().await);
        let rig = forwarder(&[one.address, two.address], &format!("policy {policy}"), "").await;
        for _ in 0..40 {
            ask(&rig).await;
        }
        assert!(fits(one.asked(), two.asked()), "{policy}: {} and {}", one.asked(), two.asked());
    }
}

#[tokio::test]
async fn transports() {
    for (option, transport, by_udp, by_tcp) in [
        ("", Transport::Udp, 1, 0),
        ("", Transport::Tcp, 0, 1),
        ("force_tcp", Transport::Udp, 0, 1),
        ("prefer_udp", Transport::Tcp, 1, 0),
    ] {
        let upstream = Moody::start().await;
        let rig = forwarder(&[upstream.address], option, "").await;
        let query = question("www.example.", RecordType::A);
        match transport {
            Transport::Udp => drop(udp(rig.address, &query).await),
            Transport::Tcp => drop(tcp(rig.address, &[query]).await),
        }
        let seen = (upstream.udp.load(Ordering::SeqCst), upstream.tcp.load(Ordering::SeqCst));
        assert_eq!(seen, (by_udp, by_tcp), "{option:?} {transport:?}");
    }
}

#[tokio::test]
async fn idle_connections_are_used_again_until_they_expire() {
    for (expire, connections) in [("10s", 1), ("0s", 3)] {
        let upstream = Moody::start().await;
        let rig = forwarder(&[upstream.address], &format!("force_tcp\n expire {expire}"), "").await;
        for _ in 0..3 {
            assert_eq!(ask(&rig).await, (ResponseCode::NoError, Some(1)));
        }
        assert_eq!(upstream.connections.load(Ordering::SeqCst), connections, "expire {expire}");
    }
}

#[tokio::test]
async fn an_upstream_that_fails_its_checks_is_left_out_until_it_is_well() {
    let (dead, good) = (nobody(), Moody::start().await);
    let options = "policy sequential\n max_fails 1\n health_check 10ms no_rec domain check.example";
    let rig = forwarder(&[dead, good.address], options, "").await;
    assert_eq!(ask(&rig).await, (ResponseCode::NoError, Some(1)));
    eventually("two failed checks", async || metric(&rig, "coredns_proxy_healthcheck_failures_total") >= 2.0)
        .await;
    let errors = metric(&rig, ERRORS);
    for _ in 0..5 {
        assert_eq!(ask(&rig).await, (ResponseCode::NoError, Some(1)));
    }
    assert_eq!(metric(&rig, ERRORS), errors, "an upstream that is down is not asked");

    let back = Moody::start_at(dead).await.unwrap();
    back.answer.store(2, Ordering::SeqCst);
    eventually("the first upstream is asked again", async || ask(&rig).await.1 == Some(2)).await;
    assert_eq!(back.checks.lock().unwrap()[0], ("check.example.".to_owned(), false));
}

#[tokio::test]
async fn without_max_fails_an_upstream_is_always_tried() {
    let (dead, good) = (nobody(), Moody::start().await);
    let rig =
        forwarder(&[dead, good.address], "policy sequential\n max_fails 0\n health_check 10ms", "").await;
    for n in 1..=5 {
        assert_eq!(ask(&rig).await, (ResponseCode::NoError, Some(1)));
        assert_eq!(metric(&rig, ERRORS), f64::from(n));
    }
    assert_eq!(metric(&rig, "coredns_proxy_healthcheck_failures_total"), 0.0);
}

#[tokio::test]
async fn when_all_are_down_one_is_tried_or_none() {
    for (option, tried) in [("", true), ("failfast_all_unhealthy_upstreams", false)] {
        let rig = forwarder(&[nobody()], &format!("max_fails 1\n health_check 10ms\n {option}"), "").await;
        assert_eq!(ask(&rig).await.0, ResponseCode::ServFail);
        eventually("two failed checks", async || {
            metric(&rig, "coredns_proxy_healthcheck_failures_total") >= 2.0
        })
        .await;
        let errors = metric(&rig, ERRORS);
        assert_eq!(ask(&rig).await.0, ResponseCode::ServFail);
        assert_eq!(metric(&rig, ERRORS) > errors, tried, "{option:?}");
        assert_eq!(metric(&rig, "coredns_forward_healthcheck_broken_total"), 1.0);
    }
}

#[tokio::test]
async fn failover_goes_on_after_the_codes_that_it_names() {
    for (option, code) in [
        ("", ResponseCode::ServFail),
        ("failover NXDOMAIN REFUSED", ResponseCode::ServFail),
        ("failover SERVFAIL", ResponseCode::NoError),
    ] {
        let (bad, good) = (Moody::start().await, Moody::start().await);
        bad.set(Mood::Fail);
        let to = [bad.address, good.address];
        let rig = forwarder(&to, &format!("policy sequential\n {option}"), "").await;
        assert_eq!(ask(&rig).await.0, code, "{option:?}");
        good.set(Mood::Fail);
        assert_eq!(ask(&rig).await.0, ResponseCode::ServFail, "{option:?}: all fail");
    }
}

#[tokio::test]
async fn prefetch_renews_what_is_asked_for_often() {
    let upstream = Moody::start().await;
    let cache = "cache {\n success 100 3 3\n prefetch 2 1m 90%\n }";
    let rig = forwarder(&[upstream.address], "", cache).await;
    eventually("a second question to the upstream", async || {
        ask(&rig).await;
        upstream.asked() >= 2
    })
    .await;
    assert!(metric(&rig, "coredns_cache_prefetch_total") >= 1.0);
    assert_eq!(metric(&rig, "coredns_cache_misses_total"), 1.0, "nobody had to wait for it");
}

#[tokio::test]
async fn a_failed_prefetch_takes_nothing_away() {
    let upstream = Moody::start().await;
    let cache = "cache {\n success 100 3 3\n prefetch 1 1m 90%\n }";
    let rig = forwarder(&[upstream.address], "", cache).await;
    ask(&rig).await;
    upstream.set(Mood::Fail);
    eventually("a second question to the upstream", async || {
        assert_eq!(ask(&rig).await, (ResponseCode::NoError, Some(1)));
        upstream.asked() >= 2
    })
    .await;
    assert_eq!(ask(&rig).await, (ResponseCode::NoError, Some(1)));
}

/// Asks for what there is an answer to; whether it was one that has run out.
async fn is_stale(rig: &Rig) -> bool {
    const STALE: &str = "coredns_cache_served_stale_total";
    let before = metric(rig, STALE);
    assert_eq!(ask(rig).await.0, ResponseCode::NoError);
    metric(rig, STALE) > before
}

#[tokio::test]
async fn stale_answers_are_served_while_the_upstream_is_away() {
    for mode in ["", "immediate", "verify"] {
        for mood in [Mood::Silent, Mood::Fail] {
            let upstream = Moody::start().await;
            let stale =
                if mode.is_empty() { "serve_stale".to_owned() } else { format!("serve_stale 1h {mode}") };
            let cache = format!("cache {{\n success 100 1 1\n servfail 1s\n {stale}\n }}");
            let rig = forwarder(&[upstream.address], "read_timeout 20ms\n max_fails 0", &cache).await;
            assert_eq!(ask(&rig).await, (ResponseCode::NoError, Some(1)));
            upstream.set(mood);
            eventually("a stale answer", async || is_stale(&rig).await).await;
            for _ in 0..5 {
                assert!(is_stale(&rig).await, "{mode} {mood:?}");
            }
            upstream.answer.store(2, Ordering::SeqCst);
            upstream.set(Mood::Answer);
            eventually("a fresh answer", async || ask(&rig).await == (ResponseCode::NoError, Some(2))).await;
        }
    }
}

#[tokio::test]
async fn without_serve_stale_a_failure_is_told_and_kept() {
    let upstream = Moody::start().await;
    let cache = "cache {\n success 100 1 1\n servfail 1h\n }".replace("1h", "5m");
    let rig = forwarder(&[upstream.address], "", &cache).await;
    assert_eq!(ask(&rig).await, (ResponseCode::NoError, Some(1)));
    upstream.set(Mood::Fail);
    eventually("the failure", async || ask(&rig).await.0 == ResponseCode::ServFail).await;
    let asked = upstream.asked();
    upstream.set(Mood::Answer);
    assert_eq!(ask(&rig).await.0, ResponseCode::ServFail);
    assert_eq!(upstream.asked(), asked, "a failure that is kept is not asked about");
}

#[tokio::test]
async fn many_questions_for_a_stale_answer_are_one_to_the_upstream() {
    let upstream = Moody::start().await;
    let cache = "cache {\n success 100 1 1\n serve_stale 1h immediate\n }";
    let rig = forwarder(&[upstream.address], "read_timeout 20s", cache).await;
    ask(&rig).await;
    upstream.set(Mood::Silent);
    eventually("a stale answer", async || is_stale(&rig).await).await;
    for _ in 0..50 {
        assert!(is_stale(&rig).await);
    }
    eventually("the question for a newer one", async || upstream.asked() == 2).await;
    assert_eq!(upstream.asked(), 2);
}

#[tokio::test]
async fn a_query_too_long_for_one_ends_its_connection() {
    let rig = start(". {\n bind 127.0.0.1\n whoami\n}\n").await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(&u16::MAX.to_be_bytes()).await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    assert!(ended.is_err() || rest.is_empty());
    assert_eq!(ask_whoami(rig.address).await, ResponseCode::NoError);
}

async fn ask_whoami(address: SocketAddr) -> ResponseCode {
    tcp(address, &[question("www.example.", RecordType::A)]).await[0].response_code
}
