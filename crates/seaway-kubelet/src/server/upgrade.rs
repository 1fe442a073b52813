//! Requests that become something else than HTTP: a WebSocket or a SPDY connection.

use axum::body::Body;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts as _, Request};
use axum::http::header::{CONNECTION, HeaderMap, HeaderName, UPGRADE};
use axum::http::{Response as HttpResponse, StatusCode};
use axum::response::{IntoResponse as _, Response};
use hyper_util::rt::TokioIo;
use seaway_http::Place;
use seaway_spdy::Connection;

/// The largest message of a WebSocket.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// How SPDY is called in `Upgrade`.
const SPDY: &str = "SPDY/3.1";
/// The subprotocols that a client has, and in the answer the one that is spoken.
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What a client could have asked for, where it asked for nothing known.
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// The subprotocols of an endpoint, the better ones first.
pub(super) struct Protocols {
    pub websocket: &'static [&'static str],
    pub spdy: &'static [&'static str],
}

/// What the request has become, and the subprotocol that both sides speak.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(super) enum Upgraded {
    WebSocket(WebSocket, &'static str),
    Spdy(Connection, &'static str),
}

/// Answers with the upgrade that the request asks for, or says why not; `serve` gets the connection, which keeps its place
/// among the server's until the session ends.
pub(super) async fn upgrade<F, Fut>(request: Request, protocols: &Protocols, serve: F) -> Response
where
    F: FnOnce(Upgraded) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let place = request.extensions().get::<Place>().cloned();
    let serve = async move |upgraded| {
        serve(upgraded).await;
        drop(place);
    };
    let wants_spdy =
        request.headers().get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(SPDY.as_bytes()));
    if wants_spdy { spdy(request, protocols.spdy, serve) } else { websocket(request, protocols, serve).await }
}

async fn websocket<F, Fut>(request: Request, protocols: &Protocols, serve: F) -> Response
where
    F: FnOnce(Upgraded) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (mut parts, _) = request.into_parts();
    let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await else {
        let problem = format!("you must upgrade to a WebSocket or to {SPDY}\n");
        return (StatusCode::BAD_REQUEST, problem).into_response();
    };
    let upgrade = upgrade.protocols(protocols.websocket.iter().copied()).max_message_size(MAX_MESSAGE);
    let selected = upgrade.selected_protocol().and_then(|selected| selected.to_str().ok());
    let Some(&protocol) = protocols.websocket.iter().find(|known| selected == Some(**known)) else {
        let problem =
            format!("the WebSocket needs a subprotocol out of: {}\n", protocols.websocket.join(", "));
        return (StatusCode::BAD_REQUEST, problem).into_response();
    };
    upgrade.on_upgrade(move |socket| serve(Upgraded::WebSocket(socket, protocol)))
}

fn spdy<F, Fut>(mut request: Request, protocols: &'static [&'static str], serve: F) -> Response
where
    F: FnOnce(Upgraded) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let Some(protocol) = negotiate(request.headers(), protocols) else {
        let problem = format!("unable to upgrade: the subprotocols here are {}\n", protocols.join(", "));
        return (StatusCode::FORBIDDEN, [(ACCEPTED_VERSIONS, protocols.join(", "))], problem).into_response();
    };
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrading.await {
            Ok(stream) => serve(Upgraded::Spdy(Connection::serve(TokioIo::new(stream)), protocol)).await,
            Err(error) => tracing::debug!(%error, "an upgrade to SPDY was not taken up"),
        }
    });
    let answer = HttpResponse::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, SPDY)
        .header(PROTOCOL_VERSION, protocol)
        .body(Body::empty());
    answer.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// The first of the client's subprotocols that is known here. They come in one header or in several.
fn negotiate(headers: &HeaderMap, known: &'static [&'static str]) -> Option<&'static str> {
    let values = headers.get_all(PROTOCOL_VERSION).into_iter().filter_map(|value| value.to_str().ok());
    let mut offered = values.flat_map(|value| value.split(',')).map(str::trim);
    offered.find_map(|offer| known.iter().copied().find(|protocol| *protocol == offer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_both_have_is_spoken() {
        const KNOWN: &[&str] = &["v4", "v3"];
        for (offers, expected) in [
            (&["v5", "v4", "v3"][..], Some("v4")),
            (&["v5, v3,v4"], Some("v3")),
            (&["v5"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for offer in offers {
                headers.append(PROTOCOL_VERSION, offer.parse().unwrap());
            }
            assert_eq!(negotiate(&headers, KNOWN), expected, "{offers:?}");
        }
    }
}
