//! `resolv.conf`: what a host's file says, what a pod's file shall say, and which names a resolver makes of it.
//!
//! Pure: the kubelet reads and writes the files, `trace` asks for the names.

mod pod;
mod search;

use std::fmt;

pub use pod::{
    ClusterDns, DnsEvent, DnsPolicy, MAX_NAMESERVERS, MAX_SEARCH_CHARS, MAX_SEARCH_DOMAIN, MAX_SEARCHES,
    PodDns, PodDnsConfig, PodDnsError, PodResolvConf, pod_resolv_conf,
};
pub use search::{Libc, candidates};

/// The contents of a `resolv.conf`, in the order in which it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The servers to ask, as the file spells them (a link-local IPv6 address has a `%zone`).
    pub nameservers: Vec<String>,
    /// The search list, without trailing dots; a lone `.` stands for the root.
    pub searches: Vec<String>,
    /// The options.
    pub options: Vec<ResolvOption>,
}

/// One option, `name` or `name:value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvOption {
    /// The name, such as `ndots`.
    pub name: String,
    /// What follows the colon.
    pub value: Option<String>,
}

impl ResolvOption {
    /// The option `name`, with `value` where it takes one; an empty value is none.
    pub fn new(name: impl Into<String>, value: Option<String>) -> Self {
        Self { name: name.into(), value: value.filter(|v| !v.is_empty()) }
    }

    fn parse(word: &str) -> Self {
        match word.split_once(':') {
            Some((name, value)) => Self::new(name, Some(value.to_owned())),
            None => Self::new(word, None),
        }
    }
}

impl fmt::Display for ResolvOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}:{value}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl ResolvConf {
    /// Reads a host's file by kubelet's rules: nameservers accumulate, the last `search` line wins, `.` in it is
    /// dropped, one trailing dot is trimmed, `domain` and what else there is does not count.
    pub fn parse_host(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.nameservers.extend(words.next().map(str::to_owned)),
                Some("search") => {
                    conf.searches = words
                        .filter(|word| *word != ".")
                        .map(|word| word.strip_suffix('.').unwrap_or(word).to_owned())
                        .collect();
                }
                Some("options") => {
                    for word in words {
                        conf.set_option(ResolvOption::parse(word));
                    }
                }
                _ => {}
            }
        }
        conf
    }

    /// Adds `option`, in the place of one of the same name where there is one.
    fn set_option(&mut self, option: ResolvOption) {
        match self.options.iter_mut().find(|o| o.name == option.name) {
            Some(existing) => *existing = option,
            None => self.options.push(option),
        }
    }

    /// How many dots make a resolver try a name as it is first: 1 where the file does not say, 15 at most
    /// (resolv.conf(5); both glibc and musl cap it there).
    pub fn ndots(&self) -> usize {
        let value = self.options.iter().rev().find(|o| o.name == "ndots").and_then(|o| o.value.as_deref());
        value.map_or(1, |v| v.parse().map_or(0, |n: usize| n.min(15)))
    }
}

/// The text of the file, as a container runtime writes it: `search`, `nameserver`, `options`.
impl fmt::Display for ResolvConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.searches.is_empty() {
            writeln!(f, "search {}", self.searches.join(" "))?;
        }
        for server in &self.nameservers {
            writeln!(f, "nameserver {server}")?;
        }
        if !self.options.is_empty() {
            f.write_str("options")?;
            for option in &self.options {
                write!(f, " {option}")?;
            }
            f.write_str("\n")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_hosts_file_as_kubelet_does() {
        // (file, what is written back)
        let table = [
            ("", ""),
            ("nameserver 192.0.2.53\n", "nameserver 192.0.2.53\n"),
            (
                "nameserver 192.0.2.1\nnameserver\t2001:db8::1  \n",
                "nameserver 192.0.2.1\nnameserver 2001:db8::1\n",
            ),
            ("search a.example b.example\nsearch c.example.\n", "search c.example\n"),
            ("search . a.example. b.example\n", "search a.example b.example\n"),
            ("search a.example\nsearch\n", ""),
            ("domain a.example\nsortlist 192.0.2.0\n", ""),
            ("# nameserver 192.0.2.1\n; search x\nnameserver\n", ""),
            ("options ndots:2 rotate\noptions ndots:3 edns0\n", "options ndots:3 rotate edns0\n"),
            ("  nameserver fe80::1%eth0\r\n", "nameserver fe80::1%eth0\n"),
        ];
        for (file, written) in table {
            assert_eq!(ResolvConf::parse_host(file).to_string(), written, "{file:?}");
        }
    }

    #[test]
    fn knows_ndots() {
        for (file, ndots) in [
            ("", 1),
            ("options ndots:5", 5),
            ("options ndots:0", 0),
            ("options ndots:99", 15),
            ("options ndots:x", 0),
            ("options ndots", 1),
        ] {
            assert_eq!(ResolvConf::parse_host(file).ndots(), ndots, "{file:?}");
        }
    }
}
