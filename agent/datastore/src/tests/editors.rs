//! Ways in which programs save files.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use super::{Watched, broken_tier, file, policy, policy_key, tier};
use felid_model::Resource;

/// Nothing was deleted at any moment, and nothing is wrong in the end.
fn assert_smooth(watched: &mut Watched) {
    watched.until_well();
    assert!(watched.deleted().is_empty(), "{:?}", watched.said);
}

#[test]
fn vim_renames_the_old_file_away_and_writes_a_new_one() {
    let mut watched = Watched::patient(&[("a.yaml", &file(&[tier("t", 1), tier("u", 1)]))]);
    for order in 2..6 {
        watched.write("4913", "");
        watched.remove("4913");
        watched.write(".a.yaml.swp", "b0VIM");
        watched.rename("a.yaml", "a.yaml~");
        watched.write("a.yaml", &file(&[tier("t", order), tier("u", 1)]));
        watched.remove("a.yaml~");
        watched.until_order("t", Some(order));
    }
    watched.settle();
    assert_smooth(&mut watched);
}

#[test]
fn emacs_locks_with_a_link_that_leads_nowhere() {
    let mut watched = Watched::patient(&[("a.yaml", &tier("t", 1))]);
    std::os::unix::fs::symlink("me@host.1234:5678", watched.path(".#a.yaml")).unwrap();
    watched.write("#a.yaml#", &tier("t", 9));
    watched.rename("a.yaml", "a.yaml~");
    watched.write("a.yaml", &tier("t", 2));
    watched.remove(".#a.yaml");
    watched.remove("#a.yaml#");
    watched.until_order("t", Some(2));
    watched.settle();
    assert_smooth(&mut watched);
}

#[test]
fn git_removes_a_file_and_creates_it_anew() {
    let mut watched = Watched::patient(&[("a.yaml", &tier("t", 1)), ("b.yaml", &tier("u", 1))]);
    watched.remove("a.yaml");
    watched.write("a.yaml", &tier("t", 2));
    watched.until_order("t", Some(2));
    watched.settle();
    assert_smooth(&mut watched);
}

#[test]
fn sed_writes_another_file_and_renames_it() {
    let mut watched = Watched::with(&[("a.yaml", &tier("t", 1))]);
    watched.write("sedXq3Zb1", &tier("t", 2));
    watched.rename("sedXq3Zb1", "a.yaml");
    watched.until_order("t", Some(2));
    watched.settle();
    assert_smooth(&mut watched);
}

#[test]
fn a_file_that_is_being_written_in_place_is_not_read() {
    let whole = file(&[tier("t", 2), policy("shop", "p", "Allow"), tier("u", 2)]);
    let mut watched = Watched::with(&[("a.yaml", &whole.replace("order: 2", "order: 1"))]);
    watched.forget();
    // Truncated here; each part by itself may look like a whole file.
    let mut slow = File::create(watched.path("a.yaml")).unwrap();
    for part in whole.as_bytes().chunks(40) {
        slow.write_all(part).unwrap();
        slow.flush().unwrap();
        watched.rescan();
        watched.linger(Duration::from_millis(120));
    }
    assert_eq!(watched.said, vec![], "still being written");
    assert!(watched.problems.is_empty(), "{}", watched.wrong());
    drop(slow);
    watched.until_order("t", Some(2));
    watched.until_order("u", Some(2));
    assert_smooth(&mut watched);
}

#[test]
fn a_new_file_that_is_being_written_is_not_read() {
    let mut watched = Watched::with(&[]);
    let mut slow = File::create(watched.path("a.yaml")).unwrap();
    slow.write_all(b"apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata:\n")
        .unwrap();
    watched.linger(Duration::from_millis(300));
    watched.rescan();
    watched.linger(Duration::from_millis(300));
    assert!(
        watched.in_force.is_empty() && watched.problems.is_empty(),
        "{}",
        watched.wrong()
    );
    slow.write_all(b"  name: p\n  namespace: shop\nspec:\n  selector: all()\n")
        .unwrap();
    drop(slow);
    let key = policy_key("shop", "p");
    watched.until("the policy", |watched| {
        matches!(watched.in_force.get(&key), Some(Resource::Policy(_)))
    });
    assert_smooth(&mut watched);
}

#[test]
fn a_write_that_failed_leaves_an_empty_file_and_the_last_good_version() {
    let mut watched = Watched::with(&[("a.yaml", &tier("t", 1))]);
    watched.write("a.yaml", "");
    watched.until_wrong("the file is empty");
    assert_eq!(watched.order("t"), Some(1));
    watched.restart();
    assert_eq!(watched.order("t"), Some(1));
    watched.remove("a.yaml");
    watched.until_order("t", None);
    watched.until_well();
    // Where nothing was, an empty file is nothing to talk about.
    watched.write("b.yaml", "");
    watched.settle();
    watched.until_well();
}

#[test]
fn rapid_rewrites_end_with_the_last_one() {
    let mut watched = Watched::with(&[("a.yaml", &file(&[tier("t", 0), tier("u", 0)]))]);
    for order in 1..=300 {
        let content = file(&[tier("t", order), tier("u", order)]);
        if order % 2 == 0 {
            watched.write("a.yaml", &content)
        } else {
            watched.write_whole("a.yaml", &content)
        }
    }
    watched.until_order("t", Some(300));
    watched.until_order("u", Some(300));
    assert!(watched.deleted().is_empty(), "{:?}", watched.deleted());
    watched.until_well();
}

#[test]
fn bad_and_good_in_turns_never_lose_the_resource() {
    let mut watched = Watched::with(&[("a.yaml", &tier("t", 0))]);
    for order in 1..=50 {
        watched.write("a.yaml", &broken_tier("t"));
        watched.write("a.yaml", &tier("t", order));
    }
    watched.until_order("t", Some(50));
    assert!(watched.deleted().is_empty());
    watched.until_well();
}

#[test]
fn swap_backup_and_hidden_files_are_not_records() {
    let mut watched = Watched::with(&[
        ("a.yaml", &tier("t", 1)),
        ("a.yaml~", &tier("t", 2)),
        (".a.yaml.swp", &tier("t", 3)),
        (".git/b.yaml", &tier("u", 3)),
    ]);
    watched.write(".hidden.yaml", &tier("v", 1));
    watched.write("x.bak", &tier("w", 1));
    watched.settle();
    assert_eq!(watched.in_force.len(), 1);
    assert_smooth(&mut watched);
}
