//! The plugin alone, without the rest of the binary: `SEAWAY=target/release/examples/plugin bench/cni/run`
//! tells what the size of the whole costs.

fn main() -> std::process::ExitCode {
    seaway_cni::run(seaway_cni::CniArgs {})
}
