//! The programs that a lab's images stand for.
//!
//! A lab pulls nothing: an image is a name for a program that the `seaway` binary has built in, or for the host's
//! shell and tools. [`find`] says which program a name stands for, [`run`] is that program (`seaway image NAME …`).
//!
//! Every built-in server goes on serving for [`DRAIN`] after SIGTERM, as well-behaved servers do, so that connections
//! which are still sent its way find it; a second SIGTERM, or SIGINT, ends it at once.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;

mod agnhost;
mod catalog;
mod connect;
mod duration;
mod listen;
mod netexec;
mod nginx;
mod serve_hostname;
mod signals;

pub use catalog::{Image, Launcher, available, find};

/// How long a built-in server goes on serving after SIGTERM.
pub const DRAIN: Duration = Duration::from_secs(5);

/// Where a container finds the `seaway` binary.
pub const BINARY: &str = "/.seaway/seaway";

/// Arguments of `seaway image`.
#[derive(clap::Args, Debug, Clone)]
#[command(
    about = "Run the program that a lab's image stands for",
    after_help = "Examples:\n  seaway image nginx\n  seaway image agnhost netexec --http-port=8080\n  seaway image agnhost connect 10.96.0.1:443 --timeout=1s"
)]
pub struct ImageArgs {
    /// The program: agnhost, nginx, pause or serve_hostname
    pub name: String,
    /// The program's own arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
}

/// Runs the program until it ends or is told to; the result is its exit code, 2 where its arguments are wrong.
pub fn run(args: ImageArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(program(args)) {
        Err(error) => Ok(ExitCode::from(usage(error)?)),
        ended => ended,
    }
}

/// Prints what is wrong with the program's arguments, or its help; the exit code for that. Other errors come back.
fn usage(error: anyhow::Error) -> anyhow::Result<u8> {
    let usage = error.downcast::<clap::Error>()?;
    usage.print()?;
    Ok(u8::try_from(usage.exit_code()).unwrap_or(2))
}

async fn program(args: ImageArgs) -> anyhow::Result<ExitCode> {
    match args.name.as_str() {
        "agnhost" => agnhost::run(&args.args).await,
        "nginx" => nginx::run(&args.args).await,
        "pause" => agnhost::pause().await,
        "serve_hostname" => serve_hostname::run("serve_hostname", &args.args).await,
        other => {
            bail!("no image program {other:?}: agnhost, nginx, pause and serve_hostname are built in")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wrong_arguments_are_usage_and_the_rest_is_failure() {
        for (arguments, code) in [
            (&["agnhost", "netexec", "--http-port=x"][..], Some(2)),
            (&["agnhost", "netexec", "--help"], Some(0)),
            (&["serve_hostname", "--nonsense"], Some(2)),
            (&["agnhost", "fly"], None),
            (&["redis"], None),
        ] {
            let [name, args @ ..] = arguments else { panic!() };
            let args = args.iter().map(|&arg| arg.to_owned()).collect();
            let error = program(ImageArgs { name: (*name).to_owned(), args }).await.unwrap_err();
            assert_eq!(usage(error).ok(), code, "{arguments:?}");
        }
    }
}
