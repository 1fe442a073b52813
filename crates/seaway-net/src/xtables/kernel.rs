//! Legacy tables in the kernel, by getsockopt(2) and setsockopt(2).

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use super::block::Remaining;
use super::{Cut, Family, MalformedTable, Table, lock};

/// IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES, IPT_SO_SET_REPLACE, IPT_SO_SET_ADD_COUNTERS; ip6_tables has the same numbers.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
const SET_REPLACE: libc::c_int = 64;
const SET_ADD_COUNTERS: libc::c_int = 65;
/// XT_TABLE_MAXNAMELEN, with the zero at its end.
const NAME: usize = 32;
/// Sizes of `struct ipt_getinfo`, and of `struct ipt_get_entries`, `ipt_replace` and `xt_counters_info` before their arrays.
const INFO: usize = 84;
const ENTRIES: usize = 40;
const REPLACE: usize = 96;
const COUNTERS_INFO: usize = 40;
/// Size of `struct xt_counters`.
const COUNTERS: usize = 16;
/// Most bytes that the kernel has in a table (XT_MAX_TABLE_SIZE).
const MOST: usize = 512 << 20;
/// How often a table that others change meanwhile is read again.
const TRIES: usize = 16;

/// A legacy table could not be read or replaced.
#[derive(Debug, thiserror::Error)]
pub enum XtablesError {
    /// A system call failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was being done, with the table's name.
        operation: String,
        /// The system's error.
        source: io::Error,
    },
    /// The table is not what it should be.
    #[error(transparent)]
    Malformed(#[from] MalformedTable),
}

fn failed(operation: impl Into<String>) -> impl FnOnce(io::Error) -> XtablesError {
    let operation = operation.into();
    |source| XtablesError::Io { operation, source }
}

/// The legacy tables of one family in the calling thread's network namespace.
#[derive(Debug)]
pub struct Xtables {
    family: Family,
    socket: OwnedFd,
}

