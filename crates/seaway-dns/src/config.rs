//! What a Corefile says, each plugin's settings read.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::corefile::address::Address;
use crate::corefile::{CorefileError, Directive, ServerBlock, Word};
use crate::forward;
use crate::kubernetes;
use crate::name::ZoneName;
use crate::plugins::health::{Health, parse_prometheus, parse_ready};
use crate::plugins::log::Rule;
use crate::plugins::reload::Reload;
use crate::plugins::{cache, errors, hosts, loadbalance, no_such_plugin};

/// A server block.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockConfig {
    /// The zones and ports that it serves.
    pub(crate) serves: Vec<(ZoneName, u16)>,
    /// The addresses to listen at; empty: all.
    pub(crate) bind: Vec<IpAddr>,
    pub(crate) errors: bool,
    pub(crate) health: Option<Health>,
    pub(crate) ready: Option<SocketAddr>,
    pub(crate) prometheus: Option<SocketAddr>,
    pub(crate) log: Vec<Rule>,
    pub(crate) loadbalance: bool,
    pub(crate) cache: Option<cache::Settings>,
    pub(crate) hosts: Option<hosts::Settings>,
    pub(crate) kubernetes: Option<kubernetes::Options>,
    pub(crate) loop_detection: bool,
    pub(crate) forward: Vec<forward::Settings>,
    pub(crate) whoami: bool,
    pub(crate) reload: Option<Reload>,
}

/// What reading needs to know besides the text.
pub(crate) struct Outside<'a> {
    /// The port of a block that does not say one.
    pub(crate) port: u16,
    /// Reads the files that `forward` takes upstreams from.
    pub(crate) read_file: &'a dyn Fn(&str) -> std::io::Result<String>,
}

/// Reads all blocks.
///
/// # Errors
/// The first directive that does not fit.
pub(crate) fn read(blocks: &[ServerBlock], outside: &Outside<'_>) -> Result<Vec<BlockConfig>, CorefileError> {
    let mut seen: BTreeMap<(String, u16), Vec<Vec<IpAddr>>> = BTreeMap::new();
    let mut configs = Vec::new();
    for block in blocks {
        let config = read_block(block, outside)?;
        for (zone, port) in &config.serves {
            let others = seen.entry((zone.to_string(), *port)).or_default();
            let clash = |other: &Vec<IpAddr>| {
                other.is_empty() || config.bind.is_empty() || other.iter().any(|ip| config.bind.contains(ip))
            };
            if others.iter().any(clash) {
                return Err(CorefileError::at(&block.keys[0], format!("{zone}:{port} is served twice"))
                    .help("merge the server blocks, or `bind` them to different addresses"));
            }
            others.push(config.bind.clone());
        }
        configs.push(config);
    }
    Ok(configs)
}

fn read_block(block: &ServerBlock, outside: &Outside<'_>) -> Result<BlockConfig, CorefileError> {
    let mut config = BlockConfig::default();
    for key in &block.keys {
        for Address { zone, port } in Address::parse(key)? {
            let serves = (zone, port.unwrap_or(outside.port));
            if !config.serves.contains(&serves) {
                config.serves.push(serves);
            }
        }
    }
    let mut zones: Vec<ZoneName> = Vec::new();
    for (zone, _) in &config.serves {
        if !zones.contains(zone) {
            zones.push(zone.clone());
        }
    }
    for directive in &block.directives {
        read_directive(&mut config, directive, &zones, outside)?;
    }
    Ok(config)
}

fn read_directive(
    config: &mut BlockConfig,
    directive: &Directive,
    zones: &[ZoneName],
    outside: &Outside<'_>,
) -> Result<(), CorefileError> {
    let name = &directive.name;
    match name.text.as_str() {
        "errors" => {
            errors::parse(directive)?;
            flag(&mut config.errors, name)
        }
        "health" => once(&mut config.health, Health::parse(directive)?, name),
        "ready" => once(&mut config.ready, parse_ready(directive)?, name),
        "prometheus" => once(&mut config.prometheus, parse_prometheus(directive)?, name),
        "kubernetes" => once(&mut config.kubernetes, kubernetes::Options::parse(directive, zones)?, name),
        "hosts" => once(&mut config.hosts, hosts::Settings::parse(directive, zones)?, name),
        "cache" => once(&mut config.cache, cache::Settings::parse(directive, zones)?, name),
        "reload" => once(&mut config.reload, Reload::parse(directive)?, name),
        "forward" => {
            config.forward.push(forward::Settings::parse(directive, outside.read_file)?);
            Ok(())
        }
        "log" => {
            config.log.push(Rule::parse(directive)?);
            Ok(())
        }
        "bind" => bind(config, directive),
        "loadbalance" => {
            loadbalance::parse(directive)?;
            flag(&mut config.loadbalance, name)
        }
        "loop" => {
            directive.bare()?;
            flag(&mut config.loop_detection, name)
        }
        "whoami" => {
            directive.bare()?;
            flag(&mut config.whoami, name)
        }
        _ => Err(no_such_plugin(name)),
    }
}

fn bind(config: &mut BlockConfig, directive: &Directive) -> Result<(), CorefileError> {
    if let Some(property) = directive.block.first() {
        return Err(directive.unsupported(property));
    }
    for word in directive.at_least_one("an address")? {
        let ip = word.text.parse().map_err(|_| {
            CorefileError::at(word, format!("`{}` is not an IP address", word.text))
                .help("names of interfaces are not supported yet")
        })?;
        config.bind.push(ip);
    }
    Ok(())
}

fn twice(name: &Word) -> CorefileError {
    CorefileError::at(name, format!("`{}` is there twice in this server block", name.text))
}

fn flag(flag: &mut bool, name: &Word) -> Result<(), CorefileError> {
    if std::mem::replace(flag, true) { Err(twice(name)) } else { Ok(()) }
}

fn once<T>(slot: &mut Option<T>, value: T, name: &Word) -> Result<(), CorefileError> {
    if slot.replace(value).is_some() { Err(twice(name)) } else { Ok(()) }
}

impl BlockConfig {
    /// The names of the plugins in use, in CoreDNS's order.
    pub(crate) fn plugin_names(&self) -> Vec<&'static str> {
        let used = [
            ("reload", self.reload.is_some()),
            ("bind", !self.bind.is_empty()),
            ("ready", self.ready.is_some()),
            ("health", self.health.is_some()),
            ("prometheus", self.prometheus.is_some()),
            ("errors", self.errors),
            ("log", !self.log.is_empty()),
            ("loadbalance", self.loadbalance),
            ("cache", self.cache.is_some()),
            ("hosts", self.hosts.is_some()),
            ("kubernetes", self.kubernetes.is_some()),
            ("loop", self.loop_detection),
            ("forward", !self.forward.is_empty()),
            ("whoami", self.whoami),
        ];
        used.into_iter().filter_map(|(name, used)| used.then_some(name)).collect()
    }
}

#[cfg(test)]
mod tests;
