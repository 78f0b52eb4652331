//! Reads files whole, or says that somebody is writing to them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::core::content::{Digest, SourceContent, SourceId};
use crate::directory::WriterCheck;
use crate::directory::stamp::Stamp;

/// Larger files are refused.
const MAX_SIZE: u64 = 64 << 20;
/// With fewer files, threads cost more than they bring.
const PARALLEL_FROM: usize = 64;
const MAX_THREADS: usize = 4;

/// What came of reading a file.
#[derive(Debug)]
pub(crate) enum ReadOutcome {
    /// Its bytes are those that were parsed last.
    Same,
    /// New bytes.
    New(Digest, SourceContent),
    /// No bytes: the end of a file that is written anew, or the beginning.
    Empty,
    /// It changed while it was read.
    Torn,
    /// Somebody has it open for writing.
    Open,
    /// Somebody has it open for writing, and it was taken as it is: more may follow.
    Unfinished(SourceContent),
    /// It is not there.
    Gone,
    /// It cannot be read.
    Failed(String),
}

/// A file to read, with what is known of it.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) path: SourceId,
    pub(crate) real: &'a Path,
    /// Digest of the bytes that its view was made of.
    pub(crate) digest: Option<Digest>,
    /// It is taken as it is even if somebody has it open for writing.
    pub(crate) as_it_is: bool,
}

/// Reads and parses files, on several threads if they are many. Results in the order of the jobs.
/// `writers` says whether somebody has a file open for writing, where that is asked.
pub(crate) fn read_all(
    jobs: Vec<Job<'_>>,
    writers: Option<WriterCheck>,
) -> Vec<(SourceId, Option<Stamp>, ReadOutcome)> {
    let one = |job: &Job<'_>| {
        let (stamp, content) = read(job, writers);
        (SourceId::clone(&job.path), stamp, content)
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
                        SourceId::clone(&job.path),
                        None,
                        ReadOutcome::Failed("the parser failed".to_owned()),
                    )
                })),
            }
        }
        results
    })
}

fn read(job: &Job<'_>, writers: Option<WriterCheck>) -> (Option<Stamp>, ReadOutcome) {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => (None, ReadOutcome::Gone),
        _ => (None, ReadOutcome::Failed(format!("cannot be read: {error}"))),
    };
    let mut file = match open(job.real) {
        Ok(file) => file,
        Err(error) => return failed(error),
    };
    let (before, size) = match file.metadata() {
        Ok(metadata) if metadata.is_file() => (Stamp::of(&metadata), metadata.len()),
        Ok(_) => return (None, ReadOutcome::Failed("neither a file nor a directory".to_owned())),
        Err(error) => return failed(error),
    };
    // Where that cannot be known, what inotify told and the stamp have to do.
    let open = writers.is_some_and(|is_open| is_open(&file).unwrap_or(false));
    if open && !job.as_it_is {
        return (Some(before), ReadOutcome::Open);
    }
    if size > MAX_SIZE {
        let reason = format!("larger than {} MiB", MAX_SIZE >> 20);
        return (Some(before), ReadOutcome::Failed(reason));
    }
    let bytes = match read_bytes(&mut file, size) {
        Ok(bytes) => bytes,
        Err(error) => return failed(error),
    };
    let after = file.metadata().map(|metadata| Stamp::of(&metadata));
    if after.ok() != Some(before) || bytes.len() as u64 != size {
        return (None, ReadOutcome::Torn);
    }
    if bytes.is_empty() {
        return (Some(before), ReadOutcome::Empty);
    }
    let digest = Digest::of(&bytes);
    let content = || SourceContent::file(&bytes);
    let outcome = match open {
        true => ReadOutcome::Unfinished(content().unfinished()),
        false if job.digest == Some(digest) => ReadOutcome::Same,
        false => ReadOutcome::New(digest, content()),
    };
    (Some(before), outcome)
}

/// Opens a file without blocking, in case that a pipe took its place.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn read_bytes(file: &mut File, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
