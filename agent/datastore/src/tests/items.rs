//! Items of lists, replaced and deleted where they stand.

use felid_model::ResourceKey;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::editing::{Verb, delete, does, one, read, refuses};
use super::{Watched, tier, tier_key};
use crate::{Action, DirectoryStore, Store};

const LIST: &str = "# head
apiVersion: v1
kind: List   # of tiers
items:
# first
- apiVersion: projectcalico.org/v3
  kind: Tier
  metadata: {name: t}
  spec:
    order: 1   # mind it

# second,
# with two lines
-   apiVersion: projectcalico.org/v3
    kind:   Tier
    metadata:
        name: u

    spec: {order:   1}
    # the end of u

# set off

-
  # inside
  apiVersion: projectcalico.org/v3
  kind: Tier
  metadata: {name: v}
  spec: {order: 1}
# tail
metadata: {}
---
";

fn with_neighbour(list: &str) -> String {
    format!("{list}{}", tier("other", 1))
}

fn indented(text: &str, margin: &str) -> String {
    text.lines().map(|line| format!("{margin}{line}\n")).collect::<String>()[margin.len()..].to_owned()
}

#[test]
fn an_item_of_a_yaml_list_is_rewritten_alone() {
    let watched = Watched::new();
    let cases = [
        ("t", "- ", "- apiVersion", "    order: 1   # mind it\n", "  "),
        ("u", "-   ", "-   apiVersion", "    # the end of u\n", "    "),
        (
            "v",
            "- ",
            "-\n  # inside",
            "  metadata: {name: v}\n  spec: {order: 1}\n",
            "  ",
        ),
    ];
    for (name, dash, from, to, margin) in cases {
        watched.write("list.yaml", &with_neighbour(LIST));
        let key = format!("Tier/{name}");
        assert_eq!(
            does(&watched, Verb::Apply, &format!("# a comment\n{}", tier(name, 7))),
            one(&key, "list.yaml", Action::Updated)
        );
        let start = LIST.find(from).unwrap();
        let end = start + LIST[start..].find(to).unwrap() + to.len();
        let (before, after) = (&LIST[..start], &LIST[end..]);
        let new = indented(&tier(name, 7), margin);
        assert_eq!(
            read(&watched, "list.yaml"),
            with_neighbour(&format!("{before}{dash}{new}{after}"))
        );
    }
}

#[test]
fn an_item_of_a_yaml_list_goes_with_its_comment() {
    let watched = Watched::new();
    for (name, from, to) in [
        ("t", "# first", "    order: 1   # mind it\n"),
        ("u", "# second", "    # the end of u\n"),
        ("v", "-\n  # inside", "  metadata: {name: v}\n  spec: {order: 1}\n"),
    ] {
        watched.write("list.yaml", &with_neighbour(LIST));
        delete(&watched.root(), &[tier_key(name)]).unwrap();
        let start = LIST.find(from).unwrap();
        let end = start + LIST[start..].find(to).unwrap() + to.len();
        let expected = with_neighbour(&format!("{}{}", &LIST[..start], &LIST[end..]));
        assert_eq!(read(&watched, "list.yaml"), expected, "{name}");
    }
    // Several at once, one of them replaced.
    watched.write("list.yaml", &with_neighbour(LIST));
    delete(&watched.root(), &[tier_key("t"), tier_key("v")]).unwrap();
    does(&watched, Verb::Replace, &tier("u", 3));
    let text = read(&watched, "list.yaml");
    assert!(
        text.starts_with("# head\napiVersion: v1\nkind: List   # of tiers\nitems:\n\n# second,"),
        "{text}"
    );
}

#[test]
fn the_last_items_take_their_list_with_them() {
    let watched = Watched::new();
    watched.write("list.yaml", &with_neighbour(LIST));
    delete(&watched.root(), &["t", "u", "v"].map(tier_key)).unwrap();
    assert_eq!(read(&watched, "list.yaml"), format!("---\n{}", tier("other", 1)));
    watched.write("list.yaml", &with_neighbour(LIST));
    delete(&watched.root(), &["t", "u", "v", "other"].map(tier_key)).unwrap();
    assert!(!watched.path("list.yaml").exists());
    let array = json!([record("t", 1), record("u", 1)]).to_string();
    watched.write("a.json", &format!("{array}\n{}\n", record("v", 1)));
    delete(&watched.root(), &["t", "u"].map(tier_key)).unwrap();
    assert_eq!(read(&watched, "a.json"), format!("{}\n", record("v", 1)));
}

fn record(name: &str, order: u32) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": name}, "spec": {"order": order}})
}

