//! Types that felid's eBPF programs and its agent share: map keys and values, the per-CPU scratch
//! between tail calls, indices of program arrays, drop reasons.
//!
//! Every type is `#[repr(C)]` without implicit padding. Addresses are in network byte order, in
//! `u32` words exactly as they lie in the packet (an IPv4 address is the first word, the others
//! zero); ports in map keys are in network byte order, ports in [`Scratch`] in host byte order.
//! Nothing here does I/O or knows aya; with the feature `user` the types derive zerocopy's traits
//! so that user space turns them into bytes without `unsafe`.
#![no_std]
#![forbid(unsafe_code)]

mod flow;
mod log_rate;
mod maps;
mod offload;
pub mod protocol;
mod reason;
mod scratch;
mod shares;

pub use flow::*;
pub use maps::*;
pub use offload::*;
pub use reason::*;
pub use scratch::*;
pub use shares::*;

/// Version of everything pinned in bpffs: names, keys, values and meanings. It is part of the pin
/// directory's name.
pub const ABI_VERSION: u32 = 4;

/// Derives zerocopy's traits for user space on `#[repr(C)]` types and asserts their size.
macro_rules! shared {
    ($($(#[$meta:meta])* pub struct $name:ident : $size:literal { $($(#[$fmeta:meta])* pub $field:ident : $ty:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout))]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty),* }
        const _: () = assert!(core::mem::size_of::<$name>() == $size);
    )*};
}
pub(crate) use shared;
