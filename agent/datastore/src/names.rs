//! Which names in the directory are records, and which are an editor's or Kubernetes' own business.

/// Whether a file or directory of this name is never read as records: hidden names (`.git`, `.foo.swp`, `.#foo`, felid's own lock and
/// temporary files, and the `..data` and `..2024_01_01_...` directories of a mounted ConfigMap, whose files are reached
/// by the links beside them), backups (`foo~`, `foo.bak`, `foo.orig`, `foo.rpmsave`), and the swap, scratch and part files of
/// editors and transfer programs.
pub(crate) fn ignored(name: &str) -> bool {
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
        || vim_probe(name)
        || kate_or_jetbrains(name)
        || name == "lost+found"
}

/// vim tries whether it may create files in a directory with a file named 4913, or a number near it.
fn vim_probe(name: &str) -> bool {
    name.len() <= 5
        && name
            .parse::<u32>()
            .is_ok_and(|n| n >= 4913 && (n - 4913).is_multiple_of(123))
}

/// JetBrains' safe write: `foo.yaml___jb_tmp___`, `foo.yaml___jb_old___`; gedit and Kate rename hidden files or `foo.XXXXXX`,
/// which is read as any other file for the moment that it exists.
fn kate_or_jetbrains(name: &str) -> bool {
    name.ends_with("___jb_tmp___") || name.ends_with("___jb_old___")
}

#[cfg(test)]
mod tests {
    use super::ignored;

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
            "foo.yaml.bak",
            "foo.yaml___jb_tmp___",
            "foo.yaml.dpkg-old",
        ] {
            assert!(ignored(name), "{name}");
        }
    }

    #[test]
    fn any_other_name_is_read() {
        for name in [
            "foo.yaml",
            "foo.json",
            "foo",
            "4912",
            "README",
            "49130000",
            "#foo",
            "a b.yml",
            "ünïcode",
        ] {
            assert!(!ignored(name), "{name}");
        }
    }
}
