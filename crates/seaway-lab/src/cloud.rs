//! What the cloud has at the moment: its machines, and the pairs between which it loses all packets.
//!
//! The supervisor decides and writes; the gateway, the cloud's controller and the `lab` commands read.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use anyhow::Context;
use seaway_net::nft::{
    self, Chain, ChainKind, Element, Field, Hook, Rule, Set, SetSpec, Table, Value, priority,
};
use serde::{Deserialize, Serialize};

use crate::addresses::CloudPlan;
use crate::nearest;

/// The folder of the cloud's files in the boxes that read them.
pub(crate) const FOLDER: &str = "/run/seaway/cloud";
/// [`CloudState`] as JSON.
pub(crate) const STATE: &str = "state.json";
/// What the cloud's controller asks after: machine to [`Instance`], as JSON.
pub(crate) const INSTANCES: &str = "instances.json";

/// The table in the namespace with the switches.
const TABLE: &str = "seaway-lab";

/// How a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Instance {
    Running,
    /// It has no power; its disk and address stay.
    Stopped,
    /// It is gone for good.
    Terminated,
}

impl Instance {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Terminated => "terminated",
        }
    }
}

/// Two parts of the cloud that lose each other's packets; in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Cut {
    pub(crate) a: String,
    pub(crate) b: String,
}

/// The cloud.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CloudState {
    pub(crate) plan: CloudPlan,
    pub(crate) instances: BTreeMap<String, Instance>,
    #[serde(default)]
    pub(crate) cuts: BTreeSet<Cut>,
}

/// The cloud's parts that are no nodes, and their ports on the cloud's switch.
const GATEWAY: &str = "gateway";
const CONTROL_PLANE: &str = "control-plane";
const INTERNET: &str = "internet";
/// What nodes can't be called.
pub(crate) const RESERVED: [&str; 3] = [GATEWAY, CONTROL_PLANE, INTERNET];

impl CloudState {
    /// The cloud before anything has happened to it.
    pub(crate) fn new(plan: CloudPlan) -> Self {
        let instances = plan.nodes.iter().map(|node| (node.name.clone(), Instance::Running)).collect();
        Self { plan, instances, cuts: BTreeSet::new() }
    }

