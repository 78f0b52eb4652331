//! What the kernel holds on a node: to be compared before and after.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use felid_dataplane::sys::RawMap;

use crate::Cluster;

/// Number of files below a directory.
fn files(directory: &Path) -> usize {
    std::fs::read_dir(directory).map_or(0, |entries| {
        entries
            .flatten()
            .map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 })
            .sum()
    })
}

/// Routes, permanent neighbours, pinned objects, elements of tables, and felid's own inventory.
pub fn inventory(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let host = cluster.host.namespace();
    let sorted = |text: String| {
        let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    let mut found = BTreeMap::new();
    found.insert("routes".into(), sorted(host.ip("-4 route show proto 3")?));
    found.insert("routes6".into(), sorted(host.ip("-6 route show proto 3")?));
    found.insert("neighbours".into(), sorted(host.ip("neigh show nud permanent")?));
    // The sweepers are pinned when they are first used: of programs only those of policies matter.
    let felid = cluster
        .host
        .bpffs()
        .join(format!("felid/v{}", felid_common::ABI_VERSION));
    found.insert("links".into(), files(&felid.join("links")).to_string());
    let status = cluster.felid_json(&["status", "-o", "json"])?;
    for name in [
        "workloadEndpoints",
        "localEndpoints",
        "enforcing",
        "waiting",
        "sets",
        "programs",
    ] {
        found.insert(name.into(), status["counts"][name].to_string());
    }
    // The tables themselves, not what the agent believes of them.
    for name in [
        "peers_v4",
        "peers_v6",
        "nets_v4",
        "nets_v6",
        "named_ports",
        "endpoints",
        "nats",
        "cluster_v4",
        "cluster_v6",
    ] {
        let pin = felid.join("maps").join(name);
        let map = MapData::from_pin(&pin).with_context(|| format!("open the map {name}"))?;
        let map = RawMap::new(map, 1).with_context(|| format!("read the map {name}"))?;
        // An array's elements are always there; a record with an id is in use.
        let id = match name {
            "endpoints" => Some(0),
            "nats" => Some(std::mem::offset_of!(felid_common::Nat, id)),
            _ => None,
        };
        let mut used = 0;
        map.dump(|_, value| {
            let in_use = |at: usize| value.iter().skip(at).take(4).any(|byte| *byte != 0);
            used += usize::from(id.is_none_or(in_use));
        })
        .with_context(|| format!("read the map {name}"))?;
        found.insert(name.into(), used.to_string());
    }
    Ok(found)
}
