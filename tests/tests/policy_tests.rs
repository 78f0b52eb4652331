//! The reference cases and the users' example by `felid test`: through the programs in the kernel, and live.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use felid_tests::felid;

fn files() -> Result<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![
        root.join("../examples/policy-tests/shop.yaml"),
        root.join("data/policy-tests.yaml"),
    ];
    for entry in std::fs::read_dir(root.join("cases/policy-tests"))? {
        files.push(entry?.path());
    }
    Ok(files)
}

fn holds(engine: &str) -> Result<()> {
    let output = Command::new(felid()?)
        .args(["test", "--engine", engine])
        .args(files()?)
        .output()
        .context("run felid")?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(output.stderr.is_empty(), "{text}");
    Ok(())
}

#[test]
fn by_the_reference() -> Result<()> {
    holds("reference")
}

#[test]
fn in_the_kernel() -> Result<()> {
    holds("kernel")
}

#[test]
fn live() -> Result<()> {
    holds("live")
}

/// Nothing is left of a node that was killed.
#[test]
fn nothing_is_left_behind() -> Result<()> {
    let traces = || -> Result<(usize, usize)> {
        let namespaces = felid_tests::Namespace::named("felid-test")?.len();
        let listed = std::fs::read_dir(std::env::temp_dir())?.flatten();
        Ok((
            namespaces,
            listed
                .filter(|entry| entry.file_name().to_string_lossy().starts_with("felid-test"))
                .count(),
        ))
    };
    let before = traces()?;
    let mut child = Command::new(felid()?)
        .args(["test", "--engine", "live"])
        .args(files()?)
        .spawn()
        .context("run felid")?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    child.kill()?;
    child.wait()?;
    assert_eq!(traces()?, before);
    Ok(())
}
