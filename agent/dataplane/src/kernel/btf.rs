//! The running kernel's BTF, as far as generated programs need it: where fields of its structures
//! are, and under which ids its functions can be called.
//!
//! aya reads BTF only to relocate objects and shows neither members nor offsets, so this reads the
//! format itself (the kernel's `Documentation/bpf/btf.rst`).

use std::fs;
use std::path::Path;

use felid_compile::stub::{BitField, GsoTypes, SkbLayout};

use crate::error::{KernelError, Result};

/// Where the kernel shows its BTF.
const PATH: &str = "/sys/kernel/btf/vmlinux";

/// Kinds of types.
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNCTION: u32 = 12;

/// Structures within structures that are followed.
const MAX_DEPTH: u32 = 8;

/// Where a member is within a structure, in bits; `size` is 0 if it is no bit field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    offset: u32,
    size: u32,
}

/// One type: its name and kind, and where what belongs to it begins.
#[derive(Clone, Copy, Debug)]
struct Type {
    name: u32,
    info: u32,
    rest: usize,
}

impl Type {
    const fn kind(self) -> u32 {
        self.info >> 24 & 31
    }

    const fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Bytes behind the first three words.
    const fn tail(self) -> Option<usize> {
        Some(match self.kind() {
            // Integer, variable, declaration tag.
            1 | 14 | 17 => 4,
            // Array.
            3 => 12,
            // Structure, union, section of data, enumeration of 64 bits.
            STRUCT | UNION | 15 | 19 => 12 * self.count(),
            // Enumeration, parameters of a function.
            ENUM | 13 => 8 * self.count(),
            2 | 7..=FUNCTION | 16 | 18 => 0,
            _ => return None,
        })
    }
}

/// The kernel's BTF, taken apart into types.
struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Types by their ids; the first has id 1.
    index: Vec<Type>,
}

