//! The CNI plugin: a container runtime starts it for each pod with parameters in the environment and its
//! configuration on standard input (CNI specification 1.1.0 and back to 0.3.1).

mod attach;
mod error;
mod request;
mod result;

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

pub use attach::{Attached, add, del, host_interface};
pub use error::{CniError, Code};
pub use request::{Ipam, NetworkConfig, Request, Version};

/// Longer configurations are refused, in bytes; a prevResult and its capabilities make some tens of kilobytes
/// at most.
const MAX_CONFIG: u64 = 1 << 20;

/// Options of `seaway cni`: none, a container runtime says everything in the environment.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[command(after_help = "\
Examples:
  CNI_COMMAND=VERSION seaway cni </dev/null
  CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 \\
    CNI_PATH=/opt/cni/bin seaway cni < config.json")]
pub struct CniArgs {}

/// Whether a container runtime started this binary as a plugin: `CNI_COMMAND` is set and it was called
/// `seaway` by a path, without arguments, as runtimes call plugins.
pub fn is_cni_call() -> bool {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let by_path = Path::new(&name).file_name() == Some(OsStr::new("seaway"));
    std::env::var_os("CNI_COMMAND").is_some() && by_path && arguments.next().is_none()
}

/// Answers one call on standard output; the code to exit with.
pub fn run(_: CniArgs) -> ExitCode {
    let mut config = Vec::new();
    let read = std::io::stdin().lock().take(MAX_CONFIG + 1).read_to_end(&mut config);
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let answer = match read {
        Ok(_) if config.len() as u64 > MAX_CONFIG => {
            Err(CniError::new(Code::Decode, "the configuration on standard input is longer than 1 MiB"))
        }
        Ok(_) => answer(variable, &config),
        Err(error) => Err(CniError::new(Code::Io, format!("cannot read standard input: {error}"))),
    };
    let (text, code) = match answer {
        Ok(Value::Null) => return ExitCode::SUCCESS,
        Ok(value) => (value, ExitCode::SUCCESS),
        Err(error) => (error.to_json(version_of(&config)), ExitCode::FAILURE),
    };
    // A runtime that does not listen any more has no use for the answer.
    let _ = writeln!(std::io::stdout().lock(), "{text:#}");
    code
}

/// Carries out the call that `variable` (the environment) and `config` describe; what to print, null for
/// nothing.
pub fn answer(variable: impl Fn(&str) -> Option<String>, config: &[u8]) -> Result<Value, CniError> {
    let command =
        variable("CNI_COMMAND").ok_or_else(|| CniError::new(Code::Environment, "CNI_COMMAND is not set"))?;
    match command.as_str() {
        "VERSION" => Ok(json!({
            "cniVersion": version_of(config).unwrap_or(Version::LATEST),
            "supportedVersions": Version::ALL,
        })),
        "ADD" => {
            let request = Request::parse(&variable, config)?;
            let attached = add(&request)?;
            Ok(result::render(&request, &attached))
        }
        "DEL" => {
            let request = Request::parse(&variable, config)?;
            del(&request)?;
            Ok(Value::Null)
        }
        other => {
            let text = format!("CNI_COMMAND {other:?} is not supported: expected ADD, DEL or VERSION");
            Err(CniError::new(Code::Environment, text))
        }
    }
}

/// The configuration's version where it can be told, for the answer's own `cniVersion`.
fn version_of(config: &[u8]) -> Option<Version> {
    let value: Value = serde_json::from_slice(config).ok()?;
    Version::parse(value.get("cniVersion")?.as_str()?)
}
