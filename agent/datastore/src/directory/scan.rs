//! Finds the files of the directory: one path of each, links followed, each directory once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use felid_model::FileKind;

use crate::core::content::SourceId;
use crate::core::problem::{InForce, Problem};
use crate::directory::root::DirectoryId;
use crate::directory::stamp::Stamp;

/// What a whole tree may hold. More is no set of records, and would not fit into memory.
const MOST: Bound = Bound {
    entries: 1_000_000,
    depth: 64,
    bytes: 2 << 30,
};
/// What one link may add that leads out of the directory: a mounted ConfigMap or a directory of
/// somebody else's, not a disk.
const MOST_BEHIND_A_LINK: Bound = Bound {
    entries: 10_000,
    depth: 16,
    bytes: 256 << 20,
};

/// How much is scanned at most.
#[derive(Clone, Copy)]
struct Bound {
    /// Files, directories and links.
    entries: usize,
    /// Directories in each other.
    depth: usize,
    /// Size of the files.
    bytes: u64,
}

/// What is left of a bound, and the depth at which it begins to count.
struct Budget {
    bound: Bound,
    base: usize,
    entries: usize,
    bytes: u64,
}

impl Budget {
    const fn new(bound: Bound, base: usize) -> Self {
        Self {
            bound,
            base,
            entries: 0,
            bytes: 0,
        }
    }

    /// Takes one entry; why it is one too many.
    fn take(&mut self, path: &str, metadata: &Metadata) -> Result<(), String> {
        self.entries += 1;
        if metadata.is_file() {
            self.bytes += metadata.size();
        }
        let Bound { entries, depth, bytes } = self.bound;
        if self.entries > entries {
            return Err(format!("more than {entries} files and directories"));
        }
        if depth_of(path) > self.base + depth {
            return Err(format!("more than {depth} directories in each other"));
        }
        if self.bytes > bytes {
            return Err(format!("more than {} MiB of files", bytes >> 20));
        }
        Ok(())
    }
}

fn depth_of(path: &str) -> usize {
    path.matches('/').count()
}

/// Links followed in one path.
const MAX_LINKS: usize = 40;

/// A file with records.
#[derive(Clone, Debug)]
pub(crate) struct ScannedFile {
    /// The path without links.
    pub(crate) real: PathBuf,
    pub(crate) stamp: Stamp,
}

/// The directory's content at one moment.
#[derive(Debug, Default)]
pub(crate) struct FileTree {
    /// The root itself, without links, if it is there.
    pub(crate) root: Option<(PathBuf, DirectoryId)>,
    pub(crate) files: BTreeMap<SourceId, ScannedFile>,
    /// The path of a file by its path without links.
    pub(crate) by_real: HashMap<PathBuf, SourceId>,
    /// Directories by their paths without links.
    pub(crate) directories: HashMap<PathBuf, SourceId>,
    /// What could not be read, and why: nothing is known of the files at and below these paths.
    pub(crate) unknown: BTreeMap<SourceId, String>,
    /// What is neither file nor directory, or has a name that is not text, and why it is not read.
    pub(crate) odd: BTreeMap<SourceId, String>,
    /// Directories on another file system than the one above them.
    pub(crate) mounts: BTreeSet<SourceId>,
    /// Links on the way to the root and to files, and the root: what may be swapped.
    pub(crate) anchors: HashSet<PathBuf>,
}

impl FileTree {
    /// Whether nothing is known about a file since something above it cannot be read.
    pub(crate) fn is_unknown(&self, path: &str) -> bool {
        self.unknown.keys().any(|place| is_at_or_below(path, place))
    }

    /// Directories in which something may happen that matters.
    pub(crate) fn watched(&self) -> HashSet<PathBuf> {
        let parents = self
            .anchors
            .iter()
            .filter_map(|anchor| anchor.parent().map(Path::to_owned));
        self.directories.keys().cloned().chain(parents).collect()
    }

    /// Adds a file that appeared in a known directory.
    pub(crate) fn add(&mut self, path: &SourceId, real: &Path, stamp: Stamp) {
        self.by_real.insert(real.to_owned(), Arc::clone(path));
        self.files.insert(
            Arc::clone(path),
            ScannedFile {
                real: real.to_owned(),
                stamp,
            },
        );
    }

    pub(crate) fn remove(&mut self, path: &str) {
        if let Some(found) = self.files.remove(path) {
            self.by_real.remove(&found.real);
        }
    }
}

