//! What `lookup` foretells, beside what the real resolvers of glibc and musl do, in namespaces of their own.
//!
//! Needs root, cc, and musl-gcc (Debian's musl-tools).

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use seaway_dns::lookup::{
    Answer, Families, GaiError, HostsFile, Kind, Libc, Nsswitch, Question, Resolver, lookup,
};
use seaway_dns::resolvconf::ResolvConf;
use seaway_net::netns::NetNs;
use seaway_observe::api::DnsRecord;

const HOSTS: &str =
    "127.0.0.1 localhost\n192.0.2.77 inhosts InHosts2\n192.0.2.78 inhosts\n2001:db8::1 inhosts\n";
/// Where the server listens; nobody does at other addresses.
const SERVER: &str = "127.0.0.1";
const NSSWITCH: &str = "hosts: files dns\n";
const POD: &str = "search d.s s\nnameserver 127.0.0.1\noptions ndots:5 timeout:1\n";

/// What the server does with a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Code(ResponseCode),
    Address,
    TwoAddresses,
    Alias,
    NoData,
    Silence,
}

#[derive(Clone, Debug)]
struct Case {
    libc: Libc,
    name: String,
    resolv_conf: String,
    /// By name without its final dot, and type; else NXDOMAIN.
    server: BTreeMap<(String, Kind), Does>,
}

type Counts = BTreeMap<(String, Kind), u32>;

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    queries: Counts,
    error: i32,
    addresses: BTreeSet<IpAddr>,
}

impl Case {
    fn does(&self, name: &str, kind: Kind) -> Does {
        let key = (name.trim_end_matches('.').to_ascii_lowercase(), kind);
        self.server.get(&key).copied().unwrap_or(Does::Code(ResponseCode::NXDomain))
    }

    fn data(&self, name: &str, kind: Kind) -> Vec<RData> {
        let v4 = |last| RData::A(Ipv4Addr::new(192, 0, 2, last).into());
        let v6 = |last| RData::AAAA(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into());
        match (self.does(name, kind), kind) {
            (Does::Address, Kind::A) => vec![v4(1)],
            (Does::Address, Kind::Aaaa) => vec![v6(1)],
            (Does::TwoAddresses, Kind::A) => vec![v4(1), v4(2)],
            (Does::TwoAddresses, Kind::Aaaa) => vec![v6(1), v6(2)],
            (Does::Alias, _) => vec![RData::CNAME(CNAME(Name::from_ascii("nowhere.example.").unwrap()))],
            _ => vec![],
        }
    }

    fn answer(&self, question: Question<'_>) -> Answer {
        if question.server != SERVER {
            return Answer::Refused;
        }
        let records = self.data(question.name, question.kind).into_iter().map(|data| DnsRecord {
            name: question.name.to_owned(),
            kind: data.record_type().to_string(),
            ttl: 5,
            data: data.to_string(),
        });
        let rcode = match self.does(question.name, question.kind) {
            Does::Silence => return Answer::NoAnswer,
            Does::Code(ResponseCode::NXDomain) => "NXDOMAIN",
            Does::Code(ResponseCode::ServFail) => "SERVFAIL",
            Does::Code(ResponseCode::Refused) => "REFUSED",
            Does::Code(ResponseCode::FormErr) => "FORMERR",
            Does::Code(other) => panic!("{other}: not used here"),
            _ => "NOERROR",
        };
        Answer::reply(rcode, records.collect())
    }

