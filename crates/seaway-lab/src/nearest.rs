//! What someone may have meant by a name that is not there. Pure.

use seaway_model::nearest;

/// The longest list of names in an error.
const MOST: usize = 12;

/// `did you mean NAME?`, or which names there are.
pub(crate) fn there_are<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    // Another digit is another node, not a mistake in writing.
    let is_slip = |name: &&str| digits(name) == digits(wrong) || digits(wrong).is_empty();
    if let Some(name) = nearest(wrong, names.iter().copied()).filter(is_slip) {
        return format!("did you mean {name}?");
    }
    match names.as_slice() {
        [] => "there are none".to_owned(),
        names if names.len() > MOST => {
            format!("there are {}, … ({} in all)", names[..MOST].join(", "), names.len())
        }
        names => format!("there are {}", names.join(", ")),
    }
}

fn digits(name: &str) -> String {
    name.chars().filter(char::is_ascii_digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told_from_other_names() {
        let nodes = ["node-1", "node-2", "gateway"];
        for (wrong, answer) in [
            ("nod-1", "did you mean node-1?"),
            ("Node-2", "did you mean node-2?"),
            ("gatway", "did you mean gateway?"),
            ("node-7", "there are node-1, node-2, gateway"),
            ("x", "there are node-1, node-2, gateway"),
        ] {
            assert_eq!(there_are(wrong, nodes), answer);
        }
        assert_eq!(there_are("x", []), "there are none");
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (1..=50).map(|n| format!("node-{n}")).collect();
        let told = there_are("x", names.iter().map(String::as_str));
        assert!(told.ends_with("node-12, … (50 in all)"), "{told}");
    }
}
