//! Builds helper/lookup.c with musl, where musl-gcc is there: `LOOKUP` in the crate is the program, or nothing.

use std::path::Path;
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=helper/lookup.c");
    let program = Path::new(&std::env::var("OUT_DIR")?).join("lookup");
    let built = Command::new("musl-gcc")
        .args(["-static", "-Os", "-s", "-Wall", "-Wextra", "-o"])
        .arg(&program)
        .arg("helper/lookup.c")
        .status();
    match built {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("musl-gcc cannot build helper/lookup.c: {status}").into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!(
                "cargo::warning=no musl-gcc (Debian's musl-tools): seaway trace --verify cannot resolve names as musl does"
            );
            Ok(std::fs::write(&program, [])?)
        }
        Err(error) => Err(format!("musl-gcc: {error}").into()),
    }
}
