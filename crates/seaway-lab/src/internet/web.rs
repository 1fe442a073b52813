//! A host's web server: it answers with the caller's address as it sees it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use ipnet::Ipv4Net;
use tokio::net::{TcpListener, TcpSocket};

struct Site {
    name: String,
    allow: Option<Vec<Ipv4Net>>,
}

pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

pub(super) async fn serve(listener: TcpListener, name: String, allow: Option<Vec<Ipv4Net>>) {
    let site = Arc::new(Site { name, allow });
    let app = Router::new().fallback(who_am_i).with_state(site);
    seaway_http::serve(listener, app).await;
}

async fn who_am_i(
    State(site): State<Arc<Site>>,
    ConnectInfo(caller): ConnectInfo<SocketAddr>,
) -> impl IntoResponse {
    let caller = caller.ip();
    let headers = [(header::SERVER, site.name.clone())];
    if is_allowed(site.allow.as_deref(), caller) {
        (StatusCode::OK, headers, format!("{caller}\n"))
    } else {
        (StatusCode::FORBIDDEN, headers, format!("{caller} is not on the allow list of {}\n", site.name))
    }
}

fn is_allowed(allow: Option<&[Ipv4Net]>, caller: IpAddr) -> bool {
    match (allow, caller) {
        (None, _) => true,
        (Some(networks), IpAddr::V4(caller)) => networks.iter().any(|network| network.contains(&caller)),
        (Some(_), IpAddr::V6(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_sources_are_served_where_there_is_a_list() {
        let list = ["203.0.113.10/32".parse().unwrap()];
        let caller = |text: &str| text.parse().unwrap();
        assert!(is_allowed(None, caller("198.51.100.1")));
        assert!(is_allowed(Some(&list), caller("203.0.113.10")));
        assert!(!is_allowed(Some(&list), caller("203.0.113.11")));
        assert!(!is_allowed(Some(&[]), caller("203.0.113.10")));
    }
}
