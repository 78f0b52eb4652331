//! The programs at netfilter's hooks. What ends at the host is decided at `input`, behind every
//! translation of addresses and every decision of the routing table, where it is certain that a
//! packet of a workload goes to the host itself. What no program at an interface saw is dropped at
//! `prerouting`.

use std::mem::offset_of;

use felid_common::{DropReason, HOST_INPUT_TAG, JUDGED_TAG, SETTING_HOST_REACHABLE, Settings};

use super::forward::{Code, Jump};
use super::isa::{self, Cond, R0, R1, R2, R10, Size};
use super::stub::SkbLayout;
use crate::program::{Chunk, MapRef, Note};

/// `NF_DROP`.
const DROP: i32 = 0;
/// `NF_ACCEPT`.
const ACCEPT: i32 = 1;

/// Drops what a workload sent on its own account (the programs at its interface tag that in
/// `skb->tc_index`) unless workloads may reach the host, and counts it as `endpoint_to_host`.
/// Everything else goes on.
///
/// # Minimum kernel version
///
/// 6.4, for `BPF_PROG_TYPE_NETFILTER`.
pub fn host_input(layout: &SkbLayout) -> Chunk {
    let mut program = Hooked::default();
    program.code.op(isa::load(Size::DW, R1, R1, layout.nf_ctx_skb));
    program.code.op(isa::load(Size::H, R2, R1, layout.tc_index));
    let other = program.code.jump(isa::jump_imm(Cond::Ne, R2, HOST_INPUT_TAG.into()));
    program.code.op(isa::store_imm(Size::W, R10, KEY, 0));
    program.look_up(MapRef::Settings);
    let no_settings = program.code.jump(isa::jump_imm(Cond::Eq, R0, 0));
    program
        .code
        .op(isa::load(Size::W, R1, R0, offset_of!(Settings, flags) as i16));
    let reachable = program
        .code
        .jump(isa::jump32_imm(Cond::Set, R1, SETTING_HOST_REACHABLE as i32));
    program.code.land(&no_settings);
    program.drop(DropReason::EndpointToHost);
    program.accept(&[other, reachable]);
    program.chunk("what ends at the host")
}

/// Drops what came in by a guarded interface and has no tag, so that no program there saw it, and
/// counts it as `unjudged`. A workload with rights over its own network can have its packets marked
/// so that the kernel passes by whatever stands at the TCX hook (`tc_skip_classify`, which devices
/// like `ifb` set and which outlives the way into the host's namespace).
///
/// # Minimum kernel version
///
/// 6.4, for `BPF_PROG_TYPE_NETFILTER`.
pub fn host_prerouting(layout: &SkbLayout) -> Chunk {
    let mut program = Hooked::default();
    program.code.op(isa::load(Size::DW, R1, R1, layout.nf_ctx_skb));
    program.code.op(isa::load(Size::H, R2, R1, layout.tc_index));
    let judged = [HOST_INPUT_TAG, JUDGED_TAG].map(|tag| program.code.jump(isa::jump_imm(Cond::Eq, R2, tag.into())));
    program.code.op(isa::load(Size::W, R2, R1, layout.skb_iif));
    program.code.op(isa::store(Size::W, R10, KEY, R2));
    program.look_up(MapRef::Guarded);
    let elsewhere = program.code.jump(isa::jump_imm(Cond::Eq, R0, 0));
    program.drop(DropReason::Unjudged);
    let [own, other] = judged;
    program.accept(&[own, other, elsewhere]);
    program.chunk("what no program saw")
}

/// Where in the frame keys of maps are.
const KEY: i16 = -4;

/// A program at a hook.
#[derive(Default)]
struct Hooked {
    code: Code,
    maps: Vec<(usize, MapRef)>,
}

impl Hooked {
    /// R0 = the element of a map whose key is in the frame.
    fn look_up(&mut self, map: MapRef) {
        self.maps.push((self.code.insns.len(), map));
        self.code.op(isa::load_wide(R1, 0));
        self.code.op(isa::load_wide_rest(0));
        self.code.op(isa::mov(R2, R10));
        self.code.op(isa::add_imm(R2, KEY.into()));
        self.code.op(isa::call(isa::MAP_LOOKUP_ELEM));
    }

    /// Counts a drop and ends the program.
    fn drop(&mut self, reason: DropReason) {
        self.code.op(isa::store_imm(Size::W, R10, KEY, reason as i32));
        self.look_up(MapRef::Drops);
        let no_counter = self.code.jump(isa::jump_imm(Cond::Eq, R0, 0));
        self.code.op(isa::load(Size::DW, R1, R0, 0));
        self.code.op(isa::add_imm(R1, 1));
        self.code.op(isa::store(Size::DW, R0, 0, R1));
        self.code.land(&no_counter);
        self.code.op(isa::mov_imm(R0, DROP));
        self.code.op(isa::exit());
    }

    /// Ends the program where these jumps lead.
    fn accept(&mut self, jumps: &[Jump]) {
        for jump in jumps {
            self.code.land(jump);
        }
        self.code.op(isa::mov_imm(R0, ACCEPT));
        self.code.op(isa::exit());
    }

    fn chunk(self, what: &'static str) -> Chunk {
        let notes = vec![(0..self.code.insns.len(), Note::Frame(what))];
        Chunk {
            insns: self.code.insns,
            maps: self.maps,
            notes,
        }
    }
}
