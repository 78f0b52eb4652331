//! What is there, and how to remove it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use super::Kernel;
use super::host::lock;
use super::identity::Identities;
use super::links::is_gone;
use super::pins::{entries, remove_tree, remove_version};
use crate::error::{KernelError, Result};
use crate::sys::{self, Hook, RawMap};

/// How much there is of everything in the kernel, freshly read from it and not from what the agent
/// believes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Links: two for each interface that felid is attached to.
    pub links: usize,
    /// Records of endpoints in use.
    pub endpoints: usize,
    /// Entries of `peers_v4`.
    pub peers_v4: usize,
    /// Entries of `peers_v6`.
    pub peers_v6: usize,
    /// Entries of `nets_v4`.
    pub nets_v4: usize,
    /// Entries of `nets_v6`.
    pub nets_v6: usize,
    /// Entries of `named_ports`.
    pub named_ports: usize,
    /// Records of translations in force.
    pub nats: usize,
    /// Elements of `policies` in use, in each bank.
    pub policies: [usize; 2],
    /// Distinct policy programs loaded.
    pub programs: usize,
    /// Pinned arrays that lead from one chunk of a program to the next.
    pub chains: usize,
    /// Entries whose class differs between the banks: none while no transaction is under way.
    pub unequal: usize,
}

impl Kernel {
    /// Reads from the kernel how much there is of everything.
    ///
    /// # Errors
    ///
    /// A map that cannot be read.
    pub fn inventory(&self) -> Result<Inventory> {
        let mut unequal = 0;
        let mut count = |name: &str, map: &RawMap| -> Result<usize> {
            let mut count = 0;
            map.dump(|_, value| {
                count += 1;
                // Every value of these tables begins with the classes of both banks.
                if value.get(..4) != value.get(4..8) {
                    unequal += 1;
                }
            })
            .map_err(KernelError::call(format!("read the map {name}")))?;
            Ok(count)
        };
        let tables = &self.tables;
        let peers_v4 = count("peers_v4", tables.peers_v4.map())?;
        let peers_v6 = count("peers_v6", tables.peers_v6.map())?;
        let nets_v4 = count("nets_v4", tables.nets_v4.map())?;
        let nets_v6 = count("nets_v6", tables.nets_v6.map())?;
        let named_ports = count("named_ports", tables.named_ports.map())?;
        let mut endpoints = 0;
        self.endpoints
            .table()
            .map()
            .dump(|_, value| {
                if value.first_chunk::<4>() != Some(&[0; 4]) {
                    endpoints += 1;
                }
            })
            .map_err(KernelError::call("read the map endpoints"))?;
        Ok(Inventory {
            links: count_entries(self.endpoints.links().directory())?,
            endpoints,
            peers_v4,
            peers_v6,
            nets_v4,
            nets_v6,
            named_ports,
            nats: self.nats.count()?,
            policies: self.programs.policies.count()?,
            programs: self.programs.generated.loaded().len(),
            chains: count_entries(self.programs.generated.directory())?,
            unequal,
        })
    }
}

fn count_entries(path: &Path) -> Result<usize> {
    Ok(fs::read_dir(path).map_err(KernelError::file("list", path))?.count())
}

/// Returns the indexes of the interfaces for which links of any version of felid are pinned in this
/// bpffs.
pub fn attached(bpffs: &Path) -> BTreeSet<u32> {
    let versions = entries(&bpffs.join("felid"));
    let pins = versions.iter().flat_map(|version| entries(&version.join("links")));
    pins.filter_map(|pin| pin.file_name()?.to_str()?.split('_').next()?.parse().ok())
        .collect()
}

/// Removes everything of every version from a bpffs: links (their interfaces are open from then
/// on), programs, maps and directories. It is no error if there is nothing.
///
/// # Errors
///
/// A running agent that has the directory, or a file that cannot be removed.
pub fn cleanup(bpffs: &Path) -> Result<()> {
    let root = bpffs.join("felid");
    let versions = match fs::read_dir(&root) {
        Ok(versions) => versions,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(KernelError::file("list", &root)(error)),
    };
    let mut locks = Vec::new();
    for version in versions {
        let version = version.map_err(KernelError::file("list", &root))?.path();
        if version.is_dir() {
            locks.push(lock(&version)?);
        }
    }
    entries(&root).iter().try_for_each(|version| remove_version(version))?;
    remove_tree(&root)
}

/// Detaches every program of felid's from these interfaces, wherever its link is pinned: below
/// another bpffs, or under a mount that hides it. Returns the interfaces where there were any, and
/// what went wrong.
pub fn detach_strays(interfaces: impl IntoIterator<Item = u32>) -> (BTreeSet<u32>, Vec<KernelError>) {
    let mut identities = Identities::default();
    let (mut found, mut errors) = (BTreeSet::new(), Vec::new());
    for ifindex in interfaces {
        for hook in Hook::ALL {
            match detach_all(ifindex, hook, &mut identities) {
                Ok(false) => {}
                Ok(true) => drop(found.insert(ifindex)),
                Err(error) if is_gone(&error) => {}
                Err(error) => errors.push(KernelError::call(format!("detach from interface {ifindex}"))(error)),
            }
        }
    }
    (found, errors)
}

fn detach_all(ifindex: u32, hook: Hook, identities: &mut Identities) -> io::Result<bool> {
    let mut found = false;
    for (program, link) in sys::attached(ifindex, hook)? {
        if link != 0 && identities.is_felid(program) {
            match sys::link_by_id(link).and_then(|link| sys::detach_link(link.as_fd())) {
                Ok(()) => found = true,
                // Its pin was removed a moment ago, and the kernel has come to it meanwhile.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}
