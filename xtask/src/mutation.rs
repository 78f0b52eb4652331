//! Breaks the compiler in many small ways, one at a time, in a copy of the sources, and shows that
//! equivalence finds each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::command::{cargo, root};

/// Where the mutations are.
const MUTATIONS: &str = "tests/mutation/mutations.json";
/// Not copied.
const LEFT_OUT: [&str; 2] = ["target", ".git"];
/// The comparisons, quick ones first: the first that fails is enough.
const COMPARISONS: [&str; 2] = ["small_policies", "large_policies"];

/// One way to break the compiler.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutation {
    /// What it is, in words.
    what: String,
    /// Path from the root of the checkout.
    file: PathBuf,
    /// What stands there, exactly once.
    find: String,
    /// What stands there instead.
    replace: String,
}

impl Mutation {
    /// The file's text with the mutation.
    fn apply(&self, text: &str) -> Result<String> {
        match text.matches(&self.find).count() {
            1 => Ok(text.replacen(&self.find, &self.replace, 1)),
            count => bail!(
                "{:?} stands {count} times in {}, not once: {MUTATIONS} must follow the sources",
                self.find,
                self.file.display()
            ),
        }
    }
}

fn mutations() -> Result<Vec<Mutation>> {
    let path = root().join(MUTATIONS);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))
}

/// `cargo xtask mutation`
pub(crate) fn run(only: Option<&str>) -> Result<()> {
    let all = mutations()?;
    let chosen: Vec<&Mutation> = all
        .iter()
        .filter(|mutation| only.is_none_or(|only| mutation.what.contains(only)))
        .collect();
    let target = target_directory()?.join("mutation");
    let tree = target.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    copy(&root(), &tree)?;
    // What is found must be the mutation, not a fault that is there anyway.
    if !matches!(compare(&tree, &target)?, Comparison::Nothing) {
        bail!("equivalence fails without any mutation");
    }
    let mut caught = 0;
    for (number, mutation) in chosen.iter().enumerate() {
        let path = tree.join(&mutation.file);
        let before = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        fs::write(&path, mutation.apply(&before)?)?;
        let found = compare(&tree, &target)?;
        fs::write(&path, before)?;
        let words = match found {
            Comparison::Disagreement(test) => {
                caught += 1;
                format!("caught by {test}")
            }
            Comparison::Nothing => "NOT CAUGHT".to_owned(),
            Comparison::NoBuild(error) => format!("DOES NOT BUILD\n{error}"),
        };
        println!("{:2}. {}: {words}", number + 1, mutation.what);
    }
    println!("caught {caught} of {}", chosen.len());
    if caught < chosen.len() {
        bail!("equivalence misses {} mutations", chosen.len() - caught);
    }
    Ok(())
}

/// What the comparisons say.
enum Comparison {
    /// This test failed.
    Disagreement(&'static str),
    Nothing,
    NoBuild(String),
}

fn compare(tree: &Path, target: &Path) -> Result<Comparison> {
    let test = |arguments: &[&str]| -> Result<std::process::Output> {
        let mut command: Command = cargo();
        command
            .current_dir(tree)
            .args([
                "test",
                "--quiet",
                "--locked",
                "--package",
                "felid-compile",
                "--test",
                "equivalence",
            ])
            .args(arguments)
            .env("CARGO_TARGET_DIR", target)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null());
        command.output().context("cannot start cargo")
    };
    let build = test(&["--no-run"])?;
    if !build.status.success() {
        return Ok(Comparison::NoBuild(String::from_utf8_lossy(&build.stderr).into_owned()));
    }
    for name in COMPARISONS {
        if !test(&[name])?.status.success() {
            return Ok(Comparison::Disagreement(name));
        }
    }
    Ok(Comparison::Nothing)
}

/// Where cargo builds, as it says itself.
fn target_directory() -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct CargoMetadata {
        target_directory: PathBuf,
    }
    let text = crate::command::output(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: CargoMetadata = serde_json::from_str(&text)?;
    Ok(metadata.target_directory)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let (source, copied) = (entry.path(), to.join(&name));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if !LEFT_OUT.iter().any(|left_out| name == *left_out) {
                copy(&source, &copied)?;
            }
        } else if kind.is_file() && name != ".git" {
            fs::copy(&source, &copied).with_context(|| format!("cannot copy {}", source.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_mutation_applies() {
        let all = mutations().unwrap();
        assert!(all.len() >= 20);
        for mutation in all {
            let text = fs::read_to_string(root().join(&mutation.file)).unwrap();
            let changed = mutation.apply(&text).unwrap();
            assert_ne!(changed, text, "{}", mutation.what);
        }
    }
}
