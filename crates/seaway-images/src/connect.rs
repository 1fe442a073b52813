//! `agnhost connect`: one connection, and a word on stderr for what went wrong.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::{duration, serve_hostname::two_dashes};

/// The longest that it waits when no `--timeout` is given.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Parser, Debug)]
#[command(about = "Connect to HOST:PORT", disable_version_flag = true)]
struct Args {
    /// Where to: an address or a name, and a port
    target: String,
    /// How long to wait, such as 1s or 500ms; 0 for as long as it takes
    #[arg(long, value_parser = duration::parse, default_value = "0")]
    timeout: Duration,
    /// tcp, udp or sctp
    #[arg(long, value_enum, default_value = "tcp")]
    protocol: Protocol,
    /// What to send by UDP
    #[arg(long, default_value = "hostname")]
    udp_data: String,
}

/// Why there is no connection, in the words of the original.
#[derive(Debug)]
enum Failure {
    Timeout,
    Refused,
    Dns(io::Error),
    Other(io::Error),
}

impl Failure {
    fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Other(error),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Timeout => f.write_str("TIMEOUT"),
            Self::Refused => f.write_str("REFUSED"),
            Self::Dns(error) => write!(f, "DNS: {error}"),
            Self::Other(error) => write!(f, "OTHER: {error}"),
        }
    }
}

pub(crate) async fn run(args: &[String]) -> anyhow::Result<ExitCode> {
    let args = Args::try_parse_from(two_dashes("connect", args))?;
    let limit = if args.timeout.is_zero() { LONGEST } else { args.timeout };
    let result = timeout(limit, attempt(&args)).await.unwrap_or(Err(Failure::Timeout));
    Ok(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    })
}

async fn attempt(args: &Args) -> Result<(), Failure> {
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host(&args.target).await.map_err(Failure::Dns)?.collect();
    let mut last = Failure::Dns(io::Error::other(format!("no address for {}", args.target)));
    for address in addresses {
        let tried = match args.protocol {
            Protocol::Tcp => TcpStream::connect(address).await.map(drop),
            Protocol::Udp => ask_by_udp(address, args.udp_data.as_bytes()).await,
            Protocol::Sctp => Err(io::Error::other("SCTP is not built in")),
        };
        match tried {
            Ok(()) => return Ok(()),
            Err(error) => last = Failure::of(error),
        }
    }
    Err(last)
}

async fn ask_by_udp(address: SocketAddr, data: &[u8]) -> io::Result<()> {
    let any: SocketAddr = if address.is_ipv6() { ([0; 16], 0).into() } else { ([0; 4], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    socket.send(data).await?;
    let mut reply = [0; 2048];
    socket.recv(&mut reply).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(target: String, protocol: &str) -> Args {
        let line = ["connect", &target, "--protocol", protocol, "--timeout=1s"];
        Args::try_parse_from(line).unwrap()
    }

    #[tokio::test]
    async fn failures_have_the_words_of_the_original() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().to_string();
        assert!(attempt(&args(open.clone(), "tcp")).await.is_ok());
        drop(listener);
        let refused = attempt(&args(open.clone(), "tcp")).await.unwrap_err();
        assert_eq!(refused.to_string(), "REFUSED");
        let refused = attempt(&args(open, "udp")).await.unwrap_err();
        assert_eq!(refused.to_string(), "REFUSED");
        let dns = attempt(&args("no port".to_owned(), "tcp")).await.unwrap_err();
        assert!(dns.to_string().starts_with("DNS: "), "{dns}");
    }
}
