//! DNS over UDP.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use super::{MAX_QUERY, Routes, reply_to};
use crate::message::Transport;

/// Queries that wait for something at a time, for each worker; what comes beyond them is dropped, and asked again.
const MAX_WAITING: usize = 10_000;

/// Answers what comes to `socket`, for ever.
pub(super) async fn serve(socket: Arc<UdpSocket>, routes: Routes) {
    let waiting = Arc::new(Semaphore::new(MAX_WAITING));
    let mut buffer = vec![0; MAX_QUERY];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // The kernel tells of an earlier reply that could not be delivered; and nothing that stays.
                tracing::debug!(%error, "receiving a query over UDP");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let work = one(socket.clone(), routes.clone(), buffer[..length].to_vec(), client);
        let mut work = Box::pin(work);
        // Most answers are there at once: no task for them.
        let done = std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context).is_ready())).await;
        if !done && let Ok(permit) = waiting.clone().try_acquire_owned() {
            tokio::spawn(async move {
                work.await;
                drop(permit);
            });
        }
    }
}

async fn one(socket: Arc<UdpSocket>, routes: Routes, query: Vec<u8>, client: SocketAddr) {
    if let Some(reply) = reply_to(&query, client, Transport::Udp, &routes).await
        && let Err(error) = socket.send_to(&reply, client).await
    {
        tracing::debug!(%client, %error, "sending a reply over UDP");
    }
}
