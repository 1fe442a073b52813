//! Rules hit, routes looked up, and nothing left behind.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::{Host, Served, line};
use seaway_http::unix;
use seaway_observe::api::{Observe, RouteAnswer, RouteQuery, RuleFilter, RuleHit};

fn observe(rules: Vec<RuleFilter>) -> Observe {
    Observe { packets: Vec::new(), rules, seconds: 30 }
}

fn told(hit: &RuleHit) -> String {
    let comment = hit.comment.as_deref().map(|text| format!(" # {text}")).unwrap_or_default();
    let end = |port: Option<u16>| port.map_or_else(String::new, |port| format!(":{port}"));
    let destination = hit.destination.map(|address| address.to_string()).unwrap_or_default();
    format!("{} {} {} {destination}{}{comment}", hit.table, hit.chain, hit.verdict, end(hit.destination_port))
}

#[tokio::test]
async fn the_rules_that_a_connection_meets() {
    let line = line();
    // What someone else did, at the very beginning and in the middle.
    line.router.nft("table ip early { chain c { type filter hook prerouting priority raw; ip saddr 10.1.0.2 counter comment \"first\"; };}");
    line.router.nft(
        "table inet foreign { chain sub { ip daddr 10.2.0.2 accept; }; \
         chain f { type filter hook forward priority 0; jump sub; };}",
    );
    let router = Served::new(&line.router);
    let filter = RuleFilter {
        protocol: 6,
        source: Some([10, 1, 0, 2].into()),
        destination_port: Some(80),
        ..RuleFilter::default()
    };
    let id = router.start(&observe(vec![filter])).await;
    let listener = line.server.tcp_listener("10.2.0.2:8080");
    let stream = line.client.connect("10.96.0.1:80");
    let (_accepted, seen) = listener.accept().unwrap();
    let rules = router.rules(&id).await;
    assert_eq!(rules.lost, 0);
    let lines: Vec<String> = rules.hits.iter().map(told).collect();
    let expected = [
        "ip early c continue 10.96.0.1:80 # first",
        "ip early c accept 10.96.0.1:80",
        "ip service pre accept 10.96.0.1:80 # the service",
        "inet foreign f jump sub 10.2.0.2:8080",
        "inet foreign sub accept 10.2.0.2:8080",
        "ip service post accept 10.2.0.2:8080 # hide",
    ];
    assert_eq!(lines, expected, "one packet, each rule once");
    let source = stream.local_addr().unwrap();
    assert_eq!((rules.hits[0].source, rules.hits[0].source_port), (Some(source.ip()), Some(source.port())));
    assert_eq!((rules.hits[0].iif.as_deref(), rules.hits[5].oif.as_deref()), (Some("c0"), Some("s0")));
    assert!(rules.hits[1].handle.is_none() && rules.hits[2].handle.is_some());
    assert_ne!(seen.ip(), source.ip());
    assert!(line.router.tables().contains(&format!("seaway-trace-{id}")));
    router.end(&id).await;
    assert!(!line.router.tables().contains("seaway-trace"), "{}", line.router.tables());
}

#[tokio::test]
async fn a_drop_and_packets_that_are_sent_from_here() {
    let host = Host::new();
    host.nft(
        "table ip t { chain o { type filter hook output priority 0; udp dport 7001 drop comment \"no\"; };}",
    );
    let observer = Served::new(&host);
    let udp = |port| RuleFilter { protocol: 17, destination_port: Some(port), ..RuleFilter::default() };
    let id = observer.start(&observe(vec![udp(7001), udp(7002)])).await;
    let socket = host.udp("127.0.0.1:0");
    assert!(socket.send_to(b"x", "127.0.0.1:7001").is_err());
    socket.send_to(b"x", "127.0.0.1:7002").unwrap();
    socket.send_to(b"x", "127.0.0.1:7003").unwrap();
    let rules = observer.rules(&id).await;
    let lines: Vec<String> = rules.hits.iter().map(told).collect();
    assert_eq!(lines, ["ip t o drop 127.0.0.1:7001 # no", "ip t o accept 127.0.0.1:7002"]);
    assert_ne!(rules.hits[0].packet, rules.hits[1].packet);
}

