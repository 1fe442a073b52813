//! How long a container that ends waits before it runs again.

use std::time::Duration;

/// The longest wait, and how long a container must run for its next wait to be the shortest again: Kubernetes' figures.
const MAX: Duration = Duration::from_secs(300);
const RESET_AFTER: Duration = Duration::from_secs(600);

/// The restart history of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    base: Duration,
    next: Option<Duration>,
}

impl Backoff {
    pub(crate) fn new(base: Duration) -> Self {
        Self { base: base.min(MAX), next: None }
    }

    /// The wait after a run of length `ran`: none the first time, then the base, doubled each time up to five minutes.
    pub(crate) fn after_exit(&mut self, ran: Duration) -> Duration {
        if ran >= RESET_AFTER {
            self.next = None;
        }
        let wait = self.next.unwrap_or(Duration::ZERO);
        self.next = Some(if wait.is_zero() { self.base } else { (wait * 2).min(MAX) });
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_five_minutes_and_forgets_after_ten() {
        let mut backoff = Backoff::new(Duration::from_secs(10));
        let waits: Vec<u64> = (0..8).map(|_| backoff.after_exit(Duration::from_secs(1)).as_secs()).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.after_exit(RESET_AFTER), Duration::ZERO);
        assert_eq!(backoff.after_exit(Duration::ZERO), Duration::from_secs(10));
    }
}
