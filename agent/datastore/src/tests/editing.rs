//! `felid apply`, `create`, `replace` and `delete`.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use felid_model::{Decoded, ResourceKey, decode, documents};

use super::{Watched, bad_tier, broken_tier, file, policy, tier, tier_key};
use crate::{Action, DirectoryStore, Done, Record, Store, StoreError};

/// The commands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verb {
    Apply,
    Create,
    Replace,
    Delete,
}

pub(super) fn run(directory: &Path, verb: Verb, input: &str, source: &str) -> Result<Vec<Done>, StoreError> {
    let store = DirectoryStore::new(directory);
    match verb {
        Verb::Apply => store.apply(Record::parse(input, source)?),
        Verb::Create => store.create(Record::parse(input, source)?),
        Verb::Replace => store.replace(Record::parse(input, source)?),
        Verb::Delete => {
            let documents = documents(input);
            let keys = documents.iter().filter_map(|document| match decode(document) {
                Decoded::Resource { resource, .. } => Some(resource.key().clone()),
                Decoded::Bad { key, .. } => key,
                _ => None,
            });
            store.delete(&keys.collect::<Vec<_>>())
        }
    }
}

pub(super) fn delete(directory: &Path, keys: &[ResourceKey]) -> Result<Vec<Done>, StoreError> {
    DirectoryStore::new(directory).delete(keys)
}

pub(super) fn does(watched: &Watched, verb: Verb, input: &str) -> Vec<(String, String, Action)> {
    let done = run(&watched.root(), verb, input, "input.yaml").unwrap();
    done.into_iter()
        .map(|done| (done.key.to_string(), done.file.to_string(), done.action))
        .collect()
}

pub(super) fn refuses(watched: &Watched, verb: Verb, input: &str) -> String {
    run(&watched.root(), verb, input, "input.yaml").unwrap_err().to_string()
}

pub(super) fn read(watched: &Watched, name: &str) -> String {
    std::fs::read_to_string(watched.path(name)).unwrap()
}

pub(super) fn one(key: &str, file: &str, action: Action) -> Vec<(String, String, Action)> {
    vec![(key.to_owned(), file.to_owned(), action)]
}

#[test]
fn a_new_resource_gets_a_file_of_its_own() {
    let watched = Watched::new();
    let input = format!("# a comment\n{}", policy("shop", "p", "Allow"));
    let file = "NetworkPolicy.shop.p.yaml";
    assert_eq!(
        does(&watched, Verb::Create, &input),
        one("NetworkPolicy/shop/p", file, Action::Created)
    );
    assert_eq!(read(&watched, file), input, "as the user wrote it");
    assert_eq!(
        does(&watched, Verb::Apply, &tier("t", 1)),
        one("Tier/t", "Tier.t.yaml", Action::Created)
    );
    assert!(refuses(&watched, Verb::Create, &input).contains("exists already, in NetworkPolicy.shop.p.yaml:2"));
    assert!(refuses(&watched, Verb::Replace, &tier("u", 1)).contains("Tier/u: not found"));
    assert!(refuses(&watched, Verb::Delete, &tier("u", 1)).contains("not found"));
    let names: Vec<_> = std::fs::read_dir(watched.root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 3, "two records and the lock: {names:?}");
}

#[test]
fn the_name_of_the_file_may_be_taken() {
    let watched = Watched::new();
    watched.write("Tier.t.yaml", &tier("u", 1));
    assert_eq!(
        does(&watched, Verb::Create, &tier("t", 1)),
        one("Tier/t", "Tier.t-2.yaml", Action::Created)
    );
    assert_eq!(read(&watched, "Tier.t.yaml"), tier("u", 1));
}

#[test]
fn what_is_the_same_is_not_touched() {
    let watched = Watched::new();
    let text = "---\n# mine\napiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: t}\nspec: {order: 1}\n";
    watched.write("mine.yaml", text);
    assert_eq!(
        does(&watched, Verb::Apply, &tier("t", 1)),
        one("Tier/t", "mine.yaml", Action::Unchanged)
    );
    assert_eq!(read(&watched, "mine.yaml"), text);
}

