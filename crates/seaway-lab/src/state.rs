//! What a running lab is, as its commands find it in `lab.json`.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::Context;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::addresses::CloudPlan;
use crate::cloud::CloudState;
use crate::family::IpFamily;
use crate::file::{Cloud, Internet};
use crate::paths::Paths;

/// How packets get from node to node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Backend {
    /// In UDP packets between the nodes' addresses.
    #[default]
    Vxlan,
    /// As they are, by routes: the nodes share a network.
    HostGw,
}

impl Backend {
    /// The name in flannel's net-conf.json.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
        }
    }
}

/// What a lab is made of, decided before anything is started.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Design {
    pub(crate) name: String,
    /// One network of each of the lab's families, the primary one first; the cloud's networks and the Services' are in the same order.
    pub(crate) pod_cidrs: Vec<IpNet>,
    pub(crate) service_cidrs: Vec<IpNet>,
    pub(crate) backend: Backend,
    /// As the lab was started; [`CloudState`] says what has become of it.
    pub(crate) cloud: CloudPlan,
    /// What the lab file says of the cloud: nodes that are added follow it.
    pub(crate) wanted: Cloud,
    pub(crate) internet: Internet,
}

impl Design {
    /// The n-th address of each service network: 1 for `kubernetes`, 10 for `kube-dns`.
    pub(crate) fn service_addresses(&self, n: u8) -> Vec<IpAddr> {
        let nth = |network: &IpNet| match network.network() {
            IpAddr::V4(base) => IpAddr::from(Ipv4Addr::from_bits(base.to_bits() + u32::from(n))),
            IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits() + u128::from(n)).into(),
        };
        self.service_cidrs.iter().map(nth).collect()
    }

    /// What the lab has of both families or one.
    pub(crate) fn ip_family(&self) -> IpFamily {
        match self.pod_cidrs.as_slice() {
            [_, _, ..] => IpFamily::Dual,
            [IpNet::V6(_)] => IpFamily::Ipv6,
            _ => IpFamily::Ipv4,
        }
    }
}

/// A lab that was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LabState {
    pub(crate) design: Design,
    /// Process 1 of the lab, as the host sees it.
    pub(crate) init: Process,
    /// The port on 127.0.0.1 for kubectl.
    pub(crate) port: u16,
}

/// A process, told from a later one with the same id by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Clock ticks after boot (proc_pid_stat(5), field 22).
    pub(crate) start_time: u64,
}

impl Process {
    /// The running process `pid`.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        start_time(&stat)
            .map(|start_time| Self { pid, start_time })
            .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has no start time")))
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == self)
    }
}

/// Field 22 of a stat file; the second field, the program's name, may hold anything, parentheses too.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

impl LabState {
    /// Reads the lab's state: `None` where there is none.
    pub(crate) fn read(paths: &Paths) -> anyhow::Result<Option<Self>> {
        let path = paths.lab_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let state = serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged; `seaway lab down` removes what is left of the lab", path.display())
        })?;
        Ok(Some(state))
    }

    /// The cloud as it is now.
    pub(crate) fn cloud(&self, paths: &Paths) -> anyhow::Result<CloudState> {
        let now = CloudState::read(&paths.cloud())?;
        Ok(now.unwrap_or_else(|| CloudState::new(self.design.cloud.clone())))
    }

    /// The running lab `name`.
    ///
    /// # Errors
    /// There is none, with what to do.
    pub(crate) fn running(name: &str) -> anyhow::Result<(Paths, Self)> {
        let paths = Paths::new(name)?;
        match Self::read(&paths)? {
            Some(state) if state.init.is_alive() => Ok((paths, state)),
            _ => anyhow::bail!("lab {name:?} is not running; `seaway lab up --name {name}` starts it"),
        }
    }

    pub(crate) fn write(&self, paths: &Paths) -> anyhow::Result<()> {
        replace(&paths.lab_file(), &serde_json::to_vec_pretty(self)?)?;
        Ok(())
    }
}

/// Writes a file of which readers see the whole or the one before; root alone may read it.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(contents)?;
    drop(file);
    fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_parentheses_does_not_shift_the_fields() {
        let tail: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        assert_eq!(start_time(&format!("7 (a) b) {}", tail.join(" "))), Some(22));
        assert_eq!(start_time("7"), None);
    }

    #[test]
    fn a_process_is_told_from_its_successor() {
        let me = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.is_alive());
        assert!(!Process { start_time: me.start_time + 1, ..me }.is_alive());
    }
}
