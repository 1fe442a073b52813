//! The settings of connection tracking that kube-proxy looks after: sysctls of its own network namespace.

use std::fs;
use std::time::Duration;

use seaway_net::sysctl;

use super::configuration::Conntrack;

/// The limit of connections.
const MAX: &str = "nf_conntrack_max";
/// The number of buckets of the table that connections are found in; one for all network namespaces, and set from the
/// host's alone.
const HASH_SIZE: &str = "/sys/module/nf_conntrack/parameters/hashsize";
/// As many connections as kube-proxy lets share a bucket.
const PER_BUCKET: u64 = 4;

/// What is wanted of connection tracking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConntrackSettings {
    /// Connections for each processor core; 0: the kernel's limit stays.
    pub(crate) max_per_core: u32,
    /// The least number of connections, however few cores there are.
    pub(crate) min: u32,
    /// How long an idle established TCP connection is kept; zero: as the kernel has it.
    pub(crate) tcp_established: Duration,
    /// How long a TCP connection in CLOSE_WAIT is kept; zero: as the kernel has it.
    pub(crate) tcp_close_wait: Duration,
    /// TCP packets out of the window are no reason for INVALID.
    pub(crate) tcp_be_liberal: bool,
    /// How long a UDP flow without an answer is kept; zero: as the kernel has it.
    pub(crate) udp: Duration,
    /// How long a UDP flow with answers is kept; zero: as the kernel has it.
    pub(crate) udp_stream: Duration,
}

impl ConntrackSettings {
    /// The settings of a configuration in which defaults have been filled in.
    pub(crate) fn new(conntrack: &Conntrack) -> Self {
        Self {
            max_per_core: conntrack.max_per_core.unwrap_or_default(),
            min: conntrack.min.unwrap_or_default(),
            tcp_established: conntrack.tcp_established_timeout.unwrap_or_default().0,
            tcp_close_wait: conntrack.tcp_close_wait_timeout.unwrap_or_default().0,
            tcp_be_liberal: conntrack.tcp_be_liberal,
            udp: conntrack.udp_timeout.0,
            udp_stream: conntrack.udp_stream_timeout.0,
        }
    }

    /// The parameters that must have at least these values on a machine with `cores`.
    fn wanted(&self, cores: usize) -> Vec<(&'static str, u64)> {
        let cores = u64::try_from(cores).unwrap_or(u64::MAX);
        let max = match self.max_per_core {
            0 => 0,
            per_core => u64::from(per_core).saturating_mul(cores).max(u64::from(self.min)),
        };
        [
            (MAX, max),
            ("nf_conntrack_tcp_timeout_established", self.tcp_established.as_secs()),
            ("nf_conntrack_tcp_timeout_close_wait", self.tcp_close_wait.as_secs()),
            ("nf_conntrack_tcp_be_liberal", u64::from(self.tcp_be_liberal)),
            ("nf_conntrack_udp_timeout", self.udp.as_secs()),
            ("nf_conntrack_udp_timeout_stream", self.udp_stream.as_secs()),
        ]
        .into_iter()
        .filter(|(_, value)| *value > 0)
        .collect()
    }

    /// Raises what is lower; what is larger already stays, as kube-proxy leaves it. What cannot be set is told of and left:
    /// in a network namespace of its own some of it belongs to the host.
    pub(crate) fn apply(&self) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for (name, value) in self.wanted(cores) {
            let path = format!("net/netfilter/{name}");
            let current = sysctl::get(&path);
            if !must_raise(current.as_deref().ok(), value) {
                continue;
            }
            match sysctl::set(&path, &value.to_string()) {
                Ok(_) => {
                    tracing::info!(name, value, "connection tracking set");
                    if name == MAX {
                        grow_hash_table(value);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, current = current.unwrap_or_default(), "connection tracking stays as it is");
                }
            }
        }
    }
}

/// Makes the table large enough for `max` connections.
fn grow_hash_table(max: u64) {
    let wanted = max / PER_BUCKET;
    let current = fs::read_to_string(HASH_SIZE).ok();
    if must_raise(current.as_deref(), wanted)
        && let Err(error) = fs::write(HASH_SIZE, wanted.to_string())
    {
        tracing::warn!(%error, wanted, "{HASH_SIZE} stays as it is: connections take longer to find");
    }
}

/// A parameter whose value cannot be read is tried.
fn must_raise(current: Option<&str>, wanted: u64) -> bool {
    current.and_then(|current| current.trim().parse::<u64>().ok()).is_none_or(|current| current < wanted)
}

#[cfg(test)]
mod tests {
    use seaway_net::netns::NetNs;

    use super::*;

    #[test]
    fn the_limit_grows_with_the_cores_from_a_minimum() {
        let settings = |max_per_core, min| ConntrackSettings { max_per_core, min, ..Default::default() };
        for (settings, cores, max) in [
            (settings(32_768, 131_072), 2, Some(131_072)),
            (settings(32_768, 131_072), 8, Some(262_144)),
            (settings(0, 131_072), 8, None),
            (settings(10, 0), 1, Some(10)),
        ] {
            let wanted = settings.wanted(cores);
            let found = wanted.iter().find(|(name, _)| *name == "nf_conntrack_max").map(|(_, max)| *max);
            assert_eq!(found, max, "{settings:?} {cores}");
        }
    }

    #[test]
    fn only_what_is_lower_is_raised() {
        assert!(must_raise(Some("10"), 11) && must_raise(None, 11) && must_raise(Some("x"), 11));
        assert!(!must_raise(Some("11\n"), 11) && !must_raise(Some("12"), 11));
        let name = "net/netfilter/nf_conntrack_tcp_timeout_close_wait";
        let seen = NetNs::new().unwrap().run(|| {
            let settings = |seconds| ConntrackSettings {
                tcp_close_wait: Duration::from_secs(seconds),
                ..ConntrackSettings::default()
            };
            settings(3600).apply();
            let raised = sysctl::get(name).unwrap();
            settings(30).apply();
            (raised, sysctl::get(name).unwrap())
        });
        assert_eq!(seen.unwrap(), ("3600".into(), "3600".into()));
    }
}