/// Whether `path` is `place` or a path below it; the empty place is the root.
pub(crate) fn is_at_or_below(path: &str, place: &str) -> bool {
    place.is_empty()
        || path
            .strip_prefix(place)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Path of an entry of a directory.
pub(crate) fn join(directory: &str, name: &str) -> SourceId {
    if directory.is_empty() {
        Arc::from(name)
    } else {
        Arc::from(format!("{directory}/{name}"))
    }
}

pub(crate) fn directory_id(metadata: &Metadata) -> DirectoryId {
    let born = metadata
        .created()
        .ok()
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    DirectoryId {
        device: metadata.dev(),
        inode: metadata.ino(),
        born: born.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
    }
}

/// A path with its links resolved.
struct Resolved {
    real: io::Result<PathBuf>,
    /// The links on the way; at the end, what is missing, if something is.
    anchors: Vec<PathBuf>,
}

/// Resolves `path` link by link, starting in a directory without links in its own path.
fn resolve(start: &Path, path: &Path) -> Resolved {
    let mut real = start.to_owned();
    let mut todo: VecDeque<OsString> = VecDeque::new();
    let mut anchors = Vec::new();
    push_front(&mut todo, path, &mut real);
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            real.pop();
            continue;
        }
        let next = real.join(&name);
        let metadata = match next.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) => {
                anchors.push(next);
                return Resolved {
                    real: Err(error),
                    anchors,
                };
            }
        };
        if !metadata.is_symlink() {
            real = next;
            continue;
        }
        if anchors.len() >= MAX_LINKS {
            return Resolved {
                real: Err(io::Error::other("too many links")),
                anchors,
            };
        }
        match next.read_link() {
            Ok(target) => push_front(&mut todo, &target, &mut real),
            Err(error) => {
                return Resolved {
                    real: Err(error),
                    anchors,
                };
            }
        }
        anchors.push(next);
    }
    Resolved {
        real: Ok(real),
        anchors,
    }
}

fn push_front(todo: &mut VecDeque<OsString>, path: &Path, real: &mut PathBuf) {
    if path.is_absolute() {
        *real = PathBuf::from("/");
    }
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    for name in names.collect::<Vec<_>>().into_iter().rev() {
        todo.push_front(name.to_owned());
    }
}

/// Walks the directory at an absolute path.
pub(crate) fn scan(root: &Path) -> FileTree {
    let mut scanner = Scanner {
        tree: FileTree::default(),
        links: BTreeMap::new(),
        seen: HashSet::new(),
    };
    let resolved = resolve(Path::new("/"), root);
    scanner.tree.anchors.extend(resolved.anchors);
    let found = resolved
        .real
        .and_then(|real| real.metadata().map(|metadata| (real, metadata)));
    match found {
        Ok((real, metadata)) if metadata.is_dir() => {
            scanner.tree.anchors.insert(real.clone());
            scanner.tree.root = Some((real.clone(), directory_id(&metadata)));
            let mut budget = Budget::new(MOST, 0);
            let whole = scanner
                .directories(Arc::from(""), real.clone(), &metadata, &mut budget)
                .and_then(|()| scanner.follow_links(&real, &mut budget));
            if let Err(reason) = whole {
                scanner
                    .tree
                    .unknown
                    .insert(Arc::from(""), format!("{reason}: it is not read"));
            }
            if scanner.tree.directories.is_empty() && !scanner.tree.is_unknown("") {
                // It vanished while it was being listed.
                scanner.tree.root = None;
                scanner
                    .tree
                    .unknown
                    .insert(Arc::from(""), "the directory vanished".to_owned());
            }
        }
        Ok((real, _)) => {
            scanner.tree.anchors.insert(real);
            scanner.tree.unknown.insert(Arc::from(""), "not a directory".to_owned());
        }
        Err(error) => {
            scanner.tree.unknown.insert(Arc::from(""), error.to_string());
        }
    }
    scanner.tree
}

struct Scanner {
    tree: FileTree,
    /// Links still to follow: after everything that is reached without them, in the order of their
    /// paths.
    links: BTreeMap<SourceId, (PathBuf, OsString)>,
    seen: HashSet<(u64, u64)>,
}