const MINE: &str = "# The shop's tiers. Mind the order!

---
# first
apiVersion: projectcalico.org/v3
kind: Tier
metadata:
  name: t   # the name
spec:
  order: 1
# after the first

---   # second
apiVersion: projectcalico.org/v3
kind:   Tier
metadata: {name: u}
spec: {order:   1}
---

# third
{\"apiVersion\": \"projectcalico.org/v3\", \"kind\": \"Tier\", \"metadata\": {\"name\": \"v\"}, \"spec\": {\"order\": 1}}
# the end";

#[test]
fn only_the_document_is_rewritten() {
    let watched = Watched::new();
    watched.write("mine.yaml", MINE);
    assert_eq!(
        does(&watched, Verb::Apply, &tier("u", 7)),
        one("Tier/u", "mine.yaml", Action::Updated)
    );
    let (before, rest) = MINE.split_once("---   # second\n").unwrap();
    let (_, after) = rest.split_once("---\n").unwrap();
    assert_eq!(
        read(&watched, "mine.yaml"),
        format!("{before}---   # second\n{}---\n{after}", tier("u", 7))
    );

    watched.write("mine.yaml", MINE);
    does(
        &watched,
        Verb::Replace,
        &format!("# new comment\n{}# trailing\n", tier("t", 7)),
    );
    let old = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata:\n  name: t   # the name\nspec:\n  order: 1\n";
    assert_eq!(read(&watched, "mine.yaml"), MINE.replacen(old, &tier("t", 7), 1));

    watched.write("mine.yaml", MINE);
    does(&watched, Verb::Apply, &tier("v", 7));
    let text = read(&watched, "mine.yaml");
    assert!(text.starts_with(MINE.split_once("{\"apiVersion").unwrap().0), "{text}");
    assert!(text.ends_with("}\n# the end"), "JSON stays JSON: {text}");
}

#[test]
fn a_document_is_deleted_and_its_neighbours_stay() {
    for (name, gone, kept) in [
        ("t", "# first", ["name: u", "\"v\""]),
        ("u", "name: u", ["name: t", "\"v\""]),
    ] {
        let watched = Watched::new();
        watched.write("mine.yaml", MINE);
        assert_eq!(
            does(&watched, Verb::Delete, &tier(name, 0)),
            one(&format!("Tier/{name}"), "mine.yaml", Action::Deleted)
        );
        let text = read(&watched, "mine.yaml");
        assert!(
            !text.contains(gone) && kept.iter().all(|kept| text.contains(kept)),
            "{text}"
        );
        assert!(text.starts_with("# The shop's tiers. Mind the order!\n\n---"), "{text}");
        assert!(MINE.contains(text.rsplit_once("---\n").unwrap().1), "{text}");
    }
}

#[test]
fn the_comment_at_the_head_of_a_file_stays() {
    let watched = Watched::new();
    watched.write(
        "mine.yaml",
        &format!("# licence\n\n# about t\n{}", file(&[tier("t", 1), tier("u", 1)])),
    );
    delete(&watched.root(), &[tier_key("t")]).unwrap();
    assert_eq!(
        read(&watched, "mine.yaml"),
        format!("# licence\n\n---\n{}", tier("u", 1))
    );
}

#[test]
fn several_documents_of_a_file_in_one_go() {
    let watched = Watched::new();
    watched.write("mine.yaml", MINE);
    let input = file(&[tier("v", 3), tier("t", 3), tier("w", 3)]);
    assert_eq!(does(&watched, Verb::Apply, &input).len(), 3);
    let text = read(&watched, "mine.yaml");
    assert!(text.contains("kind:   Tier"), "u was not touched: {text}");
    let listing = DirectoryStore::new(watched.root()).list().unwrap();
    let (stored, problems) = (listing.resources, listing.problems);
    assert!(problems.is_empty(), "{problems:?}");
    let orders: Vec<_> = stored.iter().map(|one| one.value["spec"]["order"].as_u64()).collect();
    assert_eq!(orders, [Some(3), Some(1), Some(3), Some(3)]);
    delete(&watched.root(), &["t", "u", "v", "w"].map(tier_key)).unwrap();
    assert!(!watched.path("mine.yaml").exists() && !watched.path("Tier.w.yaml").exists());
}

#[test]
fn the_only_document_takes_its_file_with_it() {
    let watched = Watched::new();
    watched.write("sub/mine.yaml", &format!("# comment\n{}", tier("t", 1)));
    assert_eq!(
        does(&watched, Verb::Delete, &bad_tier("t")),
        one("Tier/t", "sub/mine.yaml", Action::Deleted)
    );
    assert!(!watched.path("sub/mine.yaml").exists());
}

#[test]
fn json_files_stay_json() {
    let watched = Watched::new();
    let json = |name: &str, order: u32| {
        serde_json::json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": name},
            "spec": {"order": order}})
    };
    watched.write("a.json", &format!("{}\n{}\n", json("t", 1), json("u", 1)));
    does(&watched, Verb::Apply, &tier("t", 2));
    assert_eq!(
        read(&watched, "a.json"),
        format!("{:#}\n{}\n", json("t", 2), json("u", 1))
    );
    does(&watched, Verb::Delete, &tier("t", 2));
    assert_eq!(read(&watched, "a.json"), format!("{}\n", json("u", 1)));
}

