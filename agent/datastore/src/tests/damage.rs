//! Damaged lines of the journal: what they may have held is closed or said, not forgotten.

use felid_model::Resource;

use super::{Watched, bad_tier, file, policy, policy_key, tier};
use crate::InForce;

impl Watched {
    fn journal(&self) -> std::path::PathBuf {
        self.home.path().join("state/in-force.jsonl")
    }

    /// Spoils the last line of the journal with this text, while the store is stopped.
    fn spoil(&self, text: &str) {
        let mut bytes = std::fs::read(self.journal()).unwrap();
        let escaped = text.replace('"', "\\\"");
        let all = String::from_utf8(bytes.clone()).unwrap();
        let at = all.rfind(&escaped).unwrap();
        bytes[at] ^= 1;
        std::fs::write(self.journal(), bytes).unwrap();
    }

    fn is_closed(&self, namespace: &str, name: &str) -> bool {
        matches!(
            self.in_force.get(&policy_key(namespace, name)),
            Some(Resource::BadPolicy(_))
        )
    }

    /// The policies that stand for forgotten ones.
    fn closed_for_the_lost(&self) -> usize {
        self.in_force.keys().filter(|key| key.name.contains("//lost")).count()
    }
}

#[test]
fn good_documents_leave_nothing_in_doubt() {
    let mut watched = Watched::with(&[
        ("a.yaml", &file(&[tier("t", 1), policy("shop", "p", "Allow")])),
        ("b.yaml", &tier("u", 1)),
    ]);
    let in_force = watched.in_force.clone();
    watched.stop();
    watched.spoil("order: 1");
    watched.restart();
    assert_eq!(watched.in_force, in_force);
    assert_eq!(watched.problems.errors().count(), 0, "{}", watched.wrong());
    assert!(watched.wrong().contains("nothing is in doubt"), "{}", watched.wrong());
    assert!(watched.home.path().join("state/in-force.damaged").exists());
    // And the versions are known again.
    watched.write("a.yaml", &file(&[bad_tier("t"), policy("shop", "p", "Alow")]));
    watched.until("both wrong", |watched| watched.problems.errors().count() == 2);
    watched.restart();
    assert_eq!(watched.in_force, in_force);
    assert!(!watched.wrong().contains("damaged"), "{}", watched.wrong());
}

#[test]
fn a_policy_whose_latest_version_may_be_lost_is_closed() {
    let mut watched = Watched::with(&[
        ("a.yaml", &policy("shop", "p", "Allow")),
        ("b.yaml", &policy("shop", "q", "Allow")),
    ]);
    watched.write("a.yaml", &policy("shop", "p", "Deny"));
    watched.until("denied", |watched| watched.said.len() > 3);
    watched.write("a.yaml", &policy("shop", "p", "Alow"));
    watched.until_wrong("Alow");
    watched.stop();
    watched.spoil("action: Deny");
    for _ in 0..2 {
        watched.restart();
        assert!(watched.is_closed("shop", "p") && !watched.is_closed("shop", "q"));
        assert_eq!(watched.closed_for_the_lost(), 0);
        assert_eq!(watched.in_force_of("a.yaml"), Some(InForce::Closed));
    }
    watched.write("a.yaml", &policy("shop", "p", "Allow"));
    watched.until("mended", |watched| !watched.is_closed("shop", "p"));
}

#[test]
fn other_resources_keep_the_version_that_is_known_and_it_is_said() {
    let mut watched = Watched::with(&[("a.yaml", &tier("t", 1))]);
    watched.write("a.yaml", &tier("t", 2));
    watched.until_order("t", Some(2));
    watched.write("a.yaml", &bad_tier("t"));
    watched.until_wrong("Tier/t");
    watched.stop();
    watched.spoil("order: 2");
    for _ in 0..3 {
        watched.restart();
        assert_eq!(watched.order("t"), Some(1));
        let errors: Vec<_> = watched
            .problems
            .errors()
            .filter(|problem| problem.origin.is_none())
            .collect();
        assert_eq!((errors.len(), &errors[0].in_force), (1, &InForce::Unchanged));
        assert!(
            errors[0].reason.contains("may be out of date, of Tier/t"),
            "{}",
            watched.wrong()
        );
    }
    watched.write("a.yaml", &tier("t", 3));
    watched.until("no errors", |watched| watched.problems.errors().count() == 0);
    watched.restart();
    assert!(watched.problems.is_empty(), "{}", watched.wrong());
}

#[test]
fn everything_is_closed_while_forgotten_policies_may_hide_in_what_cannot_be_understood() {
    let mut watched = Watched::with(&[("a.yaml", &policy("shop", "p", "Deny")), ("b.yaml", &tier("t", 1))]);
    watched.write("a.yaml", "half of a document: [\n");
    watched.until_wrong("a.yaml");
    watched.restart();
    assert!(!watched.is_closed("shop", "p"), "its last good version is in force");
    watched.stop();
    watched.spoil("action: Deny");
    for _ in 0..2 {
        watched.restart();
        assert!(!watched.in_force.contains_key(&policy_key("shop", "p")));
        assert_eq!(watched.closed_for_the_lost(), 1);
        assert!(
            watched.wrong().contains("all endpoints are closed"),
            "{}",
            watched.wrong()
        );
    }
    watched.write("a.yaml", &policy("shop", "p", "Deny"));
    watched.until("open again", |watched| watched.closed_for_the_lost() == 0);
    assert!(watched.in_force.contains_key(&policy_key("shop", "p")));
    assert_eq!(watched.problems.errors().count(), 0, "{}", watched.wrong());
    watched.restart();
    assert_eq!((watched.closed_for_the_lost(), watched.problems.is_empty()), (0, true));
}

#[test]
fn policies_of_a_directory_that_cannot_be_read_are_closed_if_in_doubt() {
    let mut watched = Watched::with(&[("a.yaml", &policy("shop", "p", "Allow")), ("b.yaml", &tier("t", 1))]);
    watched.write("a.yaml", &policy("shop", "p", "Deny"));
    watched.until("denied", |watched| watched.said.len() > 3);
    watched.stop();
    watched.spoil("action: Deny");
    std::fs::rename(watched.root(), watched.home.path().join("away")).unwrap();
    watched.restart();
    assert!(watched.is_closed("shop", "p"));
    assert_eq!((watched.order("t"), watched.closed_for_the_lost()), (Some(1), 1));
    std::fs::rename(watched.home.path().join("away"), watched.root()).unwrap();
    watched.until("all is well", |watched| watched.problems.errors().count() == 0);
    assert!(!watched.is_closed("shop", "p"));
    assert_eq!(watched.closed_for_the_lost(), 0);
}

#[test]
fn a_journal_of_another_make_is_as_lost() {
    let mut watched = Watched::with(&[("a.yaml", &policy("shop", "p", "Deny"))]);
    watched.stop();
    watched.write("a.yaml", "half of a document: [\n");
    std::fs::write(watched.journal(), "something else altogether\n").unwrap();
    watched.restart();
    assert_eq!(watched.closed_for_the_lost(), 1);
    assert!(watched.wrong().contains("in-force.unreadable"), "{}", watched.wrong());
    watched.write("a.yaml", &policy("shop", "p", "Deny"));
    watched.until("open again", |watched| watched.closed_for_the_lost() == 0);
}
