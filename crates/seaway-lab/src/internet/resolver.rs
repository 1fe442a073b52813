//! The internet's resolver on UDP and TCP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::zone::Zone;

/// TCP connections served at a time.
const CONNECTIONS: usize = 64;
/// How long a TCP connection may be silent (RFC 7766, section 6.2.3, leaves the choice to the server).
const IDLE: Duration = Duration::from_secs(10);

/// The resolver's sockets.
pub(super) struct Resolver {
    udp: UdpSocket,
    tcp: TcpListener,
    zone: Arc<Zone>,
}

pub(super) async fn bind(address: SocketAddr, zone: Zone) -> io::Result<Resolver> {
    let udp = UdpSocket::bind(address).await?;
    let tcp = TcpListener::bind(address).await?;
    Ok(Resolver { udp, tcp, zone: Arc::new(zone) })
}

impl Resolver {
    pub(super) async fn serve(self) {
        let Self { udp, tcp, zone } = self;
        tokio::join!(serve_udp(udp, zone.clone()), serve_tcp(tcp, zone));
    }
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Zone>) {
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(reply) = reply(&zone, &buffer[..length]) else { continue };
        if let Err(error) = socket.send_to(&reply, from).await {
            tracing::debug!(%from, %error, "answer not sent");
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Zone>) {
    let limit = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (zone, Ok(permit)) = (zone.clone(), limit.clone().acquire_owned().await) else { continue };
        tokio::spawn(async move {
            let _permit = permit;
            serve_connection(stream, &zone).await
        });
    }
}

/// Answers the messages of one connection, each behind its length (RFC 1035, section 4.2.2).
async fn serve_connection(mut stream: TcpStream, zone: &Zone) -> io::Result<()> {
    loop {
        let length = tokio::time::timeout(IDLE, stream.read_u16()).await??;
        let mut query = vec![0; length.into()];
        tokio::time::timeout(IDLE, stream.read_exact(&mut query)).await??;
        let Some(reply) = reply(zone, &query) else { return Ok(()) };
        stream.write_u16(u16::try_from(reply.len()).unwrap_or(u16::MAX)).await?;
        stream.write_all(&reply).await?;
    }
}

fn reply(zone: &Zone, query: &[u8]) -> Option<Vec<u8>> {
    let request = Message::from_vec(query).ok()?;
    zone.answer(&request)?.to_vec().ok()
}
