//! Computes which policies hold for which endpoint of this node, and which address is a member of
//! which set. The computation is incremental, synchronous and deterministic. Felix calls it the
//! calculation graph.
//!
//! In: accepted resources ([`Calc::apply`], [`Calc::delete`]). Out: at each [`Calc::flush`] an
//! [`Output`] with whole new values of what changed since the last flush, and nothing else. Never:
//! I/O, clocks, threads, or the compiler's slots, class ids and endpoint ids. A set is known by
//! nothing but its [`SetId`](felid_model::resolved::SetId).
//!
//! ```text
//!   endpoints, network sets,       profiles,         policies, tiers       FelixConfiguration,
//!   host endpoints, pods,          namespaces,                             IPPool
//!   endpoint slices                service accounts
//!            |                    labels |  rules            |                      |
//!            v                           v     \             v                      v
//!         items ------ labels with inheritance  \   policies per local endpoint   settings, pools
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
//! - The sum of all deltas is a function of the current resources, the node's name and
//!   settings, and the interfaces that the host has. It depends neither on the
//!   order of the updates nor on where flushes fell between them. So an update that changes
//!   nothing, and a flush without updates, give an empty delta.
//! - `apply` and `delete` only note the update, and the last one of a key counts. A flush works in
//!   one direction: resources, who is local, policies of each local endpoint, rules, active sets,
//!   memberships, endpoints.
//! - A set is active while a policy that selects a local endpoint, or a profile that a local
//!   endpoint has, names it in a direction in which it applies. Memberships of other sets are not
//!   published.
//! - What cannot be decided is closed, never open. A policy that could not be read, or whose tier
//!   does not exist, closes the local endpoints that it may select. A profile that does not exist
//!   denies the traffic that it would have decided. Of two local endpoints with one interface, the
//!   one with the lexically smaller key has it and the other is left out; of two with one address,
//!   the one whose interface is there has it, then the smaller, and the other is closed.
//!   [`Calc::problems`] lists all of these. A staged
//!   policy closes nothing: what keeps it from being judged is listed as a warning.
//!
//! # Cost
//!
//! With *n* items, *s* active selectors, *l* labels an item and *m* matches an item:
//!
//! - The *anchor* of a selector is one condition that it cannot match without, such as
//!   `app == 'db'`. An item that changes is evaluated against the selectors whose anchor its labels
//!   meet, and against those that have no anchor (`env != 'prod'`): O(l + candidates), not O(s).
//! - A selector that becomes active is evaluated once against the items that meet its anchor, not
//!   against all *n*.
//! - A prefix or named port is recomputed only if something about one of its holders changed, in
//!   O(m log m) each.
//! - The rules of a policy are resolved when it becomes active or changes, once for all endpoints.
//!   An endpoint is recomputed if a policy that selects it, its tier, the rules of its profiles or
//!   its own resource changed, in O(p log p) for its *p* policies.
//! - Memory: for each item its places in the index and its matches. Equal memberships and equal
//!   policies are shared.
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
pub use config::NodeConfiguration;
pub use status::{Inconsistency, Stats};
