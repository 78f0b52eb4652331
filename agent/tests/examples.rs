//! The records of `examples/`: each set is valid, converts, and is enforced by the agent (on a
//! pretended kernel).

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};

use common::fake::start;
use common::{felid, on, with_input};
use serde_json::Value;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// Directories of `examples/` with records; policy tests are not records.
fn sets() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(examples())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let sets: Vec<PathBuf> = entries
        .filter(|path| path.is_dir() && !path.ends_with("policy-tests"))
        .collect();
    assert!(sets.len() >= 5, "{sets:?}");
    sets
}

/// Everything that a directory holds, as one text.
fn text(directory: &Path) -> String {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let texts: Vec<String> = files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    texts.join("---\n")
}

#[test]
fn they_are_valid_and_so_is_what_they_convert_to() {
    for set in sets() {
        let set = set.display().to_string();
        let ran: common::Ran = felid(&["validate", "-f", &set]).output().unwrap().into();
        assert_eq!(ran.code, Some(0), "{set}: {}", ran.err);
        let ran: common::Ran = felid(&["convert", "-f", &set, "-o", "json"]).output().unwrap().into();
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{set}");
        for line in ran.out.lines() {
            let answer: Value = serde_json::from_str(line).unwrap();
            assert!(answer["error"].is_null(), "{set}: {line}");
        }
        let ran: common::Ran = felid(&["convert", "-f", &set]).output().unwrap().into();
        let valid = with_input(&["validate", "-f", "-"], &ran.out);
        assert_eq!(valid.code, Some(0), "{set}: {}{}", valid.err, ran.out);
    }
}

#[test]
fn the_documented_endpoints_have_their_documented_names() {
    for (set, name) in [
        ("v1", "rack1--host1-k8s-frontend--5gs43-eth0"),
        ("v3", "node1-k8s-my--nginx--b1337a-eth0"),
    ] {
        let ran = on(&examples().join(set), &["get", "wep", "-o", "wide"]);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
        let line = ran.out.lines().nth(1).unwrap();
        assert!(line.starts_with(name), "{line}");
        assert!(line.contains("192.168.0.0/32   cali0ef24ba   profile1"), "{line}");
    }
}

#[test]
fn pods_have_the_columns_of_their_endpoints() {
    let ran = on(&examples().join("kubernetes"), &["get", "pods", "-n", "shop"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let rows: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAMESPACE", "NAME", "NODE", "NETWORKS", "INTERFACE"]);
    assert_eq!(rows[1][..4], ["shop", "db-0", "node1", "10.65.0.3/32,fd00:65::3/128"]);
    let ran = on(
        &examples().join("kubernetes"),
        &["get", "knp", "-n", "shop", "-o", "wide"],
    );
    assert!(ran.out.contains("default   1000"), "{}", ran.out);
    // What comes out can be handed in again.
    let ran = on(&examples().join("kubernetes"), &["get", "knp", "-A", "-o", "yaml"]);
    let valid = with_input(&["validate", "-f", "-"], &ran.out);
    assert_eq!(valid.out, "2 documents valid, 0 invalid\n", "{}", valid.err);
}

#[test]
fn the_agent_enforces_them() {
    for (set, node, local) in [
        ("kubernetes", "node1", 2),
        ("floating-ips", "node1", 3),
        ("v3", "node1", 1),
        ("v1", "rack1-host1", 1),
    ] {
        let agent = start(&[("node", node)]);
        agent.send_all(&text(&examples().join(set)));
        agent.until("complete", |agent| agent.kernel().completed == 1);
        let kernel = agent.kernel();
        assert_eq!(kernel.endpoints.len(), local, "{set}");
    }
}

#[test]
fn the_floating_addresses_are_in_force_but_for_the_contested_one() {
    let agent = start(&[]);
    agent.send_all(&text(&examples().join("floating-ips")));
    let in_force = |agent: &common::fake::Running| {
        let kernel = agent.kernel();
        let nats = kernel.nats.iter();
        nats.map(|(external, mapping)| format!("{external} {}", mapping.internal))
            .collect::<Vec<_>>()
    };
    let expected = [
        "203.0.113.10 10.65.0.10",
        "203.0.113.11 10.65.0.10",
        "203.0.113.20 10.65.0.20",
        "2001:db8::10 fd00:65::10",
    ];
    agent.until("in force", |agent| in_force(agent) == expected);
    assert_eq!(agent.status().nat.conflicts, 1);
}
