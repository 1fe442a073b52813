//! Lists in pages: the later pages of a list show the objects of its first one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::store::Object;

/// How many lists are kept for their next pages.
const KEPT: usize = 64;
/// How long a list is kept, as etcd keeps its history.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// Where a page ends: the list's revision, and the key after which the next page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Continue {
    pub(crate) revision: u64,
    pub(crate) after: String,
}

impl Continue {
    pub(crate) fn encode(&self) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.after});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    pub(crate) fn decode(text: &str) -> Option<Continue> {
        let token: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        if token["v"] != "meta.k8s.io/v1" {
            return None;
        }
        Some(Continue { revision: token["rv"].as_u64()?, after: token["start"].as_str()?.to_owned() })
    }
}

struct Kept {
    scope: String,
    revision: u64,
    since: Instant,
    objects: Arc<Vec<Arc<Object>>>,
}

/// The lists that are being read in pages.
#[derive(Default)]
pub(crate) struct Pages {
    kept: VecDeque<Kept>,
}

impl Pages {
    /// Keeps a list of a scope (kind and namespace).
    pub(crate) fn keep(&mut self, scope: &str, revision: u64, objects: Arc<Vec<Arc<Object>>>, now: Instant) {
        self.forget_old(now);
        if self.kept.iter().any(|kept| kept.scope == scope && kept.revision == revision) {
            return;
        }
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Kept { scope: scope.to_owned(), revision, since: now, objects });
    }

    /// The kept list of a scope at a revision.
    pub(crate) fn find(&mut self, scope: &str, revision: u64, now: Instant) -> Option<Arc<Vec<Arc<Object>>>> {
        self.forget_old(now);
        let kept = self.kept.iter().find(|kept| kept.scope == scope && kept.revision == revision)?;
        Some(kept.objects.clone())
    }

    fn forget_old(&mut self, now: Instant) {
        self.kept.retain(|kept| now.duration_since(kept.since) < KEPT_FOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let token = Continue { revision: 7, after: "a/b".into() };
        assert_eq!(Continue::decode(&token.encode()), Some(token));
        assert_eq!(Continue::decode("%%"), None);
        assert_eq!(Continue::decode("e30"), None);
    }

    #[test]
    fn lists_are_kept_for_a_while() {
        let mut pages = Pages::default();
        let start = Instant::now();
        pages.keep("/pods", 1, Arc::default(), start);
        assert!(pages.find("/pods", 1, start).is_some());
        assert!(pages.find("/pods", 2, start).is_none());
        assert!(pages.find("/pods", 1, start + KEPT_FOR).is_none());
        for revision in 0..=KEPT as u64 {
            pages.keep("/pods", revision, Arc::default(), start + KEPT_FOR);
        }
        assert_eq!(pages.kept.len(), KEPT);
    }
}
