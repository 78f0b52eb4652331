//! `felid get --watch` as a user sees it, and that nothing of a record drives the terminal of who
//! reads it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::{felid, on};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// A running `felid get --watch`, and its lines.
struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Watching {
    fn new(directory: &Path, arguments: &[&str]) -> Self {
        let mut child = felid(arguments)
            .args(["--datastore", &format!("dir:{}", directory.display())])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let out: BufReader<ChildStdout> = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).unwrap()
    }

    /// One document of YAML, which begins with `---`.
    fn document(&self, lines: usize) -> Value {
        assert_eq!(self.line(), "---");
        let text: String = (0..lines).map(|_| self.line() + "\n").collect();
        felid_model::documents(&text)[0].content.clone().unwrap()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tier(name: &str, order: u32) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {{name: {name}}}\nspec: {{order: {order}}}\n")
}

fn write(directory: &Path, name: &str, text: &str) {
    let temporary = directory.join(format!(".{name}.tmp"));
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(&temporary, directory.join(name)).unwrap();
}

/// Adds a record, changes it, and removes it; `seen` looks at what is printed after each.
fn come_change_and_go(directory: &Path, mut seen: impl FnMut(&str, &str, u32)) {
    seen("ADDED", "first", 1);
    write(directory, "longer.yaml", &tier("longer-name", 20));
    seen("ADDED", "longer-name", 20);
    write(directory, "longer.yaml", &tier("longer-name", 3));
    seen("MODIFIED", "longer-name", 3);
    std::fs::remove_file(directory.join("longer.yaml")).unwrap();
    seen("DELETED", "longer-name", 3);
}

#[test]
fn a_table_grows_line_by_line() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "first.yaml", &tier("first", 1));
    let watching = Watching::new(dir.path(), &["get", "tiers", "--watch"]);
    let heading: Vec<String> = watching.line().split_whitespace().map(str::to_owned).collect();
    assert_eq!(heading, ["EVENT", "NAME", "ORDER"]);
    let mut columns = Vec::new();
    come_change_and_go(dir.path(), |event, name, order| {
        let line = watching.line();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells, [event, name, &order.to_string()], "{line:?}");
        columns.push(line.rfind(cells[2]).unwrap());
    });
    assert_eq!(columns[1], columns[2], "columns stay where they are");
    assert!(columns.is_sorted(), "no column gets narrower: {columns:?}");
}

#[test]
fn names_and_events() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "first.yaml", &tier("first", 1));
    let watching = Watching::new(dir.path(), &["get", "tiers", "-w", "-o", "name"]);
    come_change_and_go(dir.path(), |event, name, _| {
        assert_eq!(watching.line(), format!("{event} tier/{name}"));
    });
}

#[test]
fn json_has_an_object_a_line() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "first.yaml", &tier("first", 1));
    let watching = Watching::new(dir.path(), &["get", "tiers", "-w", "-o", "json"]);
    come_change_and_go(dir.path(), |event, name, order| {
        let line: Value = serde_json::from_str(&watching.line()).unwrap();
        assert_eq!(line["type"], event);
        assert_eq!(line["object"]["kind"], "Tier");
        assert_eq!(line["object"]["metadata"]["name"], name);
        assert_eq!(line["object"]["spec"]["order"], order);
    });
}

#[test]
fn yaml_has_a_document_an_event() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "first.yaml", &tier("first", 1));
    let watching = Watching::new(dir.path(), &["get", "tiers", "-w", "-o", "yaml"]);
    come_change_and_go(dir.path(), |event, name, order| {
        // type, object, apiVersion, kind, metadata with name and resourceVersion, spec with order.
        let document = watching.document(9);
        assert_eq!(document["type"], event, "{document}");
        assert_eq!(document["object"]["metadata"]["name"], name);
        assert_eq!(document["object"]["spec"], json!({"order": order}));
    });
}

/// Colours, a title, a carriage return, the other direction of writing, a forged line.
const EVIL: &str = "\\e[31mred\\e]0;title\\a\\rover\\u202Etxt\\u200B\\x9B2J\\nfelid: forged";

