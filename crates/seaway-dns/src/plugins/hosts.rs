//! `hosts [FILE [ZONES…]]`: answers from a file like /etc/hosts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::Fallthrough;
use crate::corefile::{CorefileError, Directive};
use crate::explain::{DataOrigin, OriginKind};
use crate::message::{Origin, Query, Reply};
use crate::name::{ZoneName, address_of_reverse, lower_text};
use crate::plugin::{Explanation, Next, Outcome, Plugin};

/// The directive's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    file: PathBuf,
    zones: Vec<ZoneName>,
    inline: String,
    ttl: u32,
    reverse: bool,
    reload: Duration,
    fallthrough: Fallthrough,
}

impl Settings {
    /// Reads the directive; without zones it serves `block_zones`.
    pub(crate) fn parse(directive: &Directive, block_zones: &[ZoneName]) -> Result<Self, CorefileError> {
        let mut settings = Self {
            file: directive.args.first().map_or("/etc/hosts", |word| &word.text).into(),
            zones: crate::corefile::args::zones(directive.args.get(1..).unwrap_or_default())?,
            inline: String::new(),
            ttl: 3600,
            reverse: true,
            reload: Duration::from_secs(5),
            fallthrough: Fallthrough::default(),
        };
        if settings.zones.is_empty() {
            settings.zones = block_zones.to_vec();
        }
        for property in &directive.block {
            property.no_block()?;
            match property.name.text.as_str() {
                "ttl" => settings.ttl = property.one("a number of seconds")?.number(1, 65_535)?,
                "no_reverse" => {
                    property.no_args()?;
                    settings.reverse = false;
                }
                "reload" => settings.reload = property.one("a duration")?.duration()?,
                "fallthrough" => settings.fallthrough = Fallthrough::parse(property)?,
                address if address.parse::<IpAddr>().is_ok() => {
                    let names = property.at_least_one("a name after the address")?;
                    let names: Vec<&str> = names.iter().map(|word| word.text.as_str()).collect();
                    settings.inline += &format!("{address} {}\n", names.join(" "));
                }
                _ => {
                    let known = ["ttl", "no_reverse", "reload", "fallthrough", "an IP address with names"];
                    return Err(directive.unknown_property(property, &known));
                }
            }
        }
        Ok(settings)
    }
}

#[derive(Debug, Default)]
struct Table {
    addresses: HashMap<Box<str>, Vec<IpAddr>>,
    names: HashMap<IpAddr, Vec<Name>>,
}

impl Table {
    /// Reads lines of an address with names; what is no such line is passed over, as resolvers do.
    fn parse(text: &str) -> Self {
        let mut table = Self::default();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(ip) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
            for word in words {
                let Ok(name) = Name::from_ascii(format!("{}.", word.trim_end_matches('.'))) else { continue };
                let addresses = table.addresses.entry(lower_text(&name).into()).or_default();
                if !addresses.contains(&ip) {
                    addresses.push(ip);
                }
                table.names.entry(ip).or_default().push(name);
            }
        }
        table
    }
}

/// The plugin.
#[derive(Debug)]
pub(crate) struct Hosts {
    settings: Settings,
    table: ArcSwap<Table>,
}

impl Hosts {
    /// Reads the file; one that is not there is as good as an empty one.
    pub(crate) fn new(settings: Settings) -> Self {
        let table = ArcSwap::from_pointee(read(&settings));
        Self { settings, table }
    }

    /// Reads the file again whenever it has changed; ends with the task.
    pub(crate) async fn follow(&self) {
        if self.settings.reload.is_zero() {
            return;
        }
        let mut seen = state_of(&self.settings.file);
        loop {
            tokio::time::sleep(self.settings.reload).await;
            let now = state_of(&self.settings.file);
            if now != seen {
                seen = now;
                self.table.store(read(&self.settings).into());
            }
        }
    }

    /// The answer; `None`: the next plugin's.
    fn answer(&self, query: &Query) -> Option<Reply> {
        ZoneName::longest(&self.settings.zones, &query.lower)?;
        let reply = Reply { authoritative: true, origin: Origin::Local, ..Reply::default() };
        match self.lookup(query) {
            Some(data) if !data.is_empty() => {
                let record = |data| Record::from_rdata(query.name.clone(), self.settings.ttl, data);
                Some(Reply { answers: data.into_iter().map(record).collect(), ..reply })
            }
            _ if self.settings.fallthrough.applies_to(&query.lower) => None,
            Some(_) => Some(reply),
            None => Some(Reply { code: ResponseCode::NXDomain, ..reply }),
        }
    }

    fn lookup(&self, query: &Query) -> Option<Vec<RData>> {
        let table = self.table.load();
        if let Some(ip) = address_of_reverse(&query.lower).filter(|_| self.settings.reverse) {
            let names = table.names.get(&ip)?.iter().cloned();
            let wanted = query.record_type == RecordType::PTR;
            return Some(names.filter(|_| wanted).map(|name| RData::PTR(PTR(name))).collect());
        }
        let addresses = table.addresses.get(&*query.lower)?;
        let data = addresses.iter().filter_map(|ip| match (ip, query.record_type) {
            (IpAddr::V4(ip), RecordType::A) => Some(RData::A((*ip).into())),
            (IpAddr::V6(ip), RecordType::AAAA) => Some(RData::AAAA((*ip).into())),
            _ => None,
        });
        Some(data.collect())
    }
}

fn state_of(file: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(settings: &Settings) -> Table {
    let text = std::fs::read_to_string(&settings.file).unwrap_or_default();
    Table::parse(&format!("{}{text}", settings.inline))
}

impl Plugin for Hosts {
    fn name(&self) -> &'static str {
        "hosts"
    }

    fn serve<'a>(&'a self, query: &'a Query, next: Next) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            match self.answer(query) {
                Some(reply) => Ok(reply),
                None => next.run(query).await,
            }
        })
    }

    fn explain(&self, query: &Query, next: &Next) -> Explanation {
        match self.answer(query) {
            Some(reply) => Explanation::answer(self.name(), DataOrigin::of(OriginKind::Hosts), Ok(reply)),
            None => next.explain(query),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_hosts_file() {
        let table = Table::parse(
            "127.0.0.1 localhost\n::1 localhost # v6\n\nx y\n192.0.2.1\tA.example a\n192.0.2.1 a",
        );
        let all =
            |name: &str| table.addresses.get(name).map(|ips| ips.iter().map(IpAddr::to_string).collect());
        assert_eq!(all("localhost."), Some(vec!["127.0.0.1".to_owned(), "::1".to_owned()]));
        assert_eq!(all("a.example."), Some(vec!["192.0.2.1".to_owned()]));
        assert_eq!(all("a."), Some(vec!["192.0.2.1".to_owned()]));
        assert_eq!(all("y."), None);
        assert_eq!(table.names[&IpAddr::from([192, 0, 2, 1])].len(), 3);
    }
}
