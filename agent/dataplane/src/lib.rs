//! Placeholder page, replaced by the room itself.
