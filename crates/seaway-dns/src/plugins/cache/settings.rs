//! The `cache` directive.

use std::time::Duration;

use crate::corefile::args::zones;
use crate::corefile::{CorefileError, Directive, Word};
use crate::name::ZoneName;

/// Entries where the directive does not say.
const CAPACITY: usize = 9984;

/// How many replies of a kind to keep, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(super) capacity: usize,
    pub(super) most: Duration,
    pub(super) least: Duration,
}

/// The directive's settings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(super) zones: Vec<ZoneName>,
    pub(super) success: Limits,
    pub(super) denial: Limits,
    pub(super) no_success: Vec<ZoneName>,
    pub(super) no_denial: Vec<ZoneName>,
    pub(super) servfail: Duration,
    pub(super) prefetch_amount: u32,
    pub(super) prefetch_window: Duration,
    /// The part of an entry's time at whose end it is renewed.
    pub(super) prefetch_share: f64,
    /// How long after its end an entry may still be served.
    pub(super) serve_stale: Duration,
    pub(super) verify_stale: bool,
    pub(super) keep_ttl: bool,
}

const PROPERTIES: [&str; 7] =
    ["success", "denial", "prefetch", "serve_stale", "servfail", "disable", "keepttl"];

impl Settings {
    /// Reads the directive; without zones it serves `block_zones`.
    pub(crate) fn parse(directive: &Directive, block_zones: &[ZoneName]) -> Result<Self, CorefileError> {
        let limits = |most| Limits {
            capacity: CAPACITY,
            most: Duration::from_secs(most),
            least: Duration::from_secs(5),
        };
        let mut settings = Self {
            zones: Vec::new(),
            success: limits(3600),
            denial: limits(1800),
            no_success: Vec::new(),
            no_denial: Vec::new(),
            servfail: Duration::from_secs(5),
            prefetch_amount: 0,
            prefetch_window: Duration::from_secs(60),
            prefetch_share: 0.1,
            serve_stale: Duration::ZERO,
            verify_stale: false,
            keep_ttl: false,
        };
        let mut names = &directive.args[..];
        if let [first, rest @ ..] = names
            && first.text.bytes().all(|b| b.is_ascii_digit())
        {
            let ttl = Duration::from_secs(first.number(1u32, u32::MAX)?.into());
            (settings.success.most, settings.denial.most) = (ttl, ttl);
            names = rest;
        }
        settings.zones = zones(names)?;
        if settings.zones.is_empty() {
            settings.zones = block_zones.to_vec();
        }
        for property in &directive.block {
            property.no_block()?;
            settings.property(directive, property, block_zones)?;
        }
        for limits in [&mut settings.success, &mut settings.denial] {
            limits.least = limits.least.min(limits.most);
        }
        Ok(settings)
    }

    fn property(
        &mut self,
        directive: &Directive,
        property: &Directive,
        block_zones: &[ZoneName],
    ) -> Result<(), CorefileError> {
        match property.name.text.as_str() {
            "success" => read_limits(property, &mut self.success)?,
            "denial" => read_limits(property, &mut self.denial)?,
            "servfail" => {
                let word = property.one("a duration")?;
                self.servfail = word.duration()?;
                if self.servfail > Duration::from_secs(300) {
                    return Err(CorefileError::at(word, "servfail is kept for 5 minutes at most (RFC 2308)"));
                }
            }
            "prefetch" => self.prefetch(property)?,
            "serve_stale" => {
                self.serve_stale = Duration::from_secs(3600);
                if let Some(word) = property.at_most(2)?.first() {
                    self.serve_stale = word.duration()?;
                }
                if let Some(word) = property.args.get(1) {
                    self.verify_stale =
                        word.choice("refresh mode", &[("immediate", false), ("verify", true)])?;
                }
            }
            "disable" => {
                let args = property.at_least_one("what not to keep: success or denial")?;
                let mut disabled = zones(&args[1..])?;
                if disabled.is_empty() {
                    disabled = block_zones.to_vec();
                }
                if args[0].choice("kind of answer", &[("success", true), ("denial", false)])? {
                    self.no_success.extend(disabled);
                } else {
                    self.no_denial.extend(disabled);
                }
            }
            "keepttl" => {
                property.no_args()?;
                self.keep_ttl = true;
            }
            _ => return Err(directive.unknown_property(property, &PROPERTIES)),
        }
        Ok(())
    }

    fn prefetch(&mut self, property: &Directive) -> Result<(), CorefileError> {
        property.at_most(3)?;
        self.prefetch_amount = property.at_least_one("a number of queries")?[0].number(0, u32::MAX)?;
        if let Some(word) = property.args.get(1) {
            self.prefetch_window = word.duration()?;
        }
        if let Some(word) = property.args.get(2) {
            let percent = word.text.strip_suffix('%').and_then(|n| n.parse::<u8>().ok());
            self.prefetch_share =
                percent.filter(|n| (10..=90).contains(n)).map(|n| f64::from(n) / 100.0).ok_or_else(|| {
                    CorefileError::at(word, format!("`{}` is not a percentage from 10% to 90%", word.text))
                })?;
        }
        Ok(())
    }
}

/// `CAPACITY [TTL] [MINTTL]`
fn read_limits(property: &Directive, limits: &mut Limits) -> Result<(), CorefileError> {
    let seconds = |word: &Word| word.number(0u32, u32::MAX).map(|n| Duration::from_secs(n.into()));
    property.at_most(3)?;
    let args = property.at_least_one("a capacity")?;
    limits.capacity = args[0].number(0, 100_000_000)?;
    if let Some(word) = args.get(1) {
        limits.most = seconds(word)?;
    }
    if let Some(word) = args.get(2) {
        limits.least = seconds(word)?;
    }
    Ok(())
}
