//! What every datastore has in common: which version of which resource is in force, what is wrong,
//! and how that is told.
//!
//! ```text
//! Source ──Event──> Engine ─────────────> Batch of Updates
//!                     │  Versions     which version is in force, and what is wrong (pure)
//!                     └─ LastGoodLog  the versions in force, for a restart (state directory)
//! ```
//!
//! Nothing here knows whether documents are files of a directory or objects of an API.

pub(crate) mod content;
mod decide;
pub(crate) mod engine;
pub(crate) mod last_good;
pub(crate) mod parse;
pub(crate) mod problem;
pub(crate) mod source;
pub(crate) mod state;
pub(crate) mod update;
