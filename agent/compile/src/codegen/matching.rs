//! Instructions for single tests: protocol, addresses, bits of class rows, ports.
//!
//! In: one [`Test`] and where it leads ([`Exits`]). Out: instructions at the end of a block. Never:
//! which tests a rule needs.

use std::net::IpAddr;

use felid_common::protocol::{ICMP, ICMPV6};
use felid_model::{FieldMatch, IcmpMatch};
use ipnet::IpNet;

use crate::codegen::block::{Block, Target};
use crate::codegen::frame::{Row, SCRATCH, VALUE, scratch};
use crate::codegen::isa::{self, Cond, Size};
use crate::codegen::tree::port_tree;
use crate::ir::ports::{PortMap, merge_neighbours};
use crate::ir::rule::{PortTerm, ProtocolTest};

/// One test of a rule.
pub(crate) enum Test<'a> {
    Protocol(ProtocolTest),
    /// Asks for ICMP messages of a kind.
    Icmp {
        kind: IcmpMatch,
        /// Whether the packet shall be such a message, or none.
        wanted: bool,
        /// Whether the protocol is known to be ICMP or ICMPv6.
        known: bool,
    },
    /// One of these networks has the address at this offset of the scratch.
    Nets(&'a [IpNet], i16),
    /// None of these networks has the address at this offset of the scratch.
    NotNets(&'a [IpNet], i16),
    /// The bits of the mask are as wanted in the word at this offset of the row.
    Bits {
        row: Row,
        offset: i16,
        mask: u32,
        wanted: u32,
    },
    /// The rule's term holds for the port at this offset of the scratch. Where the term asks for a
    /// named port, the next test, which is the last, decides.
    Port(&'a PortTerm, i16),
    /// One of these bits is set in these words of the row.
    AnyBit(Row, Vec<(i16, u32)>),
}

/// Returns the tests of fields of the packet, where `protocol` is what is left to test of its
/// protocol and has been tested before.
pub(crate) fn field_tests<'a>(fields: FieldMatch, protocol: ProtocolTest) -> Vec<Test<'a>> {
    let known = matches!(protocol, ProtocolTest::Is(_));
    let icmp = [(fields.icmp, true), (fields.not_icmp, false)];
    let icmp = icmp.into_iter().filter_map(|(kind, wanted)| Some((kind?, wanted)));
    icmp.map(|(kind, wanted)| Test::Icmp { kind, wanted, known }).collect()
}

/// Where a test leads.
#[derive(Clone, Copy)]
pub(crate) struct Exits {
    /// Where to go if the test holds.
    pub(crate) yes: Target,
    /// Where to go if it does not.
    pub(crate) no: Target,
    /// Where the whole rule leads. A port that needs no name goes there at once.
    pub(crate) matched: Target,
    /// Which of `yes` and `no` comes right behind the test.
    pub(crate) falls_to: FallsTo,
}

/// What comes right behind a test, so that no jump is needed to get there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FallsTo {
    /// The next test of the rule, where this one leads if it holds.
    Yes,
    /// What follows the rule, where its last test leads if it does not hold.
    No,
}

impl Exits {
    /// Returns the exits of a rule's last test.
    pub(crate) fn of_last(matched: Target, no: Target) -> Self {
        Self {
            yes: matched,
            no,
            matched,
            falls_to: FallsTo::No,
        }
    }

    /// Returns the exits of a test that another one follows.
    pub(crate) fn before(next: Target, matched: Target, no: Target) -> Self {
        Self {
            yes: next,
            no,
            matched,
            falls_to: FallsTo::Yes,
        }
    }

    /// Compares the lower 32 bits of the value register, and goes on.
    fn compare(self, block: &mut Block, cond: Cond, value: i32) {
        let opposite = if cond == Cond::Eq { Cond::Ne } else { Cond::Eq };
        match self.falls_to {
            FallsTo::No => {
                block.branch(isa::jump32_imm(cond, VALUE, value), self.yes);
                block.jump(self.no);
            }
            FallsTo::Yes => {
                block.branch(isa::jump32_imm(opposite, VALUE, value), self.no);
                block.jump(self.yes);
            }
        }
    }
}

impl Test<'_> {
    /// Writes the test at the end of a block.
    pub(crate) fn emit(&self, block: &mut Block, exits: Exits) {
        match self {
            Test::Protocol(test) => protocol(block, *test, exits),
            Test::Icmp { kind, wanted, known } => icmp(block, *kind, (*wanted, *known), exits),
            Test::Nets([net], offset) if exits.falls_to == FallsTo::Yes => {
                for (offset, address, mask) in net_words(net, *offset) {
                    load_masked(block, offset, mask);
                    block.branch(isa::jump32_imm(Cond::Ne, VALUE, address), exits.no);
                }
                block.jump(exits.yes);
            }
            Test::Nets(nets, offset) => {
                nets.iter().for_each(|net| jump_if_in(block, net, *offset, exits.yes));
                block.jump(exits.no);
            }
            Test::NotNets(nets, offset) => {
                nets.iter().for_each(|net| jump_if_in(block, net, *offset, exits.no));
                block.jump(exits.yes);
            }
            Test::Bits {
                row,
                offset,
                mask,
                wanted,
            } => {
                let row = row.register(block);
                block.op(isa::load(Size::W, VALUE, row, *offset));
                bits(block, *mask, *wanted, exits);
            }
            Test::Port(term, offset) => port(block, term, *offset, exits),
            Test::AnyBit(row, words) => {
                let row = row.register(block);
                for (offset, mask) in words {
                    block.op(isa::load(Size::W, VALUE, row, *offset));
                    block.branch(isa::jump32_imm(Cond::Set, VALUE, *mask as i32), exits.yes);
                }
                block.jump(exits.no);
            }
        }
    }

    /// Returns whether the test is one comparison, and goes on with the next test by falling
    /// through.
    pub(crate) fn is_comparison(&self) -> bool {
        match self {
            Test::Protocol(_) | Test::Bits { .. } => true,
            Test::Nets([net], offset) => net_words(net, *offset).len() == 1,
            _ => false,
        }
    }

    /// Returns whether the test asks for one bit to be set.
    pub(crate) fn is_one_bit(&self) -> bool {
        matches!(self, Test::Bits { mask, wanted, .. } if mask == wanted && mask.is_power_of_two())
    }
}

