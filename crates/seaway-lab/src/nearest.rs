//! What someone may have meant by a name that is not there. Pure.

/// The longest list of names in an error.
const MOST: usize = 12;

/// `did you mean NAME?`, or which names there are.
pub(crate) fn there_are<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let near = names.iter().map(|name| (distance(wrong, name), *name)).min();
    // Another digit is another node, not a mistake in writing.
    let is_slip = |name: &str| digits(name) == digits(wrong) || digits(wrong).is_empty();
    match near {
        None => "there are none".to_owned(),
        Some((steps, name)) if steps <= name.len().div_ceil(3) && is_slip(name) => {
            format!("did you mean {name}?")
        }
        Some(_) if names.len() > MOST => {
            format!("there are {}, … ({} in all)", names[..MOST].join(", "), names.len())
        }
        Some(_) => format!("there are {}", names.join(", ")),
    }
}

fn digits(name: &str) -> String {
    name.chars().filter(char::is_ascii_digit).collect()
}

/// How many letters have to be put in, taken out or changed to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
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
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (1..=50).map(|n| format!("node-{n}")).collect();
        let told = there_are("x", names.iter().map(String::as_str));
        assert!(told.ends_with("node-12, … (50 in all)"), "{told}");
    }
}
