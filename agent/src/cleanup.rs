//! `felid cleanup`.
use crate::cli::{CleanupArgs, Places};
use crate::entry::Outcome;
use std::io::Write;
/// Cleanup.
pub fn cleanup(_places: &Places, _args: &CleanupArgs, _out: &mut dyn Write) -> anyhow::Result<Outcome> {
    anyhow::bail!("being built")
}
