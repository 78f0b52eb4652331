//! Reads files whole, or says that somebody is writing to them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::parse;
use crate::view::{Digest, FilePath, View};
use crate::walk::Stamp;

/// Larger files are refused.
const MAX_SIZE: u64 = 64 << 20;
/// With fewer files, threads cost more than they bring.
const PARALLEL_FROM: usize = 64;
const MAX_THREADS: usize = 4;

/// What came of reading a file.
#[derive(Debug)]
pub(crate) enum Content {
    /// Its bytes are those that were parsed last.
    Same,
    /// New bytes.
    New(Digest, View),
    /// No bytes: the end of a file that is written anew, or the beginning.
    Empty,
    /// It changed while it was read.
    Torn,
    /// It is not there.
    Gone,
    /// It cannot be read.
    Failed(String),
}

/// A file to read, with what is known of it.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) path: FilePath,
    pub(crate) real: &'a Path,
    /// Digest of the bytes that its view was made of.
    pub(crate) digest: Option<Digest>,
}

/// Reads and parses files, on several threads if they are many. Results in the order of the jobs.
pub(crate) fn read_all(jobs: Vec<Job<'_>>) -> Vec<(FilePath, Option<Stamp>, Content)> {
    let one = |job: &Job<'_>| {
        let (stamp, content) = read(job.real, job.digest);
        (FilePath::clone(&job.path), stamp, content)
    };
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_THREADS);
    if jobs.len() < PARALLEL_FROM || threads < 2 {
        return jobs.iter().map(one).collect();
    }
    let share = jobs.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let parts: Vec<_> = jobs
            .chunks(share)
            .map(|part| (part, scope.spawn(move || part.iter().map(one).collect::<Vec<_>>())))
            .collect();
        let mut results = Vec::with_capacity(jobs.len());
        for (part, thread) in parts {
            match thread.join() {
                Ok(part) => results.extend(part),
                // A parser that gave up on one of these files must not take the others with it.
                Err(_) => results.extend(part.iter().map(|job| {
                    (
                        FilePath::clone(&job.path),
                        None,
                        Content::Failed("the parser failed".to_owned()),
                    )
                })),
            }
        }
        results
    })
}

fn read(real: &Path, known: Option<Digest>) -> (Option<Stamp>, Content) {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => (None, Content::Gone),
        _ => (None, Content::Failed(format!("cannot be read: {error}"))),
    };
    // Not blocking, in case that a pipe took the file's place.
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(real) {
        Ok(file) => file,
        Err(error) => return failed(error),
    };
    let (before, size) = match file.metadata() {
        Ok(metadata) if metadata.is_file() => (Stamp::of(&metadata), metadata.len()),
        Ok(_) => return (None, Content::Failed("neither a file nor a directory".to_owned())),
        Err(error) => return failed(error),
    };
    if size > MAX_SIZE {
        let reason = format!("larger than {} MiB", MAX_SIZE >> 20);
        return (Some(before), Content::Failed(reason));
    }
    let bytes = match read_bytes(&mut file, size) {
        Ok(bytes) => bytes,
        Err(error) => return failed(error),
    };
    let after = file.metadata().map(|metadata| Stamp::of(&metadata));
    if after.ok() != Some(before) || bytes.len() as u64 != size {
        return (None, Content::Torn);
    }
    if bytes.is_empty() {
        return (Some(before), Content::Empty);
    }
    let digest = Digest::of(&bytes);
    if known == Some(digest) {
        return (Some(before), Content::Same);
    }
    (Some(before), Content::New(digest, parse::view(&bytes)))
}

fn read_bytes(file: &mut File, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
