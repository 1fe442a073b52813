//! Kernel parameters (`/proc/sys`); those below `net/` are of the calling thread's network namespace.

use std::fs;
use std::io;

/// A kernel parameter that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("sysctl {name}: cannot {operation}: {source}")]
pub struct SysctlError {
    /// The parameter, as a path below `/proc/sys`.
    pub name: String,
    /// `read`, or `write` with the value.
    pub operation: String,
    /// The system's error.
    pub source: io::Error,
}

/// Reads `name`, a path below `/proc/sys` such as `net/ipv4/ip_forward`, without the line's end.
pub fn get(name: &str) -> Result<String, SysctlError> {
    fs::read_to_string(path(name)).map(|text| text.trim_end().to_owned()).map_err(|source| SysctlError {
        name: name.to_owned(),
        operation: "read".to_owned(),
        source,
    })
}

/// Sets `name` to `value` where it has another one; `true` where it changed.
///
/// An interface whose name has a dot is one path component: `net/ipv4/conf/seaway.1/rp_filter`.
pub fn set(name: &str, value: &str) -> Result<bool, SysctlError> {
    if get(name).is_ok_and(|current| current == value) {
        return Ok(false);
    }
    // Not fs::write, which would create: a parameter that is absent is an error that says so.
    let written = fs::OpenOptions::new()
        .write(true)
        .open(path(name))
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    written.map(|()| true).map_err(|source| SysctlError {
        name: name.to_owned(),
        operation: format!("write {value:?}"),
        source,
    })
}

fn path(name: &str) -> String {
    format!("/proc/sys/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::NetNs;

    #[test]
    fn parameters_are_the_namespaces_own() {
        let before = get("net/ipv4/ip_forward").unwrap();
        NetNs::new()
            .unwrap()
            .run(|| {
                set("net/ipv4/ip_forward", "0").unwrap();
                assert!(set("net/ipv4/ip_forward", "1").unwrap());
                assert!(!set("net/ipv4/ip_forward", "1").unwrap());
                assert_eq!(get("net/ipv4/ip_forward").unwrap(), "1");
                let error = set("net/ipv4/conf/lo/rp_filter", "x").unwrap_err().to_string();
                assert!(
                    error.starts_with("sysctl net/ipv4/conf/lo/rp_filter: cannot write \"x\": "),
                    "{error}"
                );
                assert_eq!(get("net/absent").unwrap_err().source.kind(), io::ErrorKind::NotFound);
            })
            .unwrap();
        assert_eq!(get("net/ipv4/ip_forward").unwrap(), before);
    }
}
