//! What the pipeline is made of, each part in a file that a person can hold.
//!
//! | part | what it holds |
//! |---|---|
//! | `configuration.rs` | settings, merged, against what the kernel was told |
//! | `programming.rs` | what has been taken in and is not enforced yet, the transaction under way |
//! | `records.rs` | the connection to the datastore, what is wrong with records |
//! | `revisions.rs` | which changes of the records are enforced, and since when |
//! | `translations.rs` | which translations are in force, and why others are not |
//! | `reporting.rs` | failures, readiness, metrics, the log |
//! | `timers.rs` | when to try again and to look at everything |

mod configuration;
mod programming;
mod records;
mod reporting;
mod revisions;
mod timers;
mod translations;

pub(super) use configuration::Configuration;
pub(super) use programming::Programming;
pub(super) use records::{Records, severity};
pub use reporting::Outlets;
pub(super) use reporting::Reporting;
pub(super) use revisions::Revisions;
pub(super) use timers::Timers;
pub(super) use translations::Translations;
