//! `agnhost`: the test image of Kubernetes, in its commonest commands.

use std::process::ExitCode;

use anyhow::bail;

use crate::{connect, netexec, serve_hostname, signals};

/// `args` as after `/agnhost`.
pub(crate) async fn run(args: &[String]) -> anyhow::Result<ExitCode> {
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("pause", &[][..]),
    };
    match command {
        "connect" => connect::run(rest).await,
        "netexec" => netexec::run(rest).await,
        "pause" => pause().await,
        "serve-hostname" => serve_hostname::run("serve-hostname", rest).await,
        other => bail!(
            "agnhost has no command {other:?} here: connect, netexec, pause and serve-hostname are built in"
        ),
    }
}

/// Waits until it is told to end.
pub(crate) async fn pause() -> anyhow::Result<ExitCode> {
    signals::until_told().await
}
