//! Names, labels, annotations.

use crate::{check, errors, record, resource, warnings};

fn named(kind: &str, name: &str) -> String {
    let spec = match kind {
        "HostEndpoint" => "node: n, interfaceName: eth0",
        "IPPool" => "cidr: 10.0.0.0/16",
        _ => "",
    };
    errors(&record(kind, &format!("name: {name}"), spec))
}

const POLICIES: [&str; 4] = [
    "NetworkPolicy",
    "StagedNetworkPolicy",
    "GlobalNetworkPolicy",
    "StagedGlobalNetworkPolicy",
];

#[test]
fn names_are_dns_subdomains() {
    let long = |length: usize| ["abcdefghi."; 30].concat()[..length].to_owned();
    for kind in ["Profile", "NetworkSet", "GlobalNetworkSet", "HostEndpoint", "IPPool"] {
        for name in ["a", "a.b.c.d", "0-9", "a--b", &long(253)] {
            assert_eq!(named(kind, name), "", "{kind} {name}");
        }
        for name in [
            "A",
            "a_b",
            "-a",
            "a-",
            "a.",
            ".a",
            "a..b",
            "a$b",
            "ü",
            &long(255)[..254],
        ] {
            assert_eq!(named(kind, name), "metadata.name", "{kind} {name}");
        }
        assert_eq!(named(kind, "''"), "metadata.name", "{kind}");
    }
}

#[test]
fn names_of_policies_have_one_dot() {
    for kind in POLICIES {
        for name in ["a", "a.b", "knp.default", "tier.x", "x.default"] {
            assert_eq!(named(kind, name), "", "{kind} {name}");
        }
        for name in ["a.b.c", "A", "a.", "-a", "knp.other.a"] {
            assert_eq!(named(kind, name), "metadata.name", "{kind} {name}");
        }
        for name in ["knp.default.a", "ossg.default.a.b.c"] {
            let wanted = if kind.contains("Global") { "metadata.name" } else { "" };
            assert_eq!(named(kind, name), wanted, "{kind} {name}");
        }
        assert_eq!(named(kind, &"a".repeat(253)), "");
        assert_eq!(named(kind, &"a".repeat(254)), "metadata.name");
    }
    // The name need not agree with the tier.
    check(
        "NetworkPolicy",
        "eng.a",
        &[("tier: sec", ""), ("tier: a.b", ""), ("tier: A", "spec.tier")],
    );
}

#[test]
fn names_of_tiers_are_labels() {
    assert_eq!(named("Tier", &"a".repeat(63)), "");
    for name in ["a.b", "A", "a-", &"a".repeat(64)] {
        assert_eq!(named("Tier", name), "metadata.name", "{name}");
    }
}

#[test]
fn an_absent_namespace_is_default() {
    for kind in ["NetworkPolicy", "StagedNetworkPolicy", "NetworkSet"] {
        let key = resource(&record(kind, "name: a", "")).key().to_string();
        assert_eq!(key, format!("{kind}/default/a"));
        let key = resource(&record(kind, "name: a, namespace: n", "")).key().to_string();
        assert_eq!(key, format!("{kind}/n/a"));
    }
}

#[test]
fn labels_and_annotations() {
    let meta = |field: &str, entry: &str| errors(&record("Profile", &format!("name: a, {field}: {{{entry}}}"), ""));
    let apply = |entry: &str| errors(&record("Profile", "name: a", &format!("labelsToApply: {{{entry}}}")));
    let value = |length: usize| format!("a: {}", "v".repeat(length));
    for good in [
        "a: b",
        "a.b/c: d",
        "a.b/C_d.e-f: ''",
        "projectcalico.org/namespace: x",
        "A: B_.-b",
        &value(63),
        &format!("{}: x", "k".repeat(63)),
    ] {
        assert_eq!(meta("labels", good), "", "{good}");
        assert_eq!(apply(good), "", "{good}");
    }
    for bad in [
        "a/b/c: d",
        "/a: b",
        "a/: b",
        ".a: b",
        "a-: b",
        "a$: b",
        "UPPER.com/a: b",
        "a: -b",
        "a: 'b c'",
        "a: x-",
        &value(64),
        &format!("{}: x", "k".repeat(64)),
    ] {
        let key = bad.split(':').next().unwrap();
        assert_eq!(meta("labels", bad), format!("metadata.labels.{key}"), "{bad}");
        assert_eq!(apply(bad), format!("spec.labelsToApply.{key}"), "{bad}");
    }
    for good in ["a: any thing", "UPPER.com/A: ''", "a/b: x"] {
        assert_eq!(meta("annotations", good), "", "{good}");
    }
    for bad in ["a/b/c: d", "...: x", "'a b': x", "'': x"] {
        let key = bad.split(':').next().unwrap().trim_matches('\'');
        assert_eq!(meta("annotations", bad), format!("metadata.annotations.{key}"), "{bad}");
    }
    let size = |bytes: usize| meta("annotations", &format!("a: {}", "x".repeat(bytes)));
    assert_eq!(size(256 * 1024 - 1), "");
    assert_eq!(size(256 * 1024), "metadata.annotations");
    for kind in ["NetworkSet", "GlobalNetworkSet"] {
        let text = record(kind, "name: a, labels: {projectcalico.org/namespace: x}", "");
        assert_eq!(errors(&text), "metadata.labels.projectcalico.org/namespace");
    }
}

#[test]
fn status_is_known_everywhere() {
    for (kind, spec) in [
        ("Tier", ""),
        ("NetworkPolicy", ""),
        ("StagedGlobalNetworkPolicy", ""),
        ("Profile", ""),
        ("GlobalNetworkSet", ""),
        ("IPPool", "cidr: 10.0.0.0/16"),
        ("HostEndpoint", "node: n, interfaceName: '*'"),
        ("FelixConfiguration", ""),
    ] {
        let text = record(kind, "name: a", spec);
        assert_eq!(errors(&format!("{text}status: {{x: [1]}}\n")), "", "{kind}");
        assert_eq!(errors(&format!("{text}extra: 1\n")), "extra", "{kind}");
        assert_eq!(errors(&text.replace("spec: {", "spec: {x: 1, ")), "spec.x", "{kind}");
        let text = text.replace("name: a", "name: a, colour: red, uid: x, finalizers: []");
        assert!(warnings(&text).contains("metadata.colour"), "{kind}");
    }
}
