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

/// The socket option `PACKET_VNET_HDR`: frames begin with a `struct virtio_net_hdr`.
#[derive(Clone, Copy, Debug)]
struct VnetHeader;

nix::setsockopt_impl!(
    VnetHeader,
    libc::SOL_PACKET,
    libc::PACKET_VNET_HDR,
    bool,
    sockopt::SetBool
);

/// What a frame leaves to the kernel: `struct virtio_net_hdr`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offload {
    /// Where the checksum begins, from the start of the frame, and how far behind that it is
    /// stored; `None` = it is there.
    pub checksum: Option<(u16, u16)>,
    /// Kind of segmentation (`VIRTIO_NET_HDR_GSO_*`) and bytes a segment; `None` = the frame is one
    /// packet.
    pub segments: Option<(u8, u16)>,
    /// Bytes of headers before what is segmented.
    pub headers: u16,
}

impl Offload {
    fn header(self) -> [u8; 10] {
        const NEEDS_CHECKSUM: u8 = 1;
        let (start, offset) = self.checksum.unwrap_or_default();
        let (kind, size) = self.segments.unwrap_or_default();
        let mut header = [0; 10];
        header[0] = if self.checksum.is_some() { NEEDS_CHECKSUM } else { 0 };
        header[1] = kind;
        for (at, word) in [(2, self.headers), (4, size), (6, start), (8, offset)] {
            header[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        header
    }
}

/// A packet socket: sends frames as they are, sees every frame that arrives.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens one on an interface of the calling thread's namespace. Frames that arrive from now on
    /// are kept for [`receive`].
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

    /// Opens one as a virtual machine's monitor does: each frame is sent with what it leaves to the
    /// kernel ([`Offload`]).
    pub fn open_with_offload(interface: &str) -> Result<Self> {
        let socket = Self::open(interface)?;
        setsockopt(&socket.fd, VnetHeader, &true).context("PACKET_VNET_HDR")?;
        Ok(socket)
    }

    /// Sends one frame on a socket of [`PacketSocket::open_with_offload`].
    pub fn send_with_offload(&self, offload: Offload, frame: &[u8]) -> Result<()> {
        self.send(&[&offload.header(), frame].concat())
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

    /// The first frame to arrive that `wanted` accepts, or `None` after `timeout`. Frames sent by
    /// this side are skipped.
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
