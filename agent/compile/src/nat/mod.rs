//! 1:1 translations: which of those that records ask for are in force, and where each stands in the
//! kernel's table.
//!
//! In: the local endpoints in force, the host's addresses; what a previous run left in the table.
//! Out: [`Resolved`] translations and conflicts; [`NatChange`]s of the table, as writes in an order
//! in which no packet ever sees a wrong translation. Never: I/O.

mod resolve;
mod table;

use std::net::IpAddr;

pub use resolve::{Claim, Conflict, HostAddresses, HostUse, MAX_PER_ENDPOINT, Mapping, Mappings, Resolved, resolve};
pub use table::{NatChange, NatTable};

/// Returns an address as [`felid_common::Nat`] holds it: four words in network byte order. An IPv4
/// address is in the first one, and the others are zero.
pub fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => [u32::from_ne_bytes(address.octets()), 0, 0, 0],
        IpAddr::V6(address) => {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(address.octets().as_chunks::<4>().0) {
                *word = u32::from_ne_bytes(*bytes);
            }
            words
        }
    }
}

/// Returns the address that such words stand for; `v6` says of which IP version it is. This is the
/// reverse of [`words`].
pub fn address(words: [u32; 4], v6: bool) -> IpAddr {
    if !v6 {
        return IpAddr::from(words[0].to_ne_bytes());
    }
    let mut octets = [0; 16];
    for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *bytes = word.to_ne_bytes();
    }
    IpAddr::from(octets)
}
