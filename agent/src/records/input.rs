//! Records that a user hands over: files, directories, standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use felid_model::{Document, FileKind, Kind, SyntaxError, documents};
use serde_json::Value;

use crate::cli::FileArgs;

/// More than this in one file is no set of records.
const MAX_FILE: u64 = 256 << 20;
/// Deeper directories are a loop of links.
const MAX_DEPTH: usize = 64;

/// One file's text.
#[derive(Debug)]
pub(crate) struct Input {
    /// Path as the user would write it; `-` = standard input.
    pub(crate) name: String,
    /// Whether it was found in a directory.
    pub(crate) in_directory: bool,
    /// Documents in their order.
    pub(crate) documents: Vec<Document>,
    /// What was read.
    pub(crate) text: String,
    /// Why nothing could be read, if so.
    pub(crate) unreadable: Option<String>,
    /// Its name says that it holds no records: it was not read.
    pub(crate) is_other: bool,
}

/// Reads everything that `-f` names, in order; files of directories sorted by path. The first that
/// cannot be read is an error.
pub(crate) fn read(args: &FileArgs) -> anyhow::Result<Vec<Input>> {
    let inputs = read_all(args)?;
    for input in &inputs {
        if let Some(reason) = &input.unreadable {
            bail!("{}: {reason}", input.name);
        }
    }
    Ok(inputs)
}

/// As [`read`], but what cannot be read (a dangling link, a file that may not be opened) is an
/// input that says so, and hides no other.
pub(crate) fn read_all(args: &FileArgs) -> anyhow::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for path in &args.files {
        if path.as_os_str() == "-" {
            let bytes = bounded(std::io::stdin().lock(), "standard input")?;
            inputs.push(Input::new("-".to_owned(), false, bytes));
            continue;
        }
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                let mut files = Vec::new();
                walk(path, 0, &mut files);
                files.sort_by(|(a, _), (b, _)| a.cmp(b));
                inputs.extend(files.into_iter().map(|(file, found)| match found {
                    Ok(FileKind::Records) => open(&file, true),
                    Ok(_) => Input::other(&file),
                    Err(reason) => Input::unreadable(&file, true, reason),
                }));
            }
            Ok(_) => inputs.push(open(path, false)),
            Err(error) => inputs.push(Input::unreadable(path, false, error.to_string())),
        }
    }
    if !args.skip_empty {
        let everything = inputs.iter().map(|input| input.documents.len()).sum::<usize>();
        if everything == 0 && inputs.iter().all(|input| input.unreadable.is_none()) {
            let names: Vec<String> = args.files.iter().map(|path| path.display().to_string()).collect();
            bail!("{}: no documents (--skip-empty makes this no error)", names.join(", "));
        }
    }
    Ok(inputs)
}

fn open(path: &Path, in_directory: bool) -> Input {
    let name = path.display().to_string();
    let bytes = std::fs::File::open(path)
        .map_err(anyhow::Error::from)
        .and_then(|file| bounded(file, "the file"));
    match bytes {
        Ok(bytes) => Input::new(name, in_directory, bytes),
        Err(error) => Input::unreadable(path, in_directory, format!("{error:#}")),
    }
}

fn bounded(from: impl Read, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .with_context(|| name.to_owned())?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("{name}: more than {MAX_FILE} bytes");
    }
    Ok(bytes)
}

impl Input {
    /// A file or directory that cannot be read.
    fn unreadable(path: &Path, in_directory: bool, reason: String) -> Self {
        Input {
            name: path.display().to_string(),
            in_directory,
            documents: Vec::new(),
            text: String::new(),
            unreadable: Some(reason),
            is_other: false,
        }
    }

    /// A file of a directory that holds no records by its name.
    fn other(path: &Path) -> Self {
        Input {
            name: path.display().to_string(),
            in_directory: true,
            documents: Vec::new(),
            text: String::new(),
            unreadable: None,
            is_other: true,
        }
    }

