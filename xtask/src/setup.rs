//! Installs what is missing, and says exactly what to install where it cannot.

use std::path::Path;

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
    let prefix = format!("/usr/lib/llvm-{LLVM}");
    if !Path::new(&prefix).join("bin/llvm-config").exists() {
        packages(&[&format!("llvm-{LLVM}-dev")]).with_context(|| {
            format!("bpf-linker is built against LLVM {LLVM}, the compiler's own: install its development files")
        })?;
    }
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