    /// The reply of the real server.
    fn reply(&self, query: &Message) -> Option<(String, Kind, Option<Message>)> {
        let question = query.queries.first()?;
        let kind = if question.query_type().to_string() == "A" { Kind::A } else { Kind::Aaaa };
        let name = question.name().to_ascii();
        let mut reply = Message::new(query.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_available = true;
        reply.add_query(question.clone());
        match self.does(&name, kind) {
            Does::Silence => return Some((name, kind, None)),
            Does::Code(code) => reply.metadata.response_code = code,
            _ => {}
        }
        for data in self.data(&name, kind) {
            reply.add_answer(Record::from_rdata(question.name().clone(), 5, data));
        }
        Some((name, kind, Some(reply)))
    }

    fn foretold(&self) -> (Vec<GaiError>, Seen) {
        let (hosts, nsswitch) = (HostsFile::parse(HOSTS), Nsswitch::parse(NSSWITCH));
        let conf = ResolvConf::parse_host(&self.resolv_conf);
        let (libc, families) = (self.libc, Families::Both);
        let resolver = Resolver { libc, hosts: &hosts, nsswitch: &nsswitch, conf: &conf, families };
        let it = lookup(&self.name, &resolver, |question| self.answer(question));
        let mut queries = Counts::new();
        let all = it.rounds.iter().flat_map(|round| round.queries.iter().map(move |sent| (round, sent)));
        for (round, sent) in all.filter(|(_, sent)| sent.server == SERVER) {
            let name = round.name.trim_end_matches('.').to_ascii_lowercase();
            *queries.entry((name, sent.kind)).or_default() += sent.times;
        }
        let error = it.errors.first().map_or(0, |error| error.code());
        (it.errors, Seen { queries, error, addresses: it.addresses.into_iter().collect() })
    }

    /// Has the real resolver look the name up.
    fn seen(&self, program: &Path, etc: &Path) -> Seen {
        for (file, text) in
            [("resolv.conf", self.resolv_conf.as_str()), ("hosts", HOSTS), ("nsswitch.conf", NSSWITCH)]
        {
            fs::write(etc.join(file), text).unwrap();
        }
        let namespace = NetNs::new().unwrap();
        let socket = namespace.run(|| UdpSocket::bind("127.0.0.1:53")).unwrap().unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let server = scope.spawn(|| self.serve(&socket, &over));
            let script = "for f in resolv.conf hosts nsswitch.conf; do \
                              if [ ! -e /etc/$f ]; then : > /etc/$f; fi; mount --bind $1/$f /etc/$f || exit 9; \
                          done; exec $2 $3";
            let output = namespace
                .run(|| {
                    let mut unshare = Command::new("unshare");
                    unshare.args(["--mount", "sh", "-c", script, "sh"]);
                    unshare.args([etc, program]).arg(&self.name).output()
                })
                .unwrap()
                .unwrap();
            over.store(true, Ordering::Relaxed);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout).unwrap();
            let mut lines = text.lines();
            let error = lines.next().unwrap().parse().unwrap();
            let addresses = lines.map(|line| line.parse().unwrap()).collect();
            Seen { queries: server.join().unwrap(), error, addresses }
        })
    }

    fn serve(&self, socket: &UdpSocket, over: &AtomicBool) -> Counts {
        let mut counts = Counts::new();
        let mut buffer = [0; 1024];
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        loop {
            let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                if over.load(Ordering::Relaxed) {
                    return counts;
                }
                continue;
            };
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let Some((name, kind, reply)) = self.reply(&query) else { continue };
            *counts.entry((name.trim_end_matches('.').to_ascii_lowercase(), kind)).or_default() += 1;
            if let Some(reply) = reply {
                let _ = socket.send_to(&reply.to_vec().unwrap(), client);
            }
        }
    }

    fn check(&self, program: &Path, etc: &Path) {
        let (errors, mut foretold) = self.foretold();
        let seen = self.seen(program, etc);
        // Versions differ in some errors.
        if errors.iter().any(|error| error.code() == seen.error) {
            foretold.error = seen.error;
        }
        assert_eq!(foretold, seen, "foretold and seen differ: {self:?}");
    }
}

