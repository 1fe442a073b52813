//! The internet's resolver on UDP and TCP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::zone::Zone;

/// TCP connections served at a time.
const CONNECTIONS: usize = 64;
/// How long a client may take for a question by TCP and for taking its answer (RFC 7766, section 6.2.3, leaves the choice to
/// the server).
const PATIENCE: Duration = Duration::from_secs(10);

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
        // Errors here are ICMP answers to earlier replies: the socket itself is fine.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(reply) = reply(&zone, &buffer[..length], Zone::answer_by_udp) else { continue };
        if let Err(error) = socket.send_to(&reply, from).await {
            tracing::debug!(%from, %error, "answer not sent");
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Zone>) {
    seaway_http::accept(listener, CONNECTIONS, |mut stream, _, _| {
        let zone = zone.clone();
        async move { while let Ok(Ok(true)) = timeout(PATIENCE, exchange(&mut stream, &zone)).await {} }
    })
    .await;
}

/// Answers one message, with its length before it (RFC 1035, section 4.2.2); false where it deserves no answer.
async fn exchange(stream: &mut TcpStream, zone: &Zone) -> io::Result<bool> {
    let length = stream.read_u16().await?;
    let mut query = vec![0; length.into()];
    stream.read_exact(&mut query).await?;
    let Some(reply) = reply(zone, &query, Zone::answer) else { return Ok(false) };
    let Ok(length) = u16::try_from(reply.len()) else { return Ok(false) };
    stream.write_u16(length).await?;
    stream.write_all(&reply).await?;
    Ok(true)
}

fn reply(zone: &Zone, query: &[u8], answer: fn(&Zone, &Message) -> Option<Message>) -> Option<Vec<u8>> {
    let request = Message::from_vec(query).ok()?;
    answer(zone, &request)?.to_vec().ok()
}