#[test]
fn a_bad_document_can_be_replaced_but_not_one_that_cannot_be_parsed() {
    let watched = Watched::new();
    let text = file(&[bad_tier("t"), broken_tier("u"), tier("v", 1)]);
    watched.write("a.yaml", &text);
    assert!(refuses(&watched, Verb::Apply, &tier("u", 1)).contains("a.yaml:8 cannot be parsed"));
    assert_eq!(read(&watched, "a.yaml"), text);
    does(&watched, Verb::Apply, &tier("t", 1));
    assert_eq!(
        read(&watched, "a.yaml"),
        file(&[tier("t", 1), broken_tier("u"), tier("v", 1)])
    );
    does(&watched, Verb::Delete, &tier("t", 1));
    assert!(read(&watched, "a.yaml").contains(&broken_tier("u")));
}

#[test]
fn links_and_doubles_are_refused() {
    let watched = Watched::new();
    std::fs::write(watched.home.path().join("real.yaml"), tier("t", 1)).unwrap();
    symlink("../real.yaml", watched.path("link.yaml")).unwrap();
    assert!(refuses(&watched, Verb::Apply, &tier("t", 2)).contains("reached through a link"));
    assert!(refuses(&watched, Verb::Delete, &tier("t", 2)).contains("reached through a link"));

    watched.write("a.yaml", &tier("v", 1));
    watched.write("b.yaml", &tier("v", 1));
    let reason = refuses(&watched, Verb::Apply, &tier("v", 2));
    assert!(reason.contains("a.yaml:1, b.yaml:1"), "{reason}");
}

#[test]
fn bad_input_changes_nothing() {
    let watched = Watched::new();
    for (input, reason) in [
        (
            file(&[tier("t", 1), bad_tier("u")]),
            "input.yaml:13: Tier/u: spec.order",
        ),
        (file(&[tier("t", 1), tier("t", 2)]), "Tier/t is in the input twice"),
        (
            file(&[tier("t", 1), "kind: Deployment\napiVersion: apps/v1\n".to_owned()]),
            "none of felid's kinds",
        ),
        (broken_tier("t"), "input.yaml:"),
        ("# nothing\n".to_owned(), "no documents"),
    ] {
        let text = refuses(&watched, Verb::Apply, &input);
        assert!(text.contains(reason), "{text}");
        assert!(!watched.path("Tier.t.yaml").exists());
    }
    // One that cannot be done stops all.
    watched.write("a.yaml", &tier("t", 1));
    refuses(&watched, Verb::Create, &file(&[tier("u", 1), tier("t", 2)]));
    assert!(!watched.path("Tier.u.yaml").exists());
}

