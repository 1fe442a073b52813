//! A running lab, for those who look into it: what it was designed as, and where its boxes are.

use std::path::PathBuf;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData};
use seaway_net::sandbox;
use seaway_observe::api::DnsRecord;

use crate::addresses::CloudPlan;
use crate::file::Internet;
use crate::internet::Zone;
use crate::state::LabState;

/// A running lab.
#[derive(Clone, Debug)]
pub struct Lab {
    /// Its name.
    pub name: String,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// A folder that lasts as long as the lab runs.
    pub run: PathBuf,
    /// The cloud: nodes, gateway, public addresses.
    pub cloud: CloudPlan,
    /// What is outside.
    pub internet: Internet,
    /// Everything that runs in it.
    pub places: Vec<Place>,
}

/// A sandbox of the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `node/NAME`, `gateway`, `internet/HOST`, `pod/NAMESPACE/NAME/CONTAINER`, …
    pub label: String,
    /// A process in it, as the host sees it.
    pub pid: i32,
}

impl Place {
    /// A file of the place, as the host reaches it: `inside` is absolute.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.pid))
    }

    /// The socket of the place's observer.
    pub fn observer(&self) -> PathBuf {
        let is_node = self.label.starts_with("node/");
        self.path(if is_node { "/run/seaway/agent.sock" } else { "/run/seaway/observer.sock" })
    }
}

impl Lab {
    /// The running lab `name`.
    ///
    /// # Errors
    /// There is none, with what to do.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        let (paths, state) = LabState::running(name)?;
        let found = sandbox::find_sandboxes(state.init.pid)?;
        Ok(Self {
            name: name.to_owned(),
            kubeconfig: paths.admin_kubeconfig(),
            run: paths.run.clone(),
            cloud: state.cloud(&paths)?.plan,
            internet: state.design.internet,
            places: found.into_iter().map(|it| Place { label: it.label, pid: it.pid }).collect(),
        })
    }

    /// The place called `label`.
    pub fn place(&self, label: &str) -> Option<&Place> {
        self.places.iter().find(|place| place.label == label)
    }

    /// The first container of a pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Place> {
        let prefix = format!("pod/{namespace}/{name}/");
        self.places.iter().find(|place| place.label.starts_with(&prefix))
    }

    /// What the internet's resolver answers: the RCODE's name and the records. `None`: it answers nothing to that.
    pub fn answer_outside(&self, name: &str, record_type: &str) -> Option<(String, Vec<DnsRecord>)> {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name).ok()?, record_type.parse().ok()?));
        let answer = Zone::new(&self.internet).answer(&question)?;
        let rcode = match answer.metadata.response_code {
            ResponseCode::NoError => "NOERROR",
            ResponseCode::NXDomain => "NXDOMAIN",
            _ => "SERVFAIL",
        };
        let records = answer.answers.iter().map(|record| DnsRecord {
            name: record.name.to_ascii().to_ascii_lowercase(),
            kind: record.record_type().to_string(),
            ttl: record.ttl,
            data: text(&record.data),
        });
        Some((rcode.to_owned(), records.collect()))
    }
}

fn text(data: &RData) -> String {
    data.to_string().to_ascii_lowercase()
}
