//! What is a record at all: which files of a directory are read, and which documents are none.
//!
//! Everything that reads records asks here: the agent, `apply`, `validate` and their kin. What
//! cannot be a record (a README, values of a chart, a template that nobody rendered) is passed over
//! with a warning. What may be one is not: it is read, and is an error where it cannot be.

use serde_json::{Map, Value};

use crate::documents::Document;
use crate::policy_scope::{PolicyScope, policy_scope};
use crate::{Kind, Selector};

/// What a name says of a file in a directory of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// It is read, whatever its ending is.
    Records,
    /// It is text for people or source of another program: it is not read, and that is said.
    Other,
    /// It is hidden, or an editor's or a package manager's own business, and is passed over.
    Ignored,
}

impl FileKind {
    /// Returns what this name, without directories, says. Of a directory's name only
    /// [`FileKind::Ignored`] means anything.
    pub fn of(name: &str) -> Self {
        let ends = |endings: &[&str]| {
            let name = name.to_ascii_lowercase();
            endings.iter().any(|ending| name.ends_with(ending))
        };
        if is_ignored(name) {
            FileKind::Ignored
        } else if ends(&OTHER_ENDINGS) || OTHER_NAMES.contains(&name) {
            FileKind::Other
        } else {
            FileKind::Records
        }
    }
}

/// Endings of what never holds records.
const OTHER_ENDINGS: [&str; 12] = [
    ".md",
    ".markdown",
    ".rst",
    ".adoc",
    ".html",
    ".tpl",
    ".gotmpl",
    ".j2",
    ".sh",
    ".py",
    ".tgz",
    ".tar.gz",
];

/// Files without an ending that stand beside records in a repository or a chart.
const OTHER_NAMES: [&str; 9] = [
    "README",
    "README.txt",
    "NOTES.txt",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
    "CHANGELOG",
    "Makefile",
    "CODEOWNERS",
];

/// Hidden names (`.git`, `.foo.swp`, `.#foo`, felid's own lock and temporary files, and the
/// `..data` and `..2024_01_01_...` directories of a mounted ConfigMap, whose files are reached by
/// the links
/// beside them), backups (`foo~`, `foo.bak`, `foo.orig`, `foo.rpmsave`), and the swap, scratch and
/// part files of editors and transfer programs.
fn is_ignored(name: &str) -> bool {
    const ENDINGS: [&str; 14] = [
        "~",
        ".bak",
        ".orig",
        ".rej",
        ".swp",
        ".swo",
        ".swx",
        ".tmp",
        ".part",
        ".rpmsave",
        ".rpmnew",
        ".dpkg-old",
        ".dpkg-new",
        ".dpkg-tmp",
    ];
    name.starts_with('.')
        || (name.starts_with('#') && name.ends_with('#'))
        || ENDINGS.iter().any(|ending| name.ends_with(ending))
        || is_vim_probe(name)
        || is_safe_write(name)
        || name == "lost+found"
}

/// vim tries whether it may create files in a directory with a file named 4913, or a number near
/// it.
fn is_vim_probe(name: &str) -> bool {
    name.len() <= 5
        && name
            .parse::<u32>()
            .is_ok_and(|n| n >= 4913 && (n - 4913).is_multiple_of(123))
}

/// JetBrains' safe write: `foo.yaml___jb_tmp___`, `foo.yaml___jb_old___`; gedit and Kate rename
/// hidden files or `foo.XXXXXX`, which is read as any other file for the moment that it exists.
fn is_safe_write(name: &str) -> bool {
    name.ends_with("___jb_tmp___") || name.ends_with("___jb_old___")
}

/// Why a document that could not be decoded is no record at all; `None` if it is one, or may be.
pub(crate) fn no_record(document: &Document) -> Option<String> {
    match &document.content {
        Ok(Value::Object(map)) => mapping(map),
        Ok(Value::String(text)) if says_record(text) => None,
        Ok(_) => Some("it is no record: it has no apiVersion and no kind".to_owned()),
        Err(_) => {
            let guess = document.guess();
            if guess.is_template && !has_scope(guess.kind.as_deref(), guess.namespace.as_deref()) {
                return Some(TEMPLATE.to_owned());
            }
            let other = !guess.says_record && !guess.maybe_policy;
            other.then(|| {
                "it is no record: it has no apiVersion and no kind, and it is neither YAML nor JSON".to_owned()
            })
        }
    }
}

const TEMPLATE: &str = "it is no record, but a template that was not rendered";

fn says_record(text: &str) -> bool {
    text.contains("apiVersion") || text.contains("kind:")
}

fn mapping(map: &Map<String, Value>) -> Option<String> {
    if let Some(reason) = template(map) {
        return Some(reason);
    }
    // However it is written: a mistyped record is no stranger.
    let has = |wanted: &str| map.keys().any(|key| key.trim().eq_ignore_ascii_case(wanted));
    if has("metadata") || has("spec") {
        return None;
    }
    let api_version = map.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if ["projectcalico", "networking.k8s.io"]
        .iter()
        .any(|group| api_version.contains(group))
    {
        return None;
    }
    let (what, is_known) = match map.get("kind") {
        Some(Value::String(kind)) if !kind.is_empty() => (
            "no apiVersion, no metadata and no spec",
            !api_version.is_empty() || Kind::from_name(kind).is_some() || policy_scope(kind).is_some(),
        ),
        _ => ("no kind, no metadata and no spec", has("kind")),
    };
    (!is_known).then(|| format!("it is no record: it has {what}"))
}

