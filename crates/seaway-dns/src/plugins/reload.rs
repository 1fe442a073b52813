//! `reload [INTERVAL] [JITTER]`: looks at the Corefile from time to time.

use std::time::Duration;

use crate::corefile::{CorefileError, Directive};

/// The directive's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reload {
    interval: Duration,
    jitter: Duration,
}

impl Reload {
    /// Reads the directive.
    pub(crate) fn parse(directive: &Directive) -> Result<Self, CorefileError> {
        const LEAST_INTERVAL: Duration = Duration::from_secs(2);
        const LEAST_JITTER: Duration = Duration::from_secs(1);
        directive.no_block()?;
        let args = directive.at_most(2)?;
        let mut settings = Self { interval: Duration::from_secs(30), jitter: Duration::from_secs(15) };
        if let Some(word) = args.first() {
            settings.interval = word.duration()?.max(LEAST_INTERVAL);
            settings.jitter = settings.interval / 2;
        }
        if let Some(word) = args.get(1) {
            settings.jitter = word.duration()?.max(LEAST_JITTER);
        }
        settings.jitter = settings.jitter.min(settings.interval / 2);
        Ok(settings)
    }

    /// How long until the next look; `random` is between 0 and 1.
    pub(crate) fn pause(&self, random: f64) -> Duration {
        self.interval - self.jitter + self.jitter.mul_f64(2.0 * random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_lie_around_the_interval() {
        let reload = Reload { interval: Duration::from_secs(30), jitter: Duration::from_secs(15) };
        assert_eq!(reload.pause(0.0), Duration::from_secs(15));
        assert_eq!(reload.pause(0.5), Duration::from_secs(30));
        assert_eq!(reload.pause(1.0), Duration::from_secs(45));
    }
}
