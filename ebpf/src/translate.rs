//! 1:1 translation of addresses.

use felid_common::Drop;

use crate::packet::Packet;

pub(crate) fn run(packet: Packet) -> i32 {
    packet.drop(Drop::Internal)
}