impl<'a> Btf<'a> {
    /// `None` if the bytes are not BTF of this machine's byte order.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        const MAGIC: u16 = 0xeb9f;
        let magic = bytes.first_chunk::<2>()?;
        if u16::from_ne_bytes(*magic) != MAGIC {
            return None;
        }
        let header = |word: usize| Some(read(bytes, 4 * word)? as usize);
        let section = |offset: usize, length: usize| {
            let begin = header(1)?.checked_add(offset)?;
            bytes.get(begin..begin.checked_add(length)?)
        };
        let types = section(header(2)?, header(3)?)?;
        let strings = section(header(4)?, header(5)?)?;
        let (mut index, mut at) = (Vec::new(), 0);
        while at < types.len() {
            let kind = Type {
                name: read(types, at)?,
                info: read(types, at + 4)?,
                rest: at + 12,
            };
            at += 12 + kind.tail()?;
            index.push(kind);
        }
        Some(Self { types, strings, index })
    }

    fn has_name(&self, name: u32, wanted: &str) -> bool {
        let wanted = wanted.as_bytes();
        self.strings
            .get(name as usize..)
            .and_then(|text| text.get(..=wanted.len()))
            .is_some_and(|text| text.split_last() == Some((&0, wanted)))
    }

    /// Id of a named type.
    fn id(&self, kind: u32, name: &str) -> Option<u32> {
        let found = self
            .index
            .iter()
            .position(|entry| entry.kind() == kind && self.has_name(entry.name, name))?;
        u32::try_from(found + 1).ok()
    }

    fn by_id(&self, id: u32) -> Option<Type> {
        self.index.get((id as usize).checked_sub(1)?).copied()
    }

    /// A member of a structure, also of those within it that have no name.
    fn member(&self, structure: u32, name: &str) -> Option<Member> {
        self.member_within(self.by_id(structure)?, name, 0)
    }

    fn member_within(&self, structure: Type, name: &str, depth: u32) -> Option<Member> {
        if !matches!(structure.kind(), STRUCT | UNION) || depth > MAX_DEPTH {
            return None;
        }
        let has_bit_fields = structure.info >> 31 != 0;
        (0..structure.count()).find_map(|n| {
            let at = structure.rest + 12 * n;
            let word = |n: usize| read(self.types, at + 4 * n);
            let (its_name, kind, place) = (word(0)?, word(1)?, word(2)?);
            let (offset, size) = if has_bit_fields {
                (place & 0x00ff_ffff, place >> 24)
            } else {
                (place, 0)
            };
            if self.has_name(its_name, name) {
                return Some(Member { offset, size });
            }
            if self.strings.get(its_name as usize) != Some(&0) {
                return None;
            }
            let inner = self.member_within(self.by_id(kind)?, name, depth + 1)?;
            Some(Member {
                offset: inner.offset + offset,
                ..inner
            })
        })
    }

    /// Offset in bytes of a member that is no bit field.
    fn offset(&self, structure: u32, name: &str) -> Option<i16> {
        let member = self.member(structure, name)?;
        (member.size == 0 && member.offset % 8 == 0)
            .then_some(member.offset / 8)
            .and_then(|offset| offset.try_into().ok())
    }

    /// A member that is a bit field within one byte.
    fn bit_field(&self, structure: u32, name: &str) -> Option<BitField> {
        let member = self.member(structure, name)?;
        let within = member.offset % 8;
        if member.size == 0 || within + member.size > 8 {
            return None;
        }
        // Bit fields are counted from the other end on big-endian machines.
        let shift = if cfg!(target_endian = "little") {
            within
        } else {
            8 - within - member.size
        };
        Some(BitField {
            byte: (member.offset / 8).try_into().ok()?,
            shift,
            mask: ((1 << member.size) - 1) << shift,
        })
    }

    /// The enumeration that has a constant of this name.
    fn enumeration_of(&self, name: &str) -> Option<Type> {
        self.index
            .iter()
            .find(|entry| entry.kind() == ENUM && self.constant(**entry, name).is_some())
            .copied()
    }

    /// Value of a constant of an enumeration.
    fn constant(&self, enumeration: Type, name: &str) -> Option<u32> {
        (0..enumeration.count())
            .map(|n| enumeration.rest + 8 * n)
            .find(|at| read(self.types, *at).is_some_and(|its_name| self.has_name(its_name, name)))
            .and_then(|at| read(self.types, at + 4))
    }

    fn skb_layout(&self) -> Result<SkbLayout, &'static str> {
        let function = |name| self.id(FUNCTION, name);
        let cast_to_kern_ctx = function("bpf_cast_to_kern_ctx")
            .ok_or("it lacks the function bpf_cast_to_kern_ctx, which came with Linux 6.2")?;
        let rdonly_cast =
            function("bpf_rdonly_cast").ok_or("it lacks the function bpf_rdonly_cast, which came with Linux 6.2")?;
        let skb = self.id(STRUCT, "sk_buff").ok_or("its BTF lacks struct sk_buff")?;
        let shared_info = self
            .id(STRUCT, "skb_shared_info")
            .ok_or("its BTF lacks struct skb_shared_info")?;
        let fields = || {
            Some(SkbLayout {
                cast_to_kern_ctx,
                rdonly_cast,
                shared_info,
                ip_summed: self.bit_field(skb, "ip_summed")?,
                encapsulation: self.bit_field(skb, "encapsulation")?,
                csum_start: self.offset(skb, "csum_start")?,
                csum_offset: self.offset(skb, "csum_offset")?,
                head: self.offset(skb, "head")?,
                data: self.offset(skb, "data")?,
                end: self.offset(skb, "end")?,
                inner_mac_header: self.offset(skb, "inner_mac_header")?,
                inner_network_header: self.offset(skb, "inner_network_header")?,
                tc_index: self.offset(skb, "tc_index")?,
                skb_iif: self.offset(skb, "skb_iif")?,
                nf_ctx_skb: self.offset(self.id(STRUCT, "bpf_nf_ctx")?, "skb")?,
                gso_type: self.offset(shared_info, "gso_type")?,
                gso_types: self.gso_types(),
            })
        };
        fields().ok_or("its BTF describes struct sk_buff in a way that felid does not know")
    }

    fn gso_types(&self) -> GsoTypes {
        // All of them stand in one enumeration, and a search through all that the kernel has takes
        // milliseconds. What this kernel does not have is 0.
        let types = self.enumeration_of("SKB_GSO_TCPV4");
        let value = |name: &str| types.and_then(|types| self.constant(types, name)).unwrap_or(0);
        let any = |names: &[&str]| names.iter().fold(0, |all, name| all | value(name));
        GsoTypes {
            tcp_v4: any(&["SKB_GSO_TCPV4"]),
            tcp_v6: any(&["SKB_GSO_TCPV6"]),
            udp: any(&["SKB_GSO_UDP", "SKB_GSO_UDP_L4"]),
            sctp: any(&["SKB_GSO_SCTP"]),
            harmless: any(&[
                "SKB_GSO_DODGY",
                "SKB_GSO_TCP_ECN",
                "SKB_GSO_TCP_ACCECN",
                "SKB_GSO_TCP_FIXEDID",
                "SKB_GSO_TCP_FIXEDID_INNER",
                "SKB_GSO_PARTIAL",
                "SKB_GSO_FRAGLIST",
            ]),
        }
    }
}

