#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use felid_model::{BadPolicy, Kind, Resource, ResourceKey, Tier};

use super::{Decisions, Entry, LogEntry, Versions};
use crate::Update;
use crate::core::content::{Ambiguity, Body, Digest, Doc, Finding, Position, SourceContent, SourceId};
use crate::core::problem::{InForce, Severity};

mod properties;

/// What a test's document is; its text says it all, so that a journal can be read back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Text {
    /// A good tier of this name and order; the last number is only in the text.
    Tier(&'static str, u32, u32),
    BadTier(&'static str, u32),
    BadPolicy(&'static str, u32),
    /// A broken document with a guess of its name.
    Guess(&'static str),
    Unreadable,
    UnreadablePolicy,
    Foreign(&'static str),
}
use Text::{BadTier, Foreign, Guess, Unreadable, UnreadablePolicy};

pub(super) fn key(kind: Kind, name: &str) -> ResourceKey {
    ResourceKey {
        kind,
        namespace: None,
        name: Arc::from(name),
    }
}

fn tier(name: &str, order: u32) -> Resource {
    let key = key(Kind::Tier, name);
    Resource::Tier(Arc::new(Tier {
        key,
        order: Some(f64::from(order)),
        default_pass: false,
    }))
}

fn closed(name: &str) -> Arc<BadPolicy> {
    let key = key(Kind::GlobalNetworkPolicy, name);
    Arc::new(BadPolicy {
        key,
        selector: None,
        namespace_selector: None,
        reason: String::new(),
    })
}

impl Text {
    fn body(&self) -> (Body, Option<Ambiguity>) {
        match self {
            Text::Tier(name, order, _) => (Body::Good(tier(name, *order)), None),
            BadTier(name, _) => (
                Body::Bad {
                    key: key(Kind::Tier, name),
                    policy: None,
                },
                None,
            ),
            Text::BadPolicy(name, _) => {
                let policy = Some(closed(name));
                (
                    Body::Bad {
                        key: key(Kind::GlobalNetworkPolicy, name),
                        policy,
                    },
                    None,
                )
            }
            Guess(name) => (
                Body::Bad {
                    key: key(Kind::Tier, name),
                    policy: None,
                },
                Some(Ambiguity::Anything),
            ),
            Unreadable => (Body::Unreadable { policy: None }, Some(Ambiguity::Anything)),
            UnreadablePolicy => (
                Body::Unreadable {
                    policy: Some(closed("")),
                },
                Some(Ambiguity::Anything),
            ),
            Foreign(kind) => (Body::Foreign((*kind).to_owned()), None),
        }
    }

    fn doc(&self, line: usize) -> Doc {
        let text = format!("{self:?}");
        let (body, ambiguity) = self.body();
        let finding = Finding {
            severity: Severity::Error,
            position: Position::Line(line),
            field: None,
            value: None,
            reason: "it is bad".to_owned(),
        };
        let findings = match body {
            Body::Good(_) | Body::Foreign(_) => Vec::new(),
            _ => vec![finding],
        };
        Doc {
            position: Position::Line(line),
            body,
            ambiguity,
            findings,
            digest: Digest::of(text.as_bytes()),
            text: Some(Arc::from(text)),
        }
    }
}

pub(super) fn view(texts: &[Text]) -> SourceContent {
    SourceContent::parsed(
        texts
            .iter()
            .enumerate()
            .map(|(index, text)| text.doc(index + 1))
            .collect(),
    )
}

pub(super) fn path(name: &str) -> SourceId {
    Arc::from(name)
}

/// A state with a journal in memory, and what its updates add up to.
#[derive(Default)]
pub(super) struct Life {
    state: Versions,
    journal: BTreeMap<ResourceKey, (Entry, Arc<str>)>,
    pub(super) in_force: BTreeMap<ResourceKey, Resource>,
}

impl Life {
    pub(super) fn begin(views: Vec<(&str, SourceContent)>) -> Self {
        Self::default().restart(views)
    }

    /// A new life with this one's journal.
    pub(super) fn restart(&self, views: Vec<(&str, SourceContent)>) -> Self {
        let entries = self
            .journal
            .iter()
            .map(|(key, (entry, _))| (key.clone(), entry.clone()))
            .collect();
        let mut life = Life {
            state: Versions::new(entries),
            journal: self.journal.clone(),
            in_force: BTreeMap::new(),
        };
        let views = views.into_iter().map(|(name, view)| (path(name), view)).collect();
        let journal = life.journal.clone();
        let outcome = life.state.begin(views, &|key| recall(&journal, key));
        life.take(outcome);
        life
    }

    pub(super) fn update(&mut self, changes: Vec<(&str, Option<SourceContent>)>) -> Vec<Update> {
        let changes = changes.into_iter().map(|(name, view)| (path(name), view)).collect();
        let journal = self.journal.clone();
        let outcome = self.state.update(changes, &|key| recall(&journal, key));
        self.take(outcome)
    }

    fn set(&mut self, name: &str, texts: &[Text]) -> Vec<Update> {
        self.update(vec![(name, Some(view(texts)))])
    }

    fn take(&mut self, outcome: Decisions) -> Vec<Update> {
        for record in outcome.records {
            match record {
                LogEntry::Put {
                    key,
                    path,
                    digest,
                    good,
                    text,
                } => {
                    let entry = Entry {
                        path,
                        digest,
                        good,
                        resource: None,
                    };
                    self.journal.insert(key, (entry, text));
                }
                LogEntry::Move { key, path } => self.journal.get_mut(&key).unwrap().0.path = path,
                LogEntry::Drop { key } => assert!(self.journal.remove(&key).is_some()),
            }
        }
        for update in &outcome.updates {
            match update {
                Update::Apply(resource) => {
                    let old = self.in_force.insert(resource.key().clone(), resource.clone());
                    assert_ne!(old.as_ref(), Some(resource), "told twice");
                }
                Update::Delete(key) => assert!(self.in_force.remove(key).is_some(), "{key} was not in force"),
                Update::ResyncBegins | Update::InSync | Update::Lost(_) | Update::Barrier(_) => {}
            }
        }
        outcome.updates
    }

    pub(super) fn problems(&mut self) -> Vec<String> {
        self.state.problems().list().iter().map(ToString::to_string).collect()
    }

    fn in_force_of(&mut self) -> BTreeSet<InForce> {
        self.state
            .problems()
            .errors()
            .map(|problem| problem.in_force.clone())
            .collect()
    }

    fn order(&self, name: &str) -> Option<u32> {
        match self.in_force.get(&key(Kind::Tier, name))? {
            Resource::Tier(tier) => tier.order.map(|order| order as u32),
            _ => None,
        }
    }
}

/// Reads a text back, as the journal would.
fn recall(journal: &BTreeMap<ResourceKey, (Entry, Arc<str>)>, key: &ResourceKey) -> Option<Resource> {
    let text = &journal.get(key)?.1;
    let found = if text.starts_with("Tier") {
        let order = text.split(", ").nth(1)?.parse().ok()?;
        tier(&key.name, order)
    } else {
        assert!(text.starts_with("BadPolicy"), "{text}");
        Resource::BadPolicy(closed(&key.name))
    };
    Some(found)
}

#[test]
fn a_good_document_is_in_force_and_a_changed_comment_is_no_change() {
    let mut life = Life::begin(vec![("a.yaml", view(&[Text::Tier("t", 1, 0)]))]);
    assert_eq!(life.order("t"), Some(1));
    assert_eq!(life.set("a.yaml", &[Text::Tier("t", 1, 1)]), vec![]);
    assert_eq!(
        life.set("a.yaml", &[Text::Tier("t", 2, 1)]),
        vec![Update::Apply(tier("t", 2))]
    );
    assert_eq!(
        life.update(vec![("a.yaml", None)]),
        vec![Update::Delete(key(Kind::Tier, "t"))]
    );
    assert!(life.journal.is_empty());
    assert!(life.problems().is_empty());
}

#[test]
fn a_bad_document_leaves_the_last_good_version() {
    let mut life = Life::begin(vec![("a.yaml", view(&[Text::Tier("t", 1, 0)]))]);
    assert_eq!(life.set("a.yaml", &[BadTier("t", 0)]), vec![]);
    assert_eq!(life.in_force_of(), BTreeSet::from([InForce::LastGood]));
    let again = life.restart(vec![("a.yaml", view(&[BadTier("t", 0)]))]);
    assert_eq!(again.in_force, life.in_force);
    assert_eq!(life.set("a.yaml", &[]), vec![Update::Delete(key(Kind::Tier, "t"))]);
    assert_eq!(
        life.set("a.yaml", &[BadTier("t", 0)]),
        vec![],
        "what was deleted has no last good version"
    );
    assert_eq!(life.in_force_of(), BTreeSet::from([InForce::Nothing]));
}

#[test]
fn a_policy_that_is_bad_from_the_start_is_closed() {
    let mut life = Life::begin(vec![("a.yaml", view(&[Text::BadPolicy("p", 0)]))]);
    let policy = key(Kind::GlobalNetworkPolicy, "p");
    assert_eq!(life.in_force.get(&policy), Some(&Resource::BadPolicy(closed("p"))));
    assert_eq!(life.in_force_of(), BTreeSet::from([InForce::Closed]));
    let again = life.restart(vec![("a.yaml", SourceContent::Unreachable)]);
    assert_eq!(again.in_force, life.in_force, "closed while its file is out of sight");
}

#[test]
fn of_two_files_the_one_in_force_stays() {
    let mut life = Life::begin(vec![("b.yaml", view(&[Text::Tier("t", 2, 0)]))]);
    assert_eq!(life.set("a.yaml", &[Text::Tier("t", 1, 0)]), vec![]);
    let problems = life.problems();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].contains("a.yaml:1") && problems[0].contains("b.yaml:1"),
        "{problems:?}"
    );
    let again = life.restart(vec![
        ("a.yaml", view(&[Text::Tier("t", 1, 0)])),
        ("b.yaml", view(&[Text::Tier("t", 2, 0)])),
    ]);
    assert_eq!(again.order("t"), Some(2));
    assert_eq!(
        life.set("b.yaml", &[BadTier("t", 0)]),
        vec![],
        "bad, but still the one in force"
    );
    assert_eq!(life.update(vec![("b.yaml", None)]), vec![Update::Apply(tier("t", 1))]);
    assert!(life.problems().is_empty());
}

#[test]
fn of_two_files_at_first_sight_the_first_path_counts() {
    let mut life = Life::begin(vec![
        ("b.yaml", view(&[Text::Tier("t", 2, 0)])),
        ("a.yaml", view(&[Text::Tier("t", 1, 0)])),
        ("c.yaml", view(&[Text::Tier("t", 3, 0)])),
    ]);
    assert_eq!(life.order("t"), Some(1));
    assert_eq!(life.problems().len(), 2);
    life.update(vec![("a.yaml", None)]);
    assert_eq!(life.order("t"), Some(2));
}

#[test]
fn twice_in_one_file_the_first_counts() {
    let mut life = Life::begin(vec![("a.yaml", view(&[Text::Tier("t", 1, 0), Text::Tier("t", 2, 0)]))]);
    assert_eq!(life.order("t"), Some(1));
    let problems = life.problems();
    assert!(
        problems.len() == 1 && problems[0].contains("a.yaml:2") && problems[0].contains("a.yaml:1"),
        "{problems:?}"
    );
}

#[test]
fn the_last_good_version_follows_a_document_that_moves_and_breaks() {
    let mut life = Life::begin(vec![("a.yaml", view(&[Text::Tier("t", 1, 0)]))]);
    assert_eq!(
        life.update(vec![("a.yaml", None), ("b.yaml", Some(view(&[BadTier("t", 0)])))]),
        vec![]
    );
    let again = life.restart(vec![("b.yaml", view(&[BadTier("t", 0)]))]);
    assert_eq!(again.order("t"), Some(1));
}

#[test]
fn a_broken_document_keeps_what_its_file_held() {
    let mut life = Life::begin(vec![(
        "a.yaml",
        view(&[Text::Tier("t", 1, 0), Text::Tier("u", 1, 0), Text::Tier("v", 1, 0)]),
    )]);
    // The break swallowed a separator: two documents became one, of which a name can be guessed.
    for broken in [Guess("t"), Unreadable] {
        assert_eq!(life.set("a.yaml", &[broken.clone(), Text::Tier("v", 2, 0)]).len(), 1);
        assert_eq!(
            (life.order("t"), life.order("u"), life.order("v")),
            (Some(1), Some(1), Some(2))
        );
        let again = life.restart(vec![("a.yaml", view(&[broken, Text::Tier("v", 2, 0)]))]);
        assert_eq!(again.in_force, life.in_force);
        life.set(
            "a.yaml",
            &[Text::Tier("t", 1, 0), Text::Tier("u", 1, 0), Text::Tier("v", 1, 0)],
        );
    }
    assert_eq!(
        life.set("a.yaml", &[Text::Tier("v", 1, 0)]).len(),
        2,
        "whole again: the others are gone"
    );
}

#[test]
fn what_cannot_be_read_deletes_nothing() {
    let mut life = Life::begin(vec![("a.yaml", view(&[Text::Tier("t", 1, 0)]))]);
    assert_eq!(
        life.update(vec![(
            "a.yaml",
            Some(SourceContent::Unreadable("no permission".to_owned()))
        )]),
        vec![]
    );
    assert_eq!(life.in_force_of(), BTreeSet::from([InForce::Unchanged]));
    for view in [SourceContent::Unreadable(String::new()), SourceContent::Unreachable] {
        assert_eq!(life.restart(vec![("a.yaml", view)]).in_force, life.in_force);
    }
    assert_eq!(
        life.restart(vec![]).in_force,
        BTreeMap::new(),
        "the file is gone: so is the resource"
    );
}

#[test]
fn an_unreadable_policy_is_closed_unless_it_was_good_before() {
    let mut life = Life::begin(vec![("a.yaml", view(&[UnreadablePolicy, Text::Tier("t", 1, 0)]))]);
    let name = key(Kind::GlobalNetworkPolicy, "unreadable:a.yaml#1");
    assert!(matches!(life.in_force.get(&name), Some(Resource::BadPolicy(policy)) if policy.key == name));
    assert_eq!(life.set("a.yaml", &[Text::Tier("t", 1, 0)]), vec![Update::Delete(name)]);
    // A document without any sign of a policy closes nothing.
    assert_eq!(life.set("b.yaml", &[Unreadable]), vec![]);
    assert_eq!(life.in_force_of(), BTreeSet::from([InForce::Nothing]));
}

#[test]
fn foreign_kinds_give_one_warning_each() {
    let mut life = Life::begin(vec![
        (
            "a.yaml",
            view(&[Foreign("Deployment"), Foreign("Deployment"), Foreign("Service")]),
        ),
        ("b.yaml", view(&[Foreign("Deployment")])),
    ]);
    assert_eq!(life.problems().len(), 2);
    assert_eq!(life.state.problems().errors().count(), 0);
    life.update(vec![("a.yaml", None)]);
    assert_eq!(life.problems().len(), 1);
    life.update(vec![("b.yaml", None)]);
    assert!(life.problems().is_empty());
}
