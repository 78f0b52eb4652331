//! Network namespaces that look like a node: a host and its workloads behind virtual Ethernet
//! pairs.

use std::ffi::OsStr;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};
use tempfile::TempDir;

use crate::PacketSocket;

/// MAC address of the host side of every workload's pair, as Calico's CNI plugin sets it: workloads
/// see one gateway.
pub const HOST_MAC: [u8; 6] = [0xee; 6];
/// Link-local address that follows from [`HOST_MAC`].
pub const HOST_LINK_LOCAL: &str = "fe80::ecee:eeff:feee:eeee";
/// IPv4 gateway of workloads.
pub const GATEWAY_V4: &str = "169.254.1.1";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with a name of its own, removed on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Creates `PREFIX-<pid>-<n>` and brings its loopback interface up.
    pub fn new(prefix: &str) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}-{}-{number}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let handle = File::open(Path::new("/run/netns").join(&name)).context("open the namespace")?;
        let namespace = Self { name, handle };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Names of namespaces made with this prefix, by whatever process.
    pub fn named(prefix: &str) -> Result<Vec<String>> {
        let listed = match std::fs::read_dir("/run/netns") {
            Ok(listed) => listed,
            // Nobody has made a namespace yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context("list the namespaces"),
        };
        let mut names = Vec::new();
        for entry in listed {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("{prefix}-")) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Processes in a namespace.
    pub fn processes(name: &str) -> Result<Vec<nix::unistd::Pid>> {
        let output = Command::new("ip")
            .args(["netns", "pids", name])
            .output()
            .context("ip netns pids")?;
        let pids = String::from_utf8_lossy(&output.stdout);
        Ok(pids
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .map(nix::unistd::Pid::from_raw)
            .collect())
    }

    /// Deletes a namespace by name.
    pub fn delete(name: &str) -> Result<()> {
        run(Command::new("ip").args(["netns", "del", name]))
    }

    /// Name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` on a thread of its own inside the namespace and waits for it. Threads and processes
    /// that `f` starts inherit the namespace; so a tokio runtime built inside works there as a
    /// whole.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.handle, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
                    Ok(f())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// As [`Namespace::run`], without waiting.
    pub fn spawn<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let handle = self.handle.try_clone()?;
        Ok(thread::spawn(move || {
            setns(&handle, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
            Ok(f())
        }))
    }

    /// Runs a command inside and returns what it said, whether it succeeded or not.
    pub fn output<S: AsRef<OsStr> + Sync>(&self, args: &[S]) -> Result<Output> {
        let (program, rest) = args.split_first().context("an empty command")?;
        self.run(|| Command::new(program).args(rest).stdin(Stdio::null()).output())?
            .with_context(|| format!("run {}", program.as_ref().display()))
    }

    /// Runs a command inside; a failure is an error with what it wrote. Returns its standard
    /// output.
    pub fn exec<S: AsRef<OsStr> + Sync>(&self, args: &[S]) -> Result<String> {
        let output = self.output(args)?;
        let text = args
            .iter()
            .map(|arg| arg.as_ref().to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        ensure!(
            output.status.success(),
            "{}: {text}: {}: {}{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a command inside; the caller ends it. `configure` sets its arguments, files and so
    /// on.
    pub fn start(&self, program: &str, configure: impl FnOnce(&mut Command) + Send) -> Result<Child> {
        self.run(|| {
            let mut command = Command::new(program);
            command.stdin(Stdio::null());
            configure(&mut command);
            command.spawn()
        })?
        .with_context(|| format!("start {program}"))
    }

    /// `ip ARGS`, split at spaces.
    pub fn ip(&self, args: &str) -> Result<String> {
        let words: Vec<&str> = std::iter::once("ip").chain(args.split_whitespace()).collect();
        self.exec(&words)
    }

    /// Writes a sysctl of this namespace, `/` as separator: `net/ipv4/ip_forward`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.run(|| std::fs::write(Path::new("/proc/sys").join(name), value))?
            .with_context(|| format!("set {name} to {value}"))
    }

    /// Reads a sysctl.
    pub fn read_sysctl(&self, name: &str) -> Result<String> {
        let text = self.run(|| std::fs::read_to_string(Path::new("/proc/sys").join(name)))?;
        Ok(text.with_context(|| format!("read {name}"))?.trim_end().to_owned())
    }

    /// Index of an interface.
    pub fn ifindex(&self, interface: &str) -> Result<u32> {
        self.run(|| nix::net::if_::if_nametoindex(interface))?
            .with_context(|| format!("index of {interface}"))
    }

    /// A raw packet socket on an interface of this namespace.
    pub fn packets(&self, interface: &str) -> Result<PacketSocket> {
        self.run(|| PacketSocket::open(interface))?
    }

    /// Whether one echo request to `address` is answered within a second.
    pub fn pings(&self, address: &str) -> Result<bool> {
        Ok(self
            .output(&["ping", "-n", "-c", "1", "-W", "1", address])?
            .status
            .success())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("ip").args(["netns", "del", &self.name])) {
            eprintln!("namespace {} stays: {error:#}", self.name);
        }
    }
}

/// The node: a namespace that forwards, a bpffs and a directory of its own.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    bpffs: PathBuf,
    directory: TempDir,
    prefix: String,
}

