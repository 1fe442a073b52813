//! The kernel parameters that the data path needs, in the node's network namespace.

use seaway_kube::Update;
use seaway_net::sysctl;

use crate::part::{Outcome, Part};

/// Parameter, value, and whether the part fails without it (IPv6 may be switched off).
const PARAMETERS: &[(&str, &str, bool)] = &[
    // The node is its pods' router.
    ("net/ipv4/ip_forward", "1", true),
    // The kernel takes the greater of `all` and the interface's own: only with 0 here can pods' interfaces be checked
    // strictly (nobody forges addresses) and the overlay's loosely (RFC 3704).
    ("net/ipv4/conf/all/rp_filter", "0", true),
    // A pod reaches every other through the node: never tell it of a shorter way.
    ("net/ipv4/conf/all/send_redirects", "0", true),
    ("net/ipv4/conf/default/send_redirects", "0", true),
    ("net/ipv6/conf/all/forwarding", "1", false),
    // Connections count their packets: what `status services` tells of each endpoint.
    ("net/netfilter/nf_conntrack_acct", "1", false),
];

/// The part called `system`.
#[derive(Debug, Default)]
pub(crate) struct System {
    done: bool,
}

impl Part for System {
    fn name(&self) -> &'static str {
        "system"
    }

    fn follow(&mut self, _: &Update) -> bool {
        !self.done
    }

    fn reconcile(&mut self) -> Result<Outcome, String> {
        let mut operations = 0;
        for (name, value, needed) in PARAMETERS {
            match sysctl::set(name, value) {
                Ok(changed) => operations += usize::from(changed),
                Err(error) if *needed => return Err(error.to_string()),
                Err(error) => tracing::debug!(%error, "left as it is"),
            }
        }
        self.done = true;
        Ok(Outcome { full: true, operations })
    }

    fn mark_dirty(&mut self) {
        self.done = false;
    }
}
