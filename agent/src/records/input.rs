//! Records that a user hands over: files, directories, standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use felid_model::{Document, Kind, SyntaxError, documents};
use serde_json::Value;

use crate::cli::FileArgs;

/// More than this in one file is no set of records.
const MAX_FILE: u64 = 256 << 20;
/// Deeper directories are a loop of links.
const MAX_DEPTH: usize = 64;

/// Which files of a directory count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// `.yaml`, `.yml`, `.json`, as calicoctl.
    Records,
    /// Any that is not hidden or an editor's, as the datastore.
    Any,
}

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
}

/// Reads everything that `-f` names, in order; files of directories sorted by path.
pub(crate) fn read(args: &FileArgs, names: Names) -> anyhow::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for path in &args.files {
        if path.as_os_str() == "-" {
            let bytes = bounded(std::io::stdin().lock(), "standard input")?;
            inputs.push(Input::new("-".to_owned(), false, bytes));
            continue;
        }
        let metadata = std::fs::metadata(path).with_context(|| path.display().to_string())?;
        if metadata.is_dir() {
            let mut files = Vec::new();
            walk(path, names, 0, &mut files)?;
            files.sort();
            for file in files {
                inputs.push(open(&file, true)?);
            }
        } else {
            inputs.push(open(path, false)?);
        }
    }
    if !args.skip_empty {
        let everything = inputs.iter().map(|input| input.documents.len()).sum::<usize>();
        if everything == 0 {
            let names: Vec<String> = args.files.iter().map(|path| path.display().to_string()).collect();
            bail!("{}: no documents (--skip-empty makes this no error)", names.join(", "));
        }
    }
    Ok(inputs)
}

fn open(path: &Path, in_directory: bool) -> anyhow::Result<Input> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).with_context(|| name.clone())?;
    let bytes = bounded(file, &name)?;
    Ok(Input::new(name, in_directory, bytes))
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
                document.content = Err(SyntaxError {
                    line: text
                        .get(..document.range.start)
                        .unwrap_or_default()
                        .matches('\n')
                        .count()
                        + before.matches('\n').count()
                        + 1,
                    column: line.chars().count() + 1,
                    reason: "not UTF-8".to_owned(),
                });
            }
        }
        Input {
            name,
            in_directory,
            documents,
            text,
        }
    }
}

fn walk(directory: &Path, names: Names, depth: usize, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if depth > MAX_DEPTH {
        bail!("{}: directories nested too deeply", directory.display());
    }
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry.with_context(|| directory.display().to_string())?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name.ends_with('~') || (name.starts_with('#') && name.ends_with('#')) {
            continue;
        }
        // Links are followed: a mounted ConfigMap has nothing else.
        let metadata = std::fs::metadata(&path).with_context(|| path.display().to_string())?;
        let extension = path
            .extension()
            .and_then(|extension| extension.to_str())
            .unwrap_or_default();
        let fits = match names {
            Names::Records => matches!(extension, "yaml" | "yml" | "json"),
            Names::Any => !matches!(extension, "bak" | "orig" | "rej" | "swp" | "tmp"),
        };
        if metadata.is_dir() {
            walk(&path, names, depth + 1, files)?;
        } else if metadata.is_file() && fits {
            files.push(path);
        }
    }
    Ok(())
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
