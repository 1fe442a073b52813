//! Forms of names: DNS labels and subdomains, label keys and values, environment variables, ports.
//!
//! Each function gives what is wrong with a text, in the API's words, or nothing.

use std::sync::LazyLock;

use regex::Regex;

macro_rules! pattern {
    ($name:ident, $text:expr) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(concat!("^(?:", $text, ")$")).expect("a pattern in this file is well formed")
        });
    };
}

pattern!(LABEL, "[a-z0-9]([-a-z0-9]*[a-z0-9])?");
pattern!(LABEL_1035, "[a-z]([-a-z0-9]*[a-z0-9])?");
pattern!(SUBDOMAIN, r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*");
pattern!(QUALIFIED, "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]");
pattern!(CONFIG_KEY, "[-._a-zA-Z0-9]+");
pattern!(PORT, "[-a-z0-9]+");

fn too_long(text: &str, max: usize) -> Option<String> {
    (text.len() > max).then(|| format!("must be no more than {max} bytes"))
}

/// RFC 1123 label: at most 63 lower-case letters, digits and `-`.
pub fn label_problem(text: &str) -> Option<String> {
    too_long(text, 63).or_else(|| {
        (!LABEL.is_match(text)).then(|| {
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
             alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
                .into()
        })
    })
}

/// RFC 1035 label, as services are named: begins with a letter.
pub fn label_1035_problem(text: &str) -> Option<String> {
    too_long(text, 63).or_else(|| {
        (!LABEL_1035.is_match(text)).then(|| {
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end \
             with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
                .into()
        })
    })
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 characters.
pub fn subdomain_problem(text: &str) -> Option<String> {
    too_long(text, 253).or_else(|| {
        (!SUBDOMAIN.is_match(text)).then(|| {
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end \
             with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .into()
        })
    })
}

/// A name that is one part of a path: no `/`, `%`, `.` or `..` (RBAC's names).
pub fn path_segment_problem(text: &str) -> Option<String> {
    match text {
        "." | ".." => Some(format!("may not be '{text}'")),
        _ if text.contains('/') => Some("may not contain '/'".into()),
        _ if text.contains('%') => Some("may not contain '%'".into()),
        _ => None,
    }
}

/// A label's or annotation's key: `[prefix/]name`.
pub fn qualified_name_problem(text: &str) -> Option<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((_, rest)) if rest.contains('/') => {
            return Some(
                "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                 character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                 '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
                    .into(),
            );
        }
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            return Some("prefix part must be non-empty".into());
        }
        if let Some(problem) = subdomain_problem(prefix) {
            return Some(format!("prefix part {problem}"));
        }
    }
    if name.is_empty() {
        return Some("name part must be non-empty".into());
    }
    if name.len() > 63 {
        return Some("name part must be no more than 63 bytes".into());
    }
    (!QUALIFIED.is_match(name)).then(|| {
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character \
         (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            .into()
    })
}

/// A label's value: empty, or at most 63 characters.
pub fn label_value_problem(text: &str) -> Option<String> {
    too_long(text, 63).or_else(|| {
        (!text.is_empty() && !QUALIFIED.is_match(text)).then(|| {
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
             an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
             '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
                .into()
        })
    })
}

/// A key of a ConfigMap or Secret: a file name.
pub(crate) fn config_key_problem(text: &str) -> Option<String> {
    if let Some(problem) = too_long(text, 253) {
        return Some(problem);
    }
    if !CONFIG_KEY.is_match(text) {
        return Some(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or \
             'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                .into(),
        );
    }
    match text {
        "." => Some("must not be '.'".into()),
        ".." => Some("must not be '..'".into()),
        _ if text.starts_with("..") => Some("must not start with '..'".into()),
        _ => None,
    }
}

/// A name of an environment variable: any printable ASCII but `=`.
pub(crate) fn env_name_problem(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=');
    (!fits).then(|| {
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .into()
    })
}

/// A port's name (RFC 6335): at most 15 lower-case letters, digits and `-`, with a letter. Several things may be wrong.
pub(crate) fn port_name_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > 15 {
        problems.push("must be no more than 15 bytes".into());
    }
    if !PORT.is_match(text) {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".into());
    }
    problems
}

/// A port's number.
pub(crate) fn port_number_problem(port: i64) -> Option<String> {
    (!(1..=65535).contains(&port)).then(|| "must be between 1 and 65535, inclusive".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "a".repeat(64);
        for good in ["a", "a-b", "0a", &"a".repeat(63)] {
            assert_eq!(label_problem(good), None, "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", long.as_str(), "a\n"] {
            assert!(label_problem(bad).is_some(), "{bad}");
        }
        assert_eq!(label_problem(&long).unwrap(), "must be no more than 63 bytes");
        assert!(label_1035_problem("0a").is_some());
        assert_eq!(label_1035_problem("a0"), None);
        assert_eq!(subdomain_problem("a.b-c.0"), None);
        for bad in ["a..b", ".a", "a.", "a.B", ""] {
            assert!(subdomain_problem(bad).is_some(), "{bad}");
        }
        for good in ["app", "a.b/C_d", "kubernetes.io/metadata.name"] {
            assert_eq!(qualified_name_problem(good), None, "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "A/b c", "-a"] {
            assert!(qualified_name_problem(bad).is_some(), "{bad}");
        }
        assert_eq!(label_value_problem(""), None);
        assert!(label_value_problem("a b").is_some());
        assert_eq!(config_key_problem("a.B_c"), None);
        assert!(config_key_problem("..a").is_some() && config_key_problem("a/b").is_some());
        assert!(port_name_problems("http").is_empty());
        assert_eq!(port_name_problems("HTTP").len(), 2);
        assert_eq!(port_name_problems("a--b"), ["must not contain consecutive hyphens"]);
    }
}
