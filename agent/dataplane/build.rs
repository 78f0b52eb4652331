//! Builds the eBPF crate for the BPF target and puts its objects where `object.rs` embeds them
//! from.
//!
//! It runs Cargo itself instead of using aya-build, which offers no way to choose the instruction
//! set: without 32-bit registers and jumps (BPF ISA v3, kernel 5.1) every `u32` costs two shifts,
//! and the verifier runs out of its million steps.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Objects, by the names of the eBPF crate's binaries.
const OBJECTS: [&str; 2] = ["felid-ebpf", "felid-ebpf-bench"];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?)
        .join("../..")
        .canonicalize()?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    for path in ["ebpf", "common/src", "common/Cargo.toml", "rust-toolchain.toml"] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    require_tools()?;

    // Not the outer target directory: Cargo holds its lock.
    let target_dir = out.join("ebpf");
    let target = if variable("CARGO_CFG_TARGET_ENDIAN")? == "big" {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    };
    build_programs(&root, &target_dir, target)?;
    for object in OBJECTS {
        let built = target_dir.join(target).join("release").join(object);
        fs::copy(&built, out.join(object)).map_err(|error| format!("cannot copy {}: {error}", built.display()))?;
    }
    Ok(())
}

/// Builds the eBPF crate for a target into a directory; its warnings become this build's.
fn build_programs(root: &Path, target_dir: &Path, target: &str) -> Result<()> {
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", variable("CARGO_CFG_TARGET_ARCH")?),
        "-Ctarget-cpu=v3".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root)
        .args([
            "build",
            "--quiet",
            "--package",
            "felid-ebpf",
            "--bins",
            "--release",
            "-Z",
            "build-std=core",
        ])
        .args(["--target", target, "--target-dir"])
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        // `-Z build-std` on the pinned stable compiler, and the one intrinsic that the crate needs.
        .env("RUSTC_BOOTSTRAP", "1")
        // Clippy's, when this runs under `cargo clippy`.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .output()
        .map_err(|error| format!("cannot run Cargo for the eBPF programs: {error}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!(
            "the eBPF programs did not build. If the linker complains about `Invalid record`, bpf-linker was built against another LLVM \
             than the compiler: `cargo xtask setup` installs the one that fits.\n{messages}"
        )
        .into());
    }
    for line in messages.lines() {
        println!("cargo:warning={line}");
    }
    Ok(())
}

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|error| format!("{name}: {error}; run this through Cargo").into())
}

/// Fails with what to do if a tool that only this build needs is not there.
fn require_tools() -> Result<()> {
    if let Err(error) = Command::new("bpf-linker").arg("--version").output() {
        return Err(format!(
            "bpf-linker cannot be run ({error}): it links the eBPF programs. `cargo xtask setup` installs it"
        )
        .into());
    }
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&rustc).args(["--print", "sysroot"]).output()?;
    let sysroot = String::from_utf8(output.stdout)?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !source.exists() {
        return Err(format!(
            "the source of Rust's core library is missing ({}): it is built for the BPF target. `cargo xtask setup` installs the \
             component rust-src",
            source.display()
        )
        .into());
    }
    Ok(())
}
