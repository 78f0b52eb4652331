//! Files come, change and go.

use super::{Watched, bad_tier, broken_tier, file, policy, policy_key, tier, tier_key};
use crate::{InForce, Update};
use felid_model::Resource;

#[test]
fn everything_is_told_and_then_that_it_was_everything() {
    let watched = Watched::with(&[
        ("a.yaml", &file(&[tier("t", 1), tier("u", 2)])),
        (
            "deep/in/the/tree/b.json",
            &serde_json::json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier",
            "metadata": {"name": "v"}, "spec": {"order": 3}})
            .to_string(),
        ),
        ("no extension", &tier("w", 4)),
    ]);
    assert_eq!(
        ["t", "u", "v", "w"].map(|name| watched.order(name)),
        [Some(1), Some(2), Some(3), Some(4)]
    );
    assert_eq!(watched.said.last(), Some(&Update::InSync));
    assert!(watched.problems.is_empty(), "{}", watched.wrong());
}

#[test]
fn an_empty_directory_is_in_sync() {
    let watched = Watched::with(&[]);
    assert_eq!(watched.said, vec![Update::InSync]);
    assert!(watched.problems.is_empty());
}

#[test]
fn files_come_change_and_go() {
    let mut watched = Watched::with(&[]);
    watched.write("a.yaml", &tier("t", 1));
    watched.until_order("t", Some(1));
    watched.write("a.yaml", &tier("t", 2));
    watched.until_order("t", Some(2));
    watched.write_whole("a.yaml", &tier("t", 3));
    watched.until_order("t", Some(3));
    watched.remove("a.yaml");
    watched.until_order("t", None);
    watched.write("a.yaml", &tier("t", 4));
    watched.until_order("t", Some(4));
}

#[test]
fn a_document_that_is_taken_out_is_gone() {
    let mut watched = Watched::with(&[("a.yaml", &file(&[tier("t", 1), tier("u", 1)]))]);
    watched.write("a.yaml", &tier("u", 1));
    watched.until_order("t", None);
    assert_eq!(watched.order("u"), Some(1));
    watched.write("a.yaml", "# nothing left\n");
    watched.until_order("u", None);
}

#[test]
fn directories_come_and_go() {
    let mut watched = Watched::patient(&[]);
    watched.write("x/y/a.yaml", &tier("t", 1));
    watched.until_order("t", Some(1));
    watched.write("x/y/a.yaml", &tier("t", 2));
    watched.until_order("t", Some(2));
    watched.write("x/y/z/b.yaml", &tier("u", 1));
    watched.until_order("u", Some(1));

    // Filled elsewhere and moved in.
    let outside = watched.home.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("c.yaml"), tier("v", 1)).unwrap();
    std::fs::rename(&outside, watched.path("moved")).unwrap();
    watched.until_order("v", Some(1));
    watched.write("moved/c.yaml", &tier("v", 2));
    watched.until_order("v", Some(2));

    // Moved within the tree: nothing changes, and it is still watched.
    watched.forget();
    watched.rename("moved", "moved-on");
    watched.write("moved-on/d.yaml", &tier("w", 1));
    watched.until_order("w", Some(1));
    watched.write("moved-on/c.yaml", &tier("v", 3));
    watched.until_order("v", Some(3));
    assert_eq!(watched.deleted(), Vec::<&felid_model::ResourceKey>::new());

    std::fs::remove_dir_all(watched.path("x")).unwrap();
    watched.until("x is gone", |watched| {
        watched.order("t").is_none() && watched.order("u").is_none()
    });
    std::fs::rename(watched.path("moved-on"), watched.home.path().join("away")).unwrap();
    watched.until("moved-on is gone", |watched| watched.in_force.is_empty());
    assert!(watched.problems.is_empty(), "{}", watched.wrong());
}

#[test]
fn a_directory_that_is_removed_and_made_again_is_watched() {
    let mut watched = Watched::patient(&[("x/a.yaml", &tier("t", 1))]);
    for order in 2..8 {
        std::fs::remove_dir_all(watched.path("x")).unwrap();
        watched.write("x/a.yaml", &tier("t", order));
        watched.until_order("t", Some(order));
        watched.write("x/a.yaml", &tier("t", order + 100));
        watched.until_order("t", Some(order + 100));
    }
}

#[test]
fn a_renamed_file_changes_nothing() {
    let mut watched = Watched::patient(&[("a.yaml", &tier("t", 1))]);
    watched.forget();
    watched.rename("a.yaml", "b.yaml");
    watched.settle();
    assert_eq!(watched.said, vec![]);
    watched.write("b.yaml", &bad_tier("t"));
    watched.until_wrong("b.yaml");
    watched.restart();
    assert_eq!(watched.order("t"), Some(1), "the last good version went with it");
}

