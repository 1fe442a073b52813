//! Reading a plugin's arguments and properties, with errors that say what is accepted.

use std::str::FromStr;
use std::time::Duration;

use super::{CorefileError, Directive, Word};
use crate::name::ZoneName;

impl Directive {
    /// No arguments, no block.
    pub(crate) fn bare(&self) -> Result<(), CorefileError> {
        self.no_args()?;
        self.no_block()
    }

    /// No arguments.
    pub(crate) fn no_args(&self) -> Result<(), CorefileError> {
        self.at_most(0).map(drop)
    }

    /// No block.
    pub(crate) fn no_block(&self) -> Result<(), CorefileError> {
        match self.block.first() {
            None => Ok(()),
            Some(line) => {
                Err(CorefileError::at(&line.name, format!("`{}` takes no properties", self.name.text)))
            }
        }
    }

    /// The arguments, of which there are `most` at most.
    pub(crate) fn at_most(&self, most: usize) -> Result<&[Word], CorefileError> {
        match self.args.get(most) {
            None => Ok(&self.args),
            Some(word) => {
                let accepted = match most {
                    0 => "takes no arguments".to_owned(),
                    1 => "takes at most one argument".to_owned(),
                    n => format!("takes at most {n} arguments"),
                };
                Err(CorefileError::at(word, format!("`{}` {accepted}", self.name.text)))
            }
        }
    }

    /// The one argument that there has to be; `what` says what it is.
    pub(crate) fn one(&self, what: &str) -> Result<&Word, CorefileError> {
        self.at_most(1)?;
        self.at_least_one(what).map(|args| &args[0])
    }

    /// The arguments, of which there has to be one at least; `what` says what it is.
    pub(crate) fn at_least_one(&self, what: &str) -> Result<&[Word], CorefileError> {
        if self.args.is_empty() {
            return Err(CorefileError::at(&self.name, format!("`{}` needs {what}", self.name.text)));
        }
        Ok(&self.args)
    }

    /// A property that this plugin does not have.
    pub(crate) fn unknown_property(&self, property: &Directive, known: &[&str]) -> CorefileError {
        CorefileError::unknown(
            &property.name,
            &format!("property of {}", self.name.text),
            known.iter().copied(),
        )
    }

    /// A property that CoreDNS has and this server does not have yet.
    pub(crate) fn unsupported(&self, property: &Directive) -> CorefileError {
        CorefileError::at(
            &property.name,
            format!("the property `{}` of {} is not supported yet", property.name.text, self.name.text),
        )
        .help("remove it, or keep CoreDNS for this server block")
    }

    /// The arguments as zones.
    pub(crate) fn zones(&self) -> Result<Vec<ZoneName>, CorefileError> {
        zones(&self.args)
    }
}

/// Words as zones; a network in CIDR notation stands for its reverse zones.
pub(crate) fn zones(words: &[Word]) -> Result<Vec<ZoneName>, CorefileError> {
    let mut zones = Vec::new();
    for word in words {
        zones.extend(super::address::zones(word, &word.text)?);
    }
    Ok(zones)
}

impl Word {
    /// A number between `least` and `most`.
    pub(crate) fn number<T>(&self, least: T, most: T) -> Result<T, CorefileError>
    where
        T: FromStr + PartialOrd + std::fmt::Display,
    {
        self.text.parse().ok().filter(|n| (&least..=&most).contains(&n)).ok_or_else(|| {
            CorefileError::at(self, format!("`{}` is not a number from {least} to {most}", self.text))
        })
    }

    /// A duration as Go writes it: `5s`, `1m30s`, `500ms`; a number alone is seconds.
    pub(crate) fn duration(&self) -> Result<Duration, CorefileError> {
        parse_duration(&self.text).ok_or_else(|| {
            CorefileError::at(self, format!("`{}` is not a duration", self.text))
                .help("accepted: a number with a unit (ns, us, ms, s, m, h), such as 500ms, 5s or 1m30s")
        })
    }

    /// One of `accepted`.
    pub(crate) fn choice<T: Copy>(&self, what: &str, accepted: &[(&str, T)]) -> Result<T, CorefileError> {
        accepted
            .iter()
            .find(|(name, _)| *name == self.text)
            .map(|(_, value)| *value)
            .ok_or_else(|| CorefileError::unknown(self, what, accepted.iter().map(|(name, _)| *name)))
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let seconds = text.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()));
    seconds.or_else(|| seaway_model::parse_go_duration(text))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::corefile::{SourceFile, Span};

    pub(crate) fn word(text: &str) -> Word {
        let file = Arc::new(SourceFile { name: "Corefile".into(), text: text.into() });
        let span = Span { file, offset: 0, length: text.len(), line: 1, column: 1 };
        Word { text: text.into(), span, quoted: false, begins_line: true }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("5s", Some(5000)),
            ("5", Some(5000)),
            ("0.5s", Some(500)),
            ("1m30s", Some(90_000)),
            ("", None),
            ("-5s", None),
            ("5x", None),
        ] {
            assert_eq!(parse_duration(text).map(|d| d.as_millis()), millis, "{text:?}");
        }
    }
}
