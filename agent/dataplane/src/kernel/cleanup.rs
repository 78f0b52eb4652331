//! What is there, and how to remove it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Kernel, directory, lock};
use crate::error::{KernelError, Result};
use crate::sys::RawMap;

/// Counts of everything in the kernel, freshly read from it (not from what the agent believes).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Links: two for each interface.
    pub links: usize,
    /// Endpoint records in use.
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
    /// Pinned arrays of continuations.
    pub chains: usize,
    /// Entries whose class differs between the banks: none while no transaction is under way.
    pub unequal: usize,
}

impl Kernel {
    /// Counts.
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
            links: count_entries(self.endpoints.links_directory())?,
            endpoints,
            peers_v4,
            peers_v6,
            nets_v4,
            nets_v6,
            named_ports,
            nats: self.nats.count()?,
            policies: self.policies.count()?,
            programs: self.generated.loaded().len(),
            chains: count_entries(self.generated.directory())?,
            unequal,
        })
    }
}

fn count_entries(path: &Path) -> Result<usize> {
    Ok(fs::read_dir(path).map_err(KernelError::file("list", path))?.count())
}

/// Indexes of the interfaces that links of any version are pinned for.
pub fn attached(bpffs: &Path) -> BTreeSet<u32> {
    let names = |directory: &Path| -> Vec<PathBuf> {
        fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect()
    };
    let versions = names(&bpffs.join("felid"));
    let pins = versions.iter().flat_map(|version| names(&version.join("links")));
    pins.filter_map(|pin| pin.file_name()?.to_str()?.split('_').next()?.parse().ok())
        .collect()
}

/// Removes everything of every version from a bpffs: links (their interfaces are open from then on), programs, maps, directories.
/// Nothing there is fine. Refused while an agent runs.
pub fn cleanup(bpffs: &Path) -> Result<()> {
    let current = directory(bpffs);
    let _lock = match lock(&current) {
        Ok(lock) => Some(lock),
        Err(KernelError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let root = bpffs.join("felid");
    let versions = match fs::read_dir(&root) {
        Ok(versions) => versions,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(KernelError::file("list", &root)(error)),
    };
    for version in versions {
        let version = version.map_err(KernelError::file("list", &root))?.path();
        // Links first: what they run must not find its maps gone.
        for part in ["links", "programs", "embedded", "maps"] {
            remove_tree(&version.join(part))?;
        }
        remove_tree(&version)?;
    }
    remove_tree(&root)
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(KernelError::file("remove", path)(error)),
        _ => Ok(()),
    }
}
