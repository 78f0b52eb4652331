//! Whether kube-proxy, or something that does its work with its names, translates addresses on this host.
//!
//! Felid judges packets as netfilter leaves them, so policies see what such translation makes of them. Looked for by name: its own
//! nftables tables, its chain in the `nat` table of iptables in either form. Nothing is loaded or changed by looking.

use std::io;

use rtnetlink::sys::{Socket, protocols::NETLINK_NETFILTER};

use crate::sys::iptables_entries;

/// The chain that all of kube-proxy's iptables rules hang on, in its IPVS mode too.
const CHAIN: &str = "KUBE-SERVICES";
/// The table of its nftables mode.
const TABLE: &str = "kube-proxy";
/// Netfilter's numbers of the families.
const FAMILIES: [(u8, &str); 2] = [(2, "ip"), (10, "ip6")];

const NFTABLES: u16 = 10 << 8;
const GET_TABLE: u16 = 1;
const GET_CHAIN: u16 = 4;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;

/// What of kube-proxy's is there, for people; empty = nothing that could be seen.
pub fn kube_proxy() -> Vec<String> {
    let mut found = Vec::new();
    for (family, name) in FAMILIES {
        let table = nftables(family, GET_TABLE, &[(TABLE_NAME, TABLE)]);
        if table.unwrap_or_else(|error| unseen(&error)) {
            found.push(format!("nftables table {name} {TABLE}"));
        }
        let chain = nftables(family, GET_CHAIN, &[(CHAIN_TABLE, "nat"), (CHAIN_NAME, CHAIN)]);
        if chain.unwrap_or_else(|error| unseen(&error)) || legacy(family == 10).unwrap_or_else(|error| unseen(&error)) {
            found.push(format!("{name}tables chain {CHAIN}"));
        }
    }
    found
}

fn unseen(error: &io::Error) -> bool {
    tracing::debug!(%error, "cannot look for kube-proxy");
    false
}

/// Whether nftables has something of this name.
fn nftables(family: u8, question: u16, names: &[(u16, &str)]) -> io::Result<bool> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    socket.send(&message(family, question, names)?, 0)?;
    let mut answer = vec![0; 4096];
    // The kernel answers before `send` returns.
    let length = socket.recv(&mut &mut answer[..], 0)?;
    read_answer(answer.get(..length).unwrap_or_default())
}

fn message(family: u8, question: u16, names: &[(u16, &str)]) -> io::Result<Vec<u8>> {
    let mut body = vec![family, 0, 0, 0];
    for (attribute, name) in names {
        let length = u16::try_from(4 + name.len() + 1).map_err(io::Error::other)?;
        body.extend(length.to_ne_bytes());
        body.extend(attribute.to_ne_bytes());
        body.extend(name.bytes());
        body.push(0);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend(length.to_ne_bytes());
    message.extend((NFTABLES | question).to_ne_bytes());
    // NLM_F_REQUEST
    message.extend(1_u16.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    Ok(message)
}

fn read_answer(answer: &[u8]) -> io::Result<bool> {
    let kind = answer.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
    match kind {
        // NLMSG_ERROR
        Some(2) => {
            let code = answer.get(16..20).and_then(|code| code.first_chunk::<4>());
            let error = io::Error::from_raw_os_error(-code.map_or(0, |code| i32::from_ne_bytes(*code)));
            match error.raw_os_error() {
                // No such table or chain; no nftables in this kernel.
                Some(libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => Ok(false),
                _ => Err(error),
            }
        }
        Some(kind) => Ok(kind & 0xff00 == NFTABLES),
        None => Ok(false),
    }
}

/// Whether the old form of iptables has the chain. It is asked only for a table that is there: asking would make it.
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
