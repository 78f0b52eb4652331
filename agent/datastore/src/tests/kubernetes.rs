//! A ConfigMap mounted as a volume: files are links into `..data`, which is a link to a directory
//! that is swapped.

use std::os::unix::fs::symlink;

use super::{Watched, tier};

/// What kubelet does to bring the volume to this content.
fn project(watched: &Watched, generation: u32, files: &[(&str, String)]) {
    let root = watched.root();
    let name = format!("..2024_05_06_07_08_09.{generation}");
    let directory = root.join(&name);
    for (file, content) in files {
        let path = directory.join(file);
        std::fs::create_dir_all(path.parent().unwrap_or(&directory)).unwrap_or_default();
        std::fs::write(path, content).unwrap_or_else(|error| unreachable!("{error}"));
    }
    let ok = |result: std::io::Result<()>| assert!(result.is_ok(), "{result:?}");
    let old = std::fs::read_link(root.join("..data")).ok();
    ok(symlink(&name, root.join("..data_tmp")));
    ok(std::fs::rename(root.join("..data_tmp"), root.join("..data")));
    let top = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: Vec<String> = files.iter().map(|(file, _)| top(file)).collect();
    for file in &wanted {
        if root.join(file).symlink_metadata().is_err() {
            ok(symlink(format!("..data/{file}"), root.join(file)));
        }
    }
    let Ok(entries) = std::fs::read_dir(&root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            ok(std::fs::remove_file(entry.path()));
        }
    }
    if let Some(old) = old {
        ok(std::fs::remove_dir_all(root.join(old)));
    }
}

#[test]
fn each_record_of_a_configmap_counts_once_and_swaps_are_smooth() {
    let mut watched = Watched::new();
    watched.vanish = std::time::Duration::from_millis(400);
    project(
        &watched,
        0,
        &[
            ("a.yaml", tier("t", 0)),
            ("b.yaml", tier("u", 0)),
            ("sub/c.yaml", tier("v", 0)),
        ],
    );
    watched.start();
    watched.until("in sync", |watched| watched.in_sync);
    assert_eq!(["t", "u", "v"].map(|name| watched.order(name)), [Some(0); 3]);
    assert!(watched.problems.is_empty(), "{}", watched.wrong());
    for generation in 1..10 {
        let content = |name| tier(name, generation);
        project(
            &watched,
            generation,
            &[
                ("a.yaml", content("t")),
                ("b.yaml", content("u")),
                ("sub/c.yaml", content("v")),
            ],
        );
        for name in ["t", "u", "v"] {
            watched.until_order(name, Some(generation));
        }
    }
    watched.settle();
    assert!(watched.deleted().is_empty(), "{:?}", watched.said);
    assert!(watched.problems.is_empty(), "{}", watched.wrong());
}

#[test]
fn a_key_that_is_taken_out_of_a_configmap_is_deleted() {
    let mut watched = Watched::new();
    project(&watched, 0, &[("a.yaml", tier("t", 0)), ("b.yaml", tier("u", 0))]);
    watched.start();
    watched.until_order("u", Some(0));
    project(&watched, 1, &[("b.yaml", tier("u", 1)), ("c.yaml", tier("v", 1))]);
    watched.until("t is gone", |watched| watched.order("t").is_none() && watched.in_sync);
    watched.until_order("u", Some(1));
    watched.until_order("v", Some(1));
    watched.until_well();
    watched.restart();
    assert_eq!(
        ["t", "u", "v"].map(|name| watched.order(name)),
        [None, Some(1), Some(1)]
    );
}

#[test]
fn a_link_that_leads_nowhere_deletes_nothing() {
    let mut watched = Watched::with(&[]);
    let outside = watched.home.path().join("outside");
    std::fs::create_dir_all(outside.join("more")).unwrap_or_default();
    for (path, content) in [("a.yaml", tier("t", 1)), ("more/b.yaml", tier("u", 1))] {
        assert!(std::fs::write(outside.join(path), content).is_ok());
    }
    assert!(symlink(outside.join("a.yaml"), watched.path("link.yaml")).is_ok());
    assert!(symlink(outside.join("more"), watched.path("more")).is_ok());
    watched.until_order("t", Some(1));
    watched.until_order("u", Some(1));
    // What is behind a link is watched too.
    assert!(std::fs::write(outside.join("a.yaml"), tier("t", 2)).is_ok());
    assert!(std::fs::write(outside.join("more/b.yaml"), tier("u", 2)).is_ok());
    watched.until_order("t", Some(2));
    watched.until_order("u", Some(2));

    assert!(std::fs::rename(&outside, watched.home.path().join("hidden")).is_ok());
    watched.rescan();
    watched.until_wrong("link.yaml: cannot be read");
    watched.until_wrong("more: cannot be read");
    watched.settle();
    watched.restart();
    assert_eq!((watched.order("t"), watched.order("u")), (Some(2), Some(2)));

    assert!(std::fs::rename(watched.home.path().join("hidden"), &outside).is_ok());
    watched.rescan();
    watched.until_well();
    watched.remove("link.yaml");
    watched.until_order("t", None);
    watched.remove("more");
    watched.until_order("u", None);
    watched.until_well();
}

#[test]
fn a_file_that_is_reached_twice_counts_once() {
    let mut watched = Watched::with(&[("x/b.yaml", &tier("t", 1))]);
    assert!(symlink("x/b.yaml", watched.path("a.yaml")).is_ok());
    assert!(symlink("x", watched.path("y")).is_ok());
    assert!(symlink("..", watched.path("x/loop")).is_ok());
    watched.rescan();
    watched.settle();
    assert!(watched.problems.is_empty(), "{}", watched.wrong());
    watched.write("x/b.yaml", &tier("t", 2));
    watched.until_order("t", Some(2));
    assert!(watched.problems.is_empty(), "{}", watched.wrong());
}
