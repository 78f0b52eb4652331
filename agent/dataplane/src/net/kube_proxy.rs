//! Whether kube-proxy, or something that does its work with its names, translates addresses on this
//! host.
//!
//! Felid judges packets as netfilter leaves them, so policies see what such translation makes of
//! them. Looked for by name: its own nftables tables, its chain in the `nat` table of iptables in
//! either form. Nothing is loaded or changed by looking.

use std::io;

use super::nftables::{self, Attributes, NftFamily, Operation};
use crate::sys::iptables_entries;

/// The chain that all of kube-proxy's iptables rules hang on, in its IPVS mode too.
const CHAIN: &str = "KUBE-SERVICES";
/// The table of its nftables mode.
const TABLE: &str = "kube-proxy";
/// Netfilter's numbers of the families.
const FAMILIES: [NftFamily; 2] = [NftFamily::IP, NftFamily::IP6];

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;

/// Returns what of kube-proxy's is there, for people. It is empty if there is nothing that could be
/// seen.
pub fn kube_proxy() -> Vec<String> {
    let mut found = Vec::new();
    for family in FAMILIES {
        let name = family.name();
        let table = exists(
            family,
            Operation::GetTable,
            Attributes::default().text(TABLE_NAME, TABLE),
        );
        if table.unwrap_or_else(|error| unseen(&error)) {
            found.push(format!("nftables table {name} {TABLE}"));
        }
        let names = Attributes::default().text(CHAIN_TABLE, "nat").text(CHAIN_NAME, CHAIN);
        let chain = exists(family, Operation::GetChain, names);
        if chain.unwrap_or_else(|error| unseen(&error))
            || legacy(family == NftFamily::IP6).unwrap_or_else(|error| unseen(&error))
        {
            found.push(format!("{name}tables chain {CHAIN}"));
        }
    }
    found.extend(has_ipvs_services().then(|| "services of IPVS".to_owned()));
    found
}

/// Whether IPVS has services here: its list has three lines of headings.
fn has_ipvs_services() -> bool {
    let listed = std::fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap_or_default();
    listed.lines().nth(3).is_some()
}

fn unseen(error: &io::Error) -> bool {
    tracing::debug!(%error, "cannot look for kube-proxy");
    false
}

/// Whether nftables has something of this name.
fn exists(family: NftFamily, operation: Operation, names: Attributes) -> io::Result<bool> {
    nftables::get(family, operation, names).map(|found| found.is_some())
}

/// Whether the old form of iptables has the chain. It is asked only for a table that is there:
/// asking would make it.
fn legacy(ipv6: bool) -> io::Result<bool> {
    let family = if ipv6 { "ip6" } else { "ip" };
    let tables = match std::fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    if !tables.lines().any(|table| table == "nat") {
        return Ok(false);
    }
    let entries = iptables_entries(ipv6, "nat")?;
    let mut name = CHAIN.as_bytes().to_vec();
    name.push(0);
    Ok(entries.windows(name.len()).any(|window| window == name))
}
