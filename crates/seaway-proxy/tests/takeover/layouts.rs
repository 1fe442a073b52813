//! What kube-proxy and others have in a node's kernel, written as they write it: one Service with two endpoints and a node
//! port.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use seaway_net::netns::NetNs;

use crate::common::VIP;

pub(crate) const NODE_PORT: u16 = 30080;

/// kube-proxy's modes, and both kinds of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Nftables,
    IptablesNft,
    IptablesLegacy,
}

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::Nftables, Self::IptablesNft, Self::IptablesLegacy];

    /// The name of iptables' programs for IPv4 or IPv6, without what they do.
    fn program(self, v6: bool) -> String {
        let kind = if self == Self::IptablesLegacy { "legacy" } else { "nft" };
        format!("ip{}tables-{kind}", if v6 { "6" } else { "" })
    }
}

pub(crate) fn feed(ns: &NetNs, program: &str, arguments: &[&str], text: &str) {
    let output = ns.run(|| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    let output = output.unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {told}\n{text}");
}

/// Rules of the CNI plugins flannel and portmap, of Docker, and of the kubelet. No packet of the tests comes to the rule
/// with counters.
pub(crate) fn install_others(ns: &NetNs, mode: Mode) {
    for v6 in [false, true] {
        let (pods, docker) = if v6 { ("fd01::/48", "fd02::/64") } else { ("10.244.0.0/16", "172.17.0.0/16") };
        let loopback = if v6 { "::1/128" } else { "127.0.0.0/8" };
        let text = format!(
            "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n\
             *nat\n:DOCKER - [0:0]\n:FLANNEL-POSTRTG - [0:0]\n:CNI-HOSTPORT-DNAT - [0:0]\n:KUBE-MARK-DROP - [0:0]\n\
             :KUBE-KUBELET-CANARY - [0:0]\n:KUBE-HP-AAAAAAAAAAAAAAAA - [0:0]\n\
             -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
             -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
             -A POSTROUTING -s {docker} ! -o docker0 -j MASQUERADE\n\
             -A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
             -A FLANNEL-POSTRTG -s {pods} -d {pods} -m comment --comment \"flanneld masq\" -j RETURN\n\
             -A DOCKER -i docker0 -j RETURN\n\
             -A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000\nCOMMIT\n\
             *filter\n:DOCKER-USER - [0:0]\n:FLANNEL-FWD - [0:0]\n:KUBE-FIREWALL - [0:0]\n\
             [5:300] -A INPUT -p tcp -m tcp --dport 4444 -m limit --limit 3/min -j ACCEPT\n\
             -A INPUT -j KUBE-FIREWALL\n-A FORWARD -j DOCKER-USER\n\
             -A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n\
             -A FLANNEL-FWD -s {pods} -m comment --comment \"flanneld forward\" -j ACCEPT\n\
             -A FLANNEL-FWD -d {pods} -m comment --comment \"flanneld forward\" -j ACCEPT\n\
             -A OUTPUT -j KUBE-FIREWALL\n-A DOCKER-USER -j RETURN\n\
             -A KUBE-FIREWALL ! -s {loopback} -d {loopback} -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n\
             COMMIT\n"
        );
        feed(ns, &format!("{}-restore", mode.program(v6)), &["--counters"], &text);
    }
}

/// All of iptables' rules. Counters of built-in chains count the tests' own packets.
pub(crate) fn saved(ns: &NetNs, mode: Mode, counters: bool) -> String {
    let mut all = String::new();
    for v6 in [false, true] {
        let arguments: &[&str] = if counters { &["--counters"] } else { &[] };
        let text = crate::common::output(ns, &format!("{}-save", mode.program(v6)), arguments);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let line = if line.starts_with(':') { line.split(" [").next().unwrap_or(line) } else { line };
            all.push_str(line);
            all.push('\n');
        }
    }
    all
}

pub(crate) fn install_kube_proxy(ns: &NetNs, mode: Mode, endpoints: [IpAddr; 2]) {
    match mode {
        Mode::Nftables => feed(ns, "nft", &["-f", "-"], &nftables(endpoints)),
        Mode::IptablesNft | Mode::IptablesLegacy => {
            feed(ns, &format!("{}-restore", mode.program(false)), &["--noflush"], &iptables(endpoints));
            let empty = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-SVL-7777777777777777 - [0:0]\n\
                 -I PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-I POSTROUTING -j KUBE-POSTROUTING\n\
                 -A KUBE-SERVICES -d fd00::7/128 -p tcp -m tcp --dport 80 -j KUBE-SVL-7777777777777777\n\
                 -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\nCOMMIT\n";
            feed(ns, &format!("{}-restore", mode.program(true)), &["--noflush"], empty);
        }
    }
}