fn read(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_ne_bytes(*word))
}

/// Where the running kernel keeps what stubs read of a packet. `release` is the kernel's name for
/// the error.
pub(super) fn skb_layout(release: &str) -> Result<SkbLayout> {
    let unsupported = |missing| KernelError::Unsupported {
        release: release.to_owned(),
        missing,
    };
    let bytes = match fs::read(PATH) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(unsupported(
                "it has no BTF (/sys/kernel/btf/vmlinux, CONFIG_DEBUG_INFO_BTF), without which nobody can see where a packet's \
                 unfinished checksum will be stored",
            ));
        }
        Err(error) => return Err(KernelError::file("read", Path::new(PATH))(error)),
    };
    let btf = Btf::parse(&bytes).ok_or_else(|| unsupported("felid cannot read its BTF (/sys/kernel/btf/vmlinux)"))?;
    btf.skb_layout().map_err(unsupported)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// BTF with the types and strings given.
    fn blob(types: &[u32], strings: &str) -> Vec<u8> {
        let length = u32::try_from(4 * types.len()).unwrap();
        let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, length, length, u32::try_from(strings.len()).unwrap()] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        for word in types {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(strings.as_bytes());
        bytes
    }

    // Offsets of the names: outer 1, a 7, b 9, VALUE 11.
    const STRINGS: &str = "\0outer\0a\0b\0VALUE\0";

    fn example() -> Vec<u8> {
        let head = |kind: u32, count: u32, bits: u32| kind << 24 | count | bits << 31;
        blob(
            &[
                // 1: int of 4 bytes.
                0,
                head(1, 0, 0),
                4,
                32, //
                // 2: a nameless union of `b`, three bits from bit 5 on.
                0,
                head(5, 1, 1),
                4,
                9,
                1,
                3 << 24 | 5, //
                // 3: struct outer { a at 32; the union at 64 }.
                1,
                head(4, 2, 0),
                12,
                7,
                1,
                32,
                0,
                2,
                64, //
                // 4: enum { VALUE = 17 }.
                0,
                head(6, 1, 0),
                4,
                11,
                17,
            ],
            STRINGS,
        )
    }

    #[test]
    fn members_and_constants_are_found() {
        let bytes = example();
        let btf = Btf::parse(&bytes).unwrap();
        let outer = btf.id(STRUCT, "outer").unwrap();
        assert_eq!(outer, 3);
        assert_eq!(btf.offset(outer, "a"), Some(4));
        assert_eq!(btf.member(outer, "b"), Some(Member { offset: 69, size: 3 }));
        let field = btf.bit_field(outer, "b").unwrap();
        assert_eq!((field.byte, field.mask.count_ones()), (8, 3));
        if cfg!(target_endian = "little") {
            assert_eq!((field.shift, field.mask), (5, 0b1110_0000));
        }
        let values = btf.enumeration_of("VALUE").unwrap();
        assert_eq!(btf.constant(values, "VALUE"), Some(17));
        // Names that only begin so, members of other kinds, what is not there.
        assert_eq!(btf.constant(values, "VALU"), None);
        assert!(btf.enumeration_of("VALU").is_none());
        assert_eq!(btf.id(STRUCT, "oute"), None);
        assert_eq!(btf.id(ENUM, "outer"), None);
        assert_eq!(btf.offset(outer, "b"), None);
        assert_eq!(btf.bit_field(outer, "a"), None);
        assert!(btf.skb_layout().is_err());
    }

    #[test]
    fn damaged_btf_is_an_error() {
        let whole = example();
        for length in 0..whole.len() {
            let _ = Btf::parse(&whole[..length]).map(|btf| btf.skb_layout());
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            if let Some(btf) = Btf::parse(&damaged) {
                assert!(btf.skb_layout().is_err());
                let _ = (btf.offset(3, "b"), btf.bit_field(3, "b"), btf.enumeration_of("VALUE"));
            }
        }
        // A structure within itself.
        let endless = blob(&[1, 4 << 24 | 1, 4, 0, 1, 0], STRINGS);
        assert_eq!(Btf::parse(&endless).unwrap().offset(1, "a"), None);
    }

    #[test]
    fn the_running_kernel_has_what_stubs_read() {
        let layout = skb_layout("this one").unwrap();
        assert!(layout.gso_types.tcp_v4 != 0 && layout.gso_types.udp.count_ones() == 2);
        assert_eq!(layout.ip_summed.mask.count_ones(), 2);
    }
}
