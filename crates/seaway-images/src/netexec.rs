//! `agnhost netexec`: a server that tells who asks it, and how.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use tokio::net::UdpSocket;
use tokio::time::sleep;

use crate::listen::{self, Reply, query, text};
use crate::serve_hostname::two_dashes;
use crate::{duration, signals};

#[derive(Parser, Debug)]
#[command(about = "Answer HTTP and UDP requests about themselves", disable_version_flag = true)]
struct Args {
    /// The HTTP port
    #[arg(long, default_value_t = 8080)]
    http_port: u16,
    /// The UDP port; -1 for none
    #[arg(long, default_value_t = 8081, allow_negative_numbers = true)]
    udp_port: i32,
}

pub(crate) async fn run(args: &[String]) -> anyhow::Result<ExitCode> {
    let args = Args::try_parse_from(two_dashes("netexec", args))?;
    let name: Arc<str> = listen::hostname()?.into();
    let listener = listen::tcp(args.http_port)?;
    let socket = match u16::try_from(args.udp_port) {
        Ok(port) => Some(listen::udp(port).await?),
        Err(_) => None,
    };
    listen::say(format_args!("Started HTTP server on port {}", args.http_port));
    let for_udp = name.clone();
    let web = listen::http(listener, move |request, peer| answer(request, peer, name.clone()));
    let datagrams = async move {
        match socket {
            Some(socket) => serve_udp(&socket, &for_udp).await,
            None => std::future::pending().await,
        }
    };
    signals::serve_until_told(async {
        tokio::select! { result = web => result, result = datagrams => result }
    })
    .await
}

async fn answer(request: Request<Incoming>, peer: SocketAddr, name: Arc<str>) -> Reply {
    let path = request.uri().path();
    listen::say(format_args!("{peer} {} {path}", request.method()));
    match path {
        "/" => text(StatusCode::OK, format!("NOW: {}", jiff::Timestamp::now())),
        "/hostname" | "/hostName" => text(StatusCode::OK, name.to_string()),
        "/clientip" => text(StatusCode::OK, peer.to_string()),
        "/echo" => {
            let status =
                query(&request, "code").and_then(|code| StatusCode::from_bytes(code.as_bytes()).ok());
            text(status.unwrap_or(StatusCode::OK), query(&request, "msg").unwrap_or_default())
        }
        "/header" => header(&request),
        "/healthz" => text(StatusCode::OK, ""),
        "/exit" => exit(&request).await,
        "/shell" => text(StatusCode::NOT_IMPLEMENTED, "there is no /shell here: use kubectl exec\n"),
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// `/header?key=NAME`: the request's own header of that name.
fn header(request: &Request<Incoming>) -> Reply {
    let key = query(request, "key").unwrap_or_default();
    let value = request.headers().get(&key).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text(StatusCode::OK, value.to_owned())
}

/// `/exit?code=N&wait=DURATION`: ends the program, as a crash would.
async fn exit(request: &Request<Incoming>) -> Reply {
    let code = match query(request, "code").unwrap_or_else(|| "0".to_owned()).parse::<u8>() {
        Ok(code) => code,
        Err(_) => return text(StatusCode::BAD_REQUEST, "code must be from 0 to 255\n"),
    };
    let wait = match query(request, "wait").as_deref().map(duration::parse).transpose() {
        Ok(wait) => wait.unwrap_or(Duration::ZERO),
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    sleep(wait).await;
    std::process::exit(i32::from(code))
}

async fn serve_udp(socket: &UdpSocket, name: &str) -> anyhow::Result<()> {
    let mut packet = vec![0; 65_536];
    loop {
        // Errors here are ICMP answers to earlier replies: the socket itself is fine.
        let Ok((length, peer)) = socket.recv_from(&mut packet).await else { continue };
        let Some(reply) = udp_reply(&packet[..length], listen::plain(peer), name) else { continue };
        let _ = socket.send_to(&reply, peer).await;
    }
}

/// The commands are `hostname`, `clientip` and `echo TEXT`; others get no answer.
fn udp_reply(packet: &[u8], peer: SocketAddr, name: &str) -> Option<Vec<u8>> {
    let line = packet.trim_ascii();
    if line.eq_ignore_ascii_case(b"hostname") {
        Some(name.as_bytes().to_vec())
    } else if line.eq_ignore_ascii_case(b"clientip") {
        Some(peer.to_string().into_bytes())
    } else {
        let word = line.get(..5)?;
        word.eq_ignore_ascii_case(b"echo ").then(|| line[5..].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_commands() {
        let peer: SocketAddr = "10.0.0.1:7".parse().unwrap();
        for (packet, expected) in [
            ("hostname\n", Some("web-0")),
            ("hostName", Some("web-0")),
            ("clientip", Some("10.0.0.1:7")),
            ("echo hello world\n", Some("hello world")),
            ("what", None),
            ("", None),
        ] {
            let reply = udp_reply(packet.as_bytes(), peer, "web-0");
            assert_eq!(reply.as_deref(), expected.map(str::as_bytes), "{packet:?}");
        }
    }
}
