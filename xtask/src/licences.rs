//! Whether each dependency's licence fits Apache-2.0: deny.toml's list, applied to what cargo knows.

use anyhow::Context;
use serde_json::Value;

/// The dependencies whose licence is not on deny.toml's list.
pub(crate) fn unfit(metadata: &Value) -> anyhow::Result<Vec<String>> {
    let allowed = allowed(&std::fs::read_to_string("deny.toml").context("deny.toml")?);
    let packages = metadata["packages"].as_array().context("cargo metadata: packages")?;
    let problem = |package: &Value| {
        let licence = package["license"].as_str().unwrap_or("none");
        let name = package["name"].as_str().unwrap_or_default();
        (!fits(licence, &allowed))
            .then(|| format!("dependency {name}: its licence {licence} is not on deny.toml's list"))
    };
    Ok(packages.iter().filter_map(problem).collect())
}

/// The quoted strings of `allow = [ … ]`.
fn allowed(deny: &str) -> Vec<String> {
    let list =
        deny.split_once("allow = [").and_then(|(_, rest)| rest.split_once(']')).map_or("", |(list, _)| list);
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Evaluates an SPDX licence expression (SPDX 3, annex B); crates of old write `/` for OR.
fn fits(expression: &str, allowed: &[String]) -> bool {
    let spaced =
        expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ").replace(" WITH ", "+WITH+");
    let mut words = spaced.split_whitespace().peekable();
    let result = any(&mut words, allowed);
    result && words.peek().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut result = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        result |= all(words, allowed);
    }
    result
}

fn all(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut result = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        result &= one(words, allowed);
    }
    result
}

fn one(words: &mut Words<'_>, allowed: &[String]) -> bool {
    match words.next() {
        Some("(") => {
            let result = any(words, allowed);
            result & words.next_if_eq(&")").is_some()
        }
        Some(name) => allowed.contains(&name.replace("+WITH+", " WITH ")),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_evaluated() {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        for (expression, result) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("MIT/GPL-3.0", true),
            ("MIT AND GPL-3.0", false),
            ("GPL-3.0 OR (MIT AND Apache-2.0)", true),
            ("(GPL-3.0 OR MIT) AND BSD-3-Clause", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("none", false),
            ("(MIT", false),
        ] {
            assert_eq!(fits(expression, &allowed), result, "{expression}");
        }
    }
}
