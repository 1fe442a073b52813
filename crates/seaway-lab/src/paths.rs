//! Where a lab keeps its files on the host.

use std::io;
use std::path::{Path, PathBuf};

/// The folders of one lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Paths {
    /// What lasts as long as the lab runs: `/run/seaway/labs/NAME`.
    pub(crate) run: PathBuf,
    /// Certificates, the API server's store, the nodes' disks: `/var/lib/seaway/labs/NAME`.
    pub(crate) state: PathBuf,
}

const RUN: &str = "/run/seaway/labs";
const STATE: &str = "/var/lib/seaway/labs";

impl Paths {
    /// The folders of the lab `name`.
    ///
    /// # Errors
    /// A name that is not a DNS label (RFC 1123), which also keeps it from being a path.
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty()
            || name.len() > 40
            || !name.chars().all(inner)
            || name.starts_with('-')
            || name.ends_with('-')
        {
            anyhow::bail!(
                "--name {name:?}: must be 1 to 40 lower-case letters, digits and '-', with a letter or digit at each end"
            );
        }
        Ok(Self { run: Path::new(RUN).join(name), state: Path::new(STATE).join(name) })
    }

    /// What the lab is: [`crate::state::LabState`] as JSON.
    pub(crate) fn lab_file(&self) -> PathBuf {
        self.run.join("lab.json")
    }

    /// Held by the command that changes the lab.
    pub(crate) fn lock_file(&self) -> PathBuf {
        // Not in the folder itself, which the holder of the lock removes.
        self.run.with_extension("lock")
    }

    /// What the supervisor and all that it starts say.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.run.join("lab.log")
    }

    /// The supervisor's socket.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    /// What the cloud tells its gateway, its controller and the `lab` commands.
    pub(crate) fn cloud(&self) -> PathBuf {
        self.run.join("cloud")
    }

    /// For `kubectl`.
    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.state.join("admin.kubeconfig")
    }

    /// The API server's store.
    pub(crate) fn store(&self) -> PathBuf {
        self.state.join("apiserver")
    }

    /// Certificates and keys.
    pub(crate) fn pki(&self) -> PathBuf {
        self.state.join("pki")
    }

    /// The lab's own copy of this binary.
    pub(crate) fn binary(&self) -> PathBuf {
        self.state.join("seaway")
    }

    /// What a lab was that is down and kept: [`crate::kept::Kept`] as JSON.
    pub(crate) fn kept_file(&self) -> PathBuf {
        self.state.join("kept.json")
    }

    /// The disk of one node.
    pub(crate) fn node_disk(&self, node: &str) -> PathBuf {
        self.state.join("nodes").join(node)
    }

    /// Makes the folders, readable by root alone: they hold keys.
    pub(crate) fn create(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        for folder in
            [&self.run, &self.cloud(), &self.state, &self.store(), &self.pki(), &self.state.join("nodes")]
        {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        Ok(())
    }

    /// Removes all of the lab's files; those that are not there are no error.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.remove_run()?;
        remove_dir(&self.state)
    }

    /// Removes those that last only as long as the lab runs.
    pub(crate) fn remove_run(&self) -> io::Result<()> {
        remove_dir(&self.run)
    }

    /// Removes the lock, and the folders above where no other lab uses them.
    pub(crate) fn forget(&self) -> io::Result<()> {
        match std::fs::remove_file(self.lock_file()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The folders above are other labs' too: they go with the last one, which remove_dir makes sure of.
        for above in [RUN, STATE] {
            let mut folder = Some(Path::new(above));
            while let Some(path) =
                folder.filter(|path| path.file_name().is_some_and(|n| n == "labs" || n == "seaway"))
            {
                if std::fs::remove_dir(path).is_err() {
                    break;
                }
                folder = path.parent();
            }
        }
        Ok(())
    }
}

fn remove_dir(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The names of all labs that have files on this host, running or not.
pub(crate) fn names() -> Vec<String> {
    let mut names: Vec<String> = [RUN, STATE]
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        for good in ["default", "a", "lab-2"] {
            Paths::new(good).unwrap();
        }
        for bad in ["", "..", "a/b", "-a", "a-", "A", "a.b"] {
            assert!(Paths::new(bad).is_err(), "{bad}");
        }
    }
}
