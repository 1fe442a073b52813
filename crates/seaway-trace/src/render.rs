//! A trace as text: one line a hop and what it means below it; the line that matters most comes last.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use owo_colors::{OwoColorize, Style};

use crate::hop::{Hop, HopKind, Outcome, State, Trace, Verdict, Verified};

/// Colours, or none of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    pub(crate) fn apply(self, text: &str, style: Style) -> String {
        if self.0 { text.style(style).to_string() } else { text.to_owned() }
    }
}

/// The whole text.
pub(crate) fn text(trace: &Trace, paint: Paint) -> String {
    let mut out = String::new();
    let head = format!("{} → {} ({})", trace.from, trace.to, trace.protocol);
    let _ = writeln!(out, "{}", paint.apply(&head, Style::new().bold()));
    let width = trace.hops.iter().map(|hop| hop.place.chars().count()).max().unwrap_or(0);
    let mut when = &BTreeSet::new();
    for (number, hop) in trace.hops.iter().enumerate() {
        if hop.when != *when {
            when = &hop.when;
            if !when.is_empty() {
                let list: Vec<&str> = when.iter().map(String::as_str).collect();
                let _ = writeln!(
                    out,
                    "\n  if {} is chosen:",
                    paint.apply(&list.join(" or "), Style::new().cyan())
                );
            }
        }
        write_hop(&mut out, number + 1, hop, width, paint);
    }
    write_end(&mut out, trace, paint);
    out
}

fn write_hop(out: &mut String, number: usize, hop: &Hop, width: usize, paint: Paint) {
    let mark = match (hop.result, hop.fault) {
        (Some(Outcome::Ok), _) => paint.apply("✓", Style::new().green()),
        (Some(Outcome::Differs), _) => paint.apply("✗", Style::new().red().bold()),
        (Some(Outcome::Unknown), _) => paint.apply("?", Style::new().yellow()),
        (None, true) => paint.apply("!", Style::new().red().bold()),
        (None, false) => " ".to_owned(),
    };
    let kind = format!("{:<11}", kind_name(hop.kind));
    let place = format!("{:<width$}", hop.place);
    let _ = writeln!(
        out,
        "{mark} {number:>2} {}  {}  {}",
        paint.apply(&kind, Style::new().bold()),
        paint.apply(&place, Style::new().cyan()),
        hop.object
    );
    let indent = " ".repeat(18);
    if let Some(change) = change(hop) {
        let _ = writeln!(out, "{indent}{change}");
    }
    let _ = writeln!(out, "{indent}{}", paint.apply(&hop.note, Style::new().dimmed()));
    if let Some(observed) = &hop.observed {
        let label = match hop.result {
            Some(Outcome::Differs) => paint.apply("seen:", Style::new().red().bold()),
            _ => "seen:".to_owned(),
        };
        let _ = writeln!(out, "{indent}{label} {observed}");
    }
}

const fn kind_name(kind: HopKind) -> &'static str {
    match kind {
        HopKind::Hosts => "hosts",
        HopKind::ResolvConf => "resolv.conf",
        HopKind::Dns => "DNS",
        HopKind::Service => "Service",
        HopKind::Policy => "policy",
        HopKind::Route => "route",
        HopKind::Overlay => "overlay",
        HopKind::Snat => "SNAT",
        HopKind::Gateway => "gateway",
        HopKind::Destination => "destination",
        HopKind::Return => "way back",
    }
}

/// What the hop makes of the packet, where it changes it; the packet itself where it ends.
fn change(hop: &Hop) -> Option<String> {
    let before = hop.before.as_ref()?;
    let Some(after) = &hop.after else {
        return Some(packet(before)).filter(|text| !text.is_empty());
    };
    let mut changes = Vec::new();
    if before.source != after.source {
        changes.push(format!("source {} → {}", list(&before.source), list(&after.source)));
    }
    if before.destination != after.destination {
        changes.push(format!("destination {} → {}", list(&before.destination), list(&after.destination)));
    }
    if let (None, Some(outer)) = (&before.outer, &after.outer) {
        changes.push(format!(
            "{} inside {} → {} UDP {} (VXLAN {})",
            packet(before),
            outer.source,
            outer.destination,
            outer.port,
            outer.vni
        ));
    }
    if let (Some(name), Some(rcode)) = (&before.name, &after.rcode) {
        let addresses =
            if after.addresses.is_empty() { String::new() } else { format!(" {}", list(&after.addresses)) };
        changes.push(format!("{name} → {rcode}{addresses}"));
    }
    (!changes.is_empty()).then(|| changes.join(", "))
}

fn packet(state: &State) -> String {
    match (state.source.is_empty(), state.destination.is_empty()) {
        (true, true) => String::new(),
        (false, false) => format!("{} → {}", list(&state.source), list(&state.destination)),
        (true, false) => format!("→ {}", list(&state.destination)),
        (false, true) => list(&state.source),
    }
}

fn list<T: ToString>(set: &BTreeSet<T>) -> String {
    let all: Vec<String> = set.iter().map(ToString::to_string).collect();
    match all.as_slice() {
        [one] => one.clone(),
        some if some.len() <= 4 => format!("{{{}}}", some.join(", ")),
        many => format!("{{{}, … {} in all}}", many[..3].join(", "), many.len()),
    }
}

fn write_end(out: &mut String, trace: &Trace, paint: Paint) {
    let style = match trace.verdict {
        Verdict::Delivered => Style::new().green().bold(),
        Verdict::Unknown => Style::new().yellow().bold(),
        _ => Style::new().red().bold(),
    };
    let _ = writeln!(out, "\n{}: {}", paint.apply(&trace.verdict.to_string(), style), trace.reason);
    if let Some(Verified(outcome)) = trace.verified {
        let (text, style) = match outcome {
            Outcome::Ok => ("verified: every hop was seen as it was told", Style::new().green()),
            Outcome::Differs => ("NOT as told: see ✗", Style::new().red().bold()),
            Outcome::Unknown => ("not verified: see ?", Style::new().yellow()),
        };
        let _ = writeln!(out, "{}", paint.apply(text, style));
    }
    let seen = match (&trace.unknown_beyond, trace.source_seen_by_destination.len()) {
        (Some(place), _) => format!("unknown beyond the node ({place})"),
        (None, 0) if trace.verdict == Verdict::Unknown => "unknown".to_owned(),
        (None, 0) => "none: nothing gets there".to_owned(),
        (None, _) => {
            let all: Vec<String> = trace.source_seen_by_destination.iter().map(ToString::to_string).collect();
            all.join(", ")
        }
    };
    let _ = writeln!(out, "source seen by the destination: {}", paint.apply(&seen, Style::new().bold()));
}