    /// What is no text spoils the documents that it stands in, not the others.
    fn new(name: String, in_directory: bool, bytes: Vec<u8>) -> Self {
        let (text, is_text) = match String::from_utf8(bytes) {
            Ok(text) => (text, true),
            Err(error) => (String::from_utf8_lossy(error.as_bytes()).into_owned(), false),
        };
        let mut documents = documents(&text);
        for document in documents.iter_mut().filter(|_| !is_text) {
            let own = text.get(document.range.clone()).unwrap_or_default();
            if let Some((before, _)) = own.split_once(char::REPLACEMENT_CHARACTER) {
                let line = before.rsplit('\n').next().unwrap_or_default();
                let error = SyntaxError {
                    line: text
                        .get(..document.range.start)
                        .unwrap_or_default()
                        .matches('\n')
                        .count()
                        + before.matches('\n').count()
                        + 1,
                    column: line.chars().count() + 1,
                    reason: "not UTF-8".to_owned(),
                };
                document.set_unreadable(error, own);
            }
        }
        Input {
            name,
            in_directory,
            documents,
            text,
            unreadable: None,
            is_other: false,
        }
    }
}

/// Lists the files of a directory and of all below it, with the reason for each path that cannot be
/// followed.
fn walk(directory: &Path, depth: usize, files: &mut Vec<(PathBuf, Result<FileKind, String>)>) {
    let mut cannot = |path: &Path, reason: String| files.push((path.to_owned(), Err(reason)));
    if depth > MAX_DEPTH {
        return cannot(directory, "directories nested too deeply".to_owned());
    }
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return cannot(directory, error.to_string()),
    };
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                files.push((directory.to_owned(), Err(error.to_string())));
                continue;
            }
        };
        match look_at(&path) {
            Some(Ok(None)) => walk(&path, depth + 1, files),
            Some(Ok(Some(kind))) => files.push((path, Ok(kind))),
            Some(Err(reason)) => files.push((path, Err(reason))),
            None => {}
        }
    }
}

/// What a path of a directory is: a file of some kind, or (`Ok(None)`) a directory itself; `None`
/// if it is neither, or is passed over.
fn look_at(path: &Path) -> Option<Result<Option<FileKind>, String>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let kind = FileKind::of(&name);
    if kind == FileKind::Ignored {
        return None;
    }
    // Links are followed: a mounted ConfigMap has nothing else.
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Some(Ok(None)),
        Ok(metadata) => metadata.is_file().then_some(Ok(Some(kind))),
        Err(error) => match std::fs::read_link(path) {
            Ok(target) => Some(Err(format!("a link to {}: {error}", target.display()))),
            // It went while the directory was read.
            Err(_) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(_) => Some(Err(error.to_string())),
        },
    }
}

/// Gives a document of a namespaced kind that names no namespace this one.
pub(super) fn set_namespace(document: &mut Document, namespace: Option<&str>) {
    let (Some(namespace), Ok(Value::Object(content))) = (namespace, document.content.as_mut()) else {
        return;
    };
    let text = |key| content.get(key).and_then(Value::as_str);
    let kind = Kind::from_record(text("apiVersion").unwrap_or_default(), text("kind").unwrap_or_default());
    if !kind.is_some_and(Kind::is_namespaced) {
        return;
    }
    if let Some(Value::Object(metadata)) = content.get_mut("metadata")
        && metadata
            .get("namespace")
            .is_none_or(|value| value.is_null() || value.as_str() == Some(""))
    {
        metadata.insert("namespace".to_owned(), Value::String(namespace.to_owned()));
    }
}

/// `Kind/[namespace/]name` as the document says it, however bad that is.
pub(super) fn raw_name(document: &Document) -> Option<String> {
    let content = document.content.as_ref().ok()?;
    let text = |path: &str| content.pointer(path).and_then(Value::as_str);
    let (kind, name) = (text("/kind")?, text("/metadata/name")?);
    let namespace = text("/metadata/namespace")
        .map(|namespace| format!("{namespace}/"))
        .unwrap_or_default();
    Some(format!("{kind}/{namespace}{name}"))
}
