//! Clocks.

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// Time by the wall clock, and CPU time in user and in kernel mode.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

/// One contestant's full sync, or one more service.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Parts {
    /// From the cluster's objects to a transaction or text.
    pub(crate) generate: Duration,
    /// Parsing and evaluating of text, where there is text: CPU time in user mode.
    pub(crate) parse: Option<Duration>,
    /// Writing of netlink messages, where it can be told from parsing.
    pub(crate) encode: Option<Duration>,
    /// Checking and committing in the kernel.
    pub(crate) kernel: Duration,
    /// Bytes of text or messages.
    pub(crate) bytes: usize,
    /// All of it, of this process and the program that it ran.
    pub(crate) total: Cost,
}

/// A contestant's results.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) full: Parts,
    pub(crate) one_more: Parts,
    /// A start beside a kernel that has it all already: read, compare, change nothing.
    pub(crate) adopt: Option<Cost>,
}

/// The result in the middle by wall clock time.
pub(crate) fn median(mut all: Vec<Parts>) -> Parts {
    all.sort_by_key(|parts| parts.total.wall);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// Runs something and measures it; children count that have ended in it.
pub(crate) fn cost<T>(run: impl FnOnce() -> T) -> (T, Cost) {
    let (user, system) = cpu();
    let start = Instant::now();
    let result = run();
    let wall = start.elapsed();
    let (user_after, system_after) = cpu();
    (result, Cost { wall, user: user_after - user, system: system_after - system })
}

/// CPU time of this process and its children so far.
fn cpu() -> (Duration, Duration) {
    let (own, children) = (usage(libc::RUSAGE_SELF), usage(libc::RUSAGE_CHILDREN));
    (own.0 + children.0, own.1 + children.1)
}

/// CPU time of ended children so far.
pub(crate) fn children() -> (Duration, Duration) {
    usage(libc::RUSAGE_CHILDREN)
}

fn usage(who: libc::c_int) -> (Duration, Duration) {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a `rusage` of ours, which the kernel fills; all of its fields are numbers, so zeroes are
    // valid where it does not.
    let usage = unsafe {
        libc::getrusage(who, usage.as_mut_ptr());
        usage.assume_init()
    };
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    (duration(usage.ru_utime), duration(usage.ru_stime))
}