#[test]
fn elements_of_json_arrays() {
    let watched = Watched::new();
    let (t, u, v) = (record("t", 1), record("u", 1), record("v", 1));
    let compact = format!("[{t} , {u},\n {v}]\n");
    for (name, expected) in [
        ("t", format!("[{u},\n {v}]\n")),
        ("u", format!("[{t} , {v}]\n")),
        ("v", format!("[{t} , {u}]\n")),
    ] {
        watched.write("a.json", &compact);
        delete(&watched.root(), &[tier_key(name)]).unwrap();
        assert_eq!(read(&watched, "a.json"), expected);
    }
    watched.write("a.json", &compact);
    delete(&watched.root(), &[tier_key("v"), tier_key("u")]).unwrap();
    assert_eq!(read(&watched, "a.json"), format!("[{t}]\n"));
    watched.write("a.json", &compact);
    does(&watched, Verb::Apply, &tier("u", 2));
    assert_eq!(read(&watched, "a.json"), format!("[{t} , {},\n {v}]\n", record("u", 2)));

    let pretty = |values: &[&Value]| format!("{:#}\n", json!({"kind": "List", "apiVersion": "v1", "items": values}));
    watched.write("a.json", &pretty(&[&t, &u, &v]));
    does(&watched, Verb::Apply, &tier("u", 2));
    assert_eq!(read(&watched, "a.json"), pretty(&[&t, &record("u", 2), &v]));
    delete(&watched.root(), &[tier_key("t")]).unwrap();
    assert_eq!(read(&watched, "a.json"), pretty(&[&record("u", 2), &v]));
    delete(&watched.root(), &[tier_key("v")]).unwrap();
    assert_eq!(read(&watched, "a.json"), pretty(&[&record("u", 2)]));
}

#[test]
fn items_that_take_their_kind_from_the_list() {
    let watched = Watched::new();
    let text = "apiVersion: projectcalico.org/v3\nkind: TierList\nitems:\n  - metadata: {name: t}\n    spec: {order: 1}\n  - metadata: {name: u}\n";
    watched.write("list.yaml", text);
    does(&watched, Verb::Apply, &tier("t", 2));
    let (before, after) = (text.split_once("- ").unwrap().0, text.rsplit_once("  - ").unwrap().1);
    assert_eq!(
        read(&watched, "list.yaml"),
        format!("{before}- {}  - {after}", indented(&tier("t", 2), "    "))
    );
    delete(&watched.root(), &[tier_key("t")]).unwrap();
    assert_eq!(read(&watched, "list.yaml"), format!("{before}- {after}"));
}

#[test]
fn what_is_written_too_cleverly_is_left_to_people() {
    let watched = Watched::new();
    let item = |name: &str| format!("{{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {{name: {name}}}}}");
    for text in [
        format!("apiVersion: v1\nkind: List\nitems: [{}, {}]\n", item("t"), item("u")),
        format!(
            "apiVersion: v1\nkind: List\nitems:\n- &a {}\n- <<: *a\n  metadata: {{name: u}}\n",
            item("t")
        ),
        format!("[{}, [{}]]\n", record("t", 1), record("u", 1)),
    ] {
        watched.write("list.yaml", &text);
        let reason = refuses(&watched, Verb::Delete, &tier("t", 2));
        assert!(reason.contains("by hand"), "{reason}");
        assert_eq!(read(&watched, "list.yaml"), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Any layout of the usual kinds, any edits: the lists of what is there agree, and lines of
    /// other items stay.
    #[test]
    fn any_edits_of_usual_lists(
        items in prop::collection::vec((0..3_usize, 0..4_usize, 0..3_usize), 1..6),
        changes in prop::collection::vec(0..4_u8, 6),
        margin in 0..3_usize,
        form in 0..3_u8,
    ) {
        let watched = Watched::new();
        let margin = " ".repeat(margin);
        let mut text = String::new();
        let names: Vec<String> = (0..items.len()).map(|i| format!("t{i}")).collect();
        match form {
            0 => {
                text.push_str("apiVersion: v1\nkind: List\nitems:\n");
                for (name, (comments, gap, blank)) in names.iter().zip(&items) {
                    for n in 0..*comments {
                        text.push_str(&format!("{margin}# {name} {n}\n"));
                    }
                    let gap = " ".repeat(gap + 1);
                    let inner = format!("{margin} {gap}");
                    text.push_str(&format!("{margin}-{gap}{}{}", indented(&tier(name, 1), &inner), "\n".repeat(*blank)));
                }
            }
            1 => text = json!(names.iter().map(|name| record(name, 1)).collect::<Vec<_>>()).to_string(),
            _ => text = format!("{:#}\n", json!({"kind": "TierList", "items": names.iter().map(|name| record(name, 1)).collect::<Vec<_>>()})),
        }
        watched.write("list", &text);
        let mut expected = Vec::new();
        let mut gone: Vec<ResourceKey> = Vec::new();
        let mut new = Vec::new();
        for (name, change) in names.iter().zip(&changes) {
            match change {
                0 => gone.push(tier_key(name)),
                1 => { new.push(tier(name, 2)); expected.push((name.clone(), 2)); }
                _ => expected.push((name.clone(), 1)),
            }
        }
        if !gone.is_empty() {
            delete(&watched.root(), &gone).unwrap();
        }
        if !new.is_empty() {
            does(&watched, Verb::Replace, &new.join("---\n"));
        }
        let listing = DirectoryStore::new(watched.root()).list().unwrap();
    let (stored, _) = (listing.resources, listing.problems);
        let found: Vec<(String, u64)> = stored
            .iter()
            .map(|one| (one.key.name.to_string(), one.value["spec"]["order"].as_u64().unwrap()))
            .collect();
        prop_assert_eq!(found, expected.clone());
        if form == 0 && !expected.is_empty() {
            let after = read(&watched, "list");
            for (name, (comments, ..)) in names.iter().zip(&items) {
                let stays = expected.iter().any(|(kept, _)| kept == name);
                for n in 0..*comments {
                    prop_assert_eq!(after.contains(&format!("# {name} {n}\n")), stays, "{}", after);
                }
            }
        }
    }
}
