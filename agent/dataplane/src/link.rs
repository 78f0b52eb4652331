//! What the kernel half wants to know of an interface of the host.

use std::sync::Arc;

/// An interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Index.
    pub ifindex: u32,
    /// Name.
    pub name: Arc<str>,
    /// Its own MAC address.
    pub mac: Option<[u8; 6]>,
    /// MTU in bytes.
    pub mtu: u32,
    /// The other end, if this is a veth whose other end is in another network namespace and no queueing discipline but `noqueue` stands
    /// before it: packets may be redirected straight into it. `None` = everything takes the host's stack.
    pub peer: Option<Peer>,
    /// Filters of others at it, by traffic control; for people.
    pub filters: Arc<[String]>,
}

/// The other end of a veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its MAC address, if it could be found out.
    pub mac: Option<[u8; 6]>,
}
