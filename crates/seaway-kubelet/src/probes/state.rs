//! When a probe's results change a container's state; pure.

use k8s_openapi::api::core::v1::Probe;
use std::time::Duration;

/// What a probe decides on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// The parameters with Kubernetes' defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
}

impl Schedule {
    pub(crate) fn of(probe: &Probe) -> Self {
        let at_least_one = |value: Option<i32>, default: u32| match value {
            Some(value) if value > 0 => value.unsigned_abs(),
            _ => default,
        };
        let seconds = |value| Duration::from_secs(u64::from(value));
        Self {
            initial_delay: seconds(at_least_one(probe.initial_delay_seconds, 0)),
            period: seconds(at_least_one(probe.period_seconds, 10)),
            timeout: seconds(at_least_one(probe.timeout_seconds, 1)),
            success_threshold: at_least_one(probe.success_threshold, 1),
            failure_threshold: at_least_one(probe.failure_threshold, 3),
        }
    }
}

/// Consecutive results against the thresholds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    schedule: Schedule,
    last: Option<bool>,
    run: u32,
    decided: Option<bool>,
}

impl Tally {
    pub(crate) fn new(schedule: Schedule) -> Self {
        Self { schedule, last: None, run: 0, decided: None }
    }

    /// Counts a result; the new state where this result decides one that is not in force.
    pub(crate) fn count(&mut self, healthy: bool) -> Option<bool> {
        self.run = if self.last == Some(healthy) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(healthy);
        let threshold =
            if healthy { self.schedule.success_threshold } else { self.schedule.failure_threshold };
        if self.run < threshold || self.decided == Some(healthy) {
            return None;
        }
        self.decided = Some(healthy);
        Some(healthy)
    }

    /// Whether no result has been good yet.
    pub(crate) fn never_healthy(&self) -> bool {
        self.last != Some(true) && self.decided != Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decisions(success: i32, failure: i32, results: &str) -> String {
        let probe =
            Probe { success_threshold: Some(success), failure_threshold: Some(failure), ..Probe::default() };
        let mut tally = Tally::new(Schedule::of(&probe));
        let decide = |result| match tally.count(result == '+') {
            Some(true) => 'U',
            Some(false) => 'D',
            None => '.',
        };
        results.chars().map(decide).collect()
    }

    #[test]
    fn thresholds_count_consecutive_results() {
        for (success, failure, results, expected) in [
            (1, 3, "+++", "U.."),
            (1, 3, "---", "..D"),
            (1, 3, "----+", "..D.U"),
            (1, 3, "+--+--+---", "U........D"),
            (2, 1, "+-+++-", ".D.U.D"),
            (3, 2, "++-+++", ".....U"),
        ] {
            assert_eq!(decisions(success, failure, results), expected, "{success}/{failure} {results}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_api() {
        let schedule = Schedule::of(&Probe::default());
        assert_eq!(schedule.period, Duration::from_secs(10));
        assert_eq!(schedule.timeout, Duration::from_secs(1));
        assert_eq!((schedule.success_threshold, schedule.failure_threshold), (1, 3));
    }
}
