//! Durations as Go writes them (package time, `ParseDuration`), which Kubernetes' flags and files take.

use std::time::Duration;

/// A hundred years in seconds: what is longer is a mistake, and cannot be added to every clock.
const LONGEST: f64 = 3600.0 * 24.0 * 365.0 * 100.0;

/// `5s`, `1m30s`, `1.5h`, `500ms`; `None` for what is none, is negative, or longer than a hundred years. A number without a
/// unit is none, but for `0`.
pub fn parse_go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let unit_ends = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_ends);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = next;
    }
    (!text.is_empty() && seconds <= LONGEST).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations() {
        for (text, millis) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("1s", Some(1000)),
            ("500ms", Some(500)),
            ("250us", Some(0)),
            ("1m30s", Some(90_000)),
            ("1.5s", Some(1500)),
            (".5s", Some(500)),
            ("1000h", Some(3_600_000_000)),
            ("", None),
            ("5", None),
            ("5s5", None),
            ("5x", None),
            ("s", None),
            (".s", None),
            ("-1s", None),
            ("1e3s", None),
            ("99999999999h", None),
        ] {
            assert_eq!(parse_go_duration(text).map(|parsed| parsed.as_millis()), millis, "{text:?}");
        }
    }
}
