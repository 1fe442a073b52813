//! What a lab must leave as it is.

use std::collections::BTreeSet;
use std::process::Command;

use super::checked;

/// What the host has that a lab must not touch.
pub(crate) fn state() -> BTreeSet<String> {
    let shell = |script: &str| checked(Command::new("sh").args(["-c", script]));
    let parts = [
        shell("ip -o link | sed 's/state .*//' | sort"),
        shell("ip -o address | sed 's/valid_lft.*//'"),
        shell("ip route show table all; ip -6 route show table all"),
        shell("ip rule; nft list ruleset"),
        shell("sort /proc/self/mounts"),
        shell(
            "find /proc/sys/net -type f -readable | grep -v -e /stat/ -e conntrack_count -e flush | sort | xargs grep -s . || true",
        ),
    ];
    parts.iter().flat_map(|part| part.lines()).map(str::to_owned).collect()
}

/// What changed on the host since `before`.
pub(crate) fn changed(before: &BTreeSet<String>) -> Vec<String> {
    state().symmetric_difference(before).cloned().collect()
}
