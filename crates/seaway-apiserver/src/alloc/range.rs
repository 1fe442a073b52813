//! A range of cluster IPs of one family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::pick;

/// A network that cluster IPs are taken from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    cidr: IpNet,
}

impl Range {
    pub(super) fn new(cidr: IpNet) -> Range {
        Range { cidr: cidr.trunc() }
    }

    pub(super) fn cidr(&self) -> IpNet {
        self.cidr
    }

    pub(super) fn family(&self) -> &'static str {
        seaway_apis::strategy::families::family_of(self.cidr.addr())
    }

    pub(super) fn nth(&self, offset: u128) -> IpAddr {
        match self.cidr.network() {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().wrapping_add(offset as u32)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits().wrapping_add(offset)).into(),
        }
    }

    /// How many addresses there are besides the network's own and IPv4's broadcast, at most as many as a /64 has.
    fn size(&self) -> u128 {
        let bits = self.cidr.max_prefix_len() - self.cidr.prefix_len();
        let unusable = if self.cidr.addr().is_ipv4() { 2 } else { 1 };
        (1u128 << bits.min(64)).saturating_sub(unusable)
    }

    /// Whether a Service may have the address: the network's own and IPv4's broadcast are nobody's.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), String> {
        let broadcast = address.is_ipv4() && address == self.cidr.broadcast();
        if self.cidr.contains(&address) && address != self.cidr.network() && !broadcast {
            return Ok(());
        }
        Err(format!("the provided IP is not in the valid range. The range of valid IPs is {}", self.cidr))
    }

    /// A free address: at random from the upper part; from the lower one, which is left to those who ask by number, only when there is no
    /// other (KEP-3070).
    pub(super) fn free(&self, is_taken: impl Fn(IpAddr) -> bool) -> Result<IpAddr, String> {
        let size = self.size();
        let reserved = (size / 16).clamp(16, 256).min(size);
        let taken = |offset: u128| is_taken(self.nth(offset));
        pick(reserved + 1, size, taken)
            .or_else(|| pick(1, reserved, taken))
            .map(|offset| self.nth(offset))
            .ok_or_else(|| format!("failed to allocate a serviceIP: the range {} is full", self.cidr))
    }
}