fn build(compiler: &str, folder: &Path) -> PathBuf {
    let program = folder.join(compiler);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lookup/getaddrinfo.c");
    let mut command = Command::new(compiler);
    command.args(["-O1", "-o"]).arg(&program).arg(source);
    if compiler == "musl-gcc" {
        command.arg("-static");
    }
    let status = command.status().unwrap_or_else(|error| panic!("{compiler}: {error} (scripts/setup test)"));
    assert!(status.success(), "{compiler}");
    program
}

/// Checks all cases, several at a time: most of them wait for answers that do not come.
fn check_all(cases: &[Case]) {
    let folder = tempfile::tempdir().unwrap();
    let (glibc, musl) = (build("cc", folder.path()), build("musl-gcc", folder.path()));
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for worker in 0..12 {
            let etc = folder.path().join(format!("etc-{worker}"));
            fs::create_dir(&etc).unwrap();
            let (next, failures, glibc, musl) = (&next, &failures, &glibc, &musl);
            scope.spawn(move || {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let program = if case.libc == Libc::Glibc { glibc } else { musl };
                    let checked = std::panic::catch_unwind(|| case.check(program, &etc));
                    if checked.is_err() {
                        failures.lock().unwrap().push(format!("{case:?}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {} cases: {failures:#?}", failures.len(), cases.len());
}

fn both(name: &str, resolv_conf: &str, server: &BTreeMap<(String, Kind), Does>) -> [Case; 2] {
    [Libc::Glibc, Libc::Musl].map(|libc| Case {
        libc,
        name: name.to_owned(),
        resolv_conf: resolv_conf.to_owned(),
        server: server.clone(),
    })
}

#[test]
fn files_literals_and_spellings() {
    let found: BTreeMap<_, _> = ["a.b", "a.b.s", "x.y.z.u.v.w", "single.d.s"]
        .into_iter()
        .map(|name| ((name.to_owned(), Kind::A), Does::TwoAddresses))
        .chain([
            (("a.b".to_owned(), Kind::Aaaa), Does::NoData),
            (("a.b.s".to_owned(), Kind::Aaaa), Does::Address),
        ])
        .collect();
    let names = [
        "inhosts",
        "InHosts2",
        "INHOSTS",
        "inhosts.",
        "localhost",
        "127.1",
        "::1",
        "0x7f.1",
        "192.0.2.300",
        "a.b",
        "A.B",
        "a.b.",
        "single",
        "x.y.z.u.v.w",
        "a..b",
        ".",
    ];
    let files = [
        POD,
        "nameserver 127.0.0.1\noptions timeout:1\n",
        "search s\nnameserver 127.0.0.2\nnameserver 127.0.0.1\noptions timeout:1\n",
    ];
    let all = names.iter().flat_map(|name| files.iter().flat_map(|file| both(name, file, &found)));
    check_all(&all.collect::<Vec<_>>());
}

#[test]
fn whatever_the_server_does() {
    let code = Does::Code;
    let does = proptest::sample::select(vec![
        code(ResponseCode::NXDomain),
        code(ResponseCode::NXDomain),
        code(ResponseCode::ServFail),
        code(ResponseCode::Refused),
        code(ResponseCode::FormErr),
        Does::Address,
        Does::TwoAddresses,
        Does::Alias,
        Does::NoData,
        Does::NoData,
        Does::Silence,
    ]);
    let servers = proptest::collection::vec(does, 6).prop_map(|does| {
        let names = ["a.b.d.s", "a.b.s", "a.b"];
        let keys = names.iter().flat_map(|name| [Kind::A, Kind::Aaaa].map(|kind| ((*name).to_owned(), kind)));
        keys.zip(does).collect::<BTreeMap<_, _>>()
    });
    let files = [POD, "search d.s s\nnameserver 127.0.0.1\noptions timeout:1 attempts:1\n"];
    let mut runner = TestRunner::deterministic();
    let cases: Vec<Case> = (0..60)
        .flat_map(|round| both("a.b", files[round % 2], &servers.new_tree(&mut runner).unwrap().current()))
        .collect();
    check_all(&cases);
}
