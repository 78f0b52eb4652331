//! The stubs at each endpoint's interface: they say which endpoint a packet belongs to and what it
//! leaves to others to do, and go on with the shared programs.

use felid_common::{
    CB_ID, CB_INDEX, CB_OFFLOAD, OFFLOAD_CHECKSUM, OFFLOAD_ENCAPSULATED, OFFLOAD_FIELD_MAX, OFFLOAD_FIELD_SHIFT,
    OFFLOAD_OTHER, OFFLOAD_SCTP, OFFLOAD_START, OFFLOAD_TCP_V4, OFFLOAD_TCP_V6, OFFLOAD_UDP, static_programs,
};

use super::forward::Code;
use super::isa::{self, Cond, R0, R1, R2, R3, R4, R5, R10, Reg, Size};
use crate::program::{Chunk, MapRef, Note};
use crate::types::EndpointId;

/// Offset of `cb[0]` in `struct __sk_buff`.
const CB: usize = 48;
/// Offset of `gso_size` in `struct __sk_buff`.
const GSO_SIZE: i16 = 176;
/// `CHECKSUM_PARTIAL`, a value of `ip_summed` in `struct sk_buff`.
const CHECKSUM_PARTIAL: u32 = 3;
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

/// A bit field of `struct sk_buff` that lies within one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BitField {
    /// Offset of the byte.
    pub byte: i16,
    /// How far left the field stands in the byte.
    pub shift: u32,
    /// The field's bits where they stand.
    pub mask: u32,
}

/// Values of `gso_type` in `struct skb_shared_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GsoTypes {
    /// TCP over IPv4.
    pub tcp_v4: u32,
    /// TCP over IPv6.
    pub tcp_v6: u32,
    /// UDP, into datagrams and into fragments.
    pub udp: u32,
    /// SCTP.
    pub sctp: u32,
    /// Those that say how, and not as which protocol.
    pub harmless: u32,
}

/// What generated programs must know of the running kernel to read its own `struct sk_buff`:
/// numbers and offsets from its BTF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SkbLayout {
    /// BTF id of the function `bpf_cast_to_kern_ctx`.
    pub cast_to_kern_ctx: u32,
    /// BTF id of the function `bpf_rdonly_cast`.
    pub rdonly_cast: u32,
    /// BTF id of `struct skb_shared_info`.
    pub shared_info: u32,
    /// `ip_summed`.
    pub ip_summed: BitField,
    /// `encapsulation`.
    pub encapsulation: BitField,
    /// Offset of `csum_start`.
    pub csum_start: i16,
    /// Offset of `csum_offset`.
    pub csum_offset: i16,
    /// Offset of `head`.
    pub head: i16,
    /// Offset of `data`.
    pub data: i16,
    /// Offset of `end`.
    pub end: i16,
    /// Offset of `inner_mac_header`.
    pub inner_mac_header: i16,
    /// Offset of `inner_network_header`.
    pub inner_network_header: i16,
    /// Offset of `tc_index`.
    pub tc_index: i16,
    /// Offset of `skb_iif`.
    pub skb_iif: i16,
    /// Offset of `skb` in `struct bpf_nf_ctx`.
    pub nf_ctx_skb: i16,
    /// Offset of `gso_type` in `struct skb_shared_info`.
    pub gso_type: i16,
    /// Its values.
    pub gso_types: GsoTypes,
}

