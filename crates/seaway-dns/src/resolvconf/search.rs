//! The names that a C library asks for, one after another, until one has an answer.

use super::ResolvConf;

/// Whose resolver it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libc {
    /// The GNU C library.
    Glibc,
    /// musl, as in Alpine.
    Musl,
}

/// Characters of a name at most, without its final dot (RFC 1035, section 3.1: 255 octets on the wire).
const MAX_NAME: usize = 253;
/// Characters of a label at most (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;
/// musl reads lines into 256 bytes and ignores a longer one: the text, its newline and a zero byte have to fit.
const MUSL_MAX_LINE: usize = 254;

/// The names, absolute and in order, that a resolver may ask for when a program looks up `name`.
///
/// Which answer ends the walk differs as well: glibc goes on after NXDOMAIN, NODATA and SERVFAIL, musl after
/// NXDOMAIN alone.
pub fn candidates(name: &str, conf: &ResolvConf, libc: Libc) -> Vec<String> {
    if name == "." && libc == Libc::Glibc {
        return vec![name.to_owned()];
    }
    let bare = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| (1..=MAX_LABEL).contains(&label.len());
    if bare.len() > MAX_NAME || !bare.split('.').all(is_label) {
        return Vec::new();
    }
    let as_is = format!("{bare}.");
    if bare.len() < name.len() {
        return vec![as_is];
    }
    let dots = name.matches('.').count();
    match libc {
        Libc::Glibc => glibc(bare, as_is, dots, conf),
        Libc::Musl => musl(bare, as_is, dots, conf),
    }
}

fn glibc(bare: &str, as_is: String, dots: usize, conf: &ResolvConf) -> Vec<String> {
    let searched = conf.searches.iter().filter_map(|domain| join(bare, domain));
    if dots >= conf.ndots() {
        return std::iter::once(as_is).chain(searched).collect();
    }
    let mut names: Vec<String> = searched.collect();
    // The root on the search list has tried the name as it is already.
    if !conf.searches.iter().any(|domain| domain == ".") {
        names.push(as_is);
    }
    names
}

fn musl(bare: &str, as_is: String, dots: usize, conf: &ResolvConf) -> Vec<String> {
    let line = "search ".len() + conf.searches.join(" ").len();
    if dots >= conf.ndots() || line > MUSL_MAX_LINE {
        return vec![as_is];
    }
    // musl makes `name..` of the root on the search list, which is no name, and goes on.
    let domains = conf.searches.iter().filter(|domain| *domain != ".");
    domains.filter_map(|domain| join(bare, domain)).chain(std::iter::once(as_is)).collect()
}

fn join(bare: &str, domain: &str) -> Option<String> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    if domain.is_empty() {
        return Some(format!("{bare}."));
    }
    let name = format!("{bare}.{domain}.");
    (name.len() <= MAX_NAME + 1).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "search default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";

    #[test]
    fn a_pods_names() {
        let conf = ResolvConf::parse_host(POD);
        // (name, glibc, musl): a suffix each, "" for the name as it is
        let [ns, svc, dom] = ["default.svc.cluster.local.", "svc.cluster.local.", "cluster.local."];
        let table: [(&str, &[&str], &[&str]); 6] = [
            ("www.baidu.com", &[ns, svc, dom, ""], &[ns, svc, dom, ""]),
            ("www.baidu.com.", &[""], &[""]),
            ("nginx-svc", &[ns, svc, dom, ""], &[ns, svc, dom, ""]),
            ("prometheus-k8s.monitoring", &[ns, svc, dom, ""], &[ns, svc, dom, ""]),
            ("sls.doc.dc.wiki.tbchip.com", &["", ns, svc, dom], &[""]),
            ("prometheus-k8s.monitoring.svc.cluster.local.", &[""], &[""]),
        ];
        for (name, glibc, musl) in table {
            for (libc, suffixes) in [(Libc::Glibc, glibc), (Libc::Musl, musl)] {
                let bare = name.trim_end_matches('.');
                let names: Vec<String> = suffixes.iter().map(|s| format!("{bare}.{s}")).collect();
                assert_eq!(candidates(name, &conf, libc), names, "{name} {libc:?}");
            }
        }
    }

    #[test]
    fn edges() {
        let root = ResolvConf::parse_host("options ndots:2");
        let root = ResolvConf { searches: vec!["a.example".into(), ".".into(), "b.example".into()], ..root };
        assert_eq!(candidates("x", &root, Libc::Glibc), ["x.a.example.", "x.", "x.b.example."]);
        assert_eq!(candidates("x", &root, Libc::Musl), ["x.a.example.", "x.b.example.", "x."]);

        let long = ResolvConf { searches: vec!["a".repeat(124), "b".repeat(124)], ..ResolvConf::default() };
        assert_eq!(candidates("x", &long, Libc::Glibc).len(), 3);
        assert_eq!(candidates("x", &long, Libc::Musl), ["x."]);
        let fits = ResolvConf { searches: vec!["a".repeat(123), "b".repeat(123)], ..ResolvConf::default() };
        assert_eq!(candidates("x", &fits, Libc::Musl).len(), 3);

        let name = format!("{0}.{0}.{0}", "y".repeat(60));
        let one = ResolvConf {
            searches: vec!["z".repeat(60), "z".repeat(71)],
            options: vec![super::super::ResolvOption::new("ndots", Some("5".into()))],
            ..ResolvConf::default()
        };
        assert_eq!(candidates(&name, &one, Libc::Glibc).len(), 2, "the second search name is too long");
        assert_eq!(candidates(".", &one, Libc::Glibc), ["."]);
        for none in ["", "a..", "a..b", ".a", &"z".repeat(64), &"z".repeat(254)] {
            assert_eq!(candidates(none, &one, Libc::Glibc), Vec::<String>::new(), "{none:?}");
        }
        assert_eq!(candidates("x", &ResolvConf::default(), Libc::Glibc), ["x."]);
    }
}
