//! The `forward` directive.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::corefile::args::zones;
use crate::corefile::{CorefileError, Directive, Word};
use crate::name::ZoneName;
use crate::resolvconf::ResolvConf;

/// Upstreams of one directive at most.
const MAX_UPSTREAMS: usize = 15;

/// In which order upstreams are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Random,
    RoundRobin,
    Sequential,
}

/// The directive's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The zone whose queries are forwarded.
    pub(crate) from: ZoneName,
    /// Zones in it whose queries are not.
    pub(crate) except: Vec<ZoneName>,
    /// The upstreams.
    pub(crate) to: Vec<SocketAddr>,
    /// Ask by TCP always.
    pub(crate) force_tcp: bool,
    /// Ask by UDP although the query came by TCP.
    pub(crate) prefer_udp: bool,
    /// How long an idle TCP connection is kept.
    pub(crate) expire: Duration,
    /// Failed health checks after which an upstream is down; 0: never.
    pub(crate) max_fails: u32,
    /// How long to wait for a reply.
    pub(crate) read_timeout: Duration,
    /// The order.
    pub(crate) policy: Policy,
    /// Time between the health checks of an upstream that failed.
    pub(crate) check_every: Duration,
    /// The name that health checks ask for.
    pub(crate) check_name: ZoneName,
    /// Health checks want recursion.
    pub(crate) check_recursion: bool,
    /// Queries under way at most; 0: no limit.
    pub(crate) max_concurrent: usize,
    /// Answer SERVFAIL at once when all upstreams are down.
    pub(crate) fail_fast: bool,
    /// Replies with these codes make the next upstream be asked.
    pub(crate) failover: Vec<u16>,
}

const PROPERTIES: [&str; 11] = [
    "except",
    "force_tcp",
    "prefer_udp",
    "expire",
    "max_fails",
    "read_timeout",
    "policy",
    "health_check",
    "max_concurrent",
    "failover",
    "failfast_all_unhealthy_upstreams",
];

const CODES: [(&str, u16); 6] =
    [("FORMERR", 1), ("SERVFAIL", 2), ("NXDOMAIN", 3), ("NOTIMP", 4), ("NOTIMPL", 4), ("REFUSED", 5)];

impl Settings {
    /// Reads the directive; `read_file` reads the files that upstreams come from.
    pub(crate) fn parse(
        directive: &Directive,
        read_file: &dyn Fn(&str) -> std::io::Result<String>,
    ) -> Result<Self, CorefileError> {
        let [from, to @ ..] = directive.at_least_one("a zone and upstreams, such as `. /etc/resolv.conf`")?
        else {
            return Err(CorefileError::at(&directive.name, "`forward` needs a zone"));
        };
        let from_zone = match &zones(std::slice::from_ref(from))?[..] {
            [zone] => zone.clone(),
            _ => return Err(CorefileError::at(from, "this network is not one reverse zone")),
        };
        let mut upstreams = Vec::new();
        for word in to {
            upstreams.extend(addresses(word, read_file)?);
        }
        if upstreams.is_empty() {
            return Err(CorefileError::at(&directive.name, "`forward` needs an upstream after the zone")
                .help("an address, such as 192.0.2.53, or /etc/resolv.conf"));
        }
        if upstreams.len() > MAX_UPSTREAMS {
            return Err(CorefileError::at(&to[0], format!("more than {MAX_UPSTREAMS} upstreams")));
        }
        let mut settings = Self {
            from: from_zone,
            except: Vec::new(),
            to: upstreams,
            force_tcp: false,
            prefer_udp: false,
            expire: Duration::from_secs(10),
            max_fails: 2,
            read_timeout: Duration::from_secs(2),
            policy: Policy::Random,
            check_every: Duration::from_millis(500),
            check_name: ZoneName::parse(".").map_err(|reason| CorefileError::at(from, reason))?,
            check_recursion: true,
            max_concurrent: 0,
            fail_fast: false,
            failover: Vec::new(),
        };
        for property in &directive.block {
            property.no_block()?;
            settings.property(directive, property)?;
        }
        Ok(settings)
    }

