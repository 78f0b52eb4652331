//! The lines of the journal: 16 hex digits of a check, a space, JSON.

use std::io::{self, Write};
use std::sync::Arc;

use felid_model::{Kind, ResourceKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::content::{Digest, SourceId};
use crate::core::state::LogEntry;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LogLine {
    Format(u32),
    /// What the source keeps for a restart; the directory, which root it was. Named after the
    /// latter, for logs that exist.
    #[serde(rename = "root")]
    Bookmark(Value),
    /// Lines were damaged, and what they were about is not known to have been found again.
    #[serde(rename = "lost")]
    Incomplete,
    Put {
        key: KeyFields,
        path: SourceId,
        digest: Digest,
        good: bool,
        text: Arc<str>,
        /// A later version may have been in a line that was damaged.
        #[serde(default, rename = "doubtful", skip_serializing_if = "std::ops::Not::not")]
        suspect: bool,
    },
    Move {
        key: KeyFields,
        path: SourceId,
    },
    Drop {
        key: KeyFields,
    },
}

#[derive(Serialize, Deserialize)]
pub(super) struct KeyFields {
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<Arc<str>>,
    name: Arc<str>,
}

impl From<&ResourceKey> for KeyFields {
    fn from(key: &ResourceKey) -> Self {
        Self {
            kind: key.kind.to_string(),
            namespace: key.namespace.clone(),
            name: Arc::clone(&key.name),
        }
    }
}

impl KeyFields {
    pub(super) fn resource(self) -> Option<ResourceKey> {
        Some(ResourceKey {
            kind: Kind::from_name(&self.kind)?,
            namespace: self.namespace,
            name: self.name,
        })
    }
}

impl From<&LogEntry> for LogLine {
    fn from(record: &LogEntry) -> Self {
        match record {
            LogEntry::Put {
                key,
                path,
                digest,
                good,
                text,
            } => LogLine::Put {
                key: key.into(),
                path: Arc::clone(path),
                digest: *digest,
                good: *good,
                text: Arc::clone(text),
                suspect: false,
            },
            LogEntry::Move { key, path } => LogLine::Move {
                key: key.into(),
                path: Arc::clone(path),
            },
            LogEntry::Drop { key } => LogLine::Drop { key: key.into() },
        }
    }
}

/// A line: 16 hex digits of a check, a space, JSON.
pub(super) fn encode(line: &LogLine, buffer: &mut Vec<u8>) -> io::Result<()> {
    let json = serde_json::to_vec(line)?;
    write!(buffer, "{:016x} ", check(&json))?;
    buffer.extend_from_slice(&json);
    buffer.push(b'\n');
    Ok(())
}

pub(super) fn checked(line: &[u8]) -> Option<LogLine> {
    let (digits, rest) = line.split_at_checked(16)?;
    let json = rest.strip_prefix(b" ")?.strip_suffix(b"\n")?;
    let expected = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    if check(json) != expected {
        return None;
    }
    serde_json::from_slice(json).ok()
}

fn check(json: &[u8]) -> u64 {
    (Digest::of(json).0 >> 64) as u64
}