#[tokio::test]
async fn comments_of_iptables() {
    let host = Host::new();
    let done = host.run(|| {
        let arguments = "-A INPUT -p udp --dport 7001 -m comment --comment because -j DROP";
        Command::new("iptables-nft").args(arguments.split(' ')).output()
    });
    let done = done.expect("iptables-nft is installed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let observer = Served::new(&host);
    let filter = RuleFilter { protocol: 17, ..RuleFilter::default() };
    let id = observer.start(&observe(vec![filter])).await;
    host.udp("127.0.0.1:0").send_to(b"x", "127.0.0.1:7001").unwrap();
    let rules = observer.rules(&id).await;
    assert!(
        rules.hits.iter().any(|hit| hit.comment.as_deref() == Some("because") && hit.verdict == "drop"),
        "{rules:?}"
    );
}

#[tokio::test]
async fn the_table_goes_with_its_time_and_its_process() {
    let host = Host::new();
    let observer = Served::new(&host);
    let filter = RuleFilter { protocol: 17, ..RuleFilter::default() };
    observer.start(&Observe { seconds: 1, ..observe(vec![filter]) }).await;
    assert!(host.tables().contains("seaway-trace"));
    while host.tables().contains("seaway-trace") {
        tokio::task::yield_now().await;
    }

    let binary = std::env::current_exe().unwrap();
    let mut child = host.run(|| {
        Command::new(binary)
            .args(["--exact", "observe_until_killed", "--nocapture"])
            .env("SEAWAY_TEST_OBSERVE", "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("observing")));
    assert!(host.tables().contains("seaway-trace"));
    child.kill().unwrap();
    child.wait().unwrap();
    while host.tables().contains("seaway-trace") {
        tokio::task::yield_now().await;
    }
}

/// The process that is killed.
#[tokio::test]
async fn observe_until_killed() {
    if std::env::var_os("SEAWAY_TEST_OBSERVE").is_none() {
        return;
    }
    let host = Host {
        ns: seaway_net::netns::NetNs::current().unwrap(),
        rtnl: seaway_net::rtnl::Rtnl::open().unwrap(),
    };
    let observer = Served::new(&host);
    let filter = RuleFilter { protocol: 17, ..RuleFilter::default() };
    observer.start(&Observe { seconds: 60, ..observe(vec![filter]) }).await;
    println!("observing");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn what_the_kernel_would_do() {
    let mut line = line();
    let ip = |arguments: &str| {
        let done = line.router.run(|| Command::new("ip").args(arguments.split(' ')).output().unwrap());
        assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    };
    ip("route add blackhole 10.66.0.0/16");
    ip("route add unreachable 10.67.0.0/16");
    ip("route add prohibit 10.68.0.0/16");
    ip("route add 10.70.0.0/16 via 10.2.0.2 mtu 1300");
    line.router.run(|| seaway_net::sysctl::set("net/ipv4/conf/c0/rp_filter", "1").unwrap());
    line.client.index("eth0");
    let router = Served::new(&line.router);
    for (destination, from, expected) in [
        ("10.2.0.2", None, "unicast 10.2.0.0/24 None Some(\"s0\") None"),
        ("10.70.1.1", None, "unicast 10.70.0.0/16 Some(10.2.0.2) Some(\"s0\") Some(1300)"),
        (
            "10.70.1.1",
            Some(("10.1.0.2", "c0")),
            "unicast 10.70.0.0/16 Some(10.2.0.2) Some(\"s0\") Some(1300)",
        ),
        ("10.1.0.1", None, "local 10.1.0.1/32 None Some(\"lo\") None"),
        ("10.66.1.1", None, "blackhole 10.66.0.0/16 None None None"),
        ("10.66.1.1", Some(("10.1.0.2", "c0")), "blackhole 10.66.0.0/16 None None None"),
        ("10.67.1.1", None, "unreachable 10.67.0.0/16 None None None"),
        ("10.68.1.1", None, "prohibit 10.68.0.0/16 None None None"),
        ("10.99.1.1", None, "error: Network is unreachable (os error 101)  None None None"),
        (
            "10.2.0.2",
            Some(("10.2.0.9", "c0")),
            "error: Invalid argument (os error 22); the way back to 10.2.0.9 is by s0: rp_filter?  None None None",
        ),
    ] {
        let query = RouteQuery {
            destination: destination.parse().unwrap(),
            source: from.map(|from| from.0.parse().unwrap()),
            iif: from.map(|from| from.1.to_owned()),
        };
        let answer: RouteAnswer = unix::post(router.path(), "/v1/route", &query).await.unwrap();
        let RouteAnswer { kind, network, via, oif, mtu } = answer;
        assert_eq!(format!("{kind} {network} {via:?} {oif:?} {mtu:?}"), expected, "{destination} {from:?}");
    }
}
