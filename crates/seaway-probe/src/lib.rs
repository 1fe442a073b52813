//! Sends one request from within a pod, step by step, and tells what came of each.
//!
//! `seaway trace --verify` starts the probe (`seaway __probe`, [`run`]) in the caller's namespaces with [`Probe::start`]. Between two
//! steps the probe waits, so that the tracer can watch for exactly the packets that the next one sends: their addresses and
//! ports are told before they leave. What is said is in [`api`].

pub mod api;
mod datagram;
mod dns;
mod driver;
mod errno;
mod http;
mod icmp;
mod musl;
mod resolve;
mod serve;
mod tcp;

pub use driver::{Probe, ProbeError};
pub use serve::serve;

/// The hidden command of `seaway` that is the probe.
pub const COMMAND: &str = "__probe";
/// Where the program is in every sandbox.
const BINARY: &str = "/.seaway/seaway";

/// The probe on standard input and output; call it before anything else writes there.
pub fn run() -> std::process::ExitCode {
    match serve(std::io::stdin().lock(), std::io::stdout().lock()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("seaway {COMMAND}: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
