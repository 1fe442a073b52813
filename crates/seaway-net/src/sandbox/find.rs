//! Finding sandboxes and their processes from outside, by `/proc`.

use std::collections::HashMap;
use std::fs;
use std::io;

use super::shim::SHIM_COMMAND;

/// A sandbox that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// [`super::Spec::label`].
    pub label: String,
    /// The shim, in the reader's PID namespace.
    pub shim_pid: i32,
    /// The program (the reaper, where there is one), in the reader's PID namespace.
    pub pid: i32,
}

/// The sandboxes among the descendants of `root_pid`, itself included, in the order of their shims' pids.
pub fn find_sandboxes(root_pid: i32) -> io::Result<Vec<Sandbox>> {
    let tree = children_by_parent()?;
    let mut found = Vec::new();
    let mut pending = vec![(root_pid, None::<String>)];
    while let Some((pid, parent_label)) = pending.pop() {
        let below = tree.get(&pid).map(Vec::as_slice).unwrap_or_default();
        // A reaper, and a program that is not yet executed, still show their shim's command line.
        let label = shim_label(pid).filter(|label| parent_label.as_ref() != Some(label));
        if let (Some(label), Some(&program)) = (&label, below.first()) {
            found.push(Sandbox { label: label.clone(), shim_pid: pid, pid: program });
        }
        pending.extend(below.iter().map(|&child| (child, label.clone())));
    }
    found.sort_by_key(|sandbox| sandbox.shim_pid);
    Ok(found)
}

/// The children of process `pid`, in the order of their pids.
pub fn children(pid: i32) -> io::Result<Vec<i32>> {
    Ok(children_by_parent()?.remove(&pid).unwrap_or_default())
}

/// The environment that process `pid` was started with; entries that are not UTF-8 are left out.
pub fn environment(pid: i32) -> io::Result<Vec<(String, String)>> {
    let bytes = fs::read(format!("/proc/{pid}/environ"))?;
    let entries =
        bytes.split(|&byte| byte == 0).filter_map(|entry| std::str::from_utf8(entry).ok()?.split_once('='));
    Ok(entries.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// The label in the command line of `pid`, where that is a shim's.
fn shim_label(pid: i32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|&byte| byte == 0).skip(1);
    if words.next()? != SHIM_COMMAND.as_bytes() {
        return None;
    }
    String::from_utf8(words.next()?.to_vec()).ok()
}

fn children_by_parent() -> io::Result<HashMap<i32, Vec<i32>>> {
    let mut tree: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // A process that ended meanwhile has no stat to read.
        let Some(parent) =
            fs::read_to_string(format!("/proc/{pid}/stat")).ok().as_deref().and_then(parent_in_stat)
        else {
            continue;
        };
        tree.entry(parent).or_default().push(pid);
    }
    for below in tree.values_mut() {
        below.sort_unstable();
    }
    Ok(tree)
}

/// The fourth field of `/proc/PID/stat` (proc(5)); the second, the name in parentheses, may hold anything.
fn parent_in_stat(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_is_found_behind_any_name() {
        for (stat, parent) in [
            ("17 (sh) S 1 17 17 0", Some(1)),
            ("17 (a) b (c) R 42 17", Some(42)),
            ("17 (x", None),
            ("", None),
            ("17 (sh) S", None),
        ] {
            assert_eq!(parent_in_stat(stat), parent, "{stat}");
        }
    }
}
