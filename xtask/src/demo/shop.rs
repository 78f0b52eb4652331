//! The shop's namespaces: what `examples/shop/endpoints.yaml` says, plus two places outside.

use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result};

use felid_lab::{Host, Namespace, Workload, WorkloadSpec};

/// Name, addresses, last byte of the MAC address and served port of each workload, as the records
/// have them.
const WORKLOADS: &[(&str, [&str; 2], u8, u16)] = &[
    ("frontend", ["10.65.0.10", "fd00:65::10"], 0x10, 80),
    ("api", ["10.65.0.20", "fd00:65::20"], 0x20, 8080),
    ("database", ["10.65.0.30", "fd00:65::30"], 0x30, 5432),
    ("cache", ["10.65.0.40", "fd00:65::40"], 0x40, 6379),
    ("payments", ["10.65.0.50", "fd00:65::50"], 0x50, 8443),
    ("admin", ["10.65.0.60", "fd00:65::60"], 0x60, 22),
];

/// Places outside: name, host's addresses, own addresses.
const OUTSIDE: &[(&str, [&str; 2], [&str; 2])] = &[
    (
        "office",
        ["192.0.2.1", "2001:db8:2::1"],
        ["192.0.2.10", "2001:db8:2::10"],
    ),
    (
        "world",
        ["198.51.100.1", "2001:db8:f::1"],
        ["198.51.100.10", "2001:db8:f::10"],
    ),
];

/// Who may connect to whom by the records: (from, to), both families; `edited` after
/// `examples/shop-edits` was applied.
pub(super) fn expected(edited: bool) -> Vec<(&'static str, &'static str)> {
    let mut allowed = vec![
        ("api", "database"),
        ("api", "cache"),
        ("api", "payments"),
        ("office", "frontend"),
        ("office", "admin"),
        ("world", "frontend"),
        ("api", "frontend"),
        ("payments", "frontend"),
        ("admin", "frontend"),
        ("admin", "api"),
        ("admin", "database"),
        ("admin", "cache"),
        ("admin", "payments"),
    ];
    allowed.push(if edited {
        ("payments", "api")
    } else {
        ("frontend", "api")
    });
    allowed.sort_unstable();
    allowed
}

/// Everything that is up.
pub(super) struct Shop {
    host: Host,
    workloads: Vec<(&'static str, Workload, u16)>,
    outside: Vec<(&'static str, Namespace)>,
    servers: Vec<Child>,
}

impl Shop {
    /// Creates the namespaces and starts a server in each workload. Interfaces are read from the
    /// records.
    pub(super) fn new(prefix: &str, records: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(records.join("endpoints.yaml")).context("the shop's endpoints")?;
        let host = Host::new(prefix)?;
        let mut shop = Self {
            host,
            workloads: Vec::new(),
            outside: Vec::new(),
            servers: Vec::new(),
        };
        let program = std::env::current_exe()?;
        for (name, addresses, mac, port) in WORKLOADS {
            let interface = interface_of(&text, name).with_context(|| format!("no interfaceName of {name}"))?;
            let workload = shop.host.create(&WorkloadSpec {
                interface,
                addresses,
                mac: Some([0x02, 0x65, 0, 0, 0, *mac]),
                ..WorkloadSpec::default()
            })?;
            shop.servers
                .push(workload.namespace.start(&program.to_string_lossy(), |command| {
                    command
                        .args(["serve", &port.to_string()])
                        .stdout(Stdio::null())
                        .stderr(Stdio::null());
                })?);
            shop.workloads.push((name, workload, *port));
        }
        for (index, (name, host, own)) in OUTSIDE.iter().enumerate() {
            let namespace = Namespace::new(&format!("{prefix}-{name}"))?;
            let uplink = format!("uplink{index}");
            shop.host.namespace().ip(&format!(
                "link add {uplink} type veth peer name eth0 netns {}",
                namespace.name()
            ))?;
            for (ns, interface, addresses) in [
                (shop.host.namespace(), uplink.as_str(), host),
                (&namespace, "eth0", own),
            ] {
                ns.ip(&format!("link set {interface} up"))?;
                ns.ip(&format!("addr add {}/24 dev {interface}", addresses[0]))?;
                ns.ip(&format!("addr add {}/64 dev {interface} nodad", addresses[1]))?;
            }
            namespace.ip(&format!("route add default via {}", host[0]))?;
            namespace.ip(&format!("-6 route add default via {}", host[1]))?;
            shop.outside.push((name, namespace));
        }
        Ok(shop)
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn workload(&self, name: &str) -> Option<&Workload> {
        self.workloads
            .iter()
            .find(|(n, _, _)| *n == name)
            .map(|(_, workload, _)| workload)
    }

    /// Everyone who connects, with their namespaces.
    pub(super) fn sources(&self) -> Vec<(&'static str, &Namespace)> {
        let inside = self
            .workloads
            .iter()
            .map(|(name, workload, _)| (*name, &workload.namespace));
        inside
            .chain(self.outside.iter().map(|(name, namespace)| (*name, namespace)))
            .collect()
    }

    /// Everyone who is connected to: name, addresses, port.
    pub(super) fn destinations(&self) -> Vec<(&'static str, Vec<std::net::IpAddr>, u16)> {
        self.workloads
            .iter()
            .map(|(name, workload, port)| (*name, workload.addresses.clone(), *port))
            .collect()
    }

    /// Leaves everything up when this process ends.
    pub(super) fn leave(mut self) {
        self.servers.clear();
        std::mem::forget(self);
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// The interface of a workload, from the text of its record.
fn interface_of<'a>(text: &'a str, pod: &str) -> Option<&'a str> {
    let record = text
        .split("\n---")
        .find(|record| record.lines().any(|line| line.trim() == format!("pod: {pod}")))?;
    record
        .lines()
        .find_map(|line| line.trim().strip_prefix("interfaceName: "))
}
