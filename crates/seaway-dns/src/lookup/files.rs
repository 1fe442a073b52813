//! The files that come before DNS: `/etc/hosts`, `/etc/nsswitch.conf`, and names that are addresses.

use std::net::{IpAddr, Ipv4Addr};

/// What `/etc/hosts` says (hosts(5)): lines of an address and its names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostsFile {
    /// The lines that say anything, in order.
    pub lines: Vec<HostsLine>,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostsLine {
    /// Its number in the file, from 1.
    pub number: usize,
    /// The address.
    pub address: IpAddr,
    /// The names, as they are spelt.
    pub names: Vec<String>,
}

impl HostsFile {
    /// Reads a file; lines that are no address with names are passed over, as resolvers do.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().enumerate().filter_map(|(index, line)| {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let address = words.next()?.parse().ok()?;
            let names: Vec<String> = words.map(str::to_owned).collect();
            (!names.is_empty()).then_some(HostsLine { number: index + 1, address, names })
        });
        Self { lines: lines.collect() }
    }

    /// The lines whose names match `name` by `same`, in the file's order.
    pub(super) fn find(&self, name: &str, same: fn(&str, &str) -> bool) -> Vec<&HostsLine> {
        self.lines.iter().filter(|line| line.names.iter().any(|other| same(other, name))).collect()
    }
}

/// The `hosts:` line of `/etc/nsswitch.conf` (nsswitch.conf(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nsswitch {
    /// The services in their order.
    pub services: Vec<NssService>,
}

/// A service of the name service switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NssService {
    /// Its name: `files`, `dns`, `myhostname`, …
    pub name: String,
    /// After which results the walk ends here; success always ends it.
    pub returns_on: Vec<NssStatus>,
}

/// What a service may say besides success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NssStatus {
    /// There is no such name.
    NotFound,
    /// The service does not work.
    Unavailable,
    /// It may work later.
    TryAgain,
}

impl Default for Nsswitch {
    /// What glibc has from 2.35 on where the file says nothing.
    fn default() -> Self {
        let service = |name: &str| NssService { name: name.to_owned(), returns_on: Vec::new() };
        Self { services: vec![service("files"), service("dns")] }
    }
}

impl Nsswitch {
    /// Reads a file: its last `hosts:` line counts.
    pub fn parse(text: &str) -> Self {
        let mut lines = text.lines().filter_map(|line| {
            let (database, rest) = line.split('#').next()?.split_once(':')?;
            (database.trim() == "hosts").then_some(rest)
        });
        lines.next_back().map_or_else(Self::default, Self::parse_services)
    }

    fn parse_services(text: &str) -> Self {
        let mut services: Vec<NssService> = Vec::new();
        let spaced = text.replace('[', " [ ").replace(']', " ] ");
        let mut in_actions = false;
        for word in spaced.split_whitespace() {
            match word {
                "[" => in_actions = true,
                "]" => in_actions = false,
                action if in_actions => {
                    if let Some(service) = services.last_mut() {
                        service.apply(action);
                    }
                }
                name => services.push(NssService { name: name.to_owned(), returns_on: Vec::new() }),
            }
        }
        Self { services }
    }
}

impl NssService {
    /// `[!]STATUS=ACTION`
    fn apply(&mut self, action: &str) {
        let (negated, action) = action.strip_prefix('!').map_or((false, action), |rest| (true, rest));
        let Some((status, what)) = action.split_once('=') else { return };
        let known = [
            ("notfound", NssStatus::NotFound),
            ("unavail", NssStatus::Unavailable),
            ("tryagain", NssStatus::TryAgain),
        ];
        for (name, it) in known {
            if (name == status.to_ascii_lowercase()) == negated {
                continue;
            }
            self.returns_on.retain(|other| *other != it);
            if what.eq_ignore_ascii_case("return") {
                self.returns_on.push(it);
            }
        }
    }
}

/// The address that `name` is, in any form that inet_aton(3) and inet_pton(3) know.
pub(super) fn literal(name: &str) -> Option<IpAddr> {
    let bare = name.split_once('%').map_or(name, |(address, _)| address);
    if name.contains(':') {
        return bare.parse().ok();
    }
    old_ipv4(name).map(IpAddr::V4)
}

/// One to four numbers, decimal, octal or hexadecimal; the last one fills what is left.
fn old_ipv4(text: &str) -> Option<Ipv4Addr> {
    let parts = text.split('.').map(number).collect::<Option<Vec<u64>>>()?;
    let (last, front) = parts.split_last()?;
    if front.len() > 3 || front.iter().any(|part| *part > 255) {
        return None;
    }
    let room = 8 * (4 - front.len());
    if *last >= 1 << room {
        return None;
    }
    let high = front.iter().enumerate().map(|(index, part)| part << (24 - 8 * index)).sum::<u64>();
    u32::try_from(high + last).ok().map(Ipv4Addr::from)
}

fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(digits, radix).ok().filter(|number| plain && *number <= u32::MAX.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_all_their_forms() {
        for (text, address) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("127.1", Some("127.0.0.1")),
            ("10.1.2", Some("10.1.0.2")),
            ("0x7f.0.0.010", Some("127.0.0.8")),
            ("2130706433", Some("127.0.0.1")),
            ("::1", Some("::1")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("256.0.0.1", None),
            ("1.2.3.4.5", None),
            ("1.2.3.", None),
            ("+1", None),
            ("4294967296", None),
            ("a", None),
            ("", None),
        ] {
            assert_eq!(literal(text).map(|ip| ip.to_string()).as_deref(), address, "{text:?}");
        }
    }

    #[test]
    fn the_switch() {
        for (text, services) in [
            ("", "files dns"),
            ("passwd: files\n", "files dns"),
            ("hosts: files dns\n", "files dns"),
            ("hosts:\tfiles myhostname dns # x", "files myhostname dns"),
            ("hosts: dns [!UNAVAIL=return] files", "dns[NotFound TryAgain] files"),
            ("hosts: files mdns4_minimal [NOTFOUND=return] dns", "files mdns4_minimal[NotFound] dns"),
        ] {
            let parsed = Nsswitch::parse(text);
            let shown: Vec<String> = parsed
                .services
                .iter()
                .map(|service| {
                    let ends: Vec<String> =
                        service.returns_on.iter().map(|status| format!("{status:?}")).collect();
                    let ends = if ends.is_empty() { String::new() } else { format!("[{}]", ends.join(" ")) };
                    format!("{}{ends}", service.name)
                })
                .collect();
            assert_eq!(shown.join(" "), services, "{text:?}");
        }
    }

    #[test]
    fn a_hosts_file() {
        let file = HostsFile::parse("127.0.0.1 localhost\n# x\n\n192.0.2.1 A a.example # b\nx y\n::1\n");
        assert_eq!(file.lines.iter().map(|line| line.number).collect::<Vec<_>>(), [1, 4]);
        assert_eq!(file.find("a", str::eq_ignore_ascii_case).len(), 1);
        assert_eq!(file.find("a", |a, b| a == b).len(), 0);
        assert_eq!(file.find("b", str::eq_ignore_ascii_case).len(), 0);
    }
}
