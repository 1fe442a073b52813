//! The packets of an observation: what was captured so far.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use seaway_net::capture::{Capture, Settings, Wanted};
use seaway_net::rtnl::Rtnl;

use crate::Error;
use crate::api::{Packet, PacketFilter, PacketMatch, Packets};
use crate::packet::{Parsed, parse};
use crate::select::{self, Seen};

/// Bytes of each packet that are kept: all headers with a tunnel's, and a probe's token.
const SNAP: u32 = 512;
/// Bytes that the kernel keeps for an observation until they are read.
const KERNEL_BUFFER: usize = 16 << 20;
/// Bytes that an observation keeps.
const BUDGET: usize = 32 << 20;
/// What a packet costs beside its bytes.
const OVERHEAD: usize = 64;

/// A packet as it came.
struct Stored {
    time: u64,
    index: u32,
    out: bool,
    data: Box<[u8]>,
}

impl Stored {
    fn cost(&self) -> usize {
        self.data.len() + OVERHEAD
    }
}

/// The packets of an observation.
pub(crate) struct Tap {
    capture: Capture,
    filters: Vec<PacketFilter>,
    links: LinkNames,
    stored: Vec<Stored>,
    /// So many of them have been looked at: some filter wants them.
    sorted: usize,
    bytes: usize,
    /// Packets that the budget had no room for.
    refused: u64,
}

impl Tap {
    /// Begins in the calling thread's namespace.
    pub(crate) fn open(filters: &[PacketFilter]) -> Result<Self, Error> {
        let links = LinkNames::open()?;
        let wanted = kernel_filters(filters);
        let capture = Capture::open(&Settings { wanted: &wanted, snap: SNAP, buffer: KERNEL_BUFFER })
            .map_err(Error::Capture)?;
        Ok(Self {
            capture,
            filters: filters.to_vec(),
            links,
            stored: Vec::new(),
            sorted: 0,
            bytes: 0,
            refused: 0,
        })
    }

    /// Keeps what matches `filters` from now on; what was kept stays.
    pub(crate) fn want(&mut self, filters: &[PacketFilter]) -> Result<(), Error> {
        self.drain()?;
        self.sort_out();
        self.capture.want(&kernel_filters(filters)).map_err(Error::Capture)?;
        self.filters = filters.to_vec();
        Ok(())
    }

    /// Drops what the kernel let through though no filter wants it.
    fn sort_out(&mut self) {
        let mut fresh = self.stored.split_off(self.sorted);
        let filters = &self.filters;
        fresh.retain(|stored| {
            let wanted = parse(&stored.data).is_some_and(|parsed| select::wanted(filters, &parsed.ip));
            self.bytes -= if wanted { 0 } else { stored.cost() };
            wanted
        });
        self.stored.append(&mut fresh);
        self.sorted = self.stored.len();
    }

    /// Reads what has come until now. What the kernel let through in vain is sorted out later: reading must be quicker
    /// than what comes.
    pub(crate) fn drain(&mut self) -> Result<(), Error> {
        // Under load there is always more; what comes after this moment is not waited for.
        let now = now();
        let mut newest = 0;
        while newest <= now {
            let (stored, bytes, refused, links) =
                (&mut self.stored, &mut self.bytes, &mut self.refused, &mut self.links);
            let received = self.capture.receive(|frame| {
                newest = newest.max(frame.time);
                let cost = frame.data.len() + OVERHEAD;
                if *bytes + cost > BUDGET {
                    *refused += 1;
                    return;
                }
                *bytes += cost;
                links.learn(frame.index);
                stored.push(Stored {
                    time: frame.time,
                    index: frame.index,
                    out: frame.out,
                    data: frame.data.into(),
                });
            });
            if received.map_err(Error::Capture)? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// The packets that match any of the matches, of all that have come until now.
    pub(crate) fn select(&mut self, any: &[PacketMatch]) -> Result<Packets, Error> {
        self.drain()?;
        self.sort_out();
        let lost = self.capture.lost().map_err(Error::Capture)? + self.refused;
        let parsed = self.stored.iter().filter_map(|stored| Some((stored, parse(&stored.data)?)));
        let (stored, seen): (Vec<&Stored>, Vec<Seen<'_>>) =
            parsed.map(|(stored, parsed)| (stored, Seen { index: stored.index, parsed })).unzip();
        let taken = select::select(&seen, any);
        let packets = stored.into_iter().zip(seen).zip(taken).filter(|(_, taken)| *taken);
        let packets = packets.map(|((stored, seen), _)| packet(stored, seen.parsed, &self.links)).collect();
        Ok(Packets { packets, lost })
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.capture.as_fd()
    }
}

fn packet(stored: &Stored, parsed: Parsed<'_>, links: &LinkNames) -> Packet {
    Packet {
        time: stored.time,
        link: links.name(stored.index),
        out: stored.out,
        length: parsed.length,
        ip: parsed.ip,
        outer: parsed.outer,
    }
}

/// The same filters for the kernel.
pub(crate) fn kernel_filters(filters: &[PacketFilter]) -> Vec<Wanted> {
    let wanted = |filter: &PacketFilter| Wanted {
        protocol: filter.protocol,
        addresses: filter.addresses.clone(),
        peers: filter.peers.clone(),
        ports: filter.ports.clone(),
        opening: filter.opening,
    };
    filters.iter().map(wanted).collect()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Names of links, also of those that are gone by now.
pub(crate) struct LinkNames {
    rtnl: Rtnl,
    names: HashMap<u32, String>,
}

impl LinkNames {
    /// The links of the calling thread's namespace.
    pub(crate) fn open() -> Result<Self, Error> {
        let mut rtnl = Rtnl::open()?;
        let names = rtnl.links()?.into_iter().map(|link| (link.index, link.name)).collect();
        Ok(Self { rtnl, names })
    }

    /// Asks for the link's name where it is not known yet.
    pub(crate) fn learn(&mut self, index: u32) {
        // A link that is gone by now is asked for once, not for each of its packets.
        self.names.entry(index).or_insert_with(|| match self.rtnl.link(index) {
            Ok(Some(link)) => link.name,
            _ => unnamed(index),
        });
    }

    /// The link's name; its number where nobody knows the name.
    pub(crate) fn name(&self, index: u32) -> String {
        self.names.get(&index).cloned().unwrap_or_else(|| unnamed(index))
    }
}

fn unnamed(index: u32) -> String {
    format!("#{index}")
}
