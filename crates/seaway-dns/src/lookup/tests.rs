use super::*;

const POD: &str = "search d.s s\nnameserver 10.96.0.10\noptions ndots:5\n";

/// What the servers say: `name type` or `name` to an address, an RCODE, `none`, `refused` or `unknown`; else NXDOMAIN.
fn server<'a>(rules: &'a [(&'a str, &'a str)]) -> impl FnMut(Question<'_>) -> Answer + 'a {
    move |question| {
        let full = format!("{} {}", question.name.trim_end_matches('.'), question.kind.as_str());
        let name = full.split(' ').next().unwrap_or_default();
        let find = |key: &str| rules.iter().find(|(pattern, _)| *pattern == key).map(|(_, what)| *what);
        let what = find(&full).or_else(|| find(name)).or_else(|| find(question.server)).or_else(|| find("*"));
        let record = |kind: &str, data: &str| DnsRecord {
            name: question.name.to_owned(),
            kind: kind.to_owned(),
            ttl: 5,
            data: data.to_owned(),
        };
        match what.unwrap_or("NXDOMAIN") {
            "none" => Answer::NoAnswer,
            "refused" => Answer::Refused,
            "unknown" => Answer::Unknown,
            "cname" => Answer::reply("NOERROR", vec![record("CNAME", "x.y.")]),
            "nodata" => Answer::reply("NOERROR", Vec::new()),
            code if code.starts_with(char::is_uppercase) => Answer::reply(code, Vec::new()),
            addresses => {
                let records = addresses.split(',').map(|address| record(question.kind.as_str(), address));
                Answer::reply("NOERROR", records.collect())
            }
        }
    }
}

fn run(libc: Libc, conf: &str, name: &str, rules: &[(&str, &str)]) -> Lookup {
    let hosts = HostsFile::parse("127.0.0.1 localhost\n192.0.2.77 inhosts InHosts2\n2001:db8::1 inhosts\n");
    let (nsswitch, conf) = (Nsswitch::default(), ResolvConf::parse_host(conf));
    let resolver =
        Resolver { libc, hosts: &hosts, nsswitch: &nsswitch, conf: &conf, families: Families::Both };
    lookup(name, &resolver, server(rules))
}

/// `name*timesA+timesAAAA` of each round, then addresses or errors, then seconds waited.
fn shown(lookup: &Lookup) -> String {
    let times = |round: &Round, kind: Kind| -> u32 {
        round.queries.iter().filter(|sent| sent.kind == kind).map(|sent| sent.times).sum()
    };
    let rounds = lookup.rounds.iter().map(|round| {
        let name = round.name.trim_end_matches('.');
        format!("{name} {}+{}, ", times(round, Kind::A), times(round, Kind::Aaaa))
    });
    let addresses = lookup.addresses.iter().map(ToString::to_string);
    let errors = lookup.errors.iter().map(ToString::to_string);
    let unknown = lookup.unknown.then(|| "unknown".to_owned());
    let end: Vec<String> = addresses.chain(errors).chain(unknown).collect();
    let waited = lookup.waited().as_secs();
    let waited = if waited > 0 { format!(" after {waited} s") } else { String::new() };
    format!("{}{}{waited}", rounds.collect::<String>(), end.join(" "))
}

/// Each line was seen with glibc 2.36 and musl 1.2.3 and a server that does what the rules say.
#[test]
fn what_the_libraries_do() {
    let all = "a.b.d.s 1+1, a.b.s 1+1, a.b 1+1, ";
    type Rules = &'static [(&'static str, &'static str)];
    let table: [(Rules, String, String); 14] = [
        (&[], format!("{all}EAI_NONAME"), format!("{all}EAI_NONAME")),
        (&[("a.b.d.s", "nodata")], format!("{all}EAI_NODATA"), "a.b.d.s 1+1, EAI_NODATA EAI_NONAME".into()),
        (
            &[("a.b.d.s", "cname")],
            "a.b.d.s 1+1, EAI_NONAME".into(),
            "a.b.d.s 1+1, EAI_NODATA EAI_NONAME".into(),
        ),
        (&[("*", "refused")], "a.b.d.s 2+2, EAI_AGAIN".into(), "a.b.d.s 2+2, EAI_AGAIN after 5 s".into()),
        (
            &[("*", "REFUSED")],
            "a.b.d.s 2+2, a.b 2+2, EAI_AGAIN".into(),
            "a.b.d.s 2+2, EAI_AGAIN after 5 s".into(),
        ),
        (
            &[("a.b.d.s", "SERVFAIL"), ("a.b.s A", "1.2.3.4")],
            "a.b.d.s 2+2, a.b.s 1+1, 1.2.3.4".into(),
            "a.b.d.s 6+6, EAI_AGAIN after 5 s".into(),
        ),
        (
            &[("a.b.d.s", "FORMERR")],
            "a.b.d.s 1+1, a.b 1+1, EAI_NONAME".into(),
            "a.b.d.s 2+2, EAI_AGAIN after 5 s".into(),
        ),
        (
            &[("a.b.d.s A", "nodata"), ("a.b", "nodata")],
            format!("{all}EAI_NODATA"),
            format!("{all}EAI_NODATA EAI_NONAME"),
        ),
        (
            &[("a.b A", "1.2.3.4"), ("a.b AAAA", "SERVFAIL")],
            format!("{all}1.2.3.4"),
            "a.b.d.s 1+1, a.b.s 1+1, a.b 1+10, EAI_AGAIN after 5 s".into(),
        ),
        (&[("a.b.d.s A", "1.2.3.4")], "a.b.d.s 1+1, 1.2.3.4".into(), format!("{all}EAI_NONAME")),
        (
            &[("*", "none")],
            "a.b.d.s 2+2, a.b 2+2, EAI_AGAIN after 20 s".into(),
            "a.b.d.s 2+2, EAI_AGAIN after 5 s".into(),
        ),
        (
            &[("a.b.d.s A", "1.2.3.4"), ("a.b.d.s AAAA", "none")],
            "a.b.d.s 3+3, 1.2.3.4 after 15 s".into(),
            "a.b.d.s 1+2, EAI_AGAIN after 5 s".into(),
        ),
        (
            &[("a.b.d.s A", "none"), ("a.b.d.s AAAA", "1::1")],
            "a.b.d.s 3+1, a.b 1+1, EAI_NONAME after 15 s".into(),
            "a.b.d.s 2+1, EAI_AGAIN after 5 s".into(),
        ),
        (&[("a.b.d.s A", "unknown")], "a.b.d.s 1+1, unknown".into(), "a.b.d.s 1+1, unknown".into()),
    ];
    for (rules, glibc, musl) in table {
        assert_eq!(shown(&run(Libc::Glibc, POD, "a.b", rules)), glibc, "glibc {rules:?}");
        assert_eq!(shown(&run(Libc::Musl, POD, "a.b", rules)), musl, "musl {rules:?}");
    }
}

#[test]
fn what_comes_before_dns() {
    for (name, glibc, musl) in [
        ("inhosts", "192.0.2.77 2001:db8::1", "192.0.2.77 2001:db8::1"),
        ("inhosts2", "192.0.2.77", "inhosts2 1+1, EAI_NONAME"),
        ("InHosts2", "192.0.2.77", "192.0.2.77"),
        ("inhosts.", "inhosts 1+1, EAI_NONAME", "inhosts 1+1, EAI_NONAME"),
        ("127.1", "127.0.0.1", "127.0.0.1"),
        ("::1", "::1", "::1"),
    ] {
        assert_eq!(shown(&run(Libc::Glibc, "", name, &[])), glibc, "{name}");
        assert_eq!(shown(&run(Libc::Musl, "", name, &[])), musl, "{name}");
    }
}

#[test]
fn several_servers() {
    let conf = "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n";
    for (rules, glibc, musl) in [
        (&[("10.0.0.1", "refused"), ("10.0.0.2", "1.2.3.4")][..], "x 2+2, 1.2.3.4", "x 3+3, 1.2.3.4"),
        (&[("10.0.0.1", "none"), ("10.0.0.2", "1.2.3.4")], "x 2+2, 1.2.3.4 after 5 s", "x 3+3, 1.2.3.4"),
        (&[("10.0.0.1", "SERVFAIL"), ("10.0.0.2", "NXDOMAIN")], "x 2+2, EAI_NONAME", "x 3+3, EAI_NONAME"),
        // 5, 10/3 and 20/3 seconds, twice.
        (&[("*", "none")], "x 6+6, EAI_AGAIN after 28 s", "x 6+6, EAI_AGAIN after 5 s"),
    ] {
        // One type has no address: 1.2.3.4 is not an AAAA record's data, but NOERROR.
        assert_eq!(shown(&run(Libc::Glibc, conf, "x", rules)), glibc, "{rules:?}");
        assert_eq!(shown(&run(Libc::Musl, conf, "x", rules)), musl, "{rules:?}");
    }
}

#[test]
fn what_the_search_list_costs() {
    let lookup = run(Libc::Glibc, POD, "google.com", &[("google.com A", "192.0.2.1,192.0.2.2")]);
    assert_eq!((lookup.wasted_queries(), lookup.queries()), (4, 6));
    assert_eq!(lookup.rounds.iter().map(|round| round.wasted).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(lookup.addresses.len(), 2);
    let none = run(Libc::Glibc, POD, "google.com", &[]);
    assert_eq!(none.wasted_queries(), 4, "the name as it was given is what was wanted");
    let first = run(Libc::Glibc, "search d.s\n", "google.com", &[("google.com.d.s A", "192.0.2.1")]);
    assert_eq!(first.wasted_queries(), 0);
}

#[test]
fn the_switch_decides() {
    let (hosts, conf) = (HostsFile::default(), ResolvConf::parse_host(""));
    for (text, end) in [
        ("hosts: files", "EAI_NONAME"),
        ("hosts: files [NOTFOUND=return] dns", "EAI_NONAME"),
        ("hosts: files myhostname dns", "x 1+1, 192.0.2.1"),
    ] {
        let nsswitch = Nsswitch::parse(text);
        let (libc, families) = (Libc::Glibc, Families::Both);
        let resolver = Resolver { libc, hosts: &hosts, nsswitch: &nsswitch, conf: &conf, families };
        let found = lookup("x", &resolver, server(&[("x A", "192.0.2.1")]));
        assert_eq!(shown(&found), end, "{text}");
        assert_eq!(found.notes.len(), usize::from(text.contains("myhostname")));
    }
}
