//! `GET /containerLogs/NAMESPACE/POD/CONTAINER`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use crate::kubelet::Kubelet;
use crate::logs::{LogQuery, find, send};

type Refusal = (StatusCode, String);

pub(super) async fn container_logs(
    State(kubelet): State<Arc<Kubelet>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    match open(&kubelet, &namespace, &pod, &container, &query) {
        Ok(body) => ([(CONTENT_TYPE, "text/plain")], body).into_response(),
        Err((status, problem)) => (status, format!("{problem}\n")).into_response(),
    }
}

fn open(
    kubelet: &Kubelet,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &[(String, String)],
) -> Result<Body, Refusal> {
    let (query, previous) =
        parse(query, Timestamp::now()).map_err(|problem| (StatusCode::BAD_REQUEST, problem))?;
    let entry = kubelet.registry.find(namespace, pod);
    let entry = entry.ok_or_else(|| {
        (StatusCode::NOT_FOUND, format!("pod {pod:?} in namespace {namespace:?} not found"))
    })?;
    let known = entry.containers.lock().get(container).cloned();
    // The name becomes part of a path: only one that the pod has is looked for.
    let known = known.ok_or_else(|| {
        (StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {pod:?}"))
    })?;
    let Some(path) = find(&entry.log_dir(container), previous) else {
        let problem = match (previous, known.waiting) {
            (true, _) => format!("previous terminated container {container:?} in pod {pod:?} not found"),
            (false, Some(reason)) => {
                format!("container {container:?} in pod {pod:?} is waiting to start: {reason}")
            }
            (false, None) => format!("container {container:?} in pod {pod:?} has no log"),
        };
        return Err((StatusCode::BAD_REQUEST, problem));
    };
    let live = known.container.map(|container| container.log.clone()).filter(|live| live.path == path);
    let (to, mut from) = mpsc::channel(4);
    tokio::spawn(async move {
        if let Err(error) = send(path, live, query, to).await {
            tracing::warn!(%error, "reading a container's log");
        }
    });
    let chunks = futures::stream::poll_fn(move |context| from.poll_recv(context));
    Ok(Body::from_stream(chunks.map(Ok::<_, Infallible>)))
}

/// The query as kubelet's, and whether the previous run is asked for.
fn parse(pairs: &[(String, String)], now: Timestamp) -> Result<(LogQuery, bool), String> {
    let mut query = LogQuery::default();
    let mut previous = false;
    for (name, value) in pairs {
        let bad = || format!("invalid {name}: {value:?}");
        let truth = || value.is_empty() || value.parse::<bool>().unwrap_or(value == "1");
        match name.as_str() {
            "follow" => query.follow = truth(),
            "timestamps" => query.timestamps = truth(),
            "previous" => previous = truth(),
            // A negative tail is no tail, as kubectl's --tail=-1.
            "tailLines" => query.tail = usize::try_from(value.parse::<i64>().map_err(|_| bad())?).ok(),
            "limitBytes" => {
                query.limit_bytes = Some(value.parse().ok().filter(|limit| *limit > 0).ok_or_else(bad)?)
            }
            "sinceSeconds" => {
                let seconds = value.parse::<i64>().ok().filter(|seconds| *seconds > 0).ok_or_else(bad)?;
                query.since = Some(now.checked_sub(SignedDuration::from_secs(seconds)).map_err(|_| bad())?);
            }
            "sinceTime" => query.since = Some(value.parse().map_err(|_| bad())?),
            _ => {}
        }
    }
    Ok((query, previous))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let parsed = |text: &str| {
            let pairs: Vec<(String, String)> = text
                .split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap()
                })
                .collect();
            parse(&pairs, now)
        };
        let all = LogQuery::default();
        for (text, expected) in [
            ("", Ok((all.clone(), false))),
            ("follow=true&previous=1", Ok((LogQuery { follow: true, ..all.clone() }, true))),
            (
                "tailLines=5&timestamps=true",
                Ok((LogQuery { tail: Some(5), timestamps: true, ..all.clone() }, false)),
            ),
            ("tailLines=-1", Ok((all.clone(), false))),
            (
                "sinceSeconds=60",
                Ok((LogQuery { since: "2026-01-01T00:00:00Z".parse().ok(), ..all.clone() }, false)),
            ),
            (
                "sinceTime=2026-01-01T00:00:00Z",
                Ok((LogQuery { since: "2026-01-01T00:00:00Z".parse().ok(), ..all.clone() }, false)),
            ),
            ("tailLines=x", Err("invalid tailLines: \"x\"".to_owned())),
            ("limitBytes=0", Err("invalid limitBytes: \"0\"".to_owned())),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }
}
