//! What is out of sight is not gone.

use std::os::unix::fs::PermissionsExt;

use super::{Watched, bad_tier, file, tier};
use crate::InForce;

fn three() -> Watched {
    Watched::patient(&[
        ("a.yaml", &tier("t", 1)),
        ("sub/b.yaml", &file(&[tier("u", 1), tier("v", 1)])),
        ("sub/deep/c.yaml", &tier("w", 1)),
    ])
}

const ALL: [&str; 4] = ["t", "u", "v", "w"];

#[test]
fn a_root_that_is_moved_away_deletes_nothing_and_comes_back() {
    let mut watched = three();
    watched.forget();
    let away = watched.home.path().join("away");
    std::fs::rename(watched.root(), &away).unwrap();
    watched.until_wrong("directory");
    assert_eq!(
        watched.problems.errors().next().map(|p| p.in_force.clone()),
        Some(InForce::Unchanged)
    );
    watched.settle_root();
    assert_eq!(watched.said, vec![]);
    std::fs::write(away.join("a.yaml"), tier("t", 2)).unwrap();
    std::fs::rename(&away, watched.root()).unwrap();
    watched.until_order("t", Some(2));
    watched.until_well();
    watched.write("sub/deep/c.yaml", &tier("w", 2));
    watched.until_order("w", Some(2));
    assert!(watched.deleted().is_empty());
}

#[test]
fn a_root_that_is_removed_deletes_nothing() {
    let mut watched = three();
    for n in 0..200 {
        watched.write(&format!("many/{n}.yaml"), &tier(&format!("x{n}"), n));
    }
    watched.until("many", |watched| watched.in_force.len() == 204);
    watched.forget();
    std::fs::remove_dir_all(watched.root()).unwrap();
    watched.until_wrong("directory");
    watched.settle_root();
    assert!(watched.deleted().is_empty(), "{:?}", watched.deleted());

    // It comes back empty, is filled, and has one file less.
    std::fs::create_dir(watched.root()).unwrap();
    watched.until_wrong("replaced by an empty one");
    watched.settle_root();
    assert!(watched.deleted().is_empty());
    watched.write("a.yaml", &tier("t", 5));
    watched.write("sub/b.yaml", &file(&[tier("u", 5), tier("v", 5)]));
    watched.until_order("u", Some(5));
    watched.until("the rest is gone", |watched| watched.in_force.len() == 3);
    watched.until_well();
    watched.write("a.yaml", &tier("t", 6));
    watched.until_order("t", Some(6));
    watched.remove("a.yaml");
    watched.until_order("t", None);
}

#[test]
fn a_restart_without_the_root_knows_everything() {
    let mut watched = three();
    watched.stop();
    let away = watched.home.path().join("away");
    std::fs::rename(watched.root(), &away).unwrap();
    watched.restart();
    assert_eq!(ALL.map(|name| watched.order(name)), [Some(1); 4]);
    assert!(!watched.problems.is_empty());
    std::fs::remove_file(away.join("a.yaml")).unwrap();
    std::fs::rename(&away, watched.root()).unwrap();
    watched.until_order("t", None);
    watched.until_well();
    assert_eq!(watched.deleted().len(), 1);
}

#[test]
fn without_root_and_without_earlier_life_nothing_is_in_sync() {
    let mut watched = Watched::new();
    std::fs::remove_dir(watched.root()).unwrap();
    watched.start();
    watched.until_wrong("directory");
    assert!(!watched.in_sync);
    watched.write("a.yaml", &tier("t", 1));
    watched.until_order("t", Some(1));
    watched.until("in sync", |watched| watched.in_sync);
    watched.until_well();
}

#[test]
fn a_restart_on_an_empty_root_of_another_life_deletes_nothing() {
    let mut watched = three();
    watched.stop();
    std::fs::rename(watched.root(), watched.home.path().join("away")).unwrap();
    std::fs::create_dir(watched.root()).unwrap();
    watched.restart();
    assert_eq!(ALL.map(|name| watched.order(name)), [Some(1); 4]);
    watched.until_wrong("replaced by an empty one");
    watched.write("note", "# nothing here on purpose\n");
    watched.until("gone", |watched| watched.in_force.is_empty());
    watched.until_well();
}

#[test]
fn a_restart_on_a_root_that_was_emptied_deletes() {
    let mut watched = three();
    watched.stop();
    watched.remove("a.yaml");
    std::fs::remove_dir_all(watched.path("sub")).unwrap();
    watched.restart();
    assert!(watched.in_force.is_empty());
    assert!(watched.problems.is_empty(), "{}", watched.wrong());
}

