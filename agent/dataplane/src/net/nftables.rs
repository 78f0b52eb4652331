//! nftables' netlink messages, as far as felid needs them: asking for tables, chains and rules,
//! adding and deleting rules.
//!
//! Semantics: the kernel's `include/uapi/linux/netfilter/nf_tables.h`. Numbers within attributes
//! are in network byte order.

use std::io;

use rtnetlink::sys::{Socket, protocols::NETLINK_NETFILTER};

/// Subsystem of nftables in the type of a message.
const SUBSYSTEM: u16 = 10 << 8;
const NESTED: u16 = 1 << 15;
const ATTRIBUTE_TYPE: u16 = 0x3fff;

const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// Bytes that the answers to one request take at a time. A netlink datagram of a dump is at most 32
/// KiB.
const BUFFER: usize = 64 << 10;

/// A family of netfilter's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NftFamily(u8);

impl NftFamily {
    /// Every family, in a question.
    pub(super) const ANY: Self = Self(0);
    /// Both IP versions at once.
    pub(super) const INET: Self = Self(1);
    /// IPv4.
    pub(super) const IP: Self = Self(2);
    /// IPv6.
    pub(super) const IP6: Self = Self(10);

    /// Name as `nft` has it.
    pub(super) const fn name(self) -> &'static str {
        match self.0 {
            1 => "inet",
            2 => "ip",
            10 => "ip6",
            5 => "netdev",
            7 => "bridge",
            _ => "?",
        }
    }
}

/// What is asked for or done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// One table, or all of them.
    GetTable,
    /// One chain, or all of them.
    GetChain,
    /// The rules of a chain.
    GetRules,
    /// A new rule at the end of a chain.
    AppendRule,
    /// A new rule before the one whose handle is its position.
    InsertRule,
    /// A rule goes.
    DeleteRule,
}

impl Operation {
    const fn number(self) -> u16 {
        match self {
            Self::GetTable => 1,
            Self::GetChain => 4,
            Self::AppendRule | Self::InsertRule => 6,
            Self::GetRules => 7,
            Self::DeleteRule => 8,
        }
    }
}

/// A list of attributes that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    fn put(mut self, kind: u16, value: &[u8]) -> Self {
        // Nothing that felid writes is longer than a few hundred bytes.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A text that ends in a zero.
    #[must_use]
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Bytes as they are.
    #[must_use]
    pub(super) fn bytes(self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value)
    }

    /// A number of 32 bits.
    #[must_use]
    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// A number of 64 bits.
    #[must_use]
    pub(super) fn u64(self, kind: u16, value: u64) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Attributes within this one.
    #[must_use]
    pub(super) fn nested(self, kind: u16, value: Self) -> Self {
        self.put(kind | NESTED, &value.0)
    }
}

