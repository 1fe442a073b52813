//! What a server block serves: `[dns://]ZONE[:PORT]`.

use ipnet::IpNet;

use super::{CorefileError, Word};
use crate::name::ZoneName;

/// Transports that CoreDNS has and this server does not have yet.
const OTHER_TRANSPORTS: [&str; 6] = ["tls", "quic", "grpc", "https", "https3", "unix"];

/// A server block's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The zone.
    pub(crate) zone: ZoneName,
    /// The port; the command line's where there is none.
    pub(crate) port: Option<u16>,
}

impl Address {
    /// Reads one; a network in CIDR notation stands for its reverse zones.
    pub(crate) fn parse(word: &Word) -> Result<Vec<Self>, CorefileError> {
        let rest = match word.text.split_once("://") {
            None => word.text.as_str(),
            Some(("dns", rest)) => rest,
            Some((other, _)) if OTHER_TRANSPORTS.contains(&other) => {
                return Err(CorefileError::at(
                    word,
                    format!("the transport {other}:// is not supported yet"),
                )
                .help("accepted: dns://"));
            }
            Some((other, _)) => {
                return Err(
                    CorefileError::at(word, format!("unknown transport {other}://")).help("accepted: dns://")
                );
            }
        };
        let (zone, port) = match rest.rsplit_once(':') {
            // The colons of an IPv6 network end at its prefix length or its closing bracket.
            Some((zone, port)) if !port.contains(['/', ']']) => {
                let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| {
                    CorefileError::at(word, format!("`{port}` is no port")).help("accepted: 1 to 65535")
                })?;
                (zone, Some(port))
            }
            _ => (rest, None),
        };
        Ok(zones(word, zone)?.into_iter().map(|zone| Self { zone, port }).collect())
    }
}

/// The zone `text`, or the reverse zones of the network `text`; empty is the root.
pub(crate) fn zones(word: &Word, text: &str) -> Result<Vec<ZoneName>, CorefileError> {
    let text = text.trim_start_matches('[').trim_end_matches(']');
    if text.contains('/') {
        let network: IpNet = text.parse().map_err(|_| {
            CorefileError::at(word, format!("`{text}` is neither a zone nor a network"))
                .help("a network is written like 10.244.0.0/16")
        })?;
        return Ok(ZoneName::reverse_of(network));
    }
    let zone = ZoneName::parse(text)
        .map_err(|reason| CorefileError::at(word, format!("`{text}` is no zone: {reason}")))?;
    Ok(vec![zone])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile::args::tests::word;

    #[test]
    fn addresses() {
        for (text, zones, port) in [
            (".", &["."][..], None),
            (".:53", &["."], Some(53)),
            (":1053", &["."], Some(1053)),
            ("dns://Example.ORG:5353", &["example.org."], Some(5353)),
            ("cluster.local.", &["cluster.local."], None),
            ("10.0.0.0/8", &["10.in-addr.arpa."], None),
            ("192.0.2.0/23:53", &["2.0.192.in-addr.arpa.", "3.0.192.in-addr.arpa."], Some(53)),
            ("2001:db8::/32", &["8.b.d.0.1.0.0.2.ip6.arpa."], None),
        ] {
            let read = Address::parse(&word(text)).unwrap();
            assert_eq!(read.iter().map(|a| a.zone.to_string()).collect::<Vec<_>>(), zones, "{text}");
            assert!(read.iter().all(|a| a.port == port), "{text}");
        }
        for (text, reason) in [
            ("tls://.:853", "not supported yet"),
            ("dsn://.", "unknown transport"),
            (".:0", "no port"),
            (".:x", "no port"),
            ("a..b", "no zone"),
            ("10.0.0.0/99", "neither"),
        ] {
            let error = Address::parse(&word(text)).unwrap_err();
            assert!(error.message().contains(reason), "{text}: {error}");
        }
    }
}