#[test]
fn items_of_a_list_in_the_input_get_files_of_their_own() {
    let watched = Watched::new();
    let input = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: projectcalico.org/v3\n  kind: Tier\n  metadata: {name: t}\n  \
                 spec: {order: 4}\n- apiVersion: projectcalico.org/v3\n  kind: Tier\n  metadata: {name: u}\n  spec: {order: 5}\n";
    assert_eq!(does(&watched, Verb::Apply, input).len(), 2);
    let listing = DirectoryStore::new(watched.root()).list().unwrap();
    let (stored, problems) = (listing.resources, listing.problems);
    assert!(problems.is_empty());
    assert_eq!(
        stored.iter().map(|one| &*one.file).collect::<Vec<_>>(),
        ["Tier.t.yaml", "Tier.u.yaml"]
    );
}

#[test]
fn permissions_stay() {
    let watched = Watched::new();
    watched.write("a.yaml", &tier("t", 1));
    std::fs::set_permissions(watched.path("a.yaml"), PermissionsExt::from_mode(0o640)).unwrap();
    does(&watched, Verb::Apply, &tier("t", 2));
    let mode = std::fs::metadata(watched.path("a.yaml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn a_directory_that_is_not_there_is_not_made() {
    let watched = Watched::new();
    let error = run(&watched.path("absent"), Verb::Apply, &tier("t", 1), "input.yaml").unwrap_err();
    assert!(
        matches!(error, StoreError::Io { .. }) && error.to_string().contains("absent"),
        "{error}"
    );
}

#[test]
fn commands_at_the_same_time_take_turns() {
    let watched = Watched::new();
    watched.write("a.yaml", &file(&[tier("t", 0), tier("u", 0)]));
    let root = watched.root();
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let root = &root;
            scope.spawn(move || {
                for n in 0..10 {
                    let name = if thread % 2 == 0 { "t" } else { "u" };
                    run(root, Verb::Apply, &tier(name, 1 + thread * 100 + n), "input").unwrap();
                    run(root, Verb::Create, &tier(&format!("x{thread}-{n}"), n), "input").unwrap();
                }
            });
        }
    });
    let listing = DirectoryStore::new(root).list().unwrap();
    let (stored, problems) = (listing.resources, listing.problems);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(stored.len(), 42);
}

#[test]
fn an_agent_sees_what_commands_do() {
    let mut watched = Watched::with(&[]);
    does(&watched, Verb::Create, &tier("t", 1));
    watched.until_order("t", Some(1));
    does(&watched, Verb::Apply, &tier("t", 2));
    watched.until_order("t", Some(2));
    delete(&watched.root(), &[tier_key("t")]).unwrap();
    watched.until_order("t", None);
    assert!(watched.problems.is_empty(), "{}", watched.wrong());
}

#[test]
fn a_record_that_is_based_on_an_old_version_is_a_conflict() {
    let watched = Watched::new();
    watched.write("mine.yaml", &format!("# a comment\n{}", tier("t", 1)));
    let store = DirectoryStore::new(watched.root());
    let version = || store.get(&tier_key("t")).unwrap().unwrap().resource_version;
    let based = |order: u32, version: &str| {
        tier("t", order).replace("name: t\n", &format!("name: t\n  resourceVersion: '{version}'\n"))
    };
    let first = version();
    // The latest version, and none at all, may be replaced; the version itself is never stored.
    does(&watched, Verb::Replace, &based(2, &first));
    assert_eq!(read(&watched, "mine.yaml"), format!("# a comment\n{}", tier("t", 2)));
    assert_ne!(version(), first);
    for verb in [Verb::Replace, Verb::Apply] {
        let error = run(&watched.root(), verb, &based(3, &first), "input.yaml").unwrap_err();
        assert!(matches!(error, StoreError::Conflict(_)), "{error:?}");
        let text = error.to_string();
        let latest = version();
        assert!(text.starts_with("update conflict: Tier/t: "), "{text}");
        assert!(text.contains(&first) && text.contains(&latest), "{text}");
    }
    assert_eq!(read(&watched, "mine.yaml"), format!("# a comment\n{}", tier("t", 2)));
    // What says the same already changes nothing, so there is nothing to lose.
    assert_eq!(
        does(&watched, Verb::Apply, &based(2, &first)),
        one("Tier/t", "mine.yaml", Action::Unchanged)
    );
    does(&watched, Verb::Apply, &tier("t", 4));
    // As calicoctl: a new resource has no version to be based on.
    does(&watched, Verb::Delete, &tier("t", 4));
    does(&watched, Verb::Apply, &based(5, &first));
    assert_eq!(read(&watched, "Tier.t.yaml"), tier("t", 5));
    does(&watched, Verb::Delete, &tier("t", 5));
    does(&watched, Verb::Create, &based(6, "12345"));
    assert_eq!(read(&watched, "Tier.t.yaml"), tier("t", 6));
}

