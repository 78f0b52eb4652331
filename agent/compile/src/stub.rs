//! The stubs at each endpoint's interface: they say which endpoint a packet belongs to, and go on with the shared programs.

use felid_common::{CB_ID, CB_INDEX, fixed};

use crate::block::{Block, Purpose};
use crate::isa::{self, Size};
use crate::program::{Chunk, MapRef, Note};
use crate::transaction::EndpointId;

/// Offset of `cb[0]` in `struct __sk_buff`.
const CB: usize = 48;
/// `TCX_DROP`.
const DROP: i32 = 2;

/// Where a stub is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// TCX ingress of the host-side interface: packets from the workload.
    FromWorkload,
    /// TCX egress of the host-side interface: packets to the workload.
    ToWorkload,
}

/// Writes the endpoint's index and id into `skb->cb` and tail-calls the hook's program in `fixed`; drops if that is not there.
pub fn stub(hook: Hook, endpoint: EndpointId) -> Chunk {
    let mut block = Block::new(Purpose::Frame(""));
    for (word, value) in [(CB_INDEX, endpoint.index), (CB_ID, endpoint.id)] {
        block.op(isa::mov_imm(2, value as i32));
        block.op(isa::store(Size::W, 1, (CB + 4 * word) as i16, 2));
    }
    block.load_map(2, MapRef::Fixed);
    let program = match hook {
        Hook::FromWorkload => fixed::FROM_WORKLOAD,
        Hook::ToWorkload => fixed::TO_WORKLOAD,
    };
    block.op(isa::mov_imm(3, program as i32));
    block.op(isa::call(isa::TAIL_CALL));
    block.op(isa::mov_imm(0, DROP));
    block.op(isa::exit());
    let maps = block
        .ops
        .iter()
        .enumerate()
        .filter_map(|(index, op)| Some((index, op.map?)))
        .collect();
    let insns: Vec<_> = block.ops.iter().map(|op| op.insn).collect();
    let notes = vec![(0..insns.len(), Note::Frame("endpoint stub"))];
    Chunk { insns, maps, notes }
}
