//! Whether comments are narrow enough to be read beside other things.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The most columns of a line that holds nothing but a comment.
const COLUMNS: usize = 100;

/// Directories that hold no source of felid.
const SKIPPED: [&str; 2] = ["target", "artifacts"];

/// Fails if a comment in a Rust file below `root` is wider than [`COLUMNS`], and names each such
/// line.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let shown = file.strip_prefix(root).unwrap_or(&file).display();
        found.extend(too_wide(&text).map(|line| format!("{shown}:{line}")));
    }
    if found.is_empty() {
        return Ok(());
    }
    bail!(
        "{} comments are wider than {COLUMNS} columns: {}",
        found.len(),
        found.join(" ")
    )
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && !SKIPPED.contains(&name.as_ref()) {
                collect(&path, files)?;
            }
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Numbers, from 1, of the lines that are a comment and too wide. A comment that is a single word,
/// such as an address, cannot be broken and may be as wide as it is.
fn too_wide(text: &str) -> impl Iterator<Item = usize> {
    let lines = (1..).zip(text.lines());
    lines.filter_map(|(number, line)| {
        let comment = line.trim_start().strip_prefix("//")?;
        let words = comment.trim_start_matches(['/', '!']).split_whitespace().count();
        (words > 1 && line.chars().count() > COLUMNS).then_some(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wide_comments_of_several_words_are_found() {
        let wide = "word ".repeat(20);
        let text = format!(
            "//! {wide}\nlet x = \"{wide}\"; let y = 1;\n    /// {wide}\n// {}\n// {}\n// {wide}\n",
            "x".repeat(200),
            "ä ".repeat(48),
        );
        assert_eq!(too_wide(&text).collect::<Vec<_>>(), [1, 3, 6]);
    }
}