#[test]
fn a_bad_document_leaves_the_last_good_version_and_the_others() {
    let mut watched = Watched::with(&[("a.yaml", &file(&[tier("t", 1), tier("u", 1)]))]);
    watched.write("a.yaml", &file(&[bad_tier("t"), tier("u", 2)]));
    watched.until_order("u", Some(2));
    assert_eq!(watched.order("t"), Some(1));
    let problem = watched.problems.errors().next().unwrap().clone();
    assert_eq!(problem.file(), Some(("a.yaml", Some(6))));
    assert_eq!(problem.resource.as_deref(), Some("Tier/t"));
    assert_eq!(problem.field.as_deref(), Some("spec.order"));
    assert!(
        problem.value.as_deref().is_some_and(|value| value.contains("never")),
        "{problem:?}"
    );
    assert_eq!(problem.in_force, InForce::LastGood);

    watched.write("a.yaml", &file(&[broken_tier("t"), tier("u", 3)]));
    watched.until_order("u", Some(3));
    assert_eq!(watched.order("t"), Some(1));
    watched.write("a.yaml", &file(&[tier("t", 5), tier("u", 3)]));
    watched.until_order("t", Some(5));
    watched.until_well();
}

#[test]
fn a_bad_staged_policy_is_a_warning() {
    let staged = |fields: &str| format!("apiVersion: projectcalico.org/v3\nkind: StagedGlobalNetworkPolicy\n{fields}");
    let mut watched = Watched::with(&[
        (
            "never-good.yaml",
            &staged("metadata: {name: s}\nspec: {order: never}\n"),
        ),
        ("nameless.yaml", &staged("metadata: {}\nspec: {order: 1}\n")),
        ("later-bad.yaml", &staged("metadata: {name: t}\nspec: {order: 1}\n")),
        ("twice.yaml", &staged("metadata: {name: t}\nspec: {order: 2}\n")),
    ]);
    for file in ["never-good.yaml", "nameless.yaml", "twice.yaml"] {
        watched.until_wrong(file);
    }
    watched.write("later-bad.yaml", &staged("metadata: {name: t}\nspec: {order: never}\n"));
    watched.until_wrong("later-bad.yaml:4");
    assert_eq!(watched.problems.errors().count(), 0, "{}", watched.wrong());
    assert!(
        watched.wrong().contains("the last good version stays in force"),
        "{}",
        watched.wrong()
    );
    assert!(watched.wrong().contains("nothing is in force"), "{}", watched.wrong());
}

#[test]
fn a_file_that_is_no_longer_text_deletes_nothing() {
    let mut watched = Watched::with(&[("a.yaml", &tier("t", 1))]);
    std::fs::write(watched.path("a.yaml"), b"kind: Tier\n\xff\xfe\0\0").unwrap();
    watched.until_wrong("a.yaml:2");
    std::fs::write(watched.path("a.yaml"), b"{{{{ not yaml").unwrap();
    watched.until_wrong("a.yaml:1");
    assert_eq!(watched.order("t"), Some(1));
}

#[test]
fn a_policy_that_is_bad_from_the_start_is_closed_until_it_is_mended() {
    let mut watched = Watched::with(&[("a.yaml", &policy("shop", "p", "Alow"))]);
    let key = policy_key("shop", "p");
    assert!(matches!(watched.in_force.get(&key), Some(Resource::BadPolicy(bad)) if bad.selector.is_some()));
    assert_eq!(watched.in_force_of("a.yaml"), Some(InForce::Closed));
    watched.write("a.yaml", &policy("shop", "p", "Allow"));
    watched.until("the policy", |watched| {
        matches!(watched.in_force.get(&key), Some(Resource::Policy(_)))
    });
    watched.until_well();
    watched.write("a.yaml", &policy("shop", "p", "Alow"));
    watched.until_wrong("Alow");
    assert!(matches!(watched.in_force.get(&key), Some(Resource::Policy(_))));
}

