//! Which pod has which address, kept in files.
//!
//! `DATA_DIR/NETWORK/ADDRESS` is a symbolic link whose text is `CONTAINER IFNAME NETNS`. A link is made in
//! one system call that fails where the name exists: at no moment, and after no crash, is there half a
//! record, and no address can have two owners even if two plugins ran without the lock. `lock` keeps them in
//! turn; `last-4` and `last-6` remember where to go on, so that an address rests as long as possible before
//! it is used again.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

/// Addresses at the start of a range that no pod gets: the network's own (the overlay device has it) and the
/// node's.
const RESERVED: u128 = 2;
/// The largest range whose addresses are looked through; larger ones are used to this many addresses.
const MAX_RANGE: u128 = 1 << 16;

/// Why no address could be given or taken back.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// The container's interface has one already.
    #[error("container {container} has address {address} for {ifname} already: DEL it first")]
    Duplicate {
        /// The container.
        container: String,
        /// The interface in it.
        ifname: String,
        /// What it has.
        address: IpAddr,
    },
    /// All are taken.
    #[error("all addresses of {range} are taken; each has its owner in {}", dir.display())]
    Exhausted {
        /// The range.
        range: IpNet,
        /// Where to look.
        dir: PathBuf,
    },
    /// The range holds no address for pods.
    #[error("range {range} has no address to give: a prefix of at most /29 (IPv4) or /125 (IPv6) is needed")]
    TooSmall {
        /// The range.
        range: IpNet,
    },
    /// The files could not be read or written.
    #[error("cannot {operation} {}: {source}", path.display())]
    Files {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The container's id.
    pub container: String,
    /// The interface in it.
    pub ifname: String,
    /// The container's network namespace, for whoever wonders; may be empty.
    pub netns: String,
}

/// A network's addresses.
#[derive(Debug)]
pub struct Ipam {
    dir: PathBuf,
}

impl Ipam {
    /// The addresses of `network` below `data_dir`.
    pub fn new(data_dir: &Path, network: &str) -> Self {
        Self { dir: data_dir.join(network) }
    }

    /// Gives `owner` one address of each range.
    pub fn allocate(&self, ranges: &[IpNet], owner: &Owner) -> Result<Vec<IpAddr>, IpamError> {
        let _lock = self.lock()?;
        let taken = self.owners()?;
        if let Some((address, _)) =
            taken.iter().find(|(_, other)| is_same(other, &owner.container, &owner.ifname))
        {
            let Owner { container, ifname, .. } = owner.clone();
            return Err(IpamError::Duplicate { container, ifname, address: *address });
        }
        let mut given = Vec::new();
        for range in ranges {
            match self.allocate_in(*range, owner, &taken) {
                Ok(address) => given.push(address),
                Err(error) => {
                    for address in given {
                        let _ = fs::remove_file(self.dir.join(address.to_string()));
                    }
                    return Err(error);
                }
            }
        }
        Ok(given)
    }

    /// Takes back what the container's interface has; nothing is no error.
    pub fn release(&self, container: &str, ifname: &str) -> Result<Vec<IpAddr>, IpamError> {
        if !self.dir.is_dir() {
            return Ok(Vec::new());
        }
        let _lock = self.lock()?;
        let mut released = Vec::new();
        for (address, _) in self.owners()?.iter().filter(|(_, owner)| is_same(owner, container, ifname)) {
            let path = self.dir.join(address.to_string());
            fs::remove_file(&path).map_err(failed("remove", &path))?;
            released.push(*address);
        }
        Ok(released)
    }

    /// All addresses that are taken, with their owners, in order.
    pub fn owners(&self) -> Result<Vec<(IpAddr, Owner)>, IpamError> {
        let mut owners = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed("list", &self.dir))? {
            let entry = entry.map_err(failed("list", &self.dir))?;
            let Some(address) = entry.file_name().to_str().and_then(|name| name.parse::<IpAddr>().ok())
            else {
                continue;
            };
            let path = entry.path();
            let text = fs::read_link(&path).map_err(failed("read", &path))?;
            owners.push((address, parse_owner(&text.to_string_lossy())));
        }
        owners.sort_by_key(|(address, _)| *address);
        Ok(owners)
    }

    fn allocate_in(
        &self,
        range: IpNet,
        owner: &Owner,
        taken: &[(IpAddr, Owner)],
    ) -> Result<IpAddr, IpamError> {
        let (first, count) = usable(range).ok_or(IpamError::TooSmall { range })?;
        let memory = self.dir.join(if range.addr().is_ipv4() { "last-4" } else { "last-6" });
        let last = fs::read_to_string(&memory).ok().and_then(|text| text.trim().parse::<IpAddr>().ok());
        let start = last.map_or(0, |last| number(last).wrapping_sub(first).wrapping_add(1));
        let text = format!("{} {} {}", owner.container, owner.ifname, owner.netns);
        for step in 0..count {
            // A memory of another range starts anywhere in this one, which does no harm.
            let address = address(range, first + (start % count + step) % count);
            if taken.iter().any(|(other, _)| *other == address) {
                continue;
            }
            let path = self.dir.join(address.to_string());
            match symlink(&text, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("make", &path)(error)),
                Ok(()) => {
                    // Lost or torn it costs nothing but the order.
                    let _ = fs::write(&memory, address.to_string());
                    return Ok(address);
                }
            }
        }
        Err(IpamError::Exhausted { range, dir: self.dir.clone() })
    }

    /// Waits for the other plugins; the lock goes with the value, and with the process.
    fn lock(&self) -> Result<File, IpamError> {
        fs::create_dir_all(&self.dir).map_err(failed("make", &self.dir))?;
        let path = self.dir.join("lock");
        let file = File::options().create(true).append(true).open(&path).map_err(failed("open", &path))?;
        file.lock().map_err(failed("lock", &path))?;
        Ok(file)
    }
}

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> IpamError + 'a {
    move |source| IpamError::Files { operation, path: path.to_owned(), source }
}

