//! Installs what is missing, and says exactly what to install where it cannot.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{cargo, command, output, run, works};

/// Must be built against the LLVM of the pinned compiler (see rust-toolchain.toml).
const BPF_LINKER: &str = "0.13.0";
const LLVM: &str = "22";

/// Programs that tests, demo and benches use -> the Debian package each comes from.
const PROGRAMS: &[(&str, &str)] = &[
    ("cc", "gcc"),
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("ipset", "ipset"),
    ("ethtool", "ethtool"),
    ("iperf3", "iperf3"),
];

/// Everything.
pub(crate) fn all() -> Result<()> {
    build_tools()?;
    host_tools()?;
    eprintln!("set-up is complete");
    Ok(())
}

/// What building felid needs.
pub(crate) fn build_tools() -> Result<()> {
    rust_src()?;
    if !has("cc") {
        packages(&["gcc", "libc6-dev"])?;
    }
    bpf_linker()
}

/// What running tests, the demo and benches needs of the host beside that.
pub(crate) fn host_tools() -> Result<()> {
    kernel()?;
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !has(program))
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        packages(&missing)?;
    }
    Ok(())
}

fn rust_src() -> Result<()> {
    let sysroot = output(command("rustc").args(["--print", "sysroot"]))?;
    if Path::new(sysroot.trim())
        .join("lib/rustlib/src/rust/library/core/Cargo.toml")
        .exists()
    {
        return Ok(());
    }
    run(command("rustup").args(["component", "add", "rust-src"]))
        .context("the eBPF programs are built with their own `core`: install the component rust-src of the toolchain in rust-toolchain.toml")
}

fn bpf_linker() -> Result<()> {
    let present = output(command("bpf-linker").arg("--version")).unwrap_or_default();
    if present.split_whitespace().any(|word| word == BPF_LINKER) {
        return Ok(());
    }
    let prefix = match llvm_prefix() {
        Some(prefix) => prefix,
        None if has("apt-get") => {
            packages(&[&format!("llvm-{LLVM}-dev")]).with_context(|| how_to_get_bpf_linker(std::env::consts::ARCH))?;
            PathBuf::from(format!("/usr/lib/llvm-{LLVM}"))
        }
        None => bail!(how_to_get_bpf_linker(std::env::consts::ARCH)),
    };
    run(cargo()
        .env("LLVM_PREFIX", prefix)
        // A target directory of its own: nothing of it belongs among felid's.
        .args([
            "install",
            "bpf-linker",
            "--version",
            BPF_LINKER,
            "--locked",
            "--no-default-features",
            "--features",
        ])
        .arg(format!("llvm-{LLVM}")))
    .with_context(|| how_to_get_bpf_linker(std::env::consts::ARCH))
}

/// Where the development files of the compiler's LLVM are: what LLVM_PREFIX says, or where Debian
/// puts them. `None` if they are in neither place.
fn llvm_prefix() -> Option<PathBuf> {
    let named = std::env::var_os("LLVM_PREFIX").map(PathBuf::from);
    let usual = PathBuf::from(format!("/usr/lib/llvm-{LLVM}"));
    let mut candidates = named.into_iter().chain([usual]);
    candidates.find(|prefix| prefix.join("bin/llvm-config").exists())
}

/// How to get bpf-linker where this command cannot install it. Its published binaries come first:
/// they are linked statically, so they need nothing of the system, and whatever their own LLVM is,
/// it reads what the pinned compiler writes as long as it is not older.
fn how_to_get_bpf_linker(architecture: &str) -> String {
    let archive = format!("bpf-linker-{architecture}-unknown-linux-musl.tar.zst");
    format!(
        "bpf-linker {BPF_LINKER} is needed to link the eBPF programs. Get it in one of these ways, then run this command again:\n\
        1. Unpack its published static binary into a directory that is in PATH:\n\
        \x20    curl -LO https://github.com/aya-rs/bpf-linker/releases/download/v{BPF_LINKER}/{archive}\n\
        \x20    tar -xpf {archive} -C ~/.cargo/bin\n\
        \x20  or let cargo-binstall do the same: cargo binstall bpf-linker@{BPF_LINKER}\n\
        2. Build it with LLVM {LLVM}, which is the LLVM of the pinned compiler. Install the development files of LLVM {LLVM} \
        (Debian and Ubuntu: llvm-{LLVM}-dev, from apt.llvm.org if the distribution has none; Fedora: llvm{LLVM}-devel or, \
        if that is its version, llvm-devel; Arch: llvm; Alpine: llvm{LLVM}-dev), then:\n\
        \x20    LLVM_PREFIX=\"$(llvm-config --prefix)\" cargo install bpf-linker --version {BPF_LINKER} --locked \
        --no-default-features --features llvm-{LLVM}"
    )
}

fn kernel() -> Result<()> {
    let release = nix::sys::utsname::uname()
        .context("uname")?
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 6) {
        bail!("felid needs Linux 6.6 or newer (TCX links); this is {release}");
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        bail!("felid needs a kernel with BTF (CONFIG_DEBUG_INFO_BTF): /sys/kernel/btf/vmlinux is not there");
    }
    Ok(())
}

fn has(program: &str) -> bool {
    works(command("sh").args(["-c", &format!("command -v {program}")]))
}

fn packages(names: &[&str]) -> Result<()> {
    if !has("apt-get") {
        bail!("please install (Debian's names): {}", names.join(" "));
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("please run `apt-get install {}` as root, then again", names.join(" "));
    }
    let install = |names: &[&str]| {
        run(command("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "--yes", "--no-install-recommends"])
            .args(names))
    };
    // The package lists may be absent or old.
    if install(names).is_err() {
        run(command("apt-get").arg("update"))?;
        install(names)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_static_binary_comes_before_building_with_the_compilers_llvm() {
        for architecture in ["x86_64", "aarch64"] {
            let text = how_to_get_bpf_linker(architecture);
            let binary = text.find(&format!(
                "v{BPF_LINKER}/bpf-linker-{architecture}-unknown-linux-musl.tar.zst"
            ));
            let built = text.find(&format!("--features llvm-{LLVM}"));
            assert!(binary.is_some() && binary < built, "{text}");
        }
    }

    #[test]
    fn the_pinned_compiler_is_the_one_whose_llvm_this_is() {
        let pin = include_str!("../../rust-toolchain.toml");
        assert!(
            pin.contains(&format!("{LLVM} for ")),
            "rust-toolchain.toml names another LLVM than {LLVM}"
        );
    }
}
