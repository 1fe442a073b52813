//! A packet as a line.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use seaway_observe::api::{Captured, IpPacket, Packet, Tcp};
use serde::Serialize;

/// The bytes of a packet.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

#[derive(Serialize)]
struct Line<'a> {
    place: &'a str,
    interface: &'a str,
    #[serde(flatten)]
    packet: Packet,
}

/// A JSON object in a line: a packet as an observer tells it, with its `place` and `interface`.
pub(super) fn json(
    place: &str,
    interface: &str,
    captured: &Captured,
    data: &[u8],
) -> serde_json::Result<String> {
    let parsed = seaway_observe::parse(data);
    let (length, ip, outer) =
        parsed.map_or_else(Default::default, |parsed| (parsed.length, parsed.ip, parsed.outer));
    let packet =
        Packet { time: captured.time, link: captured.link.clone(), out: captured.out, length, ip, outer };
    serde_json::to_string(&Line { place, interface, packet })
}

/// `12:00:00.000001234 node-1/eth0 > 10.0.0.1:4000 10.0.0.2:80 tcp S seq 1 length 60`, the time in UTC.
pub(super) fn text(interface: &str, captured: &Captured, data: &[u8]) -> String {
    let (seconds, fraction) = (captured.time / 1_000_000_000 % 86_400, captured.time % 1_000_000_000);
    let sign = if captured.out { '>' } else { '<' };
    let mut line = format!(
        "{:02}:{:02}:{:02}.{fraction:09} {interface} {sign}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    let Some(parsed) = seaway_observe::parse(data) else { return line };
    headers(&mut line, &parsed.ip);
    let _ = write!(line, " length {}", parsed.length);
    if let Some(outer) = parsed.outer {
        let show = |address: Option<IpAddr>| address.map(|it| it.to_string()).unwrap_or_default();
        let _ =
            write!(line, " (in VXLAN {} {} > {})", outer.vni, show(outer.source), show(outer.destination));
    }
    line
}

fn headers(line: &mut String, ip: &IpPacket) {
    let end = |address: Option<IpAddr>, port: Option<u16>| match (address, port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, _) => "?".to_owned(),
    };
    let _ =
        write!(line, " {} > {}", end(ip.source, ip.source_port), end(ip.destination, ip.destination_port));
    match (&ip.tcp, &ip.icmp, ip.protocol) {
        (Some(tcp), ..) => {
            let _ = write!(line, " tcp {} seq {}", flags(tcp), tcp.sequence);
        }
        (_, Some(icmp), _) => {
            let _ = write!(line, " icmp type {} code {}", icmp.kind, icmp.code);
            if let Some(about) = &icmp.about {
                line.push_str(" about");
                headers(line, about);
            }
        }
        (.., 17) => line.push_str(" udp"),
        (.., protocol) => {
            let _ = write!(line, " protocol {protocol}");
        }
    }
    if let Some(dns) = &ip.dns {
        let what = if dns.response { dns.rcode.as_str() } else { "query" };
        let _ = write!(line, " dns {what} {} {}", dns.kind, dns.name);
        for answer in &dns.answers {
            let _ = write!(line, " {} {}", answer.kind, answer.data);
        }
    }
}

fn flags(tcp: &Tcp) -> String {
    let all = [(tcp.syn, 'S'), (tcp.fin, 'F'), (tcp.rst, 'R'), (tcp.ack, '.')];
    all.iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect()
}