#[test]
fn a_subdirectory_that_is_removed_deletes_its_records() {
    let mut watched = three();
    std::fs::remove_dir_all(watched.path("sub")).unwrap();
    watched.until("sub is gone", |watched| watched.in_force.len() == 1);
    assert_eq!(watched.order("t"), Some(1));
    watched.until_well();
}

#[test]
fn a_root_that_is_a_link_may_be_swapped() {
    let mut watched = Watched::new();
    let home = watched.home.path().to_owned();
    std::fs::remove_dir(watched.root()).unwrap();
    for release in ["1", "2"] {
        std::fs::create_dir(home.join(release)).unwrap();
        let order = release.parse().unwrap();
        std::fs::write(home.join(release).join("a.yaml"), tier("t", order)).unwrap();
    }
    std::fs::write(home.join("1/b.yaml"), tier("u", 1)).unwrap();
    std::os::unix::fs::symlink("1", watched.root()).unwrap();
    watched.start();
    watched.until_order("t", Some(1));
    std::os::unix::fs::symlink("2", home.join("new")).unwrap();
    std::fs::rename(home.join("new"), watched.root()).unwrap();
    watched.until_order("t", Some(2));
    watched.until_order("u", None);
    watched.write("a.yaml", &tier("t", 3));
    watched.until_order("t", Some(3));
}

#[test]
fn what_must_not_be_read_deletes_nothing() {
    let mut watched = three();
    let close = |path: std::path::PathBuf| std::fs::set_permissions(path, PermissionsExt::from_mode(0o000)).unwrap();
    close(watched.path("sub"));
    if std::fs::read_dir(watched.path("sub")).is_ok() {
        // Root reads everything: a directory in the file's place is unreadable for anyone.
        std::fs::set_permissions(watched.path("sub"), PermissionsExt::from_mode(0o755)).unwrap();
        eprintln!("running as root: permissions mean nothing, so only a loop of links is tried");
        std::fs::rename(watched.path("sub"), watched.home.path().join("sub")).unwrap();
        std::os::unix::fs::symlink("sub", watched.path("sub")).unwrap();
    }
    watched.rescan();
    watched.until_wrong("sub: cannot be read");
    watched.settle();
    assert_eq!(ALL.map(|name| watched.order(name)), [Some(1); 4]);
    watched.restart();
    assert_eq!(ALL.map(|name| watched.order(name)), [Some(1); 4]);
}

#[test]
fn what_is_no_file_is_not_read() {
    let mut watched = three();
    nix::sys::stat::mknod(
        &watched.path("pipe.yaml"),
        nix::sys::stat::SFlag::S_IFIFO,
        nix::sys::stat::Mode::S_IRWXU,
        0,
    )
    .unwrap();
    watched.until_wrong("pipe.yaml: ignored");
    assert_eq!(watched.problems.errors().count(), 0);
    watched.remove("pipe.yaml");
    watched.until_well();
}

#[test]
fn last_good_versions_survive_the_loss_of_the_root() {
    let mut watched = three();
    watched.write("a.yaml", &bad_tier("t"));
    watched.until_wrong("a.yaml");
    let away = watched.home.path().join("away");
    std::fs::rename(watched.root(), &away).unwrap();
    watched.until_wrong("directory");
    std::fs::rename(&away, watched.root()).unwrap();
    watched.until("back", |watched| watched.problems.errors().count() == 1);
    assert_eq!(ALL.map(|name| watched.order(name)), [Some(1); 4]);
}

#[test]
fn a_link_to_a_whole_disk_is_an_error_and_nothing_else_suffers() {
    use std::os::unix::fs::symlink;
    let mut watched = three();
    let outside = watched.home.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    for number in 0..10_001 {
        std::fs::write(outside.join(format!("f{number}")), "").unwrap();
    }
    symlink(&outside, watched.path("many")).unwrap();
    symlink("/", watched.path("everything")).unwrap();
    watched.until_wrong("more than 10000 files");
    watched.until_wrong("which the directory itself is in");
    assert_eq!(watched.problems.list().len(), 2, "{}", watched.wrong());
    watched.write("new.yaml", &tier("new", 7));
    watched.until_order("new", Some(7));
    watched.remove("many");
    watched.remove("everything");
    watched.until_well();
}

#[test]
fn directories_too_deep_behind_a_link_are_an_error() {
    use std::os::unix::fs::symlink;
    let mut watched = three();
    let deep = watched.home.path().join("outside/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r");
    std::fs::create_dir_all(&deep).unwrap();
    symlink(watched.home.path().join("outside"), watched.path("deep")).unwrap();
    watched.until_wrong("more than 16 directories in each other");
    watched.remove("deep");
    watched.until_well();
}
