//! A host's web server: it answers with the caller's address as it sees it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpSocket};

struct Site {
    name: String,
    allow: Option<Vec<IpNet>>,
}

pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

pub(super) async fn serve(listener: TcpListener, name: String, allow: Option<Vec<IpNet>>) {
    let site = Arc::new(Site { name, allow });
    let app = Router::new().fallback(who_am_i).with_state(site);
    seaway_http::serve(listener, app).await;
}

async fn who_am_i(
    State(site): State<Arc<Site>>,
    ConnectInfo(caller): ConnectInfo<SocketAddr>,
) -> impl IntoResponse {
    // An IPv4 caller of a socket for both families has an address within ::ffff:0:0/96 (RFC 4291, section 2.5.5.2).
    let caller = caller.ip().to_canonical();
    let headers = [(header::SERVER, site.name.clone())];
    if is_allowed(site.allow.as_deref(), caller) {
        (StatusCode::OK, headers, format!("{caller}\n"))
    } else {
        (StatusCode::FORBIDDEN, headers, format!("{caller} is not on the allow list of {}\n", site.name))
    }
}

fn is_allowed(allow: Option<&[IpNet]>, caller: IpAddr) -> bool {
    allow.is_none_or(|networks| networks.iter().any(|network| network.contains(&caller)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_sources_are_served_where_there_is_a_list() {
        let list = ["203.0.113.10/32".parse().unwrap(), "2001:db8::/64".parse().unwrap()];
        let caller = |text: &str| text.parse().unwrap();
        assert!(is_allowed(None, caller("198.51.100.1")));
        assert!(is_allowed(Some(&list), caller("203.0.113.10")));
        assert!(!is_allowed(Some(&list), caller("203.0.113.11")));
        assert!(is_allowed(Some(&list), caller("2001:db8::7")));
        assert!(!is_allowed(Some(&list), caller("2001:db8:1::7")));
        assert!(!is_allowed(Some(&[]), caller("203.0.113.10")));
    }
}