#[test]
fn one_conflict_keeps_everything_from_being_written() {
    let watched = Watched::new();
    watched.write("a.yaml", &tier("t", 1));
    let stale = tier("t", 2).replace("name: t\n", "name: t\n  resourceVersion: '1'\n");
    for input in [
        format!("{stale}---\n{}", tier("u", 1)),
        format!("{}---\n{stale}", tier("u", 1)),
    ] {
        let error = run(&watched.root(), Verb::Apply, &input, "input.yaml").unwrap_err();
        assert!(matches!(error, StoreError::Conflict(_)), "{error:?}");
        assert!(!watched.path("Tier.u.yaml").exists());
    }
}

#[test]
fn a_comment_or_another_way_to_write_it_is_no_new_version() {
    let watched = Watched::new();
    let store = DirectoryStore::new(watched.root());
    let version = || store.get(&tier_key("t")).unwrap().unwrap().resource_version;
    watched.write("a.yaml", &tier("t", 1));
    let first = version();
    let json =
        r#"{"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "t"}, "spec": {"order": 1}}"#;
    for text in [
        format!("# more\n{}", tier("t", 1)),
        json.to_owned(),
        format!("[{json}]"),
    ] {
        watched.write("a.yaml", &text);
        assert_eq!(version(), first, "{text}");
    }
    watched.write("a.yaml", &tier("t", 2));
    assert_ne!(version(), first);
}

#[test]
fn a_watch_tells_what_changes() {
    let watched = Watched::new();
    watched.write("a.yaml", &file(&[tier("t", 1), tier("u", 1)]));
    let store = DirectoryStore::new(watched.root());
    let mut events = store.watch(store.list().unwrap()).unwrap();
    let mut next = || {
        let event = events.next().unwrap().unwrap();
        (event.name(), event.stored().key.to_string())
    };
    // Something between the listing and the watch is not missed.
    watched.write("sub/b.yaml", &tier("v", 1));
    assert_eq!(next(), ("ADDED", "Tier/v".to_owned()));
    watched.write_whole("a.yaml", &file(&[tier("t", 2), tier("u", 1)]));
    assert_eq!(next(), ("MODIFIED", "Tier/t".to_owned()));
    // Moved, and written in another way: the same.
    watched.rename("sub/b.yaml", "c.yaml");
    watched.write_whole("a.yaml", &tier("t", 2));
    assert_eq!(next(), ("DELETED", "Tier/u".to_owned()));
    watched.write("new/d.yaml", &tier("w", 1));
    assert_eq!(next(), ("ADDED", "Tier/w".to_owned()));
}

#[test]
fn a_link_in_place_of_the_lock_writes_nothing_elsewhere() {
    let watched = Watched::new();
    let elsewhere = watched.home.path().join("elsewhere");
    symlink(&elsewhere, watched.path(".felid.lock")).unwrap();
    assert!(refuses(&watched, Verb::Apply, &tier("t", 1)).contains(".felid.lock"));
    assert!(!elsewhere.exists() && !watched.path("Tier.t.yaml").exists());
    watched.remove(".felid.lock");
    does(&watched, Verb::Apply, &tier("t", 1));
}
