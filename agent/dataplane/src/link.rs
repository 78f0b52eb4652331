//! What the kernel half wants to know of an interface of the host.

use std::sync::Arc;

/// An interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// The index of the interface.
    pub ifindex: u32,
    /// The name of the interface.
    pub name: Arc<str>,
    /// The MAC address of the interface itself, not of the workload's end.
    pub mac: Option<[u8; 6]>,
    /// The MTU in bytes.
    pub mtu: u32,
    /// The other end, if this is a veth whose other end is in another network namespace and no
    /// queueing discipline but `noqueue` stands before it: packets may be redirected straight into
    /// it. `None` = everything takes the host's stack.
    pub peer: Option<Peer>,
    /// Whether it carries Ethernet frames. What does not, such as a tun device, cannot be judged,
    /// since programs read the packet behind that header.
    pub is_ethernet: bool,
    /// Filters of others at it, by traffic control; for people.
    pub filters: Arc<[String]>,
}

/// The other end of a veth, in the workload's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its MAC address, if it could be found out.
    pub mac: Option<[u8; 6]>,
}
