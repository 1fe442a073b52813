//! A kubelet on real namespaces, against the embedded API server, with the real CNI plugin.
//!
//! Everything happens in namespaces of the test's own: the binary starts itself once more in fresh PID, mount and network namespaces
//! (the "world"), where it is API server and client; the kubelet is a third process. It takes root, and fails without.

mod cases;
mod edges;
mod world;

use std::process::ExitCode;

use clap::Parser as _;
use seaway_net::sandbox::{self, Ns, Spec, Stdio};

#[derive(clap::Parser)]
enum Command {
    World(WorldArgs),
    Kubelet(Box<seaway_kubelet::KubeletArgs>),
    Image(seaway_images::ImageArgs),
}

#[derive(clap::Args)]
struct WorldArgs {
    /// Which cases to run, by a part of their names.
    filter: Option<String>,
}

fn main() -> ExitCode {
    sandbox::run_shim_if_asked();
    if seaway_cni::is_cni_call() {
        return seaway_cni::run(seaway_cni::CniArgs::default());
    }
    let first = std::env::args().nth(1).unwrap_or_default();
    let result = match first.as_str() {
        "world" | "kubelet" | "image" => match Command::parse() {
            Command::World(args) => world::run(args.filter.as_deref()),
            Command::Kubelet(args) => {
                tracing_subscriber::fmt()
                    .with_writer(std::io::stderr)
                    .with_env_filter("seaway_kubelet=debug")
                    .init();
                seaway_kubelet::run(*args)
            }
            Command::Image(args) => seaway_images::run(args),
        },
        "--list" => Ok(ExitCode::SUCCESS),
        _ => start_world(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error:?}");
        ExitCode::FAILURE
    })
}

/// Runs this binary in a world of its own; its exit code is the test's.
fn start_world() -> anyhow::Result<ExitCode> {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let dir = tempfile::tempdir()?;
    let mut argv = vec![std::env::current_exe()?.display().to_string(), "world".to_owned()];
    argv.extend(filter);
    let mut spec = Spec::new("node/test", argv);
    (spec.net, spec.mount, spec.pid, spec.uts, spec.ipc) = (Ns::New, Ns::New, Ns::New, Ns::New, Ns::New);
    spec.root = Some(world::root(dir.path())?);
    spec.hostname = Some("node-1".to_owned());
    spec.reaper = true;
    spec.env = vec![("PATH".to_owned(), std::env::var("PATH")?), ("HOME".to_owned(), "/root".to_owned())];
    let code = sandbox::spawn(&spec, Stdio::inherit()?)?.wait()?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
