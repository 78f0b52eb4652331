//! Which policies hold for which local endpoint, and which address belongs to which set: incremental, synchronous, deterministic.
//!
//! In: accepted resources ([`Calc::apply`], [`Calc::delete`]). Out: at each [`Calc::flush`] an [`Output`] with whole new values of
//! what changed since the last one, and nothing else. Never: I/O, clocks, threads, slots, class ids or endpoint ids (they are the
//! compiler's); no set is known by anything but its [`SetId`](felid_model::resolved::SetId).
//!
//! ```text
//!   endpoints, network sets,       profiles,         policies, tiers       FelixConfiguration
//!   host endpoints, pods,          namespaces,
//!   endpoint slices                service accounts
//!            |                    labels |  rules            |                      |
//!            v                           v     \             v                      v
//!         items ------ labels with inheritance  \   policies per local endpoint   config
//!            |                  |                \          |
//!            |                  v                 v         v
//!            |             label index <------ rules over sets: active sets
//!            v                  |                           |
//!        prefixes, ports <------+                           v
//!            |                                       local endpoints
//!            v                                              |
//!   Delta.members, Delta.named_ports                 Delta.endpoints
//! ```
//!
//! # Invariants
//!
//! - The sum of all deltas is a function of the current records alone: not of their order, nor of where flushes fell between them.
//!   So an update that changes nothing gives an empty delta, and a flush without updates does too.
//! - `apply` and `delete` only note the update; the last one of a key counts. A flush works in one direction: records, who is local,
//!   policies per local endpoint, rules, active sets, memberships, endpoints.
//! - A set is active while a policy that selects a local endpoint, or a profile that a local endpoint has, names it in a direction in
//!   which it applies. Memberships of other sets are not said.
//! - Whatever cannot be decided is closed, never open: a policy that could not be read, or whose tier does not exist, closes the local
//!   endpoints that it may select; a profile that does not exist denies what comes to it; of two local endpoints with one interface
//!   the lexically smaller key has it and the other is left out; of two with one address the smaller has it and the other is closed.
//!   [`Calc::problems`] tells of each. A staged policy closes nothing: what keeps it from being judged is told as a warning.
//!
//! # Cost
//!
//! With *n* items, *s* active selectors, *l* labels an item and *m* matches an item:
//!
//! - An item that changes is evaluated against those selectors only whose anchor (one condition that the selector cannot match
//!   without, such as `app == 'db'`) its labels meet, and those that have none (`env != 'prod'`): O(l + candidates), not O(s).
//! - A selector that becomes active is evaluated once against the items that meet its anchor, not against all *n*.
//! - A prefix or named port is worked out again only if something about one of its holders changed: O(m log m) each.
//! - A policy's rules are resolved once when it becomes active or changes, not per endpoint. An endpoint is resolved again if a policy
//!   that selects it, its tier, its profiles' rules or its own record changed: O(p log p) in its own policies.
//! - Memory: per item its labels' places in the index and its matches; equal memberships and equal policies are shared.
#![forbid(unsafe_code)]

mod active;
mod calc;
mod claims;
mod config;
mod endpoints;
mod ids;
mod index;
mod intern;
mod labels;
mod members;
mod policies;
mod profiles;
mod rules;
mod services;
mod sets;
mod status;
mod tiers;

pub use calc::{Calc, CalcOptions, Output};
pub use config::Config;
pub use status::{Problem, Stats};
