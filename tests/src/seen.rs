//! What arrives at a namespace: frames read into addresses, ports, and what ICMP errors quote.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use felid_lab::{Namespace, PacketSocket};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};

/// A packet, as far as tests ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// L4 protocol, behind extension headers.
    pub protocol: u8,
    /// A later fragment: it has no L4 header.
    pub later: bool,
    /// Source and destination port of TCP, UDP, SCTP; type and code of ICMP. 0 in later fragments.
    pub ports: (u16, u16),
    /// What an ICMP error quotes.
    pub about: Option<Box<Self>>,
    /// ICMP: the four bytes behind the checksum (identifier and number of an echo, MTU of an
    /// error).
    pub rest: u32,
    /// Bytes of the IP packet.
    pub length: usize,
}

impl Seen {
    /// Reads an Ethernet frame; `None` if it holds no IP packet.
    pub fn frame(frame: &[u8]) -> Option<Self> {
        match frame.get(12..14)? {
            [0x08, 0x00] | [0x86, 0xdd] => Self::ip(frame.get(14..)?, true),
            _ => None,
        }
    }

    fn ip(packet: &[u8], outermost: bool) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
        let (source, destination, hops, mut protocol, mut at, mut later): (IpAddr, IpAddr, _, _, _, _);
        if packet.first()? >> 4 == 4 {
            source = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?).into();
            destination = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?).into();
            (hops, protocol) = (*packet.get(8)?, *packet.get(9)?);
            at = usize::from(packet.first()? & 15) * 4;
            later = word(6)? & 0x1fff != 0;
        } else {
            source = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?).into();
            destination = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?).into();
            (hops, protocol) = (*packet.get(7)?, *packet.get(6)?);
            (at, later) = (40, false);
            while matches!(protocol, 0 | 43 | 44 | 60) && !later {
                let length = match protocol {
                    44 => 8,
                    _ => 8 + usize::from(*packet.get(at + 1)?) * 8,
                };
                later = protocol == 44 && word(at + 2)? >> 3 != 0;
                protocol = *packet.get(at)?;
                at += length;
            }
        }
        let mut seen = Self {
            source,
            destination,
            hops,
            protocol,
            later,
            ports: (0, 0),
            about: None,
            rest: 0,
            length: packet.len(),
        };
        if later {
            return Some(seen);
        }
        if matches!(protocol, 1 | 58) {
            let (kind, code) = (*packet.get(at)?, *packet.get(at + 1)?);
            seen.ports = (kind.into(), code.into());
            seen.rest = u32::from(word(at + 4)?) << 16 | u32::from(word(at + 6)?);
            let error = if protocol == 1 {
                matches!(kind, 3..=5 | 11 | 12)
            } else {
                kind < 128
            };
            if error && outermost {
                seen.about = Self::ip(packet.get(at + 8..)?, false).map(Box::new);
            }
        } else if matches!(protocol, 6 | 17 | 132 | 136) {
            seen.ports = (word(at)?, word(at + 2)?);
        }
        Some(seen)
    }

    /// Source and destination.
    pub const fn ends(&self) -> (IpAddr, IpAddr) {
        (self.source, self.destination)
    }
}

/// Everything that arrives at `eth0` of a namespace from now on.
#[derive(Debug)]
pub struct Capture(PacketSocket);

impl Capture {
    /// Begins.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        let socket = namespace.packets("eth0")?;
        socket.enlarge()?;
        Ok(Self(socket))
    }

    /// What has come since the last look.
    pub fn look(&self) -> Result<Vec<Seen>> {
        let mut all = Vec::new();
        self.0.drain(|frame| all.extend(Seen::frame(frame)))?;
        Ok(all)
    }

    /// The first packet to come that is wanted, or an error after a few seconds.
    pub fn wait(&self, what: &str, mut wanted: impl FnMut(&Seen) -> bool) -> Result<Seen> {
        let end = Instant::now() + Duration::from_secs(5);
        let mut others = Vec::new();
        while Instant::now() < end {
            let frame = self.0.receive(Duration::from_millis(200), |_| true)?;
            let Some(seen) = frame.as_deref().and_then(Seen::frame) else {
                continue;
            };
            if wanted(&seen) {
                return Ok(seen);
            }
            others.push(seen);
        }
        anyhow::bail!("never seen: {what}; but {others:#?}")
    }
}

/// Sends IP packets as they are, through the routes of the calling thread's namespace.
pub fn send_ip(packet: &[u8], to: IpAddr) -> Result<()> {
    use std::os::fd::AsRawFd as _;
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).context("raw socket")?;
    let sent = match to {
        IpAddr::V4(to) => {
            let [a, b, c, d] = to.octets();
            sendto(
                fd.as_raw_fd(),
                packet,
                &SockaddrIn::new(a, b, c, d, 0),
                MsgFlags::empty(),
            )
        }
        IpAddr::V6(to) => {
            let to = SockaddrIn6::from(std::net::SocketAddrV6::new(to, 0, 0, 0));
            sendto(fd.as_raw_fd(), packet, &to, MsgFlags::empty())
        }
    };
    sent.with_context(|| format!("send to {to}"))?;
    Ok(())
}
