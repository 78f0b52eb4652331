//! The one place that writes sysctls.

use std::io;
use std::path::PathBuf;

use super::NetError;

/// Writer of sysctls below one root.
#[derive(Clone, Debug)]
pub struct Sysctls {
    root: PathBuf,
}

impl Default for Sysctls {
    /// `/proc/sys`: the network part shows the namespace of the calling thread.
    fn default() -> Self {
        Self {
            root: "/proc/sys".into(),
        }
    }
}

/// Host-wide, as Felix sets them.
const HOST: &[(&str, &str)] = &[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")];

/// Per interface, as Felix sets them: (directory, file, value).
const INTERFACE: &[(&str, &str, &str)] = &[
    // The workload may be reached through addresses of the host's loopback (host ports on 127.0.0.1).
    ("net/ipv4/conf", "route_localnet", "1"),
    // The kernel answers ARP for everything it routes, at once: /32 workloads have no other neighbours.
    ("net/ipv4/neigh", "proxy_delay", "0"),
    ("net/ipv4/conf", "proxy_arp", "1"),
    ("net/ipv4/conf", "forwarding", "1"),
    // Second line behind the programs' own anti-spoofing.
    ("net/ipv4/conf", "rp_filter", "1"),
    // Workloads that share the interface's "network" are never each other's better next hop.
    ("net/ipv4/conf", "send_redirects", "0"),
    // A workload must not configure its host.
    ("net/ipv6/conf", "accept_ra", "0"),
    ("net/ipv6/conf", "proxy_ndp", "1"),
    ("net/ipv6/conf", "forwarding", "1"),
];

/// Per interface on which the host answers for the addresses of workloads.
const PROXY: &[(&str, &str, &str)] = &[
    // Without it the kernel neither answers ARP for others nor forwards what comes. IPv6's is left as it is: to set it takes the host
    // the default routes that it has of router advertisements.
    ("net/ipv4/conf", "forwarding", "1"),
    // The kernel looks at proxy neighbours of IPv6 only then.
    ("net/ipv6/conf", "proxy_ndp", "1"),
    // It waits up to 0.8 s before it answers, in case somebody else does: there is nobody else.
    ("net/ipv4/neigh", "proxy_delay", "0"),
    ("net/ipv6/neigh", "proxy_delay", "0"),
];

impl Sysctls {
    /// Writer below another root, for tests.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Host-wide settings; what failed.
    pub(super) fn host(&self) -> Vec<NetError> {
        HOST.iter()
            .filter_map(|(path, value)| self.set((*path).into(), value).err())
            .collect()
    }

    /// Settings of one interface; what failed. An interface that vanished meanwhile is no failure.
    pub(super) fn interface(&self, name: &str) -> Vec<NetError> {
        self.all(INTERFACE, name)
    }

    /// Those of one on which the host answers for others.
    pub(super) fn proxy(&self, name: &str) -> Vec<NetError> {
        self.all(PROXY, name)
    }

    fn all(&self, list: &[(&str, &str, &'static str)], name: &str) -> Vec<NetError> {
        list.iter()
            .filter_map(|(directory, file, value)| self.set(format!("{directory}/{name}/{file}"), value).err())
            .collect()
    }

    /// Writes only what differs: a write to `forwarding` makes the kernel walk every route cache, and /proc/sys may be read-only but
    /// already right.
    fn set(&self, path: String, value: &'static str) -> Result<(), NetError> {
        let file = self.root.join(&path);
        let failed = |source: io::Error| {
            let hint = match source.kind() {
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                    "; /proc/sys is read-only here: run the agent privileged, or mount the host's /proc/sys/net writable into its container"
                }
                _ => "",
            };
            NetError::Sysctl {
                path: file.display().to_string(),
                value,
                source,
                hint,
            }
        };
        match std::fs::read_to_string(&file) {
            Ok(present) if present.trim() == value => Ok(()),
            Ok(_) => match std::fs::write(&file, value) {
                Err(error) if gone(&error) => Ok(()),
                other => other.map_err(failed),
            },
            // The interface is gone, or the kernel has no IPv6.
            Err(error) if gone(&error) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn writes_what_differs_and_ignores_what_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let conf = root.path().join("net/ipv4/conf/cali0.1");
        std::fs::create_dir_all(&conf).unwrap();
        std::fs::write(conf.join("proxy_arp"), "0\n").unwrap();
        std::fs::write(conf.join("forwarding"), "1\n").unwrap();
        let sysctls = Sysctls::below(root.path());
        assert!(sysctls.interface("cali0.1").is_empty());
        assert_eq!(std::fs::read_to_string(conf.join("proxy_arp")).unwrap(), "1");
        assert_eq!(
            std::fs::read_to_string(conf.join("forwarding")).unwrap(),
            "1\n",
            "left as it was"
        );
        assert!(!conf.join("rp_filter").exists(), "what the kernel lacks is not made");
        assert!(sysctls.interface("gone").is_empty());
    }

    #[test]
    fn names_the_file_that_cannot_be_written() {
        let root = tempfile::tempdir().unwrap();
        // A directory where the file should be can be opened by nobody, root included.
        std::fs::create_dir_all(root.path().join("net/ipv4/ip_forward")).unwrap();
        let errors = Sysctls::below(root.path()).host();
        assert_eq!(errors.len(), 1);
        assert!(errors.first().unwrap().to_string().contains("net/ipv4/ip_forward = 1"));
    }
}
