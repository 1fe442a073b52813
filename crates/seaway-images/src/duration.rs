//! Durations as the originals' flags take them.

use std::time::Duration;

/// The longest, so that a typing error does not make a program wait for ever.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// `1s`, `500ms`, `1m30s`, `0`; what is longer than a day is refused.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    seaway_model::parse_go_duration(text)
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| format!("{text:?} is no duration of a day at most: write it like 500ms, 3s or 1m30s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_a_day() {
        assert_eq!(parse("24h"), Ok(LONGEST));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        assert!(parse("24h1s").is_err() && parse("soon").is_err());
    }
}