    fn property(&mut self, directive: &Directive, property: &Directive) -> Result<(), CorefileError> {
        let flag = |set: &mut bool| {
            *set = true;
            property.no_args()
        };
        match property.name.text.as_str() {
            "except" => {
                property.at_least_one("zones")?;
                self.except.extend(property.zones()?);
            }
            "force_tcp" => flag(&mut self.force_tcp)?,
            "prefer_udp" => flag(&mut self.prefer_udp)?,
            "failfast_all_unhealthy_upstreams" => flag(&mut self.fail_fast)?,
            "expire" => self.expire = property.one("a duration")?.duration()?,
            "read_timeout" => self.read_timeout = property.one("a duration")?.duration()?,
            "max_fails" => self.max_fails = property.one("a number")?.number(0, u32::MAX)?,
            "max_concurrent" => self.max_concurrent = property.one("a number")?.number(0, 10_000_000)?,
            "policy" => {
                self.policy = property.one("a policy: random, round_robin or sequential")?.choice(
                    "policy",
                    &[
                        ("random", Policy::Random),
                        ("round_robin", Policy::RoundRobin),
                        ("sequential", Policy::Sequential),
                    ],
                )?;
            }
            "failover" => {
                for word in property.at_least_one("response codes, such as SERVFAIL")? {
                    self.failover.push(word.choice("response code", &CODES)?);
                }
            }
            "health_check" => self.health_check(property)?,
            "tls" | "tls_servername" | "next" | "max_idle_conns" | "max_age" | "max_connect_attempts" => {
                return Err(directive.unsupported(property));
            }
            _ => return Err(directive.unknown_property(property, &PROPERTIES)),
        }
        Ok(())
    }

    /// `health_check DURATION [no_rec] [domain FQDN]`
    fn health_check(&mut self, property: &Directive) -> Result<(), CorefileError> {
        let args = property.at_least_one("a duration")?;
        self.check_every = args[0].duration()?;
        if self.check_every.is_zero() {
            return Err(CorefileError::at(&args[0], "the time between health checks can't be zero"));
        }
        let mut rest = args[1..].iter();
        while let Some(word) = rest.next() {
            match (word.text.as_str(), rest.as_slice()) {
                ("no_rec", _) => self.check_recursion = false,
                ("domain", [name, ..]) => {
                    self.check_name = ZoneName::parse(&name.text)
                        .map_err(|reason| CorefileError::at(name, format!("no domain: {reason}")))?;
                    rest.next();
                }
                _ => {
                    return Err(CorefileError::unknown(word, "option of health_check", ["no_rec", "domain"]));
                }
            }
        }
        Ok(())
    }
}

/// The upstreams that `word` stands for: an address, or the nameservers of a file.
fn addresses(
    word: &Word,
    read_file: &dyn Fn(&str) -> std::io::Result<String>,
) -> Result<Vec<SocketAddr>, CorefileError> {
    let text = match word.text.split_once("://") {
        None => word.text.as_str(),
        Some(("dns", rest)) => rest,
        Some((other, _)) => {
            return Err(CorefileError::at(word, format!("the transport {other}:// is not supported yet"))
                .help("accepted: dns:// or no transport"));
        }
    };
    if let Some(address) = address(text) {
        return Ok(vec![address]);
    }
    let contents = read_file(text).map_err(|error| {
        CorefileError::at(word, format!("`{text}` is no address, and no file that can be read: {error}"))
            .help("accepted: `IP`, `IP:PORT`, `[IPv6]:PORT`, or a file like /etc/resolv.conf")
    })?;
    let servers = ResolvConf::parse_host(&contents).nameservers;
    let found: Vec<SocketAddr> = servers.iter().filter_map(|server| address(server)).collect();
    if found.is_empty() {
        return Err(CorefileError::at(word, format!("{text} has no nameserver")));
    }
    Ok(found)
}

fn address(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    text.parse().ok().or_else(|| bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53)))
}
