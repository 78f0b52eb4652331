//! Raw Ethernet frames on an interface.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _, bind, recvmsg, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// `PACKET_OUTGOING` of `if_packet.h`: frames that this machine itself sent.
const OUTGOING: u8 = 4;

/// A packet socket: sends frames as they are, sees every frame that arrives.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens one on an interface of the calling thread's namespace. Frames that arrive from now on are kept for [`receive`].
    ///
    /// [`receive`]: PacketSocket::receive
    pub fn open(interface: &str) -> Result<Self> {
        let address = link_address(interface)?;
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .context("packet socket")?;
        bind(fd.as_raw_fd(), &address).with_context(|| format!("bind to {interface}"))?;
        Ok(Self { fd })
    }

    /// Sends one frame, Ethernet header included.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        send(self.fd.as_raw_fd(), frame, MsgFlags::empty()).context("send a frame")?;
        Ok(())
    }

    /// Makes room for many thousands of frames that nobody fetches yet. Needs root.
    pub fn enlarge(&self) -> Result<()> {
        setsockopt(&self.fd, sockopt::RcvBufForce, &(64 << 20)).context("enlarge a receive buffer")
    }

    /// Every frame that has arrived and was not fetched yet. Frames sent by this side are skipped.
    pub fn drain(&self, mut seen: impl FnMut(&[u8])) -> Result<()> {
        let mut buffer = vec![0_u8; 65536];
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let message = match recvmsg::<LinkAddr>(self.fd.as_raw_fd(), &mut parts, None, MsgFlags::MSG_DONTWAIT) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error).context("receive a frame"),
            };
            let outgoing = message.address.is_some_and(|address| address.pkttype() == OUTGOING);
            let length = message.bytes;
            if !outgoing {
                seen(&buffer[..length]);
            }
        }
    }

    /// The first frame to arrive that `wanted` accepts, or `None` after `timeout`. Frames sent by this side are skipped.
    pub fn receive(&self, timeout: Duration, mut wanted: impl FnMut(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + timeout;
        let mut buffer = vec![0_u8; 65536];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let microseconds = i64::try_from(left.as_micros()).unwrap_or(i64::MAX).max(1);
            setsockopt(&self.fd, sockopt::ReceiveTimeout, &TimeVal::microseconds(microseconds))?;
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let message = match recvmsg::<LinkAddr>(self.fd.as_raw_fd(), &mut parts, None, MsgFlags::empty()) {
                Ok(message) => message,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => return Err(error).context("receive a frame"),
            };
            let outgoing = message.address.is_some_and(|address| address.pkttype() == OUTGOING);
            let length = message.bytes;
            if !outgoing && wanted(&buffer[..length]) {
                return Ok(Some(buffer[..length].to_vec()));
            }
        }
    }
}

/// MAC address of an interface of the calling thread's namespace.
pub fn mac_of(interface: &str) -> Result<[u8; 6]> {
    link_address(interface)?.addr().context("no MAC address")
}

fn link_address(interface: &str) -> Result<LinkAddr> {
    nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .filter(|address| address.family() == Some(AddressFamily::Packet))
        .with_context(|| format!("no interface {interface} here"))
}
