//! A pod's network namespace, and the note on disk by which a later kubelet finds what this one leaves.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use seaway_net::netns::NetNs;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cni::{self, Attachment, CniError, Network, Plugins};

const NOTE: &str = "sandbox.json";

/// What must be undone when the pod goes. Written before anything is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Note {
    pub id: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Where the network namespace is bound; `None` for a pod in its node's network.
    pub netns: Option<PathBuf>,
    pub network: Option<Network>,
    pub result: Option<Value>,
}

/// A pod's network.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub note: Note,
    pub ips: Vec<String>,
}

/// Why a pod has no network yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxFailure {
    #[error(transparent)]
    Cni(#[from] CniError),
    #[error("network namespace {path}: {source}")]
    Namespace { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Note { path: PathBuf, source: io::Error },
}

impl Note {
    fn attachment<'a>(&'a self, netns: &'a Path) -> Attachment<'a> {
        Attachment {
            container_id: &self.id,
            netns,
            namespace: &self.namespace,
            pod: &self.name,
            uid: &self.uid,
        }
    }

    fn write(&self, dir: &Path) -> Result<(), SandboxFailure> {
        let path = dir.join(NOTE);
        let text = serde_json::to_vec(self).map_err(io::Error::other);
        let new = dir.join("sandbox.json.new");
        let written = text.and_then(|text| fs::write(&new, text)).and_then(|()| fs::rename(&new, &path));
        written.map_err(|source| SandboxFailure::Note { path, source })
    }

    /// The note in a pod's directory, if there is one that can be read.
    pub(crate) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(NOTE)).ok()?).ok()
    }

    /// Removes the note in a pod's directory.
    pub(crate) fn forget(dir: &Path) {
        // Undoing a network twice does no harm.
        let _ = fs::remove_file(dir.join(NOTE));
    }

    /// Undoes the pod's network; what is gone already is no error.
    pub(crate) async fn undo(&self, plugins: &Plugins) -> Result<(), SandboxFailure> {
        let Some(netns) = &self.netns else { return Ok(()) };
        if let Some(network) = &self.network {
            plugins.delete(network, &self.attachment(netns), self.result.as_ref()).await?;
        }
        let path = netns.clone();
        let unbound =
            tokio::task::spawn_blocking(move || NetNs::unbind(&path)).await.map_err(io::Error::other);
        unbound
            .and_then(|result| result)
            .map_err(|source| SandboxFailure::Namespace { path: netns.clone(), source })
    }
}

impl Sandbox {
    /// Makes a network for `pod`; what it made is undone where it fails.
    pub(crate) async fn create(
        pod: &Pod,
        dir: &Path,
        netns_dir: &Path,
        conf_dir: &Path,
        plugins: &Plugins,
    ) -> Result<Self, SandboxFailure> {
        let network = Network::load(conf_dir)?;
        // An attempt that could not be undone: the note of this one would make it forgotten.
        if let Some(earlier) = Note::read(dir) {
            earlier.undo(plugins).await?;
        }
        let id = new_id();
        let netns = netns_dir.join(format!("cni-{}", uuid::Uuid::new_v4()));
        let mut note =
            Note { netns: Some(netns.clone()), network: Some(network.clone()), ..Self::note_of(pod, id) };
        note.write(dir)?;
        let made = async {
            bind_new(netns_dir, &netns)
                .await
                .map_err(|source| SandboxFailure::Namespace { path: netns.clone(), source })?;
            Ok::<_, SandboxFailure>(plugins.add(&network, &note.attachment(&netns)).await?)
        };
        match made.await {
            Ok(result) => {
                note.result = Some(result.clone());
                note.write(dir)?;
                Ok(Self { note, ips: cni::addresses(&result) })
            }
            Err(error) => {
                if let Err(error) = note.undo(plugins).await {
                    tracing::warn!(%error, pod = note.name, "undoing half a network");
                }
                Err(error)
            }
        }
    }

    /// A pod in its node's network.
    pub(crate) fn of_node(pod: &Pod, ips: Vec<String>) -> Self {
        Self { note: Self::note_of(pod, new_id()), ips }
    }

    fn note_of(pod: &Pod, id: String) -> Note {
        let meta = &pod.metadata;
        Note {
            id,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            netns: None,
            network: None,
            result: None,
        }
    }
}

async fn bind_new(dir: &Path, path: &Path) -> io::Result<()> {
    let (dir, path) = (dir.to_owned(), path.to_owned());
    let making = tokio::task::spawn_blocking(move || {
        fs::create_dir_all(&dir)?;
        NetNs::new()?.bind_at(&path)
    });
    making.await.map_err(io::Error::other)?
}

/// A container id as runtimes have them: 64 hexadecimal digits.
pub(crate) fn new_id() -> String {
    format!(
        "{:x}{:x}{:x}{:x}",
        rand::random::<u64>() | 1 << 63,
        rand::random::<u64>() | 1 << 63,
        rand::random::<u64>() | 1 << 63,
        rand::random::<u64>() | 1 << 63
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_as_long_as_runtimes() {
        let (one, two) = (new_id(), new_id());
        assert_eq!((one.len(), two.len()), (64, 64));
        assert_ne!(one, two);
    }

    #[test]
    fn notes_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Note::read(dir.path()).is_none());
        let pod = serde_json::from_value(
            serde_json::json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}}),
        )
        .unwrap();
        let sandbox = Sandbox::of_node(&pod, vec![]);
        sandbox.note.write(dir.path()).unwrap();
        assert_eq!(Note::read(dir.path()).unwrap().id, sandbox.note.id);
    }
}
