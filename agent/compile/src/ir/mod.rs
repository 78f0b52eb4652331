//! The intermediate form between policies and instructions.
//!
//! In: a resolved policy, a direction, and what is known of the endpoint's own side. Out: for each
//! IP version a list of sections of [`rule::Rule`]s that speak of the peer only ([`lower`]), and
//! ways to find the first of many rules that matches: segments that share a dispatch by protocol
//! and port ([`segment`]), and indexes of ports and networks ([`index`]). Never: instructions,
//! registers, slots.
//!
//! [`lower`] is the entry point. It lists rules by [`tiers`], and lowers them for each IP
//! [`version`]: by [`local`] for the endpoint's own side, by [`terms`] for the peer's, by
//! [`spoofed`] for sources that are not the endpoint's own. [`prune`] cuts what cannot be reached.

mod axis;
pub(crate) mod decision;
pub(crate) mod index;
pub(crate) mod item;
mod local;
pub(crate) mod lower;
pub(crate) mod ports;
mod prune;
pub(crate) mod rule;
pub(crate) mod segment;
mod spoofed;
mod terms;
mod tiers;
mod version;
