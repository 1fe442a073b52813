//! When kube-proxy's leftovers are removed.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::Leftovers;

/// How long after the first removal it is looked again: a kube-proxy that was just ending may have written something.
const AGAIN: Duration = Duration::from_secs(30);

/// Whether leftovers of a kube-proxy are removed: `--cleanup-kube-proxy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CleanupKubeProxy {
    /// As soon as Seaway's own rules are in force and kube-proxy is known not to run.
    #[default]
    Auto,
    /// They are told and left alone.
    Never,
}

/// A word that is no [`CleanupKubeProxy`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither auto nor never")]
pub struct UnknownPolicy(String);

impl FromStr for CleanupKubeProxy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text {
            "auto" => Ok(Self::Auto),
            "never" => Ok(Self::Never),
            other => Err(UnknownPolicy(other.to_owned())),
        }
    }
}

impl fmt::Display for CleanupKubeProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Never => "never",
        })
    }
}

/// Removes leftovers at a start, or tells of them: once when it may, once more half a minute later, and as often as connections still use some
/// of it. Later kube-proxies are not its concern.
///
/// Ask [`Takeover::due`] after every sync and now and then; where it says so call [`Takeover::run`] on a thread that may
/// block, in the network namespace of the node.
#[derive(Debug)]
pub struct Takeover {
    policy: CleanupKubeProxy,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was removed so far.
    First,
    /// To be done again then.
    Again(Instant),
    Done,
}

impl Takeover {
    /// At a start.
    pub fn new(policy: CleanupKubeProxy) -> Self {
        Self { policy, state: State::First }
    }

    /// There is nothing to do any more.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// It is time to remove something: this process holds kube-proxy's own ports (127.0.0.1:10249, 10256), so that no
    /// kube-proxy runs which would put everything back and be the poorer for it meanwhile; and all of the plan is in force.
    pub fn due(&self, holds_ports: bool, synced: bool, now: Instant) -> bool {
        holds_ports
            && synced
            && match self.state {
                State::First => true,
                State::Again(at) => now >= at,
                State::Done => false,
            }
    }

    /// Removes what there is, if the policy says so, and logs it. A part that fails is tried again half a minute later.
    pub fn run(&mut self, now: Instant) {
        let (leftovers, done) = match self.policy {
            CleanupKubeProxy::Auto => (Leftovers::remove(), "removed what kube-proxy left"),
            CleanupKubeProxy::Never => (Leftovers::find(), "kube-proxy left, and it stays as was asked for"),
        };
        self.ran(&leftovers, now);
        for line in leftovers.to_string().lines() {
            match line.starts_with("failed: ") {
                true => tracing::warn!("{line}"),
                false => tracing::info!("{done}: {line}"),
            }
        }
    }

    fn ran(&mut self, removed: &Leftovers, now: Instant) {
        if self.policy == CleanupKubeProxy::Never {
            self.state = State::Done;
            return;
        }
        let more = self.state == State::First || removed.is_waiting() || !removed.failed.is_empty();
        self.state = if more { State::Again(now + AGAIN) } else { State::Done };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leftovers::IpvsState;

    #[test]
    fn it_is_done_when_kube_proxy_is_gone_and_the_rules_are_in_force() {
        let now = Instant::now();
        let mut takeover = Takeover::new(CleanupKubeProxy::Auto);
        for (holds_ports, synced) in [(false, false), (true, false), (false, true)] {
            assert!(!takeover.due(holds_ports, synced, now));
        }
        assert!(takeover.due(true, true, now));
        // Once more, as long as something waits, and then never again.
        let waiting = IpvsState { waiting: vec!["10.96.0.1:443 tcp".to_owned()], ..IpvsState::default() };
        let waiting = Leftovers { ipvs: Some(waiting), ..Leftovers::default() };
        takeover.ran(&Leftovers::default(), now);
        assert!(!takeover.due(true, true, now));
        let later = now + AGAIN;
        assert!(takeover.due(true, true, later));
        takeover.ran(&waiting, later);
        assert!(!takeover.due(true, true, later) && takeover.due(true, true, later + AGAIN));
        takeover.ran(&Leftovers::default(), later + AGAIN);
        assert!(takeover.is_done());
        assert!(!takeover.due(true, true, later + 10 * AGAIN));
        // Who wants nothing removed is told once what there is.
        let mut takeover = Takeover::new(CleanupKubeProxy::Never);
        assert!(takeover.due(true, true, now));
        takeover.ran(&waiting, now);
        assert!(takeover.is_done() && !takeover.due(true, true, now + AGAIN));
    }

    #[test]
    fn the_policys_words_are_read() {
        for policy in [CleanupKubeProxy::Auto, CleanupKubeProxy::Never] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("always".parse::<CleanupKubeProxy>().is_err());
    }
}