/// What the IPVS mode has in iptables.
pub(crate) const IPVS_RULES: &str = "*filter\n:KUBE-FORWARD - [0:0]\n:KUBE-NODE-PORT - [0:0]\n\
     :KUBE-IPVS-FILTER - [0:0]\n:KUBE-IPVS-OUT-FILTER - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n\
     :KUBE-SOURCE-RANGES-FIREWALL - [0:0]\n\
     -I INPUT -j KUBE-IPVS-FILTER\n-I INPUT -j KUBE-PROXY-FIREWALL\n-I INPUT -j KUBE-NODE-PORT\n\
     -I FORWARD -j KUBE-FORWARD\n-I FORWARD -j KUBE-PROXY-FIREWALL\n-I OUTPUT -j KUBE-IPVS-OUT-FILTER\n\
     -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
     -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n\
     *nat\n:KUBE-LOAD-BALANCER - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-NODE-PORT - [0:0]\n\
     :KUBE-POSTROUTING - [0:0]\n:KUBE-SERVICES - [0:0]\n\
     -I PREROUTING -j KUBE-SERVICES\n-I OUTPUT -j KUBE-SERVICES\n-I POSTROUTING -j KUBE-POSTROUTING\n\
     -A KUBE-SERVICES ! -s 10.244.0.0/16 -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ\n\
     -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT\n\
     -A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT\n\
     -A KUBE-NODE-PORT -p tcp -m set --match-set KUBE-NODE-PORT-TCP dst -j KUBE-MARK-MASQ\n\
     -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
     -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
     -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n-A KUBE-POSTROUTING -j MASQUERADE --random-fully\nCOMMIT\n";

fn iptables([one, two]: [IpAddr; 2]) -> String {
    let (svc, ext) = ("KUBE-SVC-WEB2WEB2WEB2WEB2", "KUBE-EXT-WEB2WEB2WEB2WEB2");
    let (first, second) = ("KUBE-SEP-AAAAAAAAAAAAAAAA", "KUBE-SEP-BBBBBBBBBBBBBBBB");
    let endpoint = |chain: &str, ip: IpAddr| {
        format!(
            "-A {chain} -s {ip}/32 -m comment --comment \"default/web:p\" -j KUBE-MARK-MASQ\n\
             -A {chain} -p tcp -m comment --comment \"default/web:p\" -m tcp -j DNAT --to-destination {ip}:8080\n"
        )
    };
    format!(
        "*mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n\
         *filter\n:KUBE-EXTERNAL-SERVICES - [0:0]\n:KUBE-FORWARD - [0:0]\n:KUBE-NODEPORTS - [0:0]\n\
         :KUBE-PROXY-CANARY - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n:KUBE-SERVICES - [0:0]\n\
         -I INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" \
         -j KUBE-PROXY-FIREWALL\n\
         -I INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS\n\
         -I INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" \
         -j KUBE-EXTERNAL-SERVICES\n\
         -I FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -I FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -I OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A KUBE-SERVICES -d 10.96.0.99/32 -p tcp -m comment --comment \"default/idle has no endpoints\" \
         -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n\
         *nat\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
         :KUBE-PROXY-CANARY - [0:0]\n:KUBE-SERVICES - [0:0]\n:{svc} - [0:0]\n:{ext} - [0:0]\n:{first} - [0:0]\n\
         :{second} - [0:0]\n\
         -I PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -I OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -I POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-SERVICES -d {VIP}/32 -p tcp -m comment --comment \"default/web:p cluster IP\" -m tcp --dport 80 -j {svc}\n\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         -A KUBE-NODEPORTS -p tcp -m comment --comment \"default/web:p\" -m tcp --dport {NODE_PORT} -j {ext}\n\
         -A {ext} -j KUBE-MARK-MASQ\n-A {ext} -j {svc}\n\
         -A {svc} ! -s 10.244.0.0/16 -d {VIP}/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ\n\
         -A {svc} -m statistic --mode random --probability 0.5 -j {first}\n-A {svc} -j {second}\n{}{}\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n-A KUBE-POSTROUTING -j MASQUERADE --random-fully\nCOMMIT\n",
        endpoint(first, one),
        endpoint(second, two),
    )
}

