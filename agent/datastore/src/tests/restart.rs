//! Equal files and last good versions give equal output.

use std::io::Write;

use super::{Watched, bad_tier, broken_tier, file, policy, policy_key, tier};
use crate::{InForce, LastGoodError, StartError};
use felid_model::Resource;

#[test]
fn last_good_versions_outlive_the_agent() {
    let mut watched = Watched::with(&[
        ("a.yaml", &file(&[tier("t", 1), tier("u", 1)])),
        ("b.yaml", &policy("shop", "p", "Allow")),
    ]);
    watched.write("a.yaml", &file(&[bad_tier("t"), broken_tier("u")]));
    watched.write("b.yaml", &policy("shop", "p", "Alow"));
    watched.until("three problems", |watched| watched.problems.errors().count() >= 3);
    let (in_force, wrong) = (watched.in_force.clone(), watched.wrong());
    for _ in 0..3 {
        watched.restart();
        assert_eq!(watched.in_force, in_force);
        assert_eq!(watched.wrong(), wrong);
    }
    assert_eq!(watched.in_force_of("b.yaml"), Some(InForce::LastGood));
    watched.remove("a.yaml");
    watched.until("gone", |watched| watched.in_force.len() == 1);
    watched.write("a.yaml", &bad_tier("t"));
    watched.until_wrong("Tier/t");
    watched.restart();
    assert_eq!(watched.order("t"), None, "what was deleted has no last good version");
}

#[test]
fn what_changed_meanwhile_is_seen() {
    let mut watched = Watched::with(&[
        ("a.yaml", &tier("t", 1)),
        ("b.yaml", &tier("u", 1)),
        ("c.yaml", &tier("v", 1)),
    ]);
    watched.stop();
    watched.write("a.yaml", &tier("t", 2));
    watched.write("b.yaml", &bad_tier("u"));
    watched.remove("c.yaml");
    watched.write("d.yaml", &tier("w", 1));
    watched.restart();
    watched.until("all read", |watched| watched.order("w").is_some());
    assert_eq!(
        ["t", "u", "v", "w"].map(|name| watched.order(name)),
        [Some(2), Some(1), None, Some(1)]
    );
}

#[test]
fn a_policy_that_was_bad_from_the_start_is_still_closed() {
    let mut watched = Watched::with(&[("a.yaml", &policy("shop", "p", "Alow"))]);
    watched.restart();
    let key = policy_key("shop", "p");
    assert!(matches!(watched.in_force.get(&key), Some(Resource::BadPolicy(_))));
    watched.stop();
    watched.write("a.yaml", &policy("shop", "p", "Allow"));
    watched.restart();
    watched.until("mended", |watched| {
        matches!(watched.in_force.get(&key), Some(Resource::Policy(_)))
    });
}

#[test]
fn documents_of_lists_have_last_good_versions_too() {
    let item = |name: &str, order: &str| {
        format!(
            r#"{{"apiVersion":"projectcalico.org/v3","kind":"Tier","metadata":{{"name":"{name}"}},"spec":{{"order":{order}}}}}"#
        )
    };
    let list = |t: &str, u: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"List","items":[{},{}]}}"#,
            item("t", t),
            item("u", u)
        )
    };
    let mut watched = Watched::with(&[("a.json", &list("1", "1"))]);
    watched.write("a.json", &list("\"never\"", "2"));
    watched.until_order("u", Some(2));
    assert_eq!(watched.order("t"), Some(1));
    watched.restart();
    assert_eq!((watched.order("t"), watched.order("u")), (Some(1), Some(2)));
    watched.write("a.json", "{ broken");
    watched.until_wrong("a.json:1");
    watched.restart();
    assert_eq!((watched.order("t"), watched.order("u")), (Some(1), Some(2)));
}

#[test]
fn one_agent_to_a_state_directory() {
    let watched = Watched::with(&[]);
    assert!(matches!(
        watched.follow(&watched.options()),
        Err(StartError::LastGood(LastGoodError::InUse(_)))
    ));
}

#[test]
fn a_torn_or_damaged_journal_loses_only_what_is_torn() {
    let mut watched = Watched::with(&[("a.yaml", &tier("t", 1)), ("b.yaml", &tier("u", 1))]);
    watched.stop();
    watched.write("a.yaml", &bad_tier("t"));
    let path = watched.home.path().join("state/in-force.jsonl");
    let mut journal = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    journal.write_all(b"0123456789abcdef {\"put\":{\"key\":").unwrap();
    drop(journal);
    watched.restart();
    assert_eq!((watched.order("t"), watched.order("u")), (Some(1), Some(1)));
    watched.write("b.yaml", &tier("u", 2));
    watched.until_order("u", Some(2));
    watched.write("b.yaml", &bad_tier("u"));
    watched.until_wrong("b.yaml");
    watched.restart();
    assert_eq!((watched.order("t"), watched.order("u")), (Some(1), Some(2)));

    watched.stop();
    std::fs::write(&path, "something else altogether\n").unwrap();
    watched.restart();
    assert_eq!((watched.order("t"), watched.order("u")), (None, None));
    assert!(watched.home.path().join("state/in-force.unreadable").exists());
    watched.write("a.yaml", &tier("t", 3));
    watched.until_order("t", Some(3));
    watched.write("a.yaml", &bad_tier("t"));
    watched.until_wrong("last good");
    watched.restart();
    assert_eq!(watched.order("t"), Some(3));
}

#[test]
fn names_and_texts_of_any_kind_come_back() {
    let mut watched = Watched::with(&[("ünï \"quoted\"\nname.yaml", &format!("# ✓ comment\n{}", tier("t", 1)))]);
    watched.write("ünï \"quoted\"\nname.yaml", &bad_tier("t"));
    watched.until_wrong("Tier/t");
    watched.restart();
    assert_eq!(watched.order("t"), Some(1));
}

#[test]
fn a_state_directory_that_is_deleted_is_written_anew() {
    let mut watched = Watched::with(&[("a.yaml", &tier("t", 1)), ("b.yaml", &policy("shop", "p", "Deny"))]);
    let state = watched.home.path().join("state");
    std::fs::remove_dir_all(&state).unwrap();
    watched.write("c.yaml", &tier("u", 2));
    watched.until_order("u", Some(2));
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !state.join("in-force.jsonl").exists() {
        assert!(std::time::Instant::now() < end, "not written anew");
        watched.linger(std::time::Duration::from_millis(50));
    }
    assert!(matches!(
        watched.follow(&watched.options()),
        Err(StartError::LastGood(LastGoodError::InUse(_)))
    ));
    watched.write("b.yaml", &policy("shop", "p", "Den"));
    watched.until_wrong("b.yaml");
    watched.restart();
    assert!(watched.in_force.contains_key(&policy_key("shop", "p")));
    assert_eq!((watched.order("t"), watched.order("u")), (Some(1), Some(2)));
    assert_eq!(watched.in_force_of("b.yaml"), Some(InForce::LastGood));
}