#[test]
fn a_policy_without_readable_name_is_closed() {
    let mut watched = Watched::with(&[
        (
            "a.yaml",
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {\n",
        ),
        ("README", "This directory holds the records of the shop.\n"),
    ]);
    assert_eq!(watched.in_force.len(), 1, "{:?}", watched.in_force);
    let (key, resource) = watched.in_force.first_key_value().unwrap();
    assert!(matches!(resource, Resource::BadPolicy(policy) if policy.selector.is_none() && policy.key == *key));
    assert_eq!(watched.in_force_of("README"), None, "no error");
    assert!(watched.wrong().contains("README: ignored"), "{}", watched.wrong());
    watched.remove("a.yaml");
    watched.until("open again", |watched| watched.in_force.is_empty());
}

#[test]
fn the_same_resource_twice_keeps_what_is_in_force() {
    let mut watched = Watched::with(&[("b.yaml", &tier("t", 2))]);
    watched.write("a.yaml", &tier("t", 1));
    watched.until_wrong("a.yaml:1");
    assert!(watched.wrong().contains("b.yaml:1"));
    assert_eq!(watched.order("t"), Some(2));
    watched.restart();
    assert_eq!(watched.order("t"), Some(2), "also after a restart");
    watched.remove("b.yaml");
    watched.until_order("t", Some(1));
    watched.until_well();

    let watched = Watched::with(&[("b.yaml", &tier("t", 2)), ("a.yaml", &tier("t", 1))]);
    assert_eq!(watched.order("t"), Some(1), "at first sight the path that sorts first");
}

#[test]
fn foreign_kinds_are_warned_of_once() {
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n";
    let mut watched = Watched::with(&[
        ("a.yaml", deployment),
        ("b.yaml", deployment),
        ("c.yaml", &tier("t", 1)),
    ]);
    assert_eq!(watched.problems.warnings().count(), 1, "{}", watched.wrong());
    assert_eq!(watched.problems.errors().count(), 0);
    watched.remove("a.yaml");
    watched.remove("b.yaml");
    watched.until_well();
}

#[test]
fn many_files_at_once_and_a_slow_receiver() {
    let mut watched = Watched::with(&[]);
    for n in 0..300 {
        watched.write_whole(&format!("{n}.yaml"), &tier(&format!("t{n}"), n));
    }
    watched.until("all", |watched| watched.in_force.len() == 300);
    for n in 0..300 {
        watched.remove(&format!("{n}.yaml"));
    }
    watched.until("none", |watched| watched.in_force.is_empty());
    assert!(!watched.in_force.contains_key(&tier_key("t1")));
}

#[test]
fn a_rescan_finds_what_nobody_told() {
    let mut watched = Watched::with(&[]);
    watched.stop();
    // Directories above the root's own are not watched.
    let above = watched.home.path().join("above");
    std::fs::create_dir_all(above.join("between/records")).unwrap();
    std::fs::write(above.join("between/records/a.yaml"), tier("t", 1)).unwrap();
    let mut options = watched.options();
    options.directory = above.join("between/records");
    watched.start_with(options);
    watched.until_order("t", Some(1));
    let next = watched.home.path().join("next");
    std::fs::create_dir_all(next.join("between/records")).unwrap();
    std::fs::write(next.join("between/records/a.yaml"), tier("t", 2)).unwrap();
    std::fs::rename(&above, watched.home.path().join("old")).unwrap();
    std::fs::rename(&next, &above).unwrap();
    watched.linger(std::time::Duration::from_millis(100));
    watched.rescan();
    watched.until_order("t", Some(2));
    // And what appeared is watched.
    std::fs::write(above.join("between/records/a.yaml"), tier("t", 3)).unwrap();
    watched.until_order("t", Some(3));
}

#[test]
fn a_file_that_is_moved_into_a_new_directory_stays_in_force() {
    for _ in 0..3 {
        let mut watched = Watched::with(&[("b.yaml", &policy("shop", "p", "Deny")), ("a.yaml", &tier("t", 1))]);
        watched.forget();
        std::fs::create_dir_all(watched.path("d/e")).unwrap();
        watched.rename("b.yaml", "d/e/b.yaml");
        // What git does: the old file goes, and the new one is written.
        watched.remove("a.yaml");
        watched.write("f/a.yaml", &tier("t", 1));
        watched.linger(std::time::Duration::from_millis(600));
        assert_eq!(watched.deleted(), Vec::<&felid_model::ResourceKey>::new());
        assert_eq!(watched.said.len(), 0, "{:?}", watched.said);
        watched.write("f/a.yaml", &tier("t", 2));
        watched.until_order("t", Some(2));
        std::fs::remove_dir_all(watched.path("f")).unwrap();
        watched.until_order("t", None);
    }
}

#[test]
fn a_restart_between_the_halves_of_a_move_keeps_it_in_force() {
    let mut watched = Watched::with(&[("b.yaml", &policy("shop", "p", "Deny"))]);
    watched.stop();
    watched.remove("b.yaml");
    watched.write("d/b.yaml", &policy("shop", "p", "Deny"));
    // Touched at this very moment, so that it is not read at once.
    for _ in 0..3 {
        watched.write("d/c.yaml", &tier("t", 1));
    }
    watched.start();
    watched.until("in sync", |watched| watched.in_sync);
    watched.linger(std::time::Duration::from_millis(600));
    assert_eq!(watched.deleted(), Vec::<&felid_model::ResourceKey>::new());
    assert!(watched.in_force.contains_key(&policy_key("shop", "p")));
    assert_eq!(watched.order("t"), Some(1));
}
