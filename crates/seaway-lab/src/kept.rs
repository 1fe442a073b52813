//! A lab that is down and kept: what it was, so that it can be brought back.

use std::io;

use anyhow::Context;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::boxes;
use crate::cloud::{CloudState, Instance};
use crate::command::NetworkArgs;
use crate::family::Family;
use crate::file::LabSpec;
use crate::paths::Paths;
use crate::state::{Backend, Design};

/// What is kept beside the API server's store, the certificates and the nodes' disks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kept {
    pub(crate) design: Design,
    /// Machines that were stopped are stopped still, and what was cut is cut.
    pub(crate) cloud: CloudState,
    /// The port on 127.0.0.1 for kubectl, which the lab has again if it is free.
    pub(crate) port: u16,
}

impl Kept {
    /// The lab as it runs with this cloud.
    pub(crate) fn new(design: &Design, cloud: CloudState, port: u16) -> Self {
        Self { design: Design { cloud: cloud.plan.clone(), ..design.clone() }, cloud, port }
    }

    /// What is kept of the lab, if it is.
    pub(crate) fn read(paths: &Paths) -> anyhow::Result<Option<Self>> {
        let path = paths.kept_file();
        match std::fs::read(&path) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(|| {
                format!("{} is damaged; `seaway lab down` removes what is kept of the lab", path.display())
            })?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub(crate) fn write(&self, paths: &Paths) -> anyhow::Result<()> {
        let path = paths.kept_file();
        crate::state::replace(&path, &serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// From now on the lab is one like any other.
    pub(crate) fn forget(paths: &Paths) -> io::Result<()> {
        match std::fs::remove_file(paths.kept_file()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes sure that the command line and the lab file ask for nothing else than what is kept.
    ///
    /// # Errors
    /// What they ask for and what is kept, and what to do.
    pub(crate) fn check(
        &self,
        nodes: Option<u16>,
        network: &NetworkArgs,
        file: Option<&LabSpec>,
    ) -> anyhow::Result<()> {
        let has = self.cloud.plan.nodes.len();
        let design = &self.design;
        let mut other = Vec::new();
        let mut compare = |asked: bool, what: String| {
            if asked {
                other.push(what)
            }
        };
        compare(nodes.is_some_and(|n| usize::from(n) != has), format!("--nodes (it has {has})"));
        let family = design.ip_family();
        compare(
            network.ip_family.is_some_and(|asked| asked != family),
            format!("--ip-family (it has {})", family.name()),
        );
        let lists = [
            ("--pod-cidr", &network.pod_cidr, &design.pod_cidrs),
            ("--service-cidr", &network.service_cidr, &design.service_cidrs),
        ];
        for (flag, asked, has) in lists {
            let is_kept = |network: &IpNet| has.contains(&network.trunc());
            compare(!asked.iter().all(is_kept), format!("{flag} (it has {})", boxes::list(has)));
        }
        compare(
            network.backend != Backend::default() && network.backend != design.backend,
            format!("--backend (it has {})", design.backend.name()),
        );
        if let Some(file) = file {
            let families: Vec<Family> = design.pod_cidrs.iter().map(Family::of_net).collect();
            let internet = file.internet.clone().only(&families).ok();
            compare(file.cloud != design.wanted, "the lab file's spec.cloud".to_owned());
            compare(internet.as_ref() != Some(&design.internet), "the lab file's spec.internet".to_owned());
        }
        let name = &self.design.name;
        anyhow::ensure!(
            other.is_empty(),
            "lab {name} is kept and otherwise than asked for: {}. `seaway lab up --name {name}` brings it back as it was; `seaway lab down --name {name}` forgets it",
            other.join(", ")
        );
        Ok(())
    }

    /// What one should know who brings it back.
    pub(crate) fn notes(&self) -> Vec<String> {
        let stopped = self.cloud.node_names().filter(|name| self.cloud.instance(name) == Instance::Stopped);
        let stopped = stopped.map(|name| format!("{name} is stopped, as it was"));
        let cuts = self.cloud.cuts.iter().map(|cut| format!("{} and {} are cut, as they were", cut.a, cut.b));
        stopped.chain(cuts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::design;

    #[test]
    fn a_kept_lab_is_not_asked_to_be_another() {
        let network = |pods: &str, backend| NetworkArgs {
            ip_family: None,
            pod_cidr: pods
                .split(',')
                .filter(|text| !text.is_empty())
                .map(|text| text.parse().unwrap())
                .collect(),
            service_cidr: vec![],
            backend,
            files: vec![],
        };
        let own = network("10.10.0.0/16", Backend::HostGw);
        let design = design::decide("a", Some(3), &own, LabSpec::default()).unwrap();
        let kept = Kept::new(&design, CloudState::new(design.cloud.clone()), 1);
        let same = network("", Backend::Vxlan);
        kept.check(None, &same, None).unwrap();
        kept.check(Some(3), &own, Some(&LabSpec::default())).unwrap();
        let error = kept.check(Some(5), &network("10.20.0.0/16", Backend::HostGw), None).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("--nodes (it has 3)") && error.contains("10.10.0.0/16"), "{error}");
        let mut file = LabSpec::default();
        file.cloud.mtu = 1400;
        let error = kept.check(None, &same, Some(&file)).unwrap_err().to_string();
        assert!(error.contains("spec.cloud") && !error.contains("spec.internet"), "{error}");
    }
}
