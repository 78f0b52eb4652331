//! `cargo xtask test`: every tier, and the counts at the end.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::check::{self, Counts};
use crate::command::{cargo, need_root, shown};
use crate::setup;

/// Live tests that run on a directory of files and on a stream of JSON lines.
const ON_BOTH_DATASTORES: [&str; 4] = ["live_policy", "live_change", "live_host", "live_nat"];

/// Runs everything; with a filter or without root, less.
pub(crate) fn run(filter: Option<&str>, no_root: bool) -> Result<()> {
    setup::build_tools()?;
    let mut counts = if filter.is_none() {
        check::all(false)
    } else {
        Counts::default()
    };
    counts.add(tests(cargo().args(["test", "--no-fail-fast"]), filter)?);
    if no_root {
        eprintln!("skipped: tests that need root");
    } else {
        need_root("cargo xtask test")?;
        setup::host_tools()?;
        // The live tests run the agent as users do; optimised, so that they measure the real thing.
        let agent = crate::command::build_agent()?;
        let mut live = cargo();
        live.env("FELID_BIN", &agent)
            .args(["test", "--release", "--package", "felid-tests", "--no-fail-fast"]);
        counts.add(tests(&mut live, filter)?);
        // A good share of them once more, on the other datastore.
        let mut stream = cargo();
        stream
            .env("FELID_BIN", agent)
            .env("FELID_LIVE_DATASTORE", "stream")
            .args(["test", "--release", "--package", "felid-tests", "--no-fail-fast"])
            .args(ON_BOTH_DATASTORES.iter().flat_map(|test| ["--test", test]));
        counts.add(tests(&mut stream, filter)?);
    }
    for failure in &counts.failures {
        eprintln!("failed: {failure}");
    }
    println!(
        "{} passed, {} failed, {} skipped",
        counts.passed, counts.failed, counts.skipped
    );
    if counts.failed > 0 {
        bail!("{} failed", counts.failed);
    }
    Ok(())
}

/// Runs a `cargo test`, shows its output as it comes and adds up its counts.
fn tests(command: &mut Command, filter: Option<&str>) -> Result<Counts> {
    command.args(filter);
    let name = shown(command);
    eprintln!("+ {name}");
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let mut counts = Counts::default();
    let mut out = std::io::stdout();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("output of cargo test")?;
            // A reader that went away does not stop the tests.
            let _ = writeln!(out, "{line}");
            if let Some(test) = line
                .strip_prefix("test ")
                .and_then(|rest| rest.strip_suffix(" ... FAILED"))
            {
                counts.failures.push(test.to_owned());
            }
            if let Some(result) = line.strip_prefix("test result: ") {
                let number = |word: &str| {
                    let before = result.split(word).next().unwrap_or_default();
                    before
                        .rsplit(|c: char| !c.is_ascii_digit())
                        .find(|n| !n.is_empty())
                        .and_then(|n| n.parse::<u64>().ok())
                        .unwrap_or(0)
                };
                counts.passed += number(" passed");
                counts.failed += number(" failed");
                counts.skipped += number(" ignored");
            }
        }
    }
    let status = child.wait().with_context(|| format!("waiting for {name}"))?;
    if !status.success() && counts.failed == 0 {
        // It did not build, or a test binary died.
        counts.failed += 1;
        counts.failures.push(format!("{name} ({status})"));
    }
    Ok(counts)
}

/// The kernel against the reference evaluator, by a program of the tests' crate.
pub(crate) fn equivalence(pairs: u64, seed: Option<u64>) -> Result<()> {
    need_root("cargo xtask equivalence")?;
    setup::build_tools()?;
    let mut command = cargo();
    command.args([
        "run",
        "--release",
        "--package",
        "felid-tests",
        "--bin",
        "equivalence",
        "--",
        "--pairs",
        &pairs.to_string(),
    ]);
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    crate::command::run(&mut command)
}

/// Each fuzz target for a while.
pub(crate) fn fuzz(seconds: u64) -> Result<()> {
    if !crate::command::works(cargo().args(["fuzz", "--version"])) {
        crate::command::run(cargo().args(["install", "cargo-fuzz", "--locked"]))?;
    }
    // Corpora from the records of the tests and examples.
    crate::command::run(cargo().args(["run", "--quiet", "--manifest-path", "fuzz/Cargo.toml", "--bin", "seed"]))?;
    for target in ["yaml", "selector", "cases", "stream"] {
        // Sanitizers need a nightly compiler, which RUSTC_BOOTSTRAP makes of the pinned one.
        crate::command::run(cargo().env("RUSTC_BOOTSTRAP", "1").args([
            "fuzz",
            "run",
            target,
            "--",
            &format!("-max_total_time={seconds}"),
        ]))?;
    }
    Ok(())
}
