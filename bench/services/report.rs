//! The table that is printed.

use std::fmt::Write;
use std::time::Duration;

use crate::measure::{Outcome, Parts};

/// All results side by side, the first contestant being what the others are compared with.
pub(crate) fn table(results: &[Outcome], services: u32) -> String {
    let mut text = String::new();
    section(&mut text, "in full", results, |outcome| outcome.full, services);
    section(&mut text, "one more service", results, |outcome| outcome.one_more, 1);
    for outcome in results {
        if let Some(adopt) = outcome.adopt {
            let (wall, cpu) = (milliseconds(adopt.wall), milliseconds(adopt.user + adopt.system));
            let _ = writeln!(
                text,
                "{} started again: read, compared and left alone in {wall}, CPU {cpu}",
                outcome.name
            );
        }
    }
    text
}

fn section(
    text: &mut String,
    title: &str,
    results: &[Outcome],
    of: impl Fn(&Outcome) -> Parts,
    services: u32,
) {
    let parts: Vec<Parts> = results.iter().map(of).collect();
    let headings: Vec<String> = results.iter().map(|outcome| outcome.name.to_owned()).collect();
    row(text, title, &headings);
    row(text, "  generate", &cells(&parts, |part| milliseconds(part.generate)));
    row(text, "  parse, encode (programs: user time)", &cells(&parts, |part| optional(part.parse)));
    row(text, "  encode", &cells(&parts, |part| optional(part.encode)));
    row(text, "  kernel (of programs: system time)", &cells(&parts, |part| milliseconds(part.kernel)));
    row(text, "  wall clock", &cells(&parts, |part| milliseconds(part.total.wall)));
    row(
        text,
        "  CPU, user + system",
        &cells(&parts, |part| format!("{} + {}", number(part.total.user), milliseconds(part.total.system))),
    );
    row(
        text,
        "  CPU per service",
        &cells(&parts, |part| {
            format!(
                "{:.1} µs",
                (part.total.user + part.total.system).as_secs_f64() * 1e6 / f64::from(services)
            )
        }),
    );
    row(text, "  bytes", &cells(&parts, |part| format!("{}", part.bytes)));
    let first = parts.first().map_or(0.0, |part| part.total.wall.as_secs_f64());
    row(
        text,
        "  wall clock, times the first one's",
        &cells(&parts, |part| format!("{:.1}", part.total.wall.as_secs_f64() / first.max(1e-9))),
    );
}

fn cells(parts: &[Parts], show: impl Fn(&Parts) -> String) -> Vec<String> {
    parts.iter().map(show).collect()
}

fn row(text: &mut String, title: &str, cells: &[String]) {
    let _ = write!(text, "{title:<42}");
    for cell in cells {
        let _ = write!(text, " {cell:>30}");
    }
    text.push('\n');
}

fn optional(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".to_owned(), milliseconds)
}

fn milliseconds(duration: Duration) -> String {
    format!("{} ms", number(duration))
}

fn number(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1e3;
    if milliseconds < 100.0 { format!("{milliseconds:.2}") } else { format!("{milliseconds:.0}") }
}
