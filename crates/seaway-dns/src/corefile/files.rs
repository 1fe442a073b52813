//! Where `import` finds files.

use std::path::{Path, PathBuf};

/// A file's path and contents.
pub type Loaded = (PathBuf, String);

/// Reads the files that an `import` names.
pub trait Files {
    /// The files that `pattern` matches, in the order of their names. A relative pattern starts at the directory of
    /// the file `from`; its last part may have `*`s.
    ///
    /// # Errors
    /// What the file system says.
    fn import(&self, from: &Path, pattern: &str) -> std::io::Result<Vec<Loaded>>;
}

/// The file system.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Files for Disk {
    fn import(&self, from: &Path, pattern: &str) -> std::io::Result<Vec<Loaded>> {
        let path = from.parent().unwrap_or(Path::new("")).join(pattern);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if !name.contains('*') {
            let text = std::fs::read_to_string(&path)?;
            return Ok(vec![(path, text)]);
        }
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|n| matches(&name, n)) && entry.path().is_file() {
                paths.push(entry.path());
            }
        }
        paths.sort();
        paths.into_iter().map(|path| std::fs::read_to_string(&path).map(|text| (path, text))).collect()
    }
}

/// Whether `name` matches `pattern`, in which `*` stands for any characters. As in a shell, a leading dot has to
/// be written.
fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*.server", "a.server", true),
            ("*.server", "a.override", false),
            ("*.server", ".a.server", false),
            ("*", "x", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c2b", false),
            ("ab*ba", "aba", false),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