fn protocol(block: &mut Block, test: ProtocolTest, exits: Exits) {
    block.op(isa::load(Size::B, VALUE, SCRATCH, scratch!(protocol)));
    match test {
        ProtocolTest::Any => block.jump(exits.yes),
        ProtocolTest::Is(is) => exits.compare(block, Cond::Eq, i32::from(is)),
        ProtocolTest::Not(not) => exits.compare(block, Cond::Ne, i32::from(not)),
    }
}

fn icmp(block: &mut Block, kind: IcmpMatch, (wanted, known): (bool, bool), exits: Exits) {
    let (hit, miss) = if wanted {
        (exits.yes, exits.no)
    } else {
        (exits.no, exits.yes)
    };
    if !known {
        let is_icmp = block.label();
        block.op(isa::load(Size::B, VALUE, SCRATCH, scratch!(protocol)));
        for protocol in [ICMP, ICMPV6] {
            let is_it = isa::jump_imm(Cond::Eq, VALUE, i32::from(protocol));
            block.branch(is_it, Target::Label(is_icmp));
        }
        block.jump(miss);
        block.bind(is_icmp);
    }
    let Some(icmp_type) = kind.icmp_type else {
        block.jump(hit);
        return;
    };
    let (size, value) = match kind.code {
        Some(code) => (Size::H, u16::from_ne_bytes([icmp_type, code])),
        None => (Size::B, u16::from(icmp_type)),
    };
    block.op(isa::load(size, VALUE, SCRATCH, scratch!(icmp_type)));
    let cond = if wanted { Cond::Eq } else { Cond::Ne };
    exits.compare(block, cond, i32::from(value));
}

/// Tests bits of the word in the value register.
fn bits(block: &mut Block, mask: u32, wanted: u32, exits: Exits) {
    let any_of_mask = isa::jump32_imm(Cond::Set, VALUE, mask as i32);
    if wanted == 0 {
        block.branch(any_of_mask, exits.no);
        block.jump(exits.yes);
    } else if mask == wanted && mask.is_power_of_two() {
        block.branch(any_of_mask, exits.yes);
        block.jump(exits.no);
    } else {
        block.op(isa::and32_imm(VALUE, mask as i32));
        exits.compare(block, Cond::Eq, wanted as i32);
    }
}

fn port(block: &mut Block, term: &PortTerm, offset: i16, exits: Exits) {
    // Where no port asks for its name, the port is a test like any other.
    let found = if term.named.is_empty() {
        exits.yes
    } else {
        exits.matched
    };
    let mut starts: Vec<u16> = term
        .yes
        .boundaries()
        .chain(term.named.boundaries())
        .filter_map(|b| u16::try_from(b).ok())
        .collect();
    starts.push(0);
    starts.sort_unstable();
    starts.dedup();
    let target = |start: u16| {
        if term.yes.contains(start) {
            found
        } else if term.named.contains(start) {
            exits.yes
        } else {
            exits.no
        }
    };
    let mut map: PortMap<Target> = starts.into_iter().map(|start| (start, target(start))).collect();
    merge_neighbours(&mut map);
    block.op(isa::load(Size::H, VALUE, SCRATCH, offset));
    port_tree(block, &map);
}

/// Returns the words of an address at this offset of the scratch that a network says something of:
/// offset, value, and mask of what is compared.
fn net_words(net: &IpNet, offset: i16) -> Vec<(i16, i32, i32)> {
    let (address, mask): (Vec<u8>, Vec<u8>) = match (net.network(), net.netmask()) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => (address.octets().to_vec(), mask.octets().to_vec()),
        (IpAddr::V6(address), IpAddr::V6(mask)) => (address.octets().to_vec(), mask.octets().to_vec()),
        _ => return Vec::new(),
    };
    // Words as they lie in memory, which is as they lie in the packet.
    let word = |bytes: &[u8]| bytes.try_into().map(i32::from_ne_bytes).unwrap_or_default();
    address
        .chunks_exact(4)
        .zip(mask.chunks_exact(4))
        .enumerate()
        .map(|(index, (address, mask))| (offset + 4 * index as i16, word(address), word(mask)))
        .filter(|(_, _, mask)| *mask != 0)
        .collect()
}

/// Jumps if the address at this offset of the scratch is in the network; else goes on.
fn jump_if_in(block: &mut Block, net: &IpNet, offset: i16, hit: Target) {
    let words = net_words(net, offset);
    let Some((last, front)) = words.split_last() else {
        block.jump(hit);
        return;
    };
    let miss = block.label();
    for (offset, address, mask) in front {
        load_masked(block, *offset, *mask);
        block.branch(isa::jump32_imm(Cond::Ne, VALUE, *address), Target::Label(miss));
    }
    let (offset, address, mask) = last;
    load_masked(block, *offset, *mask);
    block.branch(isa::jump32_imm(Cond::Eq, VALUE, *address), hit);
    block.bind(miss);
}

fn load_masked(block: &mut Block, offset: i16, mask: i32) {
    block.op(isa::load(Size::W, VALUE, SCRATCH, offset));
    if mask != -1 {
        block.op(isa::and32_imm(VALUE, mask));
    }
}
