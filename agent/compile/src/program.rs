//! The compiler's output: eBPF instructions with symbolic maps and annotations. Only the dataplane
//! knows file descriptors.

use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use felid_model::ResourceKey;
use felid_model::resolved::SetIds;

pub use crate::types::Slots;

/// One eBPF instruction, as the kernel's `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Insn {
    /// The operation.
    pub code: u8,
    /// The number of the destination register, from 0 to 10.
    pub dst: u8,
    /// The number of the source register. The dataplane overwrites it where a map is referenced.
    pub src: u8,
    /// The offset of a memory access or of a jump.
    pub off: i16,
    /// The constant operand.
    pub imm: i32,
}

/// A map that an `ld_imm64` instruction refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MapRef {
    /// The per-CPU array `scratch`.
    Scratch,
    /// The array `classes`.
    Classes,
    /// The hash table `named_ports`.
    NamedPorts,
    /// The per-CPU array `counters`, in which staged policies count what they would have done.
    Counters,
    /// The program array `static_programs`.
    StaticPrograms,
    /// The array `settings`.
    Settings,
    /// The per-CPU array `drops`.
    Drops,
    /// The hash table `guarded`: indexes of the interfaces of workloads.
    Guarded,
    /// The program array of this program's own continuations: element n is chunk n (element 0 is
    /// unused).
    Chain,
}

/// A loadable piece of a program: at most the kernel's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Chunk {
    /// The instructions. Both halves of each `ld_imm64` are there.
    pub insns: Vec<Insn>,
    /// The positions of the first halves of `ld_imm64` instructions that take the file descriptor
    /// of a map, with `src` set to `BPF_PSEUDO_MAP_FD`, and the map of each.
    pub maps: Vec<(usize, MapRef)>,
    /// What ranges of instructions are for, in order, for listings.
    pub notes: Vec<(Range<usize>, Note)>,
}

/// Why instructions are there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// Fixed parts: entry, dispatch by protocol and port, end. Words for people.
    Frame(&'static str),
    /// A test or verdict of the rule with this index in [`Program::rules`].
    Rule(u32),
}

/// A rule (or another place that can decide) of a compiled program: `Scratch::rule` is an index
/// into their list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleRef {
    /// The policy or profile. It is `None` at the end of everything, where no policy and no profile
    /// allowed the packet, and in a program that closes.
    pub key: Option<ResourceKey>,
    /// The name of the tier; `None` in profiles and at the end of everything.
    pub tier: Option<Arc<str>>,
    /// The index of the rule in its resource, from 0; `None` at the end of a tier.
    pub index: Option<u32>,
    /// Whether the rule logs, and so decides nothing.
    pub logs: bool,
    /// The rule in words, such as "Allow TCP from (app == 'a') ports 80".
    pub text: String,
}

/// Returns the number that tells tables of rules apart: a hash of everything in them. Equal tables
/// have equal numbers.
pub fn table_id(rules: &[RuleRef]) -> u32 {
    // FNV-1a: the same in every version of the standard library, since programs outlive the agent.
    let mut hash = 0x811c_9dc5_u32;
    let mut add = |bytes: &[u8]| {
        for byte in bytes.iter().chain(&[0xff]) {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    // Neighbours are mostly of one policy.
    let mut known: Option<(&ResourceKey, String)> = None;
    for rule in rules {
        if let Some(key) = &rule.key {
            if known.as_ref().is_none_or(|(known, _)| *known != key) {
                known = Some((key, key.to_string()));
            }
            let text = known.as_ref().map(|(_, text)| text.as_str()).unwrap_or_default();
            add(text.as_bytes());
        }
        if let Some(tier) = &rule.tier {
            add(tier.as_bytes());
        }
        add(&rule.index.map_or([0; 4], |index| (index + 1).to_ne_bytes()));
        add(rule.text.as_bytes());
    }
    hash
}

/// A compiled policy of one direction. Equal decisions give equal programs, which endpoints share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Chunk 0 is the entry; the others are reached by tail calls through [`MapRef::Chain`].
    pub chunks: Vec<Chunk>,
    /// The table of rules, which [`Chunk::notes`] and the kernel's log records refer to by index.
    pub rules: Vec<RuleRef>,
    /// The sets whose bits it tests in the peer's class row, without those of named ports.
    pub sets: SetIds,
    /// The sets of named ports whose bits it tests.
    pub named_port_sets: SetIds,
}

/// Of the instructions only, and quick: programs are long, and those that differ elsewhere are
/// rare.
impl Hash for Program {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for chunk in &self.chunks {
            let digest = chunk.insns.iter().fold(0_u64, |digest, insn| {
                let [code, registers] = [insn.code, insn.dst << 4 | insn.src].map(u64::from);
                let head = code << 56 | registers << 48 | u64::from(insn.off as u16) << 32;
                (digest.rotate_left(5) ^ head ^ u64::from(insn.imm as u32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            });
            state.write_u64(digest);
        }
    }
}
