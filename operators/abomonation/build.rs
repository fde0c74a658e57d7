//! Names the compiler, the target and the flags, for the fingerprint that peers compare.

use std::env;
use std::process::Command;

fn main() {
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let compiler = Command::new(variable("RUSTC"))
        .arg("-vV")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).replace('\n', "; "))
        .unwrap_or_default();
    // Flags such as a randomised layout move fields; optimisation does not, but one binary has one level.
    let build = [
        compiler,
        variable("TARGET"),
        variable("OPT_LEVEL"),
        variable("CARGO_ENCODED_RUSTFLAGS").replace('\u{1f}', " "),
    ]
    .join("; ");
    println!("cargo::rustc-env=TIMELY_AGENTS_BUILD={build}");
    println!("cargo::rerun-if-changed=build.rs");
}
