//! What a policy means.
//!
//! In: a resolved policy, a packet, and a way to ask who is a member of which set. Out: the verdict
//! ([`mod@reference`]), the whole walk that led to it ([`explain`]), and rules in words
//! ([`describe`]). Never: anything of the compiler, which is tested against this.

pub(crate) mod describe;
pub mod explain;
pub mod reference;