/// Writes the endpoint's index and id and what the packet leaves to others to do into `skb->cb`,
/// and tail-calls the hook's program in `static_programs`; drops if that is not there.
///
/// # Minimum kernel version
///
/// 6.2, for `bpf_cast_to_kern_ctx` and `bpf_rdonly_cast`; the kernel must have BTF
/// (`CONFIG_DEBUG_INFO_BTF`) and compile programs to machine code.
///
/// ```
/// use felid_compile::stub::{Hook, SkbLayout, stub};
/// use felid_compile::transaction::EndpointId;
///
/// let chunk = stub(Hook::FromWorkload, EndpointId { index: 1, id: 7 }, &SkbLayout::default());
/// assert!(chunk.insns.len() < 100);
/// ```
pub fn stub(hook: Hook, endpoint: EndpointId, layout: &SkbLayout) -> Chunk {
    let mut code = Code::default();
    // Both words at once: the kernel keeps them side by side.
    let [low, high] = if cfg!(target_endian = "little") {
        [endpoint.index, endpoint.id]
    } else {
        [endpoint.id, endpoint.index]
    };
    code.op(isa::load_wide(R2, low as i32));
    code.op(isa::load_wide_rest(high as i32));
    code.op(isa::store(Size::DW, CONTEXT, cb(CB_INDEX), R2));
    // From 6.13 on the kernel knows that this call overwrites nothing, and takes the two accesses
    // to the stack out again.
    code.op(isa::store(Size::DW, R10, AROUND_CAST, CONTEXT));
    code.op(isa::call_kernel(layout.cast_to_kern_ctx));
    code.op(isa::load(Size::DW, CONTEXT, R10, AROUND_CAST));
    code.op(isa::load(Size::B, R2, SKB, layout.ip_summed.byte));
    code.op(isa::and32_imm(R2, layout.ip_summed.mask as i32));
    let partial = code.jump(isa::jump_imm(
        Cond::Eq,
        R2,
        (CHECKSUM_PARTIAL << layout.ip_summed.shift) as i32,
    ));
    code.op(isa::store_imm(Size::W, CONTEXT, cb(CB_OFFLOAD), 0));
    let go_on = code.insns.len();
    code.op(isa::load_wide(R2, 0));
    code.op(isa::load_wide_rest(0));
    let program = match hook {
        Hook::FromWorkload => static_programs::FROM_WORKLOAD,
        Hook::ToWorkload => static_programs::TO_WORKLOAD,
    };
    code.op(isa::mov_imm(R3, program as i32));
    code.op(isa::call(isa::TAIL_CALL));
    code.op(isa::mov_imm(R0, DROP));
    code.op(isa::exit());
    code.land(&partial);
    code.offload(layout);
    code.jump_back(go_on);
    let notes = vec![(0..code.insns.len(), Note::Frame("endpoint stub"))];
    Chunk {
        insns: code.insns,
        maps: vec![(go_on, MapRef::StaticPrograms)],
        notes,
    }
}

const fn cb(word: usize) -> i16 {
    (CB + 4 * word) as i16
}

/// Register of the program's context (`struct __sk_buff`). None is used that calls keep: each of
/// those would cost every packet two instructions.
const CONTEXT: Reg = R1;
/// Where in the frame the context is across the call that casts it; the kernel wants the lowest
/// place for that.
const AROUND_CAST: i16 = -16;
/// Where the context is while its register is used for something else.
const SAVED: i16 = -8;
/// Register of the kernel's `struct sk_buff`, until the next call.
const SKB: Reg = R0;
/// Register in which the word of `OFFLOAD_*` is put together. Across calls it is saved where it
/// belongs in the end.
const OFFLOAD: Reg = R3;
const _: () = assert!(CB_ID == CB_INDEX + 1 && CB_INDEX.is_multiple_of(2));

impl Code {
    /// `OFFLOAD += value` if a register has any bit of `mask`, which is not zero. Uses register 2.
    fn add_if(&mut self, register: Reg, mask: u32, value: u32) {
        self.op(isa::mov(R2, register));
        self.op(isa::and32_imm(R2, mask as i32));
        let skip = self.jump(isa::jump_imm(Cond::Eq, R2, 0));
        self.op(isa::add_imm(OFFLOAD, value as i32));
        self.land(&skip);
    }

    /// Stores the word of `OFFLOAD_*` for a packet that leaves its checksum to others. Ends with
    /// the context in [`CONTEXT`] alone.
    ///
    /// What is segmented without leaving a checksum to others is segmented by the headers that it
    /// has, so only packets that leave one pay for this.
    fn offload(&mut self, layout: &SkbLayout) {
        self.op(isa::store(Size::DW, R10, SAVED, CONTEXT));
        self.checksum(layout);
        self.op(isa::load(Size::B, R2, SKB, layout.encapsulation.byte));
        self.op(isa::and32_imm(R2, layout.encapsulation.mask as i32));
        let plain = self.jump(isa::jump_imm(Cond::Eq, R2, 0));
        self.inner(layout);
        self.op(isa::load(Size::DW, CONTEXT, R10, SAVED));
        self.land(&plain);
        self.op(isa::store(Size::W, CONTEXT, cb(CB_OFFLOAD), OFFLOAD));
        self.op(isa::load(Size::W, R2, CONTEXT, GSO_SIZE));
        let whole = self.jump(isa::jump_imm(Cond::Eq, R2, 0));
        self.segments(layout);
        self.op(isa::store(Size::W, CONTEXT, cb(CB_OFFLOAD), OFFLOAD));
        self.land(&whole);
    }

