//! `serve_hostname` and `agnhost serve-hostname`: answers with the pod's name.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgAction, Parser};
use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderValue};
use tokio::io::AsyncWriteExt as _;

use crate::{listen, signals};

#[derive(Parser, Debug)]
#[command(about = "Answer with the hostname", disable_version_flag = true)]
struct Args {
    /// The port to listen on
    #[arg(long, default_value_t = 9376)]
    port: u16,
    /// Answer HTTP requests
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    http: bool,
    /// Answer whoever connects by TCP, without HTTP
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    tcp: bool,
    /// Answer UDP packets
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    udp: bool,
    /// Close the connection after each HTTP answer
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    close: bool,
}

/// Go's flags take one dash or two; clap takes two.
pub(crate) fn two_dashes(program: &str, args: &[String]) -> Vec<String> {
    let doubled = args.iter().map(|arg| match arg.strip_prefix('-') {
        Some(rest) if rest.len() > 1 && !rest.starts_with('-') => format!("--{rest}"),
        _ => arg.clone(),
    });
    std::iter::once(program.to_owned()).chain(doubled).collect()
}

pub(crate) async fn run(program: &str, args: &[String]) -> anyhow::Result<ExitCode> {
    let args = Args::try_parse_from(two_dashes(program, args))?;
    let name: Arc<str> = listen::hostname()?.into();
    // As the original: plain TCP takes the port from HTTP, since they share it.
    let tcp = (args.tcp || args.http).then(|| listen::tcp(args.port)).transpose()?;
    let udp = if args.udp { Some(listen::udp(args.port).await?) } else { None };
    let for_udp = name.clone();
    let stream = async move {
        match tcp {
            Some(listener) if args.tcp => serve_tcp(listener, name).await,
            Some(listener) => serve_http(listener, name, args.close).await,
            None => std::future::pending().await,
        }
    };
    let datagrams = async move {
        match udp {
            Some(socket) => serve_udp(&socket, &for_udp).await,
            None => std::future::pending().await,
        }
    };
    signals::serve_until_told(async {
        tokio::select! { result = stream => result, result = datagrams => result }
    })
    .await
}

async fn serve_http(listener: tokio::net::TcpListener, name: Arc<str>, close: bool) -> anyhow::Result<()> {
    listen::http(listener, move |_, peer: SocketAddr| {
        let name = name.clone();
        async move {
            listen::say(format_args!("HTTP request from {peer}"));
            let mut reply = listen::text(StatusCode::OK, format!("{name}\n"));
            if close {
                reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            reply
        }
    })
    .await
}

async fn serve_tcp(listener: tokio::net::TcpListener, name: Arc<str>) -> anyhow::Result<()> {
    listen::accept(listener, move |mut stream, peer| {
        let name = name.clone();
        async move {
            listen::say(format_args!("TCP request from {peer}"));
            // The client may have gone already.
            let _ = stream.write_all(name.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

async fn serve_udp(socket: &tokio::net::UdpSocket, name: &str) -> anyhow::Result<()> {
    let mut packet = [0; 2048];
    loop {
        // Errors here are ICMP answers to earlier replies: the socket itself is fine.
        let Ok((_, peer)) = socket.recv_from(&mut packet).await else { continue };
        listen::say(format_args!("UDP request from {}", listen::plain(peer)));
        let _ = socket.send_to(name.as_bytes(), peer).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_of_the_original() {
        for (args, expected) in [
            (&[][..], (9376, true, false, false)),
            (&["-port=80", "-udp"], (80, true, false, true)),
            (&["--http=false", "--tcp", "--port", "7"], (7, false, true, false)),
        ] {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            let parsed = Args::try_parse_from(two_dashes("x", &args)).unwrap();
            assert_eq!((parsed.port, parsed.http, parsed.tcp, parsed.udp), expected, "{args:?}");
        }
    }
}
