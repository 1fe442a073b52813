//! musl's getaddrinfo: a static program of its own (helper/lookup.c), since two C libraries do not go into one process.
//!
//! Its version is the one that the machine had on which seaway was built: Debian 12 has 1.2.3, and from
//! 1.2.4 on musl asks by TCP where an answer over UDP is cut short.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use seaway_net::resolve::{SocketKind, error_name};

use crate::api::{MAX_LINE, ResolveFailure};
use crate::resolve::failure;
use crate::serve::timed_out;

/// The program; empty where there was no musl-gcc to build it (see build.rs).
static LOOKUP: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lookup"));

/// The addresses of `name` by musl, with port 0.
pub(crate) fn getaddrinfo(
    name: &str,
    kind: SocketKind,
    patience: Duration,
) -> Result<Vec<SocketAddr>, ResolveFailure> {
    if LOOKUP.is_empty() {
        let text = "this seaway was built without musl-gcc; install it (Debian's musl-tools), run `cargo clean -p seaway-probe` and build again";
        return Err(failure("UNAVAILABLE", text.to_owned()));
    }
    let unavailable =
        |error: io::Error| failure("UNAVAILABLE", format!("cannot run musl's resolver: {error}"));
    let mut child = start(name, kind).map_err(unavailable)?;
    let said = hear(&mut child, patience);
    // One that has ended is no error.
    let _ = child.kill();
    child.wait().map_err(unavailable)?;
    match said.map_err(unavailable)? {
        Some(said) => understand(&said),
        None => Err(failure("TIMEOUT", timed_out("answer from getaddrinfo", patience).to_string())),
    }
}

fn start(name: &str, kind: SocketKind) -> io::Result<Child> {
    let program = in_memory(LOOKUP)?;
    // The descriptor is closed as the program is executed, after its path was followed.
    Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .args([name, &kind.number().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
}

/// An executable file that is nowhere in a file system: the sandbox's may be read-only.
fn in_memory(program: &[u8]) -> io::Result<OwnedFd> {
    let made = match rustix::fs::memfd_create("lookup", MemfdFlags::CLOEXEC | MemfdFlags::EXEC) {
        // Before Linux 6.3 there was no such flag, and all were executable.
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("lookup", MemfdFlags::CLOEXEC),
        other => other,
    };
    let mut file = std::fs::File::from(made?);
    file.write_all(program)?;
    // A file that is open for writing can't be executed, so it is opened anew for reading.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let reader = std::fs::File::open(path)?;
    Ok(reader.into())
}

/// All that it says, or `None` where it takes longer than `patience`.
fn hear(child: &mut Child, patience: Duration) -> io::Result<Option<String>> {
    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("it has no output"))?;
    let (sender, receiver) = mpsc::channel();
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    thread::Builder::new().name("lookup".to_owned()).spawn(move || {
        let mut said = String::new();
        let read = stdout.take(limit).read_to_string(&mut said);
        // Nobody listens any more where it took too long.
        let _ = sender.send(read.map(|_| said));
    })?;
    match receiver.recv_timeout(patience) {
        Ok(said) => said.map(Some),
        Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(io::Error::other("it could not be heard")),
    }
}

/// The lines that helper/lookup.c writes.
fn understand(said: &str) -> Result<Vec<SocketAddr>, ResolveFailure> {
    let nonsense = || {
        failure(
            "UNAVAILABLE",
            format!("musl's resolver said {:?}", said.chars().take(100).collect::<String>()),
        )
    };
    let lines = said.strip_suffix("end\n").ok_or_else(nonsense)?;
    let mut found = Vec::new();
    for line in lines.lines() {
        match *line.splitn(3, ' ').collect::<Vec<_>>() {
            ["address", ip, scope] => {
                let ip = ip.parse().map_err(|_| nonsense())?;
                let scope = scope.parse().map_err(|_| nonsense())?;
                found.push(match ip {
                    IpAddr::V4(_) => SocketAddr::new(ip, 0),
                    IpAddr::V6(ip) => SocketAddrV6::new(ip, 0, 0, scope).into(),
                });
            }
            ["error", code, text] => {
                let code = code.parse().map_err(|_| nonsense())?;
                return Err(failure(error_name(code), text.to_owned()));
            }
            _ => return Err(nonsense()),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_helper_says() {
        let addresses =
            |list: &[&str]| Ok(list.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>());
        for (said, expected) in [
            ("end\n", addresses(&[])),
            ("address 10.0.0.1 0\naddress fe80::1 3\nend\n", addresses(&["10.0.0.1:0", "[fe80::1%3]:0"])),
            ("error -2 Name does not resolve\nend\n", Err("EAI_NONAME")),
            ("error -3 Try again\nend\n", Err("EAI_AGAIN")),
            ("", Err("UNAVAILABLE")),
            ("address 10.0.0.1 0\n", Err("UNAVAILABLE")),
            ("address x 0\nend\n", Err("UNAVAILABLE")),
            ("what\nend\n", Err("UNAVAILABLE")),
        ] {
            let seen = understand(said).map_err(|failure| failure.code);
            assert_eq!(seen, expected.map_err(str::to_owned), "{said:?}");
        }
    }
}