/// Whether a mapping is a template whose name, or what it selects, nobody has filled in.
fn template(map: &Map<String, Value>) -> Option<String> {
    let text = |path: &[&str]| {
        let mut steps = path.iter();
        let first = map.get(*steps.next()?)?;
        steps.try_fold(first, |value, step| value.get(step))
    };
    let identity: [&[&str]; 7] = [
        &["apiVersion"],
        &["kind"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["spec", "selector"],
        &["spec", "namespaceSelector"],
        &["spec", "podSelector"],
    ];
    // A selector that parses is one, whatever it compares with.
    let parses = |value: &Value| value.as_str().is_some_and(|text| Selector::parse(text).is_ok());
    let is_open = identity
        .iter()
        .filter_map(|path| Some((path.last()?, text(path)?)))
        .any(|(field, value)| has_action(&value.to_string()) && !(field.ends_with("elector") && parses(value)));
    let literal = |path: &[&str]| text(path).and_then(Value::as_str);
    let scope = has_scope(literal(&["kind"]), literal(&["metadata", "namespace"]));
    (is_open && !scope).then(|| TEMPLATE.to_owned())
}

/// Whether it says of a policy in which namespace it holds, so that nothing else needs to be closed
/// for it.
fn has_scope(kind: Option<&str>, namespace: Option<&str>) -> bool {
    let is_plain = |text: &&str| !text.is_empty() && !has_action(text);
    let scope = kind.filter(is_plain).and_then(policy_scope);
    let namespaced = matches!(scope, Some(PolicyScope::Namespace | PolicyScope::NamespaceIfNamed));
    namespaced && namespace.filter(is_plain).is_some()
}

/// Whether a text holds what a renderer of templates replaces: `{{ ... }}` or `{% ... %}`.
pub(crate) fn has_action(text: &str) -> bool {
    let between = |begin: &str, end: &str| text.split_once(begin).is_some_and(|(_, rest)| rest.contains(end));
    between("{{", "}}") || between("{%", "%}")
}

/// Whether a text is a template that does not parse because of what is to be replaced in it. What
/// stands in comments and within quotes hurts no YAML, so it does not count.
pub(crate) fn is_unrendered(text: &str) -> bool {
    text.lines().any(|line| has_action(&plain_part(line)))
}

/// A line of YAML without its comment and without what it quotes.
fn plain_part(line: &str) -> String {
    let (mut plain, mut quote) = (String::with_capacity(line.len()), None);
    let mut before = ' ';
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '#' && before.is_whitespace() => break,
            // A quote begins a text only where a value may begin.
            None if (c == '"' || c == '\'') && !before.is_alphanumeric() => quote = Some(c),
            None => plain.push(c),
        }
        before = c;
    }
    plain
}

/// Whether a mapping without a kind looks like a policy: rules, and what they are for.
pub(crate) fn looks_like_policy(map: &Map<String, Value>) -> bool {
    let Some(Value::Object(spec)) = map.get("spec") else {
        return false;
    };
    let has = |keys: &[&str]| keys.iter().any(|key| spec.contains_key(*key));
    has(&["ingress", "egress"]) && has(&["selector", "podSelector", "types", "policyTypes", "subject", "tier"])
        || has(&["types", "policyTypes"])
}

#[cfg(test)]
mod tests {
    use super::FileKind::{self, Ignored, Other, Records};

    #[test]
    fn editors_files_are_ignored() {
        for name in [
            ".foo.yaml.swp",
            ".#foo.yaml",
            "#foo.yaml#",
            "foo.yaml~",
            "4913",
            "5036",
            "..data",
            "..2024_05_06_07_08_09.123456789",
            ".felid.lock",
            ".helmignore",
            "foo.yaml.bak",
            "foo.yaml___jb_tmp___",
            "foo.yaml.dpkg-old",
        ] {
            assert_eq!(FileKind::of(name), Ignored, "{name}");
        }
    }

    #[test]
    fn what_is_for_people_is_not_read() {
        for name in [
            "README.md",
            "readme.MD",
            "README",
            "NOTES.txt",
            "_helpers.tpl",
            "LICENSE",
            "x.j2",
        ] {
            assert_eq!(FileKind::of(name), Other, "{name}");
        }
    }

    #[test]
    fn any_other_name_is_read() {
        for name in [
            "foo.yaml",
            "foo.json",
            "foo",
            "4912",
            "readme.yaml",
            "49130000",
            "#foo",
            "a b.yml",
            "ünïcode",
            "notes.txt",
        ] {
            assert_eq!(FileKind::of(name), Records, "{name}");
        }
    }
}
