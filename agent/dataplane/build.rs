//! Builds the eBPF crate for the BPF target and puts its objects where `object.rs` embeds them from.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

/// Set for the second run of this script, see `main`.
const INNER: &str = "FELID_EBPF_BUILD";

fn main() -> Result<()> {
    let ebpf = manifest_dir()?.join("../../ebpf").canonicalize().context("the eBPF crate is missing")?;
    if env::var_os(INNER).is_some() {
        return build(&ebpf);
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../../common/src");
    println!("cargo:rerun-if-changed=../../rust-toolchain.toml");
    require_tools()?;
    // `-Z build-std` on the pinned stable compiler needs RUSTC_BOOTSTRAP in the environment, which aya-build reads too. Changing one's
    // own environment is unsafe, so this script runs itself with the new one; what it prints for Cargo passes through.
    let script = env::current_exe().context("cannot find this build script's own file")?;
    let status = Command::new(&script)
        .env(INNER, "1")
        .env("RUSTC_BOOTSTRAP", "1")
        .status()
        .with_context(|| format!("cannot run {}", script.display()))?;
    if !status.success() {
        bail!("the eBPF programs did not build ({status}); run `cargo xtask setup` if a tool is missing or does not fit");
    }
    Ok(())
}

fn manifest_dir() -> Result<PathBuf> {
    env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).context("CARGO_MANIFEST_DIR is not set: run this through Cargo")
}

fn build(ebpf: &Path) -> Result<()> {
    let channel = pinned_channel(&ebpf.join("../rust-toolchain.toml"))?;
    let root_dir = ebpf.to_str().context("the checkout's path is not UTF-8")?;
    let package = Package { name: "felid-ebpf", root_dir, ..Package::default() };
    aya_build::build_ebpf([package], Toolchain::Custom(&channel))
}

/// The toolchain that the checkout pins.
fn pinned_channel(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == "channel")
        .map(|(_, value)| value.trim().trim_matches('"').to_owned())
        .with_context(|| format!("{} names no channel", path.display()))
}

/// Fails with what to do if a tool that only this build needs is not there.
fn require_tools() -> Result<()> {
    if let Err(error) = Command::new("bpf-linker").arg("--version").output() {
        bail!("bpf-linker cannot be run ({error}): it links the eBPF programs. `cargo xtask setup` installs it");
    }
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&rustc).args(["--print", "sysroot"]).output().context("cannot ask rustc for its sysroot")?;
    let sysroot = String::from_utf8(output.stdout).context("rustc's sysroot is not UTF-8")?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !source.exists() {
        bail!(
            "the source of Rust's core library is missing ({}): it is built for the BPF target. `cargo xtask setup` installs \
             the component rust-src",
            source.display()
        );
    }
    Ok(())
}
