//! Errors as container runtimes read them.

use serde_json::{Value, json};

use super::Version;
use crate::ipam::IpamError;

/// The error codes of the CNI specification 1.1.0, section 5 (plugins' own start at 100).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The configuration's version is not one of ours.
    Version = 1,
    /// The container is unknown or does not exist.
    UnknownContainer = 3,
    /// A variable of the environment is missing or wrong.
    Environment = 4,
    /// Files or the kernel.
    Io = 5,
    /// The configuration is no JSON.
    Decode = 6,
    /// The configuration is wrong.
    Config = 7,
    /// It may work later.
    TryLater = 11,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    /// The specification's code.
    pub code: Code,
    /// What happened, with the object and what to do.
    pub message: String,
}

impl CniError {
    /// An error.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The specification's error object.
    pub fn to_json(&self, version: Option<Version>) -> Value {
        let version = version.unwrap_or(Version::LATEST);
        json!({ "cniVersion": version, "code": self.code as u32, "msg": self.message })
    }
}

impl From<IpamError> for CniError {
    fn from(error: IpamError) -> Self {
        let code = match error {
            IpamError::Exhausted { .. } => Code::TryLater,
            IpamError::TooSmall { .. } => Code::Config,
            // The specification has no code of its own for a second ADD.
            IpamError::Duplicate { .. } => Code::Environment,
            IpamError::Files { .. } => Code::Io,
        };
        Self::new(code, error.to_string())
    }
}

impl From<seaway_net::netlink::NetlinkError> for CniError {
    fn from(error: seaway_net::netlink::NetlinkError) -> Self {
        Self::new(Code::Io, error.to_string())
    }
}

impl From<seaway_net::sysctl::SysctlError> for CniError {
    fn from(error: seaway_net::sysctl::SysctlError) -> Self {
        Self::new(Code::Io, error.to_string())
    }
}
