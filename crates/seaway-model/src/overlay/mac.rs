//! Ethernet addresses, and names and addresses that follow from a key.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An Ethernet address, written `0a:1b:2c:3d:4e:5f`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// An address that follows from `key` alone: the same every time, another one for another key in all
    /// likelihood. Unicast and locally administered (IEEE 802, section 8.4).
    pub fn derived(key: &[&str]) -> Self {
        let [a, b, c, d, e, f, ..] = stable_hash(key).to_be_bytes();
        Self([(a & 0xfc) | 0x02, b, c, d, e, f])
    }
}

/// A hash of strings that is the same in every build and on every machine (FNV-1a, 64 bits, with a mixing
/// step at the end so that all bits depend on all of the input). Not for untrusted input that must not
/// collide.
pub fn stable_hash(key: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in key {
        // 0xff occurs in no UTF-8, so ["ab"] and ["a", "b"] differ.
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

impl fmt::Display for MacAddr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit()));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(|| wrong(text))?;
        }
        if parts.next().is_some() {
            return Err(wrong(text));
        }
        Ok(Self(bytes))
    }
}

fn wrong(text: &str) -> String {
    format!("{text:?} is no Ethernet address such as 0a:1b:2c:3d:4e:5f")
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
