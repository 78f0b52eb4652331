//! The reference cases and the users' example by `felid test`: through the programs in the kernel,
//! and live.

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

/// A good policy, a bad one in its place, and one without a name: each closes in its own case.
const BAD: &str = "
name: a bad version closes
namespaces: [{name: x}]
pods: [{namespace: x, name: a, labels: {a: a}, ips: [10.1.0.1]}, {namespace: x, name: b, ips: [10.1.0.2]}]
resources:
- {apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: p, namespace: x}, spec: {selector: has(a), ingress: [{action: Allow}]}}
expect: [{from: x/b, to: x/a, protocol: TCP, port: 80, allowed: true}]
steps:
- apply:
  - {apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: p, namespace: x}, spec: {selector: has(a), ingress: [{action: Alow}]}}
  expect: [{from: x/b, to: x/a, protocol: TCP, port: 80, allowed: false}, {from: x/a, to: x/b, protocol: TCP, port: 80, allowed: false}]
- apply:
  - {apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: p, namespace: x}, spec: {selector: has(a), ingress: [{action: Allow}]}}
  expect: [{from: x/b, to: x/a, protocol: TCP, port: 80, allowed: true}]
---
name: bad from the start, where a good one was
namespaces: [{name: x}]
pods: [{namespace: x, name: a, labels: {a: a}, ips: [10.1.0.1]}, {namespace: x, name: b, ips: [10.1.0.2]}]
resources:
- {apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: p, namespace: x}, spec: {selector: has(a), ingress: [{action: Alow}]}}
expect: [{from: x/b, to: x/a, protocol: TCP, port: 80, allowed: false}]
---
name: without a name
namespaces: [{name: x}]
pods: [{namespace: x, name: a, labels: {a: a}, ips: [10.1.0.1]}, {namespace: x, name: b, ips: [10.1.0.2]}]
resources:
- {apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, spec: {selector: has(a), ingress: [{action: Allow}]}}
expect: [{from: x/b, to: x/a, protocol: TCP, port: 80, allowed: false}, {from: x/a, to: x/b, protocol: TCP, port: 80, allowed: false}]
---
name: nothing of it is left
namespaces: [{name: x}]
pods: [{namespace: x, name: a, labels: {a: a}, ips: [10.1.0.1]}, {namespace: x, name: b, ips: [10.1.0.2]}]
expect: [{from: x/b, to: x/a, protocol: TCP, port: 80, allowed: true}, {from: x/a, to: x/b, protocol: TCP, port: 80, allowed: true}]
";

/// The engines agree about documents that cannot be read, also where the agent alone would keep the
/// last good version.
#[test]
fn documents_that_cannot_be_read() -> Result<()> {
    use std::io::Write as _;
    for engine in ["reference", "kernel", "live"] {
        let mut child = Command::new(felid()?)
            .args(["test", "-", "--engine", engine])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .context("run felid")?;
        child
            .stdin
            .take()
            .context("standard input")?
            .write_all(BAD.as_bytes())?;
        let output = child.wait_with_output()?;
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert_eq!(output.status.code(), Some(0), "{engine}: {out}{err}");
        assert!(out.contains("0 failed"), "{engine}: {out}");
        assert_eq!(err.matches("cannot be read").count(), 3, "{engine}: {err}");
    }
    Ok(())
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