fn is_same(owner: &Owner, container: &str, ifname: &str) -> bool {
    owner.container == container && owner.ifname == ifname
}

fn parse_owner(text: &str) -> Owner {
    let mut parts = text.splitn(3, ' ').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    Owner { container: next(), ifname: next(), netns: next() }
}

/// The first address that pods may have, as a number, and how many there are.
fn usable(range: IpNet) -> Option<(u128, u128)> {
    let (first, last) = (number(range.network()), number(range.broadcast()));
    // IPv6 has no broadcast address; its last one stays out all the same, so that both families count alike.
    let count = (last - first).checked_sub(RESERVED)?.min(MAX_RANGE);
    (count > 0).then_some((first + RESERVED, count))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(range: IpNet, number: u128) -> IpAddr {
    match range {
        // Never cut off: the number is within the range.
        IpNet::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn owner(container: &str) -> Owner {
        Owner {
            container: container.to_owned(),
            ifname: "eth0".to_owned(),
            netns: "/run/netns/with space".to_owned(),
        }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_in_turn_and_rested() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = Ipam::new(dir.path(), "seaway");
        let ranges = [net("10.244.1.0/29"), net("fd00:1::/64")];
        let given = |name: &str| ipam.allocate(&ranges, &owner(name)).map(|given| format!("{given:?}"));
        assert_eq!(given("a").unwrap(), "[10.244.1.2, fd00:1::2]");
        assert_eq!(given("b").unwrap(), "[10.244.1.3, fd00:1::3]");
        assert_eq!(ipam.release("a", "eth0").unwrap().len(), 2);
        assert_eq!(ipam.release("a", "eth0").unwrap().len(), 0);
        for (name, last) in [("c", "4"), ("d", "5"), ("e", "6"), ("f", "2")] {
            assert!(given(name).unwrap().starts_with(&format!("[10.244.1.{last}, ")));
        }
        let error = given("g").unwrap_err();
        assert!(error.to_string().starts_with("all addresses of 10.244.1.0/29 are taken"), "{error}");
        // What the failed call had of the second range is given back: nothing was, as the first failed.
        assert_eq!(ipam.owners().unwrap().len(), 10);
        let error = given("c").unwrap_err();
        assert_eq!(error.to_string(), "container c has address 10.244.1.4 for eth0 already: DEL it first");
        assert!(ipam.owners().unwrap().iter().all(|(_, owner)| owner.netns == "/run/netns/with space"));
    }

    #[test]
    fn a_range_that_is_full_gives_the_other_back() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = Ipam::new(dir.path(), "seaway");
        let ranges = [net("10.244.1.0/24"), net("fd00:1::/125")];
        for n in 0..5 {
            ipam.allocate(&ranges, &owner(&n.to_string())).unwrap();
        }
        assert!(matches!(ipam.allocate(&ranges, &owner("x")), Err(IpamError::Exhausted { .. })));
        assert_eq!(ipam.owners().unwrap().len(), 10);
    }

    #[test]
    fn ranges_without_room() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = Ipam::new(dir.path(), "seaway");
        for range in ["10.0.0.0/31", "10.0.0.0/32", "fd00::/127"] {
            assert!(
                matches!(ipam.allocate(&[net(range)], &owner("a")), Err(IpamError::TooSmall { .. })),
                "{range}"
            );
        }
        assert_eq!(
            ipam.allocate(&[net("10.0.0.0/30")], &owner("a")).unwrap(),
            ["10.0.0.2".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(Ipam::new(dir.path(), "absent").release("a", "eth0").unwrap(), Vec::<IpAddr>::new());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Any turns of ADD and DEL by several at once: each address has one owner, the one it was given to.
        #[test]
        fn one_owner_each(turns in proptest::collection::vec(proptest::collection::vec((0u8..6, any::<bool>()), 1..30), 2..5)) {
            let dir = tempfile::tempdir().unwrap();
            let range = net("10.244.7.0/28");
            let held: Vec<BTreeMap<String, IpAddr>> = std::thread::scope(|scope| {
                let workers: Vec<_> = turns.iter().enumerate().map(|(worker, turns)| {
                    let dir = dir.path();
                    // Each opens the lock by itself, which is what flock(2) tells processes apart by.
                    scope.spawn(move || {
                        let ipam = Ipam::new(dir, "seaway");
                        let mut held = BTreeMap::new();
                        for (pod, add) in turns {
                            let name = format!("{worker}-{pod}");
                            if !add {
                                let released = ipam.release(&name, "eth0").unwrap();
                                assert_eq!(released.first().copied(), held.remove(&name));
                                continue;
                            }
                            match ipam.allocate(&[range], &owner(&name)) {
                                Ok(given) => assert_eq!(held.insert(name, given[0]), None),
                                Err(IpamError::Duplicate { address, .. }) => assert_eq!(held.get(&name), Some(&address)),
                                Err(IpamError::Exhausted { .. }) => {}
                                Err(error) => panic!("{error}"),
                            }
                        }
                        held
                    })
                }).collect();
                workers.into_iter().map(|worker| worker.join().unwrap()).collect()
            });
            let all: Vec<IpAddr> = held.iter().flat_map(|held| held.values().copied()).collect();
            let distinct: BTreeSet<IpAddr> = all.iter().copied().collect();
            prop_assert_eq!(all.len(), distinct.len());
            prop_assert!(distinct.iter().all(|address| range.contains(address)));
            prop_assert_eq!(Ipam::new(dir.path(), "seaway").owners().unwrap().len(), all.len());
        }
    }
}