impl Scanner {
    /// What an entry is; `None` if it is gone, or cannot be asked, which is noted.
    fn metadata(&mut self, entry: &DirEntry, child: &SourceId) -> Option<Metadata> {
        match entry.metadata() {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.tree.unknown.insert(Arc::clone(child), error.to_string());
                None
            }
        }
    }

    /// Scans a directory and all below it without following links; why not all of it.
    fn directories(
        &mut self,
        path: SourceId,
        real: PathBuf,
        metadata: &Metadata,
        budget: &mut Budget,
    ) -> Result<(), String> {
        let mut todo = BTreeMap::from([(path, (real, metadata.dev(), metadata.ino()))]);
        while let Some((path, (real, device, inode))) = todo.pop_first() {
            if !self.seen.insert((device, inode)) {
                continue;
            }
            let entries = match std::fs::read_dir(&real) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.tree.unknown.insert(path, error.to_string());
                    continue;
                }
            };
            self.tree.directories.insert(real.clone(), Arc::clone(&path));
            for entry in entries {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        self.tree.unknown.insert(Arc::clone(&path), error.to_string());
                        break;
                    }
                };
                let Ok(name) = entry.file_name().into_string() else {
                    let name = join(&path, &entry.file_name().to_string_lossy());
                    self.tree.odd.insert(name, "the name is not UTF-8 text".to_owned());
                    continue;
                };
                if FileKind::of(&name) == FileKind::Ignored {
                    continue;
                }
                let child = join(&path, &name);
                let Some(metadata) = self.metadata(&entry, &child) else {
                    continue;
                };
                budget.take(&child, &metadata)?;
                if metadata.is_symlink() {
                    self.links.insert(child, (real.clone(), entry.file_name()));
                } else if metadata.is_dir() {
                    if metadata.dev() != device {
                        self.tree.mounts.insert(Arc::clone(&child));
                    }
                    todo.insert(child, (entry.path(), metadata.dev(), metadata.ino()));
                } else {
                    self.file(child, entry.path(), &metadata);
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, path: SourceId, real: PathBuf, metadata: &Metadata) {
        if !metadata.is_file() {
            self.tree.odd.insert(path, "neither a file nor a directory".to_owned());
        } else if FileKind::of(path.rsplit('/').next().unwrap_or_default()) == FileKind::Other {
            self.tree.odd.insert(path, "by its name it holds no records".to_owned());
        } else if !self.tree.by_real.contains_key(&real) {
            self.tree.add(&path, &real, Stamp::of(metadata));
        }
    }

    /// Follows the links that were found. One that leads to too much is an error by itself, and the
    /// rest of the tree is read.
    fn follow_links(&mut self, root: &Path, budget: &mut Budget) -> Result<(), String> {
        while let Some((path, (directory, name))) = self.links.pop_first() {
            let resolved = resolve(&directory, Path::new(&name));
            self.tree.anchors.extend(resolved.anchors);
            let found = resolved
                .real
                .and_then(|real| real.metadata().map(|metadata| (real, metadata)));
            let (real, metadata) = match found {
                Ok(found) => found,
                Err(error) => {
                    let reason = format!("a link that leads nowhere: {error}");
                    self.tree.unknown.insert(path, reason);
                    continue;
                }
            };
            self.tree.anchors.insert(real.clone());
            if !metadata.is_dir() {
                budget.take(&path, &metadata)?;
                self.file(path, real, &metadata);
            } else if root.starts_with(&real) && real != root {
                let reason = format!(
                    "a link to {}, which the directory itself is in: not followed",
                    real.display()
                );
                self.tree.unknown.insert(path, reason);
            } else if real.starts_with(root) {
                self.directories(path, real, &metadata, budget)?;
            } else {
                self.outside(path, real, &metadata);
            }
        }
        Ok(())
    }

    /// Scans what a link leads to that lies outside of the directory, if it is not too much.
    fn outside(&mut self, path: SourceId, real: PathBuf, metadata: &Metadata) {
        let mut part = Scanner {
            tree: FileTree::default(),
            links: BTreeMap::new(),
            seen: self.seen.clone(),
        };
        let mut budget = Budget::new(MOST_BEHIND_A_LINK, depth_of(&path));
        let shown = real.display().to_string();
        if let Err(reason) = part.directories(Arc::clone(&path), real, metadata, &mut budget) {
            let reason = format!("a link to {shown}, below which there are {reason}: not followed");
            self.tree.unknown.insert(path, reason);
            return;
        }
        self.seen = part.seen;
        self.links.extend(part.links);
        self.tree.directories.extend(part.tree.directories);
        self.tree.unknown.extend(part.tree.unknown);
        self.tree.odd.extend(part.tree.odd);
        self.tree.mounts.extend(part.tree.mounts);
        for (file, found) in part.tree.files {
            if !self.tree.by_real.contains_key(&found.real) {
                self.tree.add(&file, &found.real, found.stamp);
            }
        }
    }
}

/// What is wrong with the tree itself, by place.
pub(crate) fn problems_of(directory: &Path, tree: &FileTree) -> BTreeMap<SourceId, Problem> {
    let unknown = tree.unknown.iter().map(|(place, reason)| {
        let problem = match &**place {
            "" => Problem::error(
                format!("directory {}: {reason}", directory.display()),
                InForce::Unchanged,
            ),
            _ => Problem::error(format!("cannot be read: {reason}"), InForce::Unchanged).at(place, None),
        };
        (Arc::clone(place), problem)
    });
    let odd = tree.odd.iter().map(|(place, reason)| {
        let problem = Problem {
            in_force: InForce::Nothing,
            ..Problem::warning(format!("ignored: {reason}"))
        };
        (Arc::clone(place), problem.at(place, None))
    });
    unknown.chain(odd).collect()
}