/// The attributes of an answer: (type, value), as far as they are well formed.
pub(super) fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some((length, kind)) = header(bytes) {
        let length = usize::from(length);
        let Some(value) = bytes.get(4..length) else { break };
        found.push((kind & ATTRIBUTE_TYPE, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn header(bytes: &[u8]) -> Option<(u16, u16)> {
    let word = |at: usize| bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
    Some((word(0)?, word(2)?))
}

/// The value of one attribute.
pub(super) fn find<'a>(all: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    all.iter().find(|(found, _)| *found == kind).map(|(_, value)| *value)
}

/// A text without the zero at its end.
pub(super) fn as_text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

/// A number of 32 bits.
pub(super) fn as_u32(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// A number of 64 bits.
pub(super) fn as_u64(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

/// Asks for one thing by its names. Returns its attributes; `None` = there is no such thing.
pub(super) fn get(family: NftFamily, operation: Operation, names: Attributes) -> io::Result<Option<Vec<u8>>> {
    let mut answers = exchange(&message(family, operation, 0, names)?, true)?;
    Ok(answers.pop().map(|(_, attributes)| attributes))
}

/// Asks for all things of a kind. Returns the family and the attributes of each. A kernel without
/// nftables has none.
pub(super) fn list(
    family: NftFamily,
    operation: Operation,
    names: Attributes,
) -> io::Result<Vec<(NftFamily, Vec<u8>)>> {
    exchange(&message(family, operation, DUMP, names)?, true)
}

/// Carries out changes of rules, all of them or none.
pub(super) fn change(changes: Vec<(NftFamily, Operation, Attributes)>) -> io::Result<()> {
    let mark = [0, 0, 0, 10];
    let mut batch = envelope(BATCH_BEGIN, REQUEST, mark, Attributes::default())?;
    for (family, operation, attributes) in changes {
        let flags = match operation {
            Operation::AppendRule => CREATE | APPEND,
            Operation::InsertRule => CREATE,
            _ => 0,
        };
        batch.extend(message(family, operation, flags | ACKNOWLEDGE, attributes)?);
    }
    batch.extend(envelope(BATCH_END, REQUEST, mark, Attributes::default())?);
    exchange(&batch, false).map(drop)
}

fn message(family: NftFamily, operation: Operation, flags: u16, attributes: Attributes) -> io::Result<Vec<u8>> {
    envelope(
        SUBSYSTEM | operation.number(),
        REQUEST | flags,
        [family.0, 0, 0, 0],
        attributes,
    )
}

fn envelope(kind: u16, flags: u16, general: [u8; 4], attributes: Attributes) -> io::Result<Vec<u8>> {
    let length = u32::try_from(20 + attributes.0.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(length as usize);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(general);
    message.extend(attributes.0);
    Ok(message)
}

/// Sends what there is to send and reads the answers that are there, of which the kernel has
/// written all or the first when `send` returns. With `may_lack`, an answer that what is asked for
/// does not exist is no error.
fn exchange(request: &[u8], may_lack: bool) -> io::Result<Vec<(NftFamily, Vec<u8>)>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    socket.send(request, 0)?;
    let mut found = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = match socket.recv(&mut &mut buffer[..], 0) {
            Ok(0) => return Ok(found),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(found),
            Err(error) => return Err(error),
        };
        if read_answers(buffer.get(..length).unwrap_or_default(), may_lack, &mut found)? {
            return Ok(found);
        }
    }
}

/// Takes the answers of one datagram in. Returns whether these were the last.
fn read_answers(mut datagram: &[u8], may_lack: bool, found: &mut Vec<(NftFamily, Vec<u8>)>) -> io::Result<bool> {
    while let Some(length) = datagram
        .first_chunk::<4>()
        .map(|length| u32::from_ne_bytes(*length) as usize)
    {
        let Some(message) = datagram.get(..length).filter(|message| message.len() >= 16) else {
            break;
        };
        match header(&message[4..]).map(|(kind, _)| kind) {
            Some(DONE) => return Ok(true),
            Some(ERROR) => check_error(message, may_lack)?,
            Some(kind) if kind & 0xff00 == SUBSYSTEM => {
                let family = NftFamily(message.get(16).copied().unwrap_or_default());
                found.push((family, message.get(20..).unwrap_or_default().to_vec()));
            }
            _ => {}
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn check_error(message: &[u8], may_lack: bool) -> io::Result<()> {
    let code = message.get(16..20).and_then(|code| code.first_chunk::<4>());
    let code = code.map_or(0, |code| i32::from_ne_bytes(*code));
    match -code {
        // An acknowledgement.
        0 => Ok(()),
        // No such table, chain or rule; or a kernel without nftables, or without this family.
        libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP | libc::EAFNOSUPPORT if may_lack => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_back() {
        let inner = Attributes::default().u64(3, 7).bytes(9, b"abc");
        let written = Attributes::default().text(1, "filter").u32(2, 5).nested(4, inner);
        let read = attributes(&written.0);
        assert_eq!(find(&read, 1).map(as_text).as_deref(), Some("filter"));
        assert_eq!(find(&read, 2).and_then(as_u32), Some(5));
        let inner = attributes(find(&read, 4).unwrap_or_default());
        assert_eq!(find(&inner, 3).and_then(as_u64), Some(7));
        assert_eq!(find(&inner, 9), Some(&b"abc"[..]));
        // Whatever is cut off ends the list.
        for end in 0..written.0.len() {
            assert!(attributes(&written.0[..end]).len() <= 3);
        }
    }

    #[test]
    fn errors_of_the_kernel_are_errors_but_for_what_is_not_there() {
        let answer = |code: i32| {
            let mut message = vec![20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            message.extend((-code).to_ne_bytes());
            message
        };
        let read = |code| read_answers(&answer(code), true, &mut Vec::new());
        assert!(read(0).is_ok() && read(libc::ENOENT).is_ok());
        assert!(read(libc::EPERM).is_err());
        assert!(read_answers(&answer(libc::ENOENT), false, &mut Vec::new()).is_err());
        assert!(read_answers(&[1, 2, 3], true, &mut Vec::new()).is_ok());
    }
}
