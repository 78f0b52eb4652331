//! A stream of JSON lines, on standard input or on a Unix socket: a datastore with one object a
//! line.
//!
//! ```text
//! {"apply": {"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "net"}}}
//! {"delete": {"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "old"}}}
//! {"inSync": true}
//! ```
//!
//! - A connection begins with a resync: the producer tells everything that there is, and then
//!   `{"inSync": true}`. What was in force before and was not told is deleted at that moment, and
//!   nothing is deleted or changed without need. `{"resync": true}` begins another resync in the
//!   same connection.
//! - Lines that are read together come into force together. `apply` takes a record, a list of
//!   records, or a `List`.
//! - The end of the input is a lost connection: everything stays in force as it is. A line without
//!   end is not read.
//! - A line that cannot be accepted leaves the last good version of its resource in force, and
//!   closes what a policy may select that was bad from the start, as in a file. If it cannot be
//!   told which resource the line is about, it stays a problem (and keeps closed what it may
//!   select) until the end of the next resync, and that resync deletes nothing.

mod input;
mod lines;
mod message;
mod source;
#[cfg(test)]
mod tests;

pub use input::StreamAddress;
pub use source::StreamSource;
