//! `health`, `ready` and `prometheus`: addresses of the HTTP endpoints, and what is ready.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::corefile::{CorefileError, Directive, Word};

/// `health [ADDRESS] { lameduck DURATION }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    /// Where `/health` answers.
    pub(crate) address: SocketAddr,
    /// How long the server goes on after it was told to stop.
    pub(crate) lameduck: Duration,
}

impl Health {
    /// Reads the directive.
    pub(crate) fn parse(directive: &Directive) -> Result<Self, CorefileError> {
        let address = address(directive, 8080)?;
        let mut lameduck = Duration::ZERO;
        for property in &directive.block {
            match property.name.text.as_str() {
                "lameduck" => lameduck = property.one("a duration")?.duration()?,
                _ => return Err(directive.unknown_property(property, &["lameduck"])),
            }
        }
        Ok(Self { address, lameduck })
    }
}

/// `ready [ADDRESS]`, without its property `monitor`.
pub(crate) fn parse_ready(directive: &Directive) -> Result<SocketAddr, CorefileError> {
    match directive.block.first() {
        None => address(directive, 8181),
        Some(property) if property.name.text == "monitor" => Err(directive.unsupported(property)),
        Some(property) => Err(directive.unknown_property(property, &[])),
    }
}

/// `prometheus [ADDRESS]`; CoreDNS's own default is the loopback address.
pub(crate) fn parse_prometheus(directive: &Directive) -> Result<SocketAddr, CorefileError> {
    directive.no_block()?;
    match directive.at_most(1)? {
        [] => Ok(SocketAddr::from(([127, 0, 0, 1], 9153))),
        _ => address(directive, 9153),
    }
}

fn address(directive: &Directive, port: u16) -> Result<SocketAddr, CorefileError> {
    match directive.at_most(1)? {
        [] => Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)),
        [word, ..] => socket_address(word, port),
    }
}

/// `[IP][:PORT]`; without an address it is all of them.
fn socket_address(word: &Word, port: u16) -> Result<SocketAddr, CorefileError> {
    let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let text = word.text.replacen("localhost", "127.0.0.1", 1);
    let port_alone = text.strip_prefix(':').and_then(|port| port.parse().ok());
    port_alone
        .map(|port| SocketAddr::new(any, port))
        .or_else(|| text.parse().ok())
        .or_else(|| text.parse().ok().map(|ip| SocketAddr::new(ip, port)))
        .ok_or_else(|| {
            CorefileError::at(word, format!("`{}` is no address to listen at", word.text))
                .help("accepted: `:PORT`, `IP` or `IP:PORT`")
        })
}

/// What `/ready` asks.
pub(crate) trait Readiness: Send + Sync {
    /// The plugin's name, for whom asks what is waited for.
    fn name(&self) -> &'static str;
    /// Whether it can answer.
    fn is_ready(&self) -> bool;
}
