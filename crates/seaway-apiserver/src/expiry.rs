//! Events do not stay: an hour after the last of its kind, one is deleted, as by kube-apiserver's `--event-ttl`.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::app::App;
use crate::store::Decision;

/// How long an event stays.
const TTL: SignedDuration = SignedDuration::from_hours(1);
/// How often old ones are looked for.
const PERIOD: Duration = Duration::from_secs(600);
/// Where events are stored.
const EVENTS: &str = "/events";

/// Deletes old events until the server stops.
pub(crate) async fn keep(app: Arc<App>) {
    let mut stopping = app.stopping.clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => sweep(&app, Timestamp::now()).await,
            _ = stopping.changed() => return,
        }
    }
}

async fn sweep(app: &App, now: Timestamp) {
    for event in app.store.list(EVENTS, None).objects {
        let value = event.value();
        if !is_old(&value, now) {
            continue;
        }
        let revision = event.revision;
        let deleted = app.store.write(EVENTS, &event.key, |current, _| {
            // One that came again meanwhile stays.
            Ok(if current.is_some_and(|c| c.revision == revision) {
                Decision::Delete(value)
            } else {
                Decision::Answer(Value::Null)
            })
        });
        if let Err(error) = deleted.await {
            tracing::warn!(%error, event = event.key, "cannot delete an old event");
        }
    }
}

fn is_old(event: &Value, now: Timestamp) -> bool {
    let times = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    let latest = times.iter().filter_map(|time| time.as_str()?.parse::<Timestamp>().ok()).max();
    latest.is_some_and(|latest| now.duration_since(latest) > TTL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_latest_time_counts() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let cases = [
            (json!({"metadata": {"creationTimestamp": "2026-01-01T10:00:00Z"}}), true),
            (
                json!({"metadata": {"creationTimestamp": "2026-01-01T10:00:00Z"}, "lastTimestamp": "2026-01-01T11:30:00Z"}),
                false,
            ),
            (json!({"metadata": {}, "series": {"lastObservedTime": "2026-01-01T10:59:00.000000Z"}}), true),
            (json!({"metadata": {}}), false),
        ];
        for (event, old) in cases {
            assert_eq!(is_old(&event, now), old, "{event}");
        }
    }
}