fn nftables([one, two]: [IpAddr; 2]) -> String {
    let chain = |name: &str, rules: &[String]| format!("chain {name} {{\n{}\n}}\n", rules.join("\n"));
    let line = str::to_owned;
    let masquerade = "jump mark-for-masquerade";
    let base = |name: &str, hook: &str, priority: &str, rule: &str| {
        chain(name, &[format!("type nat hook {hook} priority {priority};"), line(rule)])
    };
    let endpoint = |name: &str, ip: IpAddr| {
        chain(name, &[format!("ip saddr {ip} {masquerade}"), format!("meta l4proto tcp dnat to {ip}:8080")])
    };
    let parts = [
        format!(
            "map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict;
             elements = {{ {VIP} . tcp . 80 : goto service-web }}\n}}\n\
             map service-nodeports {{ type inet_proto . inet_service : verdict;
             elements = {{ tcp . {NODE_PORT} : goto external-web }}\n}}\n"
        ),
        chain("mark-for-masquerade", &[line("meta mark set meta mark or 0x4000")]),
        endpoint("endpoint-1", one),
        endpoint("endpoint-2", two),
        chain(
            "service-web",
            &[
                format!("ip daddr {VIP} ip saddr != 10.244.0.0/16 {masquerade}"),
                line("numgen random mod 2 vmap { 0 : goto endpoint-1, 1 : goto endpoint-2 }"),
            ],
        ),
        chain("external-web", &[line(masquerade), line("goto service-web")]),
        chain(
            "services",
            &[
                line("ip daddr . meta l4proto . th dport vmap @service-ips"),
                line("fib daddr type local meta l4proto . th dport vmap @service-nodeports"),
            ],
        ),
        base("nat-prerouting", "prerouting", "dstnat", "jump services"),
        // nft 1.0.6 knows the name in prerouting alone.
        base("nat-output", "output", "-100", "jump services"),
        base(
            "nat-postrouting",
            "postrouting",
            "srcnat",
            "meta mark & 0x4000 != 0 meta mark set meta mark xor 0x4000 masquerade fully-random",
        ),
    ];
    format!("table ip kube-proxy {{\n{}}}\ntable ip6 kube-proxy {{\n}}\n", parts.concat())
}

/// A number as kube-proxy's hashes look.
fn hash(number: usize) -> String {
    let digit = |place: u32| char::from(b'A' + (number / 26_usize.pow(place) % 26) as u8);
    (0..4).map(digit).chain(std::iter::repeat_n('2', 12)).collect()
}

/// Services with two endpoints each, and nobody behind them.
pub(crate) fn install_many(ns: &NetNs, mode: Mode, services: usize) {
    let mut chains = "*nat\n:KUBE-SERVICES - [0:0]\n".to_owned();
    let mut rules = "-I PREROUTING -j KUBE-SERVICES\n-I OUTPUT -j KUBE-SERVICES\n".to_owned();
    for number in 0..services {
        let [svc, one, two] = [hash(number), hash(2 * number), hash(2 * number + 1)];
        chains += &format!(":KUBE-SVC-{svc} - [0:0]\n:KUBE-SEP-{one} - [0:0]\n:KUBE-SEP-{two} - [0:0]\n");
        let vip = format!("10.97.{}.{}", number / 250, number % 250);
        rules += &format!(
            "-A KUBE-SERVICES -d {vip}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-{svc}\n\
             -A KUBE-SVC-{svc} -m statistic --mode random --probability 0.5 -j KUBE-SEP-{one}\n\
             -A KUBE-SVC-{svc} -j KUBE-SEP-{two}\n"
        );
        for sep in [one, two] {
            rules += &format!("-A KUBE-SEP-{sep} -p tcp -m tcp -j DNAT --to-destination 10.244.7.7:8080\n");
        }
    }
    feed(
        ns,
        &format!("{}-restore", mode.program(false)),
        &["--noflush"],
        &format!("{chains}{rules}COMMIT\n"),
    );
}
