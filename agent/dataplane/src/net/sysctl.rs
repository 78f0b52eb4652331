//! The one place that writes sysctls.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, Inet6DevConf, InetDevConf, LinkAttribute, LinkMessage,
};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::{Net, NetError};

/// What came of setting the sysctls of an interface.
#[derive(Debug, Default)]
pub struct Configured {
    /// The names of those that had other values.
    pub changed: Vec<String>,
    /// What failed; the rest was set.
    pub errors: Vec<NetError>,
}

/// Writer of sysctls below one root.
#[derive(Clone, Debug)]
pub struct Sysctls {
    root: PathBuf,
}

impl Default for Sysctls {
    /// `/proc/sys`: the network part shows the namespace of the calling thread. Where it is
    /// read-only, as in a container without privileges, what the host's is mounted at.
    fn default() -> Self {
        let roots = ["/proc/sys", "/host/proc/sys"];
        let chosen = roots.into_iter().find(|root| is_writable(&Path::new(root).join("net")));
        Self {
            root: chosen.unwrap_or("/proc/sys").into(),
        }
    }
}

fn is_writable(directory: &Path) -> bool {
    statvfs(directory).is_ok_and(|found| !found.flags().contains(FsFlags::ST_RDONLY))
}

/// Of many sysctls that cannot be written since all of them are read-only, keeps one.
fn said_once(errors: Vec<NetError>) -> Vec<NetError> {
    let is_read_only = |error: &NetError| match error {
        NetError::Sysctl { source, .. } => source.kind() == io::ErrorKind::ReadOnlyFilesystem,
        _ => false,
    };
    let (read_only, mut others): (Vec<_>, Vec<_>) = errors.into_iter().partition(is_read_only);
    others.extend(read_only.into_iter().next());
    others
}

/// Host-wide, as Felix sets them.
const HOST: &[(&str, &str)] = &[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")];

/// Whether the host drops packets whose answers would not go back the same way.
const RP_FILTER: &str = "rp_filter";

/// Per interface, as Felix sets them: (directory, file, value).
const INTERFACE: &[(&str, &str, &str)] = &[
    // The workload may be reached through addresses of the host's loopback (host ports on
    // 127.0.0.1).
    ("net/ipv4/conf", "route_localnet", "1"),
    // The kernel answers ARP for everything it routes, at once: /32 workloads have no other
    // neighbours.
    ("net/ipv4/neigh", "proxy_delay", "0"),
    ("net/ipv4/conf", "proxy_arp", "1"),
    ("net/ipv4/conf", "forwarding", "1"),
    // Second line behind the programs' own anti-spoofing. See [`Sysctls::interface`].
    ("net/ipv4/conf", RP_FILTER, "1"),
    // Workloads that share the interface's "network" are never each other's better next hop.
    ("net/ipv4/conf", "send_redirects", "0"),
    // A workload must not configure its host.
    ("net/ipv6/conf", "accept_ra", "0"),
    ("net/ipv6/conf", "proxy_ndp", "1"),
    ("net/ipv6/conf", "forwarding", "1"),
];

/// The name of a sysctl, and how its value is read from what netlink says of an interface.
type FromNetlink<Conf> = (&'static str, fn(&Conf) -> i32);

/// Where netlink says the values of [`INTERFACE`], as far as it does.
const TOLD_V4: &[FromNetlink<InetDevConf>] = &[
    ("route_localnet", |conf| conf.route_localnet),
    ("proxy_arp", |conf| conf.proxy_arp),
    ("forwarding", |conf| conf.forwarding),
    ("rp_filter", |conf| conf.rp_filter),
    ("send_redirects", |conf| conf.send_redirects),
];
/// See [`TOLD_V4`].
const TOLD_V6: &[FromNetlink<Inet6DevConf>] = &[
    ("accept_ra", |conf| conf.accept_ra),
    ("proxy_ndp", |conf| conf.proxy_ndp),
    ("forwarding", |conf| conf.forwarding),
];

/// Per interface on which the host answers for the addresses of workloads.
const PROXY: &[(&str, &str, &str)] = &[
    // Without it the kernel neither answers ARP for others nor forwards what comes. IPv6's is left
    // as it is: to set it takes the host the default routes that it has of router advertisements.
    ("net/ipv4/conf", "forwarding", "1"),
    // The kernel looks at proxy neighbours of IPv6 only then.
    ("net/ipv6/conf", "proxy_ndp", "1"),
    // It waits up to 0.8 s before it answers, in case somebody else does: there is nobody else.
    ("net/ipv4/neigh", "proxy_delay", "0"),
    ("net/ipv6/neigh", "proxy_delay", "0"),
];

/// What felid sets of an interface's sysctls; `None` = it leaves this one alone.
fn wanted(directory: &str, file: &str, may_spoof: bool) -> Option<&'static str> {
    if may_spoof && file == RP_FILTER {
        return Some("0");
    }
    let listed = INTERFACE
        .iter()
        .find(|(known, name, _)| *known == directory && *name == file);
    listed.map(|(_, _, value)| *value)
}

/// The sysctls of one link that differ from what felid sets.
fn drift(link: &LinkMessage, may_spoof: bool) -> Vec<String> {
    let mut files = Vec::new();
    let mut compare = |directory: &str, file: &str, found: i32| {
        if wanted(directory, file, may_spoof).is_some_and(|value| value != found.to_string()) {
            files.push(format!("{directory}/{file} = {found}"));
        }
    };
    let families = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::AfSpecUnspec(families) => Some(families),
        _ => None,
    });
    for family in families.flatten() {
        match family {
            AfSpecUnspec::Inet(inet) => {
                for conf in inet {
                    let AfSpecInet::DevConf(conf) = conf else { continue };
                    TOLD_V4
                        .iter()
                        .for_each(|(file, value)| compare("net/ipv4/conf", file, value(conf)));
                }
            }
            AfSpecUnspec::Inet6(inet) => {
                for conf in inet {
                    let AfSpecInet6::DevConf(conf) = conf else { continue };
                    TOLD_V6
                        .iter()
                        .for_each(|(file, value)| compare("net/ipv6/conf", file, value(conf)));
                }
            }
            _ => {}
        }
    }
    files
}

