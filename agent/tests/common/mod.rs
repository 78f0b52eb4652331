//! What several tests of the agent share: running the binary, and a pipeline on a kernel that is
//! only pretended.

#![expect(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub mod fake;
pub mod records;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The binary with a clean environment.
pub fn felid(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_felid"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FELID_") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs on records in a directory.
pub fn on(directory: &Path, arguments: &[&str]) -> Ran {
    let datastore = format!("dir:{}", directory.display());
    felid(arguments)
        .args(["--datastore", &datastore])
        .output()
        .unwrap()
        .into()
}

/// Runs with text on standard input.
pub fn with_input(arguments: &[&str], input: &str) -> Ran {
    let mut child = felid(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}
