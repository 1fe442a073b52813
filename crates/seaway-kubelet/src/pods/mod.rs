//! The node's pods: one worker for each, and the watch that feeds them.

mod assemble;
mod backoff;
mod credentials;
mod files;
mod image_events;
mod live;
mod manager;
mod names;
mod publish;
mod restore;
mod sandbox;
mod slots;
mod status;
mod stop;
mod worker;

use std::io::ErrorKind;
use std::path::PathBuf;

pub use files::{NodeFiles, PodFiles, PodFilesError, predicted_files};
pub(crate) use manager::{clean_up, run};

/// Removes a pod's directory, on a thread that may take its time: an emptyDir holds whatever the pod left in it.
async fn remove_dir(dir: PathBuf) {
    let removing = tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(%error, dir = %dir.display(), "removing a pod's directory");
        }
        _ => {}
    });
    // Its only error is a panic, which has told of itself.
    let _ = removing.await;
}
