//! The old interface of iptables, as far as reading a table goes.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`.
const GET_INFO: libc::c_int = 64;
/// `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES`.
const GET_ENTRIES: libc::c_int = 65;
/// Bytes of `struct ipt_getinfo`: a name of 32, then 13 words, the last of which is the size of the
/// table.
const INFO: usize = 84;
/// Bytes of `struct ipt_get_entries` before the entries: a name of 32, the size, and room up to the
/// next multiple of 8.
const HEAD: usize = 40;
/// Where `struct ipt_getinfo` has the offset of each hook's policy: a name of 32, a word, five
/// words of where the hooks begin.
const UNDERFLOW: usize = 56;
/// Number of the hook in netfilter.
const FORWARD: usize = 2;
/// Bytes of a rule before its target (`struct ipt_entry`, `struct ip6t_entry`): a policy has no
/// matches.
const ENTRY_V4: usize = 112;
const ENTRY_V6: usize = 168;
/// Bytes of a target before its verdict.
const TARGET: usize = 32;
/// More than any table that anyone has.
const MOST: usize = 256 << 20;
/// A table may change between the question for its size and the one for its content.
const ATTEMPTS: usize = 4;

/// A table as the kernel keeps it.
struct XtTable {
    /// What the kernel says of it: `struct ipt_getinfo`.
    info: Vec<u8>,
    entries: Vec<u8>,
}

/// What a chain does with a packet that no rule of it decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The packet goes on.
    Accept,
    /// The packet ends there.
    Drop,
}

/// Everything in a table (`nat`, say), as the kernel keeps it: names of chains stand in it as they
/// are. The table must be there, or the kernel makes it.
pub fn iptables_entries(ipv6: bool, table: &str) -> io::Result<Vec<u8>> {
    read_table(ipv6, table).map(|table| table.entries)
}

/// The policy of the FORWARD chain in the table `filter` of the old iptables; `None` = there is no
/// such table. Looking makes none.
pub fn iptables_forward_policy(ipv6: bool) -> io::Result<Option<Verdict>> {
    let family = if ipv6 { "ip6" } else { "ip" };
    let tables = match std::fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if !tables.lines().any(|table| table == "filter") {
        return Ok(None);
    }
    let table = read_table(ipv6, "filter")?;
    let word = |bytes: &[u8], at: usize| bytes.get(at..at + 4)?.first_chunk::<4>().copied();
    let policy = word(&table.info, UNDERFLOW + 4 * FORWARD).map(u32::from_ne_bytes);
    let entry = if ipv6 { ENTRY_V6 } else { ENTRY_V4 };
    let verdict = policy.and_then(|policy| word(&table.entries, policy as usize + entry + TARGET));
    Ok(verdict.map(|verdict| match i32::from_ne_bytes(verdict) {
        // Minus the verdict minus one.
        -1 => Verdict::Drop,
        _ => Verdict::Accept,
    }))
}

fn read_table(ipv6: bool, table: &str) -> io::Result<XtTable> {
    let (address, level) = if ipv6 {
        ("[::]:0", libc::SOL_IPV6)
    } else {
        ("0.0.0.0:0", libc::SOL_IP)
    };
    // Any socket of the family will do.
    let socket = UdpSocket::bind(address)?;
    let name = |buffer: &mut [u8]| {
        buffer
            .iter_mut()
            .zip(table.bytes().take(31))
            .for_each(|(to, from)| *to = from)
    };
    for _ in 0..ATTEMPTS {
        let mut info = vec![0; INFO];
        name(&mut info);
        read_option(socket.as_fd(), level, GET_INFO, &mut info)?;
        let size = info.last_chunk::<4>().map_or(0, |size| u32::from_ne_bytes(*size));
        if size as usize > MOST {
            return Err(io::Error::other("the table is larger than can be"));
        }
        let mut entries = vec![0; HEAD + size as usize];
        name(&mut entries);
        if let Some(field) = entries.get_mut(32..36) {
            field.copy_from_slice(&size.to_ne_bytes());
        }
        match read_option(socket.as_fd(), level, GET_ENTRIES, &mut entries) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            Err(error) => return Err(error),
            Ok(()) => {
                let entries = entries.split_off(HEAD);
                return Ok(XtTable { info, entries });
            }
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// An option of a socket whose question stands in the buffer that takes the answer.
fn read_option(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    // SAFETY: the buffer has `length` bytes, is exclusively borrowed and outlives the call; the
    // kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
