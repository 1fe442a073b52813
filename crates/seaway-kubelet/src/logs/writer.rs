//! A container's log file, limited in size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

/// A log file larger than this is put aside; one older part is kept.
const MAX_SIZE: u64 = 10 * 1024 * 1024;

/// How far a log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes written altogether.
    pub written: u64,
    /// No more will come.
    pub ended: bool,
}

/// A log that is being written, for those who follow it.
#[derive(Debug)]
pub(crate) struct LiveLog {
    pub path: PathBuf,
    pub progress: watch::Sender<Progress>,
}

/// Where the older part of the log at `path` is.
pub(crate) fn put_aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// The writing end.
pub(crate) struct LogWriter {
    file: File,
    size: u64,
    live: Arc<LiveLog>,
    max_size: u64,
}

impl LogWriter {
    /// Opens the log of a container's run number `attempt` in `dir`, and removes those of runs before the last one.
    pub(crate) fn create(dir: &Path, attempt: i32) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        for entry in fs::read_dir(dir)?.flatten() {
            if attempt_of(&entry.path()).is_some_and(|old| old < attempt - 1) {
                fs::remove_file(entry.path())?;
            }
        }
        let path = dir.join(format!("{attempt}.log"));
        let file = open(&path)?;
        let size = file.metadata()?.len();
        let live = Arc::new(LiveLog { path, progress: watch::Sender::new(Progress::default()) });
        Ok(Self { file, size, live, max_size: MAX_SIZE })
    }

    pub(crate) fn live(&self) -> Arc<LiveLog> {
        self.live.clone()
    }

    /// Appends whole lines.
    pub(crate) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.size > 0 && self.size + lines.len() as u64 > self.max_size {
            fs::rename(&self.live.path, put_aside(&self.live.path))?;
            self.file = open(&self.live.path)?;
            self.size = 0;
        }
        self.file.write_all(lines)?;
        self.size += lines.len() as u64;
        self.live.progress.send_modify(|progress| progress.written += lines.len() as u64);
        Ok(())
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.live.progress.send_modify(|progress| progress.ended = true);
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The run that a log file belongs to: `3.log` and `3.log.1` → 3.
pub(crate) fn attempt_of(path: &Path) -> Option<i32> {
    let name = path.file_name()?.to_str()?;
    let (number, kind) = name.split_once('.')?;
    matches!(kind, "log" | "log.1").then(|| number.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_limited_and_old_runs_go() {
        let dir = tempfile::tempdir().unwrap();
        for attempt in 0..4 {
            let mut writer = LogWriter::create(dir.path(), attempt).unwrap();
            writer.max_size = 10;
            for line in ["12345\n", "67890\n", "abcde\n"] {
                writer.append(line.as_bytes()).unwrap();
            }
        }
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["2.log", "2.log.1", "3.log", "3.log.1"]);
        assert_eq!(fs::read_to_string(dir.path().join("3.log.1")).unwrap(), "67890\n");
        assert_eq!(fs::read_to_string(dir.path().join("3.log")).unwrap(), "abcde\n");
    }
}
