//! What the engine hands on.

use std::sync::Arc;

use felid_model::{Resource, ResourceKey};

use crate::core::problem::Problems;

/// One change of what is in force.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// This resource is in force, in place of an earlier version of it.
    Apply(Resource),
    /// The resource is gone.
    Delete(ResourceKey),
    /// The datastore is read from the start. What it no longer holds is deleted by the time of the
    /// next [`Update::InSync`]; until then everything that was in force stays.
    ResyncBegins,
    /// Everything that the datastore holds has been told. What waits for a complete picture may
    /// begin. A source may say it again after any change, which tells the receiver nothing new.
    InSync,
    /// The datastore cannot be reached, and why. What was in force stays in force;
    /// [`Update::ResyncBegins`] follows when the datastore is back.
    Lost(Arc<str>),
    /// Everything that the datastore held when [`Control::barrier`](crate::Control::barrier) was
    /// called with this number has been told.
    Barrier(u64),
}

/// Changes that come into force together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What changed. It is empty if only the problems did.
    pub updates: Vec<Update>,
    /// Everything that is wrong after these changes.
    pub problems: Arc<Problems>,
}