impl Host {
    /// Creates the namespace, switches forwarding on and mounts a bpffs.
    pub fn new(prefix: &str) -> Result<Self> {
        let namespace = Namespace::new(prefix)?;
        for name in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            namespace.sysctl(name, "1")?;
        }
        let directory = tempfile::Builder::new().prefix(prefix).tempdir()?;
        let bpffs = directory.path().join("bpffs");
        std::fs::create_dir(&bpffs)?;
        mount(Some("bpffs"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).context("mount a bpffs")?;
        Ok(Self {
            namespace,
            bpffs,
            directory,
            prefix: prefix.to_owned(),
        })
    }

    /// The namespace of the host.
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Where the bpffs is mounted.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Unmounts and removes what hosts with this prefix left behind (killed tests, demonstrations
    /// that were kept).
    pub fn remove_leftovers(prefix: &str) -> Result<()> {
        for entry in std::fs::read_dir(std::env::temp_dir()).context("list the temporary directory")? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(prefix) && entry.file_type()?.is_dir() {
                // Not mounted is fine; removal fails if it still is.
                let _ = umount2(&entry.path().join("bpffs"), MntFlags::MNT_DETACH);
                std::fs::remove_dir_all(entry.path()).with_context(|| format!("remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }

    /// A directory for state, sockets, records; removed on drop.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A workload as Calico's CNI plugin leaves it: pair `INTERFACE` on the host (MAC [`HOST_MAC`],
    /// up) and `eth0` inside, addresses as /32 and /128, default routes through [`GATEWAY_V4`] and
    /// [`HOST_LINK_LOCAL`]. No routes on the host.
    pub fn workload(&self, interface: &str, addresses: &[&str]) -> Result<Workload> {
        self.create(&WorkloadSpec {
            interface,
            addresses,
            ..WorkloadSpec::default()
        })
    }

    /// As [`Host::workload`], with all that can be chosen.
    pub fn create(&self, spec: &WorkloadSpec<'_>) -> Result<Workload> {
        let namespace = Namespace::new(&format!("{}-w", self.prefix))?;
        let interface = spec.interface;
        let host_mac = mac_text(HOST_MAC);
        let mtu = spec.mtu;
        self.namespace.ip(&format!(
            "link add {interface} address {host_mac} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
            namespace.name()
        ))?;
        if let Some(mac) = spec.mac {
            namespace.ip(&format!("link set eth0 address {}", mac_text(mac)))?;
        }
        // Without duplicate address detection addresses can be used at once; nothing here waits for
        // it.
        self.namespace
            .sysctl(&format!("net/ipv6/conf/{interface}/accept_dad"), "0")?;
        namespace.sysctl("net/ipv6/conf/eth0/accept_dad", "0")?;
        self.namespace.ip(&format!("link set {interface} up"))?;
        namespace.ip("link set eth0 up")?;
        let mut parsed = Vec::new();
        for address in spec.addresses {
            let address: IpAddr = address.parse().with_context(|| format!("address {address}"))?;
            match address {
                IpAddr::V4(v4) => namespace.ip(&format!("addr add {v4}/32 dev eth0"))?,
                IpAddr::V6(v6) => namespace.ip(&format!("addr add {v6}/128 dev eth0 nodad"))?,
            };
            parsed.push(address);
        }
        if parsed.iter().any(IpAddr::is_ipv4) {
            namespace.ip(&format!("route add {GATEWAY_V4} dev eth0 scope link"))?;
            namespace.ip(&format!("route add default via {GATEWAY_V4} dev eth0"))?;
        }
        if parsed.iter().any(IpAddr::is_ipv6) {
            namespace.ip(&format!("-6 route add default via {HOST_LINK_LOCAL} dev eth0"))?;
        }
        let mac = namespace.run(|| crate::packet::mac_of("eth0"))??;
        let ifindex = self.namespace.ifindex(interface)?;
        Ok(Workload {
            namespace,
            interface: interface.to_owned(),
            ifindex,
            mac,
            addresses: parsed,
        })
    }

    /// What the agent's routing half does for a workload, by hand: host routes, static neighbours,
    /// proxy ARP, forwarding. For tests that run without it.
    pub fn wire(&self, workload: &Workload) -> Result<()> {
        let interface = &workload.interface;
        for (name, value) in [
            (format!("net/ipv4/conf/{interface}/proxy_arp"), "1"),
            (format!("net/ipv4/neigh/{interface}/proxy_delay"), "0"),
            (format!("net/ipv4/conf/{interface}/forwarding"), "1"),
            (format!("net/ipv6/conf/{interface}/forwarding"), "1"),
            (format!("net/ipv6/conf/{interface}/accept_ra"), "0"),
        ] {
            self.namespace.sysctl(&name, value)?;
        }
        let mac = mac_text(workload.mac);
        for address in &workload.addresses {
            let length = if address.is_ipv4() { 32 } else { 128 };
            self.namespace
                .ip(&format!("route replace {address}/{length} dev {interface} scope link"))?;
            self.namespace.ip(&format!(
                "neigh replace {address} lladdr {mac} dev {interface} nud permanent"
            ))?;
        }
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.bpffs, MntFlags::MNT_DETACH) {
            eprintln!("bpffs {} stays mounted: {error}", self.bpffs.display());
        }
    }
}

/// What a workload shall look like.
#[derive(Clone, Debug)]
pub struct WorkloadSpec<'a> {
    /// Name of the host-side interface.
    pub interface: &'a str,
    /// Addresses, without mask.
    pub addresses: &'a [&'a str],
    /// MAC address of `eth0`; `None` = the kernel's choice.
    pub mac: Option<[u8; 6]>,
    /// MTU of both ends.
    pub mtu: u32,
}

impl Default for WorkloadSpec<'_> {
    fn default() -> Self {
        Self {
            interface: "",
            addresses: &[],
            mac: None,
            mtu: 1500,
        }
    }
}

/// A workload: its namespace and what the host sees of it. Dropping it removes the namespace and
/// with it the pair.
#[derive(Debug)]
pub struct Workload {
    /// Its namespace; its interface is `eth0`.
    pub namespace: Namespace,
    /// Name of the host-side interface at creation.
    pub interface: String,
    /// Index of the host-side interface.
    pub ifindex: u32,
    /// MAC address of `eth0`.
    pub mac: [u8; 6],
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

/// `aa:bb:cc:dd:ee:ff`.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
