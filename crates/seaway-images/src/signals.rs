//! How a built-in program ends.

use std::future::Future;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use crate::DRAIN;

struct Asked {
    terminate: Signal,
    interrupt: Signal,
}

impl Asked {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// True for SIGTERM, false for SIGINT.
    async fn terminate_first(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => true,
            _ = self.interrupt.recv() => false,
        }
    }
}

/// Runs `server` until it fails or a signal ends it; SIGTERM lets it serve for [`DRAIN`] more.
pub(crate) async fn serve_until_told(
    server: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<ExitCode> {
    let mut asked = Asked::listen()?;
    let ended = async move {
        if asked.terminate_first().await {
            tokio::select! {
                () = sleep(DRAIN) => {}
                _ = asked.terminate_first() => {}
            }
        }
    };
    tokio::select! {
        result = server => result.map(|()| ExitCode::SUCCESS),
        () = ended => Ok(ExitCode::SUCCESS),
    }
}

/// Waits for the first signal to end.
pub(crate) async fn until_told() -> anyhow::Result<ExitCode> {
    Asked::listen()?.terminate_first().await;
    Ok(ExitCode::SUCCESS)
}
