//! Finds the files of the directory: one path of each, links followed, each directory once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::journal::DirectoryId;
use crate::names::ignored;
use crate::view::FilePath;

/// Links followed in one path.
const MAX_LINKS: usize = 40;

/// What changes when a file's content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the same file (not a new one that took its name) has this stamp.
    pub(crate) fn same_file(&self, other: &Stamp) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Whether nobody has touched the file for this long, as far as the clock can be trusted.
    pub(crate) fn older_than(&self, age: Duration, now: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let Ok(seconds) = u64::try_from(seconds) else {
            return true;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, u32::try_from(nanoseconds).unwrap_or(0));
        now.duration_since(changed).is_ok_and(|passed| passed >= age)
    }
}

/// A file with records.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The path without links.
    pub(crate) real: PathBuf,
    pub(crate) stamp: Stamp,
}

/// The directory's content at one moment.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// The root itself, without links, if it is there.
    pub(crate) root: Option<(PathBuf, DirectoryId)>,
    pub(crate) files: BTreeMap<FilePath, Found>,
    /// The path of a file by its path without links.
    pub(crate) by_real: HashMap<PathBuf, FilePath>,
    /// Directories by their paths without links.
    pub(crate) directories: HashMap<PathBuf, FilePath>,
    /// What could not be read, and why: nothing is known of the files at and below these paths.
    pub(crate) unknown: BTreeMap<FilePath, String>,
    /// What is neither file nor directory, or has a name that is not text, and why it is not read.
    pub(crate) odd: BTreeMap<FilePath, String>,
    /// Directories on another file system than the one above them.
    pub(crate) mounts: BTreeSet<FilePath>,
    /// Links on the way to the root and to files, and the root: what may be swapped.
    pub(crate) anchors: HashSet<PathBuf>,
}

impl Tree {
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
    pub(crate) fn add(&mut self, path: &FilePath, real: &Path, stamp: Stamp) {
        self.by_real.insert(real.to_owned(), Arc::clone(path));
        self.files.insert(
            Arc::clone(path),
            Found {
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
pub(crate) fn join(directory: &str, name: &str) -> FilePath {
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
        born: born.map_or(0, |time| time.as_nanos()),
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
pub(crate) fn walk(root: &Path) -> Tree {
    let mut walk = Walk {
        tree: Tree::default(),
        links: BTreeMap::new(),
        seen: HashSet::new(),
    };
    let resolved = resolve(Path::new("/"), root);
    walk.tree.anchors.extend(resolved.anchors);
    let found = resolved
        .real
        .and_then(|real| real.metadata().map(|metadata| (real, metadata)));
    match found {
        Ok((real, metadata)) if metadata.is_dir() => {
            walk.tree.anchors.insert(real.clone());
            walk.tree.root = Some((real.clone(), directory_id(&metadata)));
            walk.directories(Arc::from(""), real, &metadata);
            walk.follow_links();
            if walk.tree.directories.is_empty() && !walk.tree.is_unknown("") {
                // It vanished while it was being listed.
                walk.tree.root = None;
                walk.tree
                    .unknown
                    .insert(Arc::from(""), "the directory vanished".to_owned());
            }
        }
        Ok((real, _)) => {
            walk.tree.anchors.insert(real);
            walk.tree.unknown.insert(Arc::from(""), "not a directory".to_owned());
        }
        Err(error) => {
            walk.tree.unknown.insert(Arc::from(""), error.to_string());
        }
    }
    walk.tree
}

struct Walk {
    tree: Tree,
    /// Links still to follow: after everything that is reached without them, in the order of their paths.
    links: BTreeMap<FilePath, (PathBuf, OsString)>,
    seen: HashSet<(u64, u64)>,
}

impl Walk {
    fn directories(&mut self, path: FilePath, real: PathBuf, metadata: &Metadata) {
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
                if ignored(&name) {
                    continue;
                }
                let child = join(&path, &name);
                let metadata = match entry.metadata() {
                    Ok(metadata) => metadata,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => {
                        self.tree.unknown.insert(child, error.to_string());
                        continue;
                    }
                };
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
    }

    fn file(&mut self, path: FilePath, real: PathBuf, metadata: &Metadata) {
        if !metadata.is_file() {
            self.tree.odd.insert(path, "neither a file nor a directory".to_owned());
        } else if !self.tree.by_real.contains_key(&real) {
            self.tree.add(&path, &real, Stamp::of(metadata));
        }
    }

    fn follow_links(&mut self) {
        while let Some((path, (directory, name))) = self.links.pop_first() {
            let resolved = resolve(&directory, Path::new(&name));
            self.tree.anchors.extend(resolved.anchors);
            let found = resolved
                .real
                .and_then(|real| real.metadata().map(|metadata| (real, metadata)));
            match found {
                Ok((real, metadata)) if metadata.is_dir() => {
                    self.tree.anchors.insert(real.clone());
                    self.directories(path, real, &metadata);
                }
                Ok((real, metadata)) => {
                    self.tree.anchors.insert(real.clone());
                    self.file(path, real, &metadata);
                }
                Err(error) => {
                    self.tree
                        .unknown
                        .insert(path, format!("a link that leads nowhere: {error}"));
                }
            }
        }
    }
}