    /// Register 5 = offset of the Ethernet header in the buffer. Uses register 4.
    fn headroom(&mut self, layout: &SkbLayout) {
        self.op(isa::load(Size::DW, R4, SKB, layout.head));
        self.op(isa::load(Size::DW, R5, SKB, layout.data));
        self.op(isa::sub(R5, R4));
    }

    /// Where the checksum begins, and the distance to where it is stored.
    fn checksum(&mut self, layout: &SkbLayout) {
        self.headroom(layout);
        self.op(isa::load(Size::H, OFFLOAD, SKB, layout.csum_start));
        self.op(isa::sub(OFFLOAD, R5));
        self.op(isa::and32_imm(OFFLOAD, OFFLOAD_START as i32));
        self.op(isa::load(Size::H, R2, SKB, layout.csum_offset));
        self.op(isa::mov_imm(R4, OFFLOAD_FIELD_MAX as i32));
        let near = self.jump(isa::jump_reg(Cond::Ge, R4, R2));
        self.op(isa::mov(R2, R4));
        self.land(&near);
        self.op(isa::shift_left_imm(R2, OFFLOAD_FIELD_SHIFT as i32));
        self.op(isa::add(OFFLOAD, R2));
        self.op(isa::add_imm(OFFLOAD, OFFLOAD_CHECKSUM as i32));
    }

    /// As what it will be segmented.
    fn segments(&mut self, layout: &SkbLayout) {
        let types = &layout.gso_types;
        self.op(isa::load(Size::DW, R1, SKB, layout.head));
        self.op(isa::load(Size::W, R2, SKB, layout.end));
        self.op(isa::add(R1, R2));
        self.op(isa::mov_imm(R2, layout.shared_info as i32));
        self.op(isa::call_kernel(layout.rdonly_cast));
        self.op(isa::load(Size::DW, CONTEXT, R10, SAVED));
        self.op(isa::load(Size::W, R4, R0, layout.gso_type));
        self.op(isa::load(Size::W, OFFLOAD, CONTEXT, cb(CB_OFFLOAD)));
        let known = [
            (types.tcp_v4, OFFLOAD_TCP_V4),
            (types.tcp_v6, OFFLOAD_TCP_V6),
            (types.udp, OFFLOAD_UDP),
            (types.sctp, OFFLOAD_SCTP),
        ];
        let mut all = types.harmless;
        for (mask, value) in known {
            all |= mask;
            if mask != 0 {
                self.add_if(R4, mask, value);
            }
        }
        // A kind that is not known, or none.
        self.op(isa::mov(R2, R4));
        self.op(isa::and32_imm(R2, (all & !types.harmless) as i32));
        let none = self.jump(isa::jump_imm(Cond::Eq, R2, 0));
        self.op(isa::mov(R2, R4));
        self.op(isa::and32_imm(R2, !all as i32));
        let all_known = self.jump(isa::jump_imm(Cond::Eq, R2, 0));
        self.land(&none);
        self.op(isa::add_imm(OFFLOAD, OFFLOAD_OTHER as i32));
        self.land(&all_known);
    }

    /// The start becomes that of the first inner header, wherever the sender's kernel says that it
    /// is.
    fn inner(&mut self, layout: &SkbLayout) {
        self.headroom(layout);
        self.op(isa::load(Size::H, R1, SKB, layout.inner_mac_header));
        self.op(isa::load(Size::H, R2, SKB, layout.inner_network_header));
        self.op(isa::sub(R1, R5));
        self.op(isa::sub(R2, R5));
        for register in [R1, R2] {
            self.op(isa::and32_imm(register, OFFLOAD_START as i32));
        }
        let first = self.jump(isa::jump_reg(Cond::Ge, R2, R1));
        self.op(isa::mov(R1, R2));
        self.land(&first);
        // The checksum must not begin before them.
        self.op(isa::mov(R2, OFFLOAD));
        self.op(isa::and32_imm(R2, OFFLOAD_START as i32));
        let behind = self.jump(isa::jump_reg(Cond::Ge, R2, R1));
        self.op(isa::mov(R1, R2));
        self.land(&behind);
        self.op(isa::and32_imm(OFFLOAD, !OFFLOAD_START as i32));
        self.op(isa::add(OFFLOAD, R1));
        self.op(isa::add_imm(OFFLOAD, OFFLOAD_ENCAPSULATED as i32));
    }
}
