//! Names as text: lower case, with a final dot, so that they compare as bytes.

use std::fmt;
use std::net::IpAddr;

use hickory_proto::rr::Name;
use ipnet::IpNet;

/// A zone's name in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ZoneName {
    /// The name in lower case with its final dot.
    text: Box<str>,
    name: Name,
}

impl ZoneName {
    /// Reads a zone; empty and `.` are the root.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut absolute = text.to_ascii_lowercase();
        if !absolute.ends_with('.') {
            absolute.push('.');
        }
        let name = Name::from_ascii(&absolute).map_err(|error| error.to_string())?;
        Ok(Self { text: lower_text(&name).into(), name })
    }

    /// The reverse zones that make up `network`: its prefix is lengthened to the next octet (IPv4) or nibble (IPv6).
    pub fn reverse_of(network: IpNet) -> Vec<Self> {
        let step = if network.addr().is_ipv4() { 8 } else { 4 };
        let length = network.prefix_len().div_ceil(step) * step;
        let Ok(parts) = network.trunc().subnets(length) else { return Vec::new() };
        parts
            .filter_map(|part| {
                let full = reverse_name(part.addr());
                let labels = full.split('.').count() - 1;
                let host = usize::from((part.max_prefix_len() - length) / step);
                let kept: Vec<&str> = full.split('.').take(labels).skip(host).collect();
                Self::parse(&kept.join(".")).ok()
            })
            .collect()
    }

    /// The name in lower case with its final dot.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Whether `name`, as [`lower_text`] makes it, is in the zone.
    pub fn contains(&self, name: &str) -> bool {
        self.below(name).is_some()
    }

    /// What of `name`, as [`lower_text`] makes it, is left of the zone: empty for the zone itself, without the dot
    /// between them else; `None` for a name outside of it.
    pub fn below<'a>(&self, name: &'a str) -> Option<&'a str> {
        if *self.text == *"." {
            return Some(name.strip_suffix('.').unwrap_or(name));
        }
        let rest = name.strip_suffix(&*self.text)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
    }

    /// A reverse zone, below `in-addr.arpa.` or `ip6.arpa.` or one of them.
    pub fn is_reverse(&self) -> bool {
        ["in-addr.arpa.", "ip6.arpa."].iter().any(|suffix| {
            self.text.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    }

    /// The longest of `zones` that `name` is in.
    pub fn longest<'a>(zones: impl IntoIterator<Item = &'a Self>, name: &str) -> Option<&'a Self> {
        zones.into_iter().filter(|zone| zone.contains(name)).max_by_key(|zone| zone.text.len())
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `name` in lower case with its final dot. A byte that no host name has is written `\DDD` (RFC 1035, section 5.1), so
/// that a dot always separates labels.
pub fn lower_text(name: &Name) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(name.len() + 1);
    for label in name.iter() {
        for &byte in label {
            match byte {
                b'A'..=b'Z' => text.push(char::from(byte.to_ascii_lowercase())),
                b'!'..=b'~' if !matches!(byte, b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'$') => {
                    text.push(char::from(byte));
                }
                _ => {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "\\{byte:03}");
                }
            }
        }
        text.push('.');
    }
    if text.is_empty() {
        text.push('.');
    }
    text
}

/// The name at which the PTR record of `ip` stands (RFC 1035, section 3.5; RFC 3596, section 2.5).
pub fn reverse_name(ip: IpAddr) -> String {
    use std::fmt::Write as _;
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(ip) => {
            let mut text = String::with_capacity(73);
            for byte in ip.octets().iter().rev() {
                let _ = write!(text, "{:x}.{:x}.", byte & 15, byte >> 4);
            }
            text + "ip6.arpa."
        }
    }
}

/// The address whose PTR record stands at `name`, as [`lower_text`] makes it; `None` for any other name.
pub fn address_of_reverse(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa.") {
        let mut octets = [0u8; 4];
        let mut labels = rest.split('.');
        for octet in octets.iter_mut().rev() {
            let label = labels.next()?;
            *octet = label.parse().ok()?;
            if label.len() > 1 && label.starts_with(['0', '+']) {
                return None;
            }
        }
        return labels.next().is_none().then(|| octets.into());
    }
    let rest = name.strip_suffix(".ip6.arpa.")?;
    let mut octets = [0u8; 16];
    let mut labels = rest.split('.');
    for octet in octets.iter_mut().rev() {
        *octet = nibble(labels.next()?)? | nibble(labels.next()?)? << 4;
    }
    labels.next().is_none().then(|| octets.into())
}

fn nibble(label: &str) -> Option<u8> {
    let [digit] = label.as_bytes() else { return None };
    char::from(*digit).to_digit(16).and_then(|n| u8::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_and_names() {
        let zone = |text| ZoneName::parse(text).unwrap();
        for (z, name, below) in [
            (".", "a.b.", Some("a.b")),
            (".", ".", Some("")),
            ("Cluster.Local", "cluster.local.", Some("")),
            ("cluster.local.", "x.y.cluster.local.", Some("x.y")),
            ("cluster.local", "xcluster.local.", None),
            ("cluster.local", "local.", None),
        ] {
            assert_eq!(zone(z).below(name), below, "{name} in {z}");
        }
        let zones = [zone("."), zone("b.example"), zone("a.b.example")];
        for (name, longest) in [("x.a.b.example.", 2), ("b.example.", 1), ("example.", 0)] {
            assert_eq!(ZoneName::longest(&zones, name), Some(&zones[longest]));
        }
        assert!(zone("10.in-addr.arpa").is_reverse() && zone("ip6.arpa").is_reverse());
        assert!(!zone("xin-addr.arpa").is_reverse() && !zone(".").is_reverse());
    }

    #[test]
    fn odd_bytes_never_look_like_dots() {
        let name = Name::from_labels([&b"A.b"[..], b"\xff\\", b"C_1"]).unwrap();
        assert_eq!(lower_text(&name), "a\\046b.\\255\\092.c_1.");
        assert_eq!(lower_text(&Name::root()), ".");
    }

    #[test]
    fn reverse_names() {
        for ip in ["10.0.255.1", "0.0.0.0", "2001:db8::1", "::"] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(address_of_reverse(&reverse_name(ip)), Some(ip));
        }
        assert_eq!(reverse_name([192, 0, 2, 1].into()), "1.2.0.192.in-addr.arpa.");
        for bad in [
            "1.2.3.in-addr.arpa.",
            "1.2.3.4.5.in-addr.arpa.",
            "256.1.1.1.in-addr.arpa.",
            "in-addr.arpa.",
            "01.2.3.4.in-addr.arpa.",
            "x.ip6.arpa.",
            "1.ip6.arpa.",
            "a.example.",
        ] {
            assert_eq!(address_of_reverse(bad), None, "{bad}");
        }
    }
}