impl Net {
    /// Returns the sysctls that differ from what felid sets, by the index of the interface, among
    /// these interfaces, each with whether its workload may send from addresses that are not its
    /// own. It takes one dump for all of them, and fails if netlink does.
    pub async fn drifted(&self, interfaces: &BTreeMap<u32, bool>) -> Result<BTreeMap<u32, Vec<String>>, NetError> {
        if interfaces.is_empty() {
            return Ok(BTreeMap::new());
        }
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let dump = self.dump("list sysctls of links", &request).await?;
        let drifts = dump.messages.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => {
                let may_spoof = interfaces.get(&link.header.index)?;
                Some((link.header.index, drift(link, *may_spoof)))
            }
            _ => None,
        });
        Ok(drifts.filter(|(_, files)| !files.is_empty()).collect())
    }

    /// Sets the sysctls of the whole host that somebody has changed. Returns their names. What
    /// cannot be set is left to [`Net::enable_forwarding`], which says why.
    pub fn guard_forwarding(&self) -> Vec<&'static str> {
        let set = HOST.iter().filter(|(path, value)| {
            let changed = self.sysctls.set((*path).into(), value);
            matches!(changed, Ok(true))
        });
        set.map(|(path, _)| *path).collect()
    }
}

impl Sysctls {
    /// Returns a writer below another root, for tests.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Host-wide settings; what failed.
    pub(super) fn host(&self) -> Vec<NetError> {
        let failed = HOST
            .iter()
            .filter_map(|(path, value)| self.set((*path).into(), value).err());
        said_once(failed.collect())
    }

    /// Settings of one interface: those that were not so, and what failed. An interface that
    /// vanished meanwhile is no failure. `may_spoof`: the workload may send from addresses that
    /// lead elsewhere, so that the host must not look where they lead; the programs know which they
    /// are.
    pub(super) fn interface(&self, name: &str, may_spoof: bool) -> Configured {
        let mut configured = Configured::default();
        for (directory, file, _) in INTERFACE {
            let Some(value) = wanted(directory, file, may_spoof) else {
                continue;
            };
            match self.set(format!("{directory}/{name}/{file}"), value) {
                Ok(true) => configured.changed.push(format!("{directory}/{file}")),
                Ok(false) => {}
                Err(error) => configured.errors.push(error),
            }
        }
        configured.errors = said_once(configured.errors);
        configured
    }

    /// Those of one on which the host answers for others.
    pub(super) fn proxy(&self, name: &str) -> Vec<NetError> {
        self.all(PROXY, name)
    }

    fn all(&self, list: &[(&str, &str, &'static str)], name: &str) -> Vec<NetError> {
        let failed = list
            .iter()
            .filter_map(|(directory, file, value)| self.set(format!("{directory}/{name}/{file}"), value).err());
        said_once(failed.collect())
    }

    /// Writes only what differs, and says whether something did: a write to `forwarding` makes the
    /// kernel walk every route cache, and /proc/sys may be read-only but already right.
    fn set(&self, path: String, value: &'static str) -> Result<bool, NetError> {
        let file = self.root.join(&path);
        let failed = |source: io::Error| {
            let hint = match source.kind() {
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                    "; /proc/sys is read-only here: mount the host's /proc/sys/net at /host/proc/sys/net in the agent's container, or run the agent \
                     privileged"
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
            Ok(present) if present.trim() == value => Ok(false),
            Ok(_) => match std::fs::write(&file, value) {
                Err(error) if gone(&error) => Ok(false),
                other => other.map(|()| true).map_err(failed),
            },
            // The interface is gone, or the kernel has no IPv6.
            Err(error) if gone(&error) => Ok(false),
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
        assert!(sysctls.interface("cali0.1", false).errors.is_empty());
        assert_eq!(std::fs::read_to_string(conf.join("proxy_arp")).unwrap(), "1");
        assert_eq!(
            std::fs::read_to_string(conf.join("forwarding")).unwrap(),
            "1\n",
            "left as it was"
        );
        assert!(!conf.join("rp_filter").exists(), "what the kernel lacks is not made");
        assert!(sysctls.interface("gone", false).errors.is_empty());
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