    /// Reads what [`Self::write`] wrote to the folder; `None` where there is nothing.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(STATE);
        match std::fs::read(&path) {
            Ok(text) => {
                let state = serde_json::from_slice(&text);
                Ok(Some(state.with_context(|| format!("{} is damaged", path.display()))?))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes the files of the folder.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        for (name, contents) in [
            (STATE, serde_json::to_vec_pretty(self)?),
            (INSTANCES, serde_json::to_vec_pretty(&self.instances)?),
        ] {
            let path = folder.join(name);
            crate::state::replace(&path, &contents)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// How the machine `name` is.
    pub(crate) fn instance(&self, name: &str) -> Instance {
        self.instances.get(name).copied().unwrap_or(Instance::Terminated)
    }

    /// The nodes' names.
    pub(crate) fn node_names(&self) -> impl Iterator<Item = &str> {
        self.plan.nodes.iter().map(|node| node.name.as_str())
    }

    /// Makes sure that there is a node `name`, or tells which there are.
    pub(crate) fn must_have(&self, name: &str) -> Result<(), String> {
        if self.node_names().any(|known| known == name) {
            return Ok(());
        }
        Err(format!("there is no node {name:?}; {}", nearest::there_are(name, self.node_names())))
    }

    /// The pair `a` and `b`, checked.
    ///
    /// # Errors
    /// What one of them is not, or that packets do not go between them.
    pub(crate) fn pair(&self, a: &str, b: &str) -> Result<Cut, String> {
        let is_node = |name: &str| self.node_names().any(|known| known == name);
        for name in [a, b] {
            if !is_node(name) && !RESERVED.contains(&name) {
                let all = self.node_names().chain(RESERVED);
                return Err(format!("the cloud has no {name:?}; {}", nearest::there_are(name, all)));
            }
        }
        // The gateway is where all ways from the cloud to the internet go through.
        let other = |name: &str| if name == INTERNET { GATEWAY.to_owned() } else { name.to_owned() };
        let (a, b) = match (a, b) {
            (INTERNET, GATEWAY) | (GATEWAY, INTERNET) => (GATEWAY.to_owned(), INTERNET.to_owned()),
            _ => (other(a), other(b)),
        };
        if a == b {
            return Err(format!("{a} and {b} are the same: give two parts of the cloud"));
        }
        Ok(if a < b { Cut { a, b } } else { Cut { a: b, b: a } })
    }

    /// The rules by which the switches lose packets. `hosts` are the ports of the internet's hosts.
    pub(crate) fn losses(&self, hosts: &[String]) -> Table {
        let pairs = self.cuts.iter().flat_map(|cut| self.ports(cut, hosts));
        let both = pairs.flat_map(|(a, b)| [(a.clone(), b.clone()), (b, a)]);
        let elements =
            both.map(|(from, to)| (Value::new().interface(&from).interface(&to), Element::default()));
        let cut = Set::with(SetSpec::typeof_fields("cut", [Field::IifName, Field::OifName]), elements);
        let rule = Rule::new().in_set([Field::IifName, Field::OifName], "cut").counter().drop();
        let forward = Chain::base("forward", ChainKind::Filter, Hook::Forward, priority::FILTER).rule(rule);
        Table::new(nft::Family::Bridge, TABLE).set(cut).chain(forward)
    }

    fn ports(&self, cut: &Cut, hosts: &[String]) -> Vec<(String, String)> {
        if cut.b == INTERNET {
            return hosts.iter().map(|host| ("gateway-inet".to_owned(), host.clone())).collect();
        }
        let port = |name: &str| match self.plan.nodes.iter().find(|node| node.name == name) {
            Some(node) => self.plan.port(node),
            None => name.to_owned(),
        };
        vec![(port(&cut.a), port(&cut.b))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses;
    use crate::family::Family;
    use crate::file::{Cloud, Internet};

    fn cloud() -> CloudState {
        CloudState::new(addresses::plan(&Cloud::default(), &Internet::default(), 3, &[Family::V4]).unwrap())
    }

    #[test]
    fn pairs_have_one_name() {
        let cloud = cloud();
        for (a, b, pair) in [
            ("node-1", "node-2", Ok("node-1 node-2")),
            ("node-2", "node-1", Ok("node-1 node-2")),
            ("node-2", "control-plane", Ok("control-plane node-2")),
            ("node-1", "gateway", Ok("gateway node-1")),
            ("internet", "node-1", Ok("gateway node-1")),
            ("internet", "gateway", Ok("gateway internet")),
            ("node-1", "node-1", Err("the same")),
            ("nod-1", "node-2", Err("did you mean node-1?")),
            ("node-1", "gatway", Err("did you mean gateway?")),
        ] {
            match (cloud.pair(a, b), pair) {
                (Ok(cut), Ok(expected)) => assert_eq!(format!("{} {}", cut.a, cut.b), expected),
                (Err(error), Err(words)) => assert!(error.contains(words), "{error}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn packets_are_lost_both_ways() {
        let mut cloud = cloud();
        cloud.cuts.insert(cloud.pair("node-1", "node-3").unwrap());
        cloud.cuts.insert(cloud.pair("gateway", "internet").unwrap());
        let table = cloud.losses(&["host-0".to_owned(), "host-1".to_owned()]);
        let lost: Vec<_> = table.sets[0].elements.keys().cloned().collect();
        let pairs = [("vm-1", "vm-3"), ("gateway-inet", "host-0"), ("gateway-inet", "host-1")];
        assert_eq!(lost.len(), 2 * pairs.len());
        for (a, b) in pairs {
            for (from, to) in [(a, b), (b, a)] {
                assert!(lost.contains(&Value::new().interface(from).interface(to)), "{from} to {to}");
            }
        }
    }
}