impl Xtables {
    /// The tables of the calling thread's network namespace; `None` where the kernel has none of that kind at all.
    ///
    /// # Errors
    /// No socket: it takes CAP_NET_RAW, and the rest CAP_NET_ADMIN.
    pub fn open(family: Family) -> Result<Option<Self>, XtablesError> {
        if !cfg!(target_pointer_width = "64") || names(family)?.is_empty() {
            return Ok(None);
        }
        let (domain, protocol) = match family {
            Family::V4 => (AddressFamily::INET, ipproto::RAW),
            Family::V6 => (AddressFamily::INET6, ipproto::RAW),
        };
        let socket = socket_with(domain, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))
            .map_err(|errno| failed("open a socket for legacy tables")(errno.into()))?;
        Ok(Some(Self { family, socket }))
    }

    /// The names of the tables that there are in the calling thread's network namespace. Others are not asked for: the
    /// kernel makes a table that someone asks for, hooks included.
    pub fn names(&self) -> Result<BTreeSet<String>, XtablesError> {
        names(self.family)
    }

    /// Reads a table.
    pub fn read(&self, name: &str) -> Result<Table, XtablesError> {
        let operation = || format!("read legacy table {name}");
        let mut last = io::Error::from(io::ErrorKind::Interrupted);
        for _ in 0..TRIES {
            let mut info = named(name, INFO).map_err(failed(operation()))?;
            self.get(GET_INFO, &mut info).map_err(failed(operation()))?;
            let size = number(&info, 80) as usize;
            if size > MOST {
                let error = io::Error::new(io::ErrorKind::InvalidData, format!("it has {size} bytes"));
                return Err(failed(operation())(error));
            }
            let mut entries = named(name, ENTRIES + size).map_err(failed(operation()))?;
            entries[NAME..NAME + 4].copy_from_slice(&(size as u32).to_ne_bytes());
            match self.get(GET_ENTRIES, &mut entries) {
                Ok(()) => {
                    let [hook_entry, underflow] =
                        [36, 56].map(|at| std::array::from_fn(|hook| number(&info, at + 4 * hook)));
                    let bytes = entries.split_off(ENTRIES);
                    let hooks = number(&info, 32);
                    return Ok(Table::parse(self.family, name, hooks, hook_entry, underflow, bytes)?);
                }
                // Another size than just now.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => last = error,
                Err(error) => return Err(failed(operation())(error)),
            }
        }
        Err(failed(operation())(last))
    }

    /// Takes chains and rules out of a table, all at once; `choose` is asked with the table as it then is, and nothing is
    /// done where it names nothing. Counters of what stays go on. Tells what was taken out.
    ///
    /// # Errors
    /// A rule that stays goes to a chain that is to go, someone else keeps the lock, or the kernel refuses.
    pub fn cut(&self, name: &str, mut choose: impl FnMut(&Table) -> Cut) -> Result<Cut, XtablesError> {
        let operation = || format!("replace legacy table {name}");
        let _lock: File = lock::take().map_err(failed(operation()))?;
        let mut last = io::Error::from(io::ErrorKind::Interrupted);
        for _ in 0..TRIES {
            let old = self.read(name)?;
            let cut = choose(&old);
            if cut == Cut::default() {
                return Ok(cut);
            }
            let new = old.without(&cut)?;
            match self.replace(&old, &new) {
                Ok(()) => return Ok(cut),
                // It has another number of entries than just now: someone does not heed the lock.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => last = error,
                Err(error) => return Err(failed(operation())(error)),
            }
        }
        Err(failed(operation())(last))
    }

    /// Puts a table in place of another one, and gives each entry the counters of the one it was made from.
    fn replace(&self, old: &Table, new: &Remaining) -> io::Result<()> {
        let Remaining { table, origins } = new;
        let mut counters = vec![0_u8; old.count() * COUNTERS];
        let mut request = named(&table.name, REPLACE)?;
        let mut put = |at: usize, value: u32| request[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        put(32, table.valid_hooks);
        put(36, table.count() as u32);
        put(40, table.bytes.len() as u32);
        for hook in 0..5 {
            put(44 + 4 * hook, table.hook_entry[hook]);
            put(64 + 4 * hook, table.underflow[hook]);
        }
        put(84, old.count() as u32);
        // Where the kernel is to write the old counters to.
        let pointer = counters.as_mut_ptr().expose_provenance() as u64;
        request[88..96].copy_from_slice(&pointer.to_ne_bytes());
        request.extend_from_slice(&table.bytes);
        // SAFETY: `counters` has room for the number of counters that the request says, which the kernel compares with the
        // number of entries of the table that it takes away, and lives until the call has returned.
        unsafe { self.set(SET_REPLACE, &request) }?;
        let mut request = named(&table.name, COUNTERS_INFO)?;
        request[NAME..NAME + 4].copy_from_slice(&(table.count() as u32).to_ne_bytes());
        for origin in origins {
            request.extend_from_slice(&counters[origin * COUNTERS..(origin + 1) * COUNTERS]);
        }
        // SAFETY: the request has no pointer in it.
        unsafe { self.set(SET_ADD_COUNTERS, &request) }
    }

    fn level(&self) -> libc::c_int {
        match self.family {
            Family::V4 => libc::IPPROTO_IP,
            Family::V6 => libc::IPPROTO_IPV6,
        }
    }

    /// Has the kernel fill `buffer`, whose beginning says what is asked for.
    fn get(&self, option: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
        let mut length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
        // SAFETY: the kernel writes no more than `length` bytes, which is the buffer's length, into the buffer.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                self.level(),
                option,
                buffer.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// # Safety
    /// A pointer in `buffer` must be to memory that the kernel may write to as the option says.
    unsafe fn set(&self, option: libc::c_int, buffer: &[u8]) -> io::Result<()> {
        let length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
        // SAFETY: the kernel reads `length` bytes, which is the buffer's length; of pointers in it the caller says so.
        let result = unsafe {
            libc::setsockopt(self.socket.as_raw_fd(), self.level(), option, buffer.as_ptr().cast(), length)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// The names of the legacy tables in the calling thread's network namespace.
fn names(family: Family) -> Result<BTreeSet<String>, XtablesError> {
    let path = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        // A kernel without legacy tables, or with a module for them that nobody needed so far.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(failed(format!("read {path}"))(error)),
    }
}

/// Zeroed bytes that begin with a table's name.
fn named(name: &str, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    if name.len() >= NAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a table's name has at most 31 bytes"));
    }
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Ok(bytes)
}

/// A number in a structure whose length is known.
fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}