/// Records whose texts try to drive the terminal: good ones, bad ones, foreign ones.
fn evil_records(directory: &Path) {
    let good = format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata:\n  name: p\n  annotations: {{note: \"{EVIL}\"}}\nspec:\n  selector: \"has(a) \\n\\t && has(b)\"\n  ingress: [{{action: Allow, metadata: {{annotations: {{\"why\": \"{EVIL}\"}}}}}}]\n"
    );
    let bad = format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{name: \"{EVIL}\"}}\nspec: {{selector: \"{EVIL}\", \"{EVIL}\": \"{EVIL}\"}}\n"
    );
    let foreign = format!("apiVersion: \"{EVIL}\"\nkind: \"{EVIL}\"\nmetadata: {{name: \"{EVIL}\"}}\n");
    write(
        directory,
        "evil\u{1b}[31m\n.yaml",
        &format!("{good}---\n{bad}---\n{foreign}---\n\"{EVIL}"),
    );
}

fn is_clean(what: &str, text: &str) {
    let hidden = |c: &char| {
        (c.is_control() && *c != '\n') || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{feff}')
    };
    assert_eq!(text.chars().find(hidden), None, "{what}: {text:?}");
    let forged = text.lines().any(|line| line.starts_with("felid: forged"));
    assert!(!forged, "{what}: {text}");
}

#[test]
fn nothing_of_a_record_drives_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    evil_records(dir.path());
    let files = dir.path().to_str().unwrap();
    let evil = "\u{1b}[31m\u{202e}\u{9b}2J\nfelid: forged";
    for arguments in [
        &["get", "networkpolicies", "-A"][..],
        &["get", "networkpolicies", "-A", "-o", "wide"],
        &["get", "networkpolicies", "-A", "-o", "name"],
        &["get", "networkpolicies", "-A", "-o", "yaml"],
        &["get", "networkpolicies", "-A", "-o", "json"],
        &["get", "networkpolicies", "-A", "-o", "custom-columns=NAME,SELECTOR"],
        &["get", "networkpolicy", evil],
        &["get", evil],
        &["delete", "tier", evil],
        &["apply", "-f", files],
        &["explain", "--from", evil, "--to", evil, "--port", "80"],
    ] {
        let ran = on(dir.path(), arguments);
        is_clean(&format!("{arguments:?}, output"), &ran.out);
        is_clean(&format!("{arguments:?}, errors"), &ran.err);
    }
    for arguments in [
        &["validate", "-f", files][..],
        &["validate", "-f", files, "-o", "json"],
        &["convert", "-f", files],
        &["convert", "-f", files, "-o", "json"],
        &["test", evil],
        &["validate", "-f", evil],
        &["convert", "-f", evil],
        &["selector", evil],
    ] {
        let ran: common::Ran = felid(arguments).output().unwrap().into();
        is_clean(&format!("{arguments:?}, output"), &ran.out);
        is_clean(&format!("{arguments:?}, errors"), &ran.err);
    }
    // The record is shown with all that it says.
    let ran = on(dir.path(), &["get", "networkpolicy", "p", "-o", "yaml"]);
    let document = felid_model::documents(&ran.out)[0].content.clone().unwrap();
    let ran = on(dir.path(), &["get", "networkpolicy", "p", "-o", "json"]);
    assert_eq!(document, serde_json::from_str::<Value>(&ran.out).unwrap());
    let note = document["metadata"]["annotations"]["note"].as_str().unwrap();
    assert!(note.contains("\u{1b}[31mred") && note.contains('\u{202e}'), "{note:?}");
}

#[test]
fn what_is_watched_drives_no_terminal() {
    let dir = tempfile::tempdir().unwrap();
    evil_records(dir.path());
    for format in ["table", "wide", "json", "yaml", "name"] {
        let watching = Watching::new(dir.path(), &["get", "networkpolicies", "-A", "-w", "-o", format]);
        let mut text = watching.line() + "\n";
        while let Ok(line) = watching.lines.recv_timeout(Duration::from_millis(300)) {
            text += &(line + "\n");
        }
        is_clean(format, &text);
    }
}
