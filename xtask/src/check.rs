//! Checks that are not tests: formatting, lints, documentation, dependencies.

use anyhow::{Result, bail};

use crate::command::{cargo, root, run, works};

/// What passed, failed and was skipped.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// What failed, for the end of the output.
    pub(crate) failures: Vec<String>,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
    }

    fn check(&mut self, name: &str, result: Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => {
                self.failed += 1;
                self.failures.push(format!("{name}: {error:#}"));
            }
        }
    }

    pub(crate) fn into_result(self) -> Result<()> {
        if self.failed > 0 {
            bail!("{} failed:\n  {}", self.failed, self.failures.join("\n  "));
        }
        Ok(())
    }
}

/// All of them. `install`: get cargo-deny where it is missing (minutes); otherwise its check is
/// skipped then.
pub(crate) fn all(install: bool) -> Counts {
    let mut counts = Counts::default();
    counts.check("formatting", run(cargo().args(["fmt", "--all", "--check"])));
    counts.check("width of comments", crate::comments::check(&root()));
    counts.check(
        "lints",
        run(cargo().args([
            "clippy",
            "--workspace",
            "--exclude",
            "felid-ebpf",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ])),
    );
    counts.check(
        "documentation",
        run(cargo().env("RUSTDOCFLAGS", "-D warnings").args([
            "doc",
            "--workspace",
            "--exclude",
            "felid-ebpf",
            "--no-deps",
            "--document-private-items",
            "--quiet",
        ])),
    );
    let deny = works(cargo().args(["deny", "--version"]));
    if deny || install {
        counts.check("dependencies", dependencies(deny));
    } else {
        eprintln!(
            "skipped: licences and sources of dependencies (`cargo xtask check` installs cargo-deny and runs it)"
        );
        counts.skipped += 1;
    }
    counts
}

fn dependencies(present: bool) -> Result<()> {
    if !present {
        run(cargo().args(["install", "cargo-deny", "--locked"]))?;
    }
    run(cargo().args(["deny", "--workspace", "check", "bans", "licenses", "sources"]))
}
