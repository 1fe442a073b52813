//! What listens at the server.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use seaway_net::netns::NetNs;

use crate::world::SERVER;

/// HTTP: answers with who asks and what it was sent.
pub(crate) const HTTP: u16 = 80;
/// TCP: says what is not HTTP.
pub(crate) const NO_HTTP: u16 = 90;
/// TCP: says nothing.
pub(crate) const SILENT: u16 = 91;
/// UDP: answers as agnhost's netexec, after who asks; to the first datagram of each client not at all.
pub(crate) const ECHO: u16 = 7;

/// Starts all in `ns`.
pub(crate) fn start(ns: &NetNs) {
    for address in SERVER {
        tcp(ns, address, HTTP, answer_http);
        tcp(ns, address, NO_HTTP, |mut stream| stream.write_all(b"220 ready\r\n\r\n").unwrap_or_default());
        tcp(ns, address, SILENT, |stream| {
            let _ = BufReader::new(stream).lines().count();
        });
        let mut seen = Vec::new();
        udp(ns, address, ECHO, move |datagram, from| {
            let is_second = seen.contains(&from);
            seen.push(from);
            let text = std::str::from_utf8(datagram).ok()?.strip_prefix("echo ")?;
            is_second.then(|| format!("{from} {text}").into_bytes())
        });
        udp(ns, address, 53, |query, _| answer_dns(query));
    }
}

fn tcp(ns: &NetNs, address: &str, port: u16, serve: fn(TcpStream)) {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    let listener = ns.run(|| TcpListener::bind(address)).unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
}

fn udp(
    ns: &NetNs,
    address: &str,
    port: u16,
    mut answer: impl FnMut(&[u8], SocketAddr) -> Option<Vec<u8>> + Send + 'static,
) {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    let socket = ns.run(|| UdpSocket::bind(address)).unwrap().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((read, from)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = answer(&buffer[..read], from) {
                socket.send_to(&answer, from).unwrap();
            }
        }
    });
}

fn answer_http(mut stream: TcpStream) {
    let peer = stream.peer_addr().unwrap();
    let lines: Vec<String> = BufReader::new(&stream)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .map(|line| match line.strip_prefix("X-Padding: ") {
            Some(padding) => format!("padding {}", padding.len()),
            None => line,
        })
        .collect();
    let body = format!("{peer}\n{}", lines.join("\n"));
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nServer: test\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}

/// `web.test` and `next.test` have both kinds of addresses, and `next.test`'s IPv6 one is unreachable; `slow.test` gets no
/// answer, and what else there is in it no name.
fn answer_dns(query: &[u8]) -> Option<Vec<u8>> {
    let labels = query.get(12..)?;
    let end = labels.iter().position(|&byte| byte == 0)?;
    let kind = *labels.get(end + 2)?;
    let name = labels[..end].to_ascii_lowercase();
    let good = "2001:db8:9::1";
    let v6: Option<Ipv6Addr> = match &name[..] {
        b"\x03web\x04test" => good.parse().ok(),
        b"\x04next\x04test" => "2001:db8:98::1".parse().ok(),
        b"\x04slow\x04test" => return None,
        _ => None,
    };
    let data = match kind {
        1 if v6.is_some() => Ipv4Addr::new(10, 9, 0, 1).octets().to_vec(),
        28 => v6.map(|ip| ip.octets().to_vec()).unwrap_or_default(),
        _ => vec![],
    };
    let mut answer = query.get(..12 + end + 5)?.to_vec();
    let code = if v6.is_some() { 0 } else { 3 };
    answer[2..12].copy_from_slice(&[0x85, 0x80 | code, 0, 1, 0, u8::from(!data.is_empty()), 0, 0, 0, 0]);
    if !data.is_empty() {
        // The question's name again, type, class IN, a minute.
        answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, u8::try_from(data.len()).ok()?]);
        answer.extend(data);
    }
    Some(answer)
}
