//! From a name to addresses, as the caller's own C library does it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::hop::{Hop, Verdict};

/// What the caller's name service makes of a target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolved {
    /// The steps; none where an address was given.
    pub(crate) hops: Vec<Hop>,
    /// The addresses that the program may call.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Why there are none.
    pub(crate) failed: Option<(Verdict, String)>,
}

impl Resolved {
    /// An address that needs no name service.
    pub(crate) fn literal(address: IpAddr) -> Self {
        Self { addresses: BTreeSet::from([address]), ..Self::default() }
    }
}
