//! The rules that packets meet.

use std::os::fd::{AsFd, BorrowedFd};

use crate::Error;
use crate::api::{RuleFilter, Rules};

/// The rules of an observation.
pub(crate) struct RuleTrace {
    rtnl: std::os::unix::net::UnixStream,
}

impl RuleTrace {
    pub(crate) fn open(_id: &str, _filters: &[RuleFilter]) -> Result<Self, Error> {
        Ok(Self { rtnl: std::os::unix::net::UnixStream::pair().map_err(Error::Capture)?.0 })
    }

    pub(crate) fn drain(&mut self) -> Result<(), Error> {
        Ok(())
    }

    pub(crate) fn rules(&mut self) -> Result<Rules, Error> {
        Ok(Rules::default())
    }
}

impl AsFd for RuleTrace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.rtnl.as_fd()
    }
}
