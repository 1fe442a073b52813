//! The observer over HTTP.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::api::{Capture, Observe, PacketFilter, RouteQuery, Select, Started, Tuple};
use crate::{Error, Observer, inspect, route as routes, stream};

/// Tuples that one request may ask for.
const MOST_TUPLES: usize = 4096;

/// What [`crate::api`] tells of.
pub fn router(observer: Observer) -> Router {
    Router::new()
        .route("/v1/links", get(links))
        .route("/v1/route", post(route))
        .route("/v1/connections", get(all_connections).post(connections))
        .route("/v1/observations", post(start))
        .route("/v1/observations/{id}", axum::routing::delete(end))
        .route("/v1/observations/{id}/packets", post(packets).put(want))
        .route("/v1/observations/{id}/rules", get(rules))
        .route("/v1/capture", post(capture))
        .with_state(observer)
}

/// Answers with what `work`, which may block, finds in the observer's namespace.
async fn inside<T: Serialize + Send + 'static>(
    observer: Observer,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Response {
    blocking(move || observer.namespace().run(work).map_err(Error::Namespace)?).await
}

async fn blocking<T: Serialize + Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(found)) => Json(found).into_response(),
        Ok(Err(error)) => refusal(&error),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the observer failed\n").into_response(),
    }
}

fn refusal(error: &Error) -> Response {
    let status = match error {
        Error::Request(_) => StatusCode::BAD_REQUEST,
        Error::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
        Error::NotFound(_) => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, format!("{error}\n")).into_response()
}

async fn links(State(observer): State<Observer>) -> Response {
    inside(observer, inspect::links).await
}

async fn route(State(observer): State<Observer>, Json(query): Json<RouteQuery>) -> Response {
    inside(observer, move || routes::route(&query)).await
}

async fn capture(State(observer): State<Observer>, Json(request): Json<Capture>) -> Response {
    let begun = tokio::task::spawn_blocking(move || stream::start(observer.namespace(), request)).await;
    match begun {
        Ok(Ok(body)) => ([("content-type", "application/x-ndjson")], body).into_response(),
        Ok(Err(error)) => refusal(&error),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the observer failed\n").into_response(),
    }
}

async fn connections(State(observer): State<Observer>, Json(tuples): Json<Vec<Tuple>>) -> Response {
    if tuples.len() > MOST_TUPLES {
        return refusal(&Error::Request(format!("more than {MOST_TUPLES} tuples")));
    }
    inside(observer, move || inspect::connections_of(&tuples)).await
}

#[derive(Deserialize)]
struct Which {
    #[serde(default)]
    translated: bool,
}

async fn all_connections(State(observer): State<Observer>, Query(which): Query<Which>) -> Response {
    inside(observer, move || inspect::connections(which.translated)).await
}

async fn start(State(observer): State<Observer>, Json(request): Json<Observe>) -> Response {
    let begun = blocking(move || {
        let id = observer.sessions().start(observer.namespace(), &request)?;
        Ok(Started { id })
    });
    let response = begun.await;
    if response.status() == StatusCode::OK {
        (StatusCode::CREATED, response).into_response()
    } else {
        response
    }
}

async fn packets(
    State(observer): State<Observer>,
    Path(id): Path<String>,
    Json(select): Json<Select>,
) -> Response {
    blocking(move || observer.sessions().packets(&id, &select.any).ok_or(Error::NotFound(id))?).await
}

async fn want(
    State(observer): State<Observer>,
    Path(id): Path<String>,
    Json(filters): Json<Vec<PacketFilter>>,
) -> Response {
    let done = blocking(move || observer.sessions().want(&id, &filters).ok_or(Error::NotFound(id))?).await;
    if done.status() == StatusCode::OK { StatusCode::NO_CONTENT.into_response() } else { done }
}

async fn rules(State(observer): State<Observer>, Path(id): Path<String>) -> Response {
    blocking(move || observer.sessions().rules(&id).ok_or(Error::NotFound(id))?).await
}

async fn end(State(observer): State<Observer>, Path(id): Path<String>) -> Response {
    let ended = tokio::task::spawn_blocking(move || observer.sessions().end(&id)).await;
    match ended {
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}
