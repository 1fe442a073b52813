//! As whom a program runs and what it may do (credentials(7), capabilities(7)).

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use super::program::check;
use super::shim::{Step, failed};

/// A set of capabilities (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities(u64);

impl Capabilities {
    /// None.
    pub const NONE: Self = Self(0);
    /// All, those that kernels to come may add included.
    pub const ALL: Self = Self(u64::MAX);

    /// The one of this name: `NET_RAW` or `CAP_NET_RAW`, in any case.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_uppercase();
        let capability = CapabilitySet::from_name(name.strip_prefix("CAP_").unwrap_or(&name))?;
        Some(Self(capability.bits()))
    }

    /// These and `others`.
    #[must_use]
    pub const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// These but `others`.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }
}

/// As whom a program runs and what it may do. The default keeps the caller's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The user to run as, without supplementary groups; `None` keeps the caller's.
    pub uid: Option<u32>,
    /// The group to run as; `None` keeps the caller's.
    pub gid: Option<u32>,
    /// What the program and all that it executes can ever have, as far as the caller has it; `None` keeps the caller's.
    /// Root has all of them from the start, any other user none.
    pub capabilities: Option<Capabilities>,
    /// Nothing that the program executes gains rights by set-user-ID or file capabilities (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
}

impl Credentials {
    /// Takes them on, for good. The calling process has one thread.
    pub(super) fn assume(&self) -> Step<()> {
        if let Some(allowed) = self.capabilities {
            // While CAP_SETPCAP is still there.
            limit_bounding_set(allowed).map_err(failed("limit", "the capability bounding set"))?;
        }
        if self.uid.is_some() || self.gid.is_some() {
            self.change_user()?;
        }
        if let Some(allowed) = self.capabilities {
            limit_own_sets(allowed).map_err(failed("limit", "the capability sets"))?;
        }
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(failed("forbid", "new privileges"))?;
        }
        Ok(())
    }

    fn change_user(&self) -> Step<()> {
        // SAFETY: plain system calls on numbers; this process has one thread.
        unsafe {
            check(libc::setgroups(0, std::ptr::null())).map_err(failed("drop", "supplementary groups"))?;
            if let Some(gid) = self.gid {
                check(libc::setresgid(gid, gid, gid)).map_err(failed("become group", gid))?;
            }
            if let Some(uid) = self.uid {
                check(libc::setresuid(uid, uid, uid)).map_err(failed("become user", uid))?;
            }
        }
        Ok(())
    }
}

/// Takes away what programs executed later can have at most.
fn limit_bounding_set(allowed: Capabilities) -> rustix::io::Result<()> {
    for number in 0..u64::BITS {
        let capability = 1 << number;
        if allowed.0 & capability != 0 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(capability))
        {
            Ok(()) => {}
            // The kernel has no more (proc_sys_kernel(5), cap_last_cap).
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Takes away what this process has, and all that it could hand down past the bounding set's change.
fn limit_own_sets(allowed: Capabilities) -> rustix::io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    let held = rustix::thread::capabilities(None)?.permitted & CapabilitySet::from_bits_retain(allowed.0);
    let sets = CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_by_name() {
        // linux/capability.h: CAP_CHOWN 0, CAP_NET_RAW 13, CAP_CHECKPOINT_RESTORE 40.
        for (name, number) in [("CHOWN", 0), ("CAP_NET_RAW", 13), ("net_raw", 13), ("CHECKPOINT_RESTORE", 40)]
        {
            assert_eq!(Capabilities::named(name), Some(Capabilities(1 << number)), "{name}");
        }
        for name in ["", "ALL", "CAP_", "_", "NET_RAW | CHOWN", "CAP_CAP_CHOWN"] {
            assert_eq!(Capabilities::named(name), None, "{name}");
        }
        let two = Capabilities::NONE.with(Capabilities(1)).with(Capabilities(2));
        assert_eq!(two.without(Capabilities(1)), Capabilities(2));
    }
}
