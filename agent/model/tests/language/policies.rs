//! Tiers and policies.

use felid_model::{Policy, Resource};

use crate::{check, errors, record, resource, warnings};

#[test]
fn tiers() {
    check(
        "Tier",
        "a",
        &[
            ("", ""),
            ("order: -1.5", ""),
            ("defaultAction: Deny", ""),
            ("defaultAction: Pass", ""),
            ("defaultAction: Allow", "spec.defaultAction"),
            ("defaultAction: pass", "spec.defaultAction"),
            ("order: '1'", "spec.order"),
        ],
    );
    check(
        "Tier",
        "default",
        &[
            ("order: 1000000", ""),
            ("order: 1000000.0, defaultAction: Deny", ""),
            ("", "spec.order"),
            ("order: 1", "spec.order"),
            ("order: 1000000, defaultAction: Pass", "spec.defaultAction"),
        ],
    );
    for (name, order) in [("kube-admin", "1000"), ("kube-baseline", "10000000")] {
        check(
            "Tier",
            name,
            &[
                (&format!("order: {order}, defaultAction: Pass"), ""),
                (&format!("order: {order}"), "spec.defaultAction"),
                (&format!("order: {order}, defaultAction: Deny"), "spec.defaultAction"),
                ("defaultAction: Pass", "spec.order"),
                ("order: 10, defaultAction: Pass", "spec.order"),
            ],
        );
    }
}

#[test]
fn fields_of_policies() {
    for kind in [
        "NetworkPolicy",
        "GlobalNetworkPolicy",
        "StagedNetworkPolicy",
        "StagedGlobalNetworkPolicy",
    ] {
        check(
            kind,
            "a",
            &[
                ("", ""),
                ("order: -5", ""),
                ("order: 1e300", ""),
                ("types: []", ""),
                ("types: [Ingress]", ""),
                ("types: [Egress, Ingress]", ""),
                ("types: [Egress, Egress]", "spec.types"),
                ("types: [egress]", "spec.types[0]"),
                ("types: [Ingress, null]", "spec.types[1]"),
                ("performanceHints: [AssumeNeededOnEveryNode]", ""),
                (
                    "performanceHints: [AssumeNeededOnEveryNode, AssumeNeededOnEveryNode]",
                    "spec.performanceHints",
                ),
                ("performanceHints: [Other]", "spec.performanceHints[0]"),
                ("selector: \"a == 'b'\"", ""),
                ("selector: a ==", "spec.selector"),
                ("selector: global()", "spec.selector"),
                ("selector: has(a) || !global()", "spec.selector"),
                ("selector: \"a == 'global()'\"", "spec.selector"),
                ("serviceAccountSelector: has(a)", ""),
                ("serviceAccountSelector: global()", "spec.serviceAccountSelector"),
                ("serviceAccountSelector: '('", "spec.serviceAccountSelector"),
                ("tier: ''", ""),
            ],
        );
    }
    let global = [
        ("namespaceSelector: has(a)", ""),
        ("namespaceSelector: global()", "spec.namespaceSelector"),
        ("preDNAT: true, applyOnForward: true", ""),
        ("doNotTrack: true, applyOnForward: true", ""),
        ("applyOnForward: true", ""),
        (
            "preDNAT: false, doNotTrack: false, applyOnForward: false, types: [Egress]",
            "",
        ),
        ("preDNAT: true", "spec.applyOnForward"),
        ("doNotTrack: true, applyOnForward: false", "spec.applyOnForward"),
        ("preDNAT: true, doNotTrack: true, applyOnForward: true", "spec.preDNAT"),
        (
            "preDNAT: true, applyOnForward: true, egress: [{action: Deny}]",
            "spec.egress",
        ),
        (
            "preDNAT: true, applyOnForward: true, types: [Ingress, Egress]",
            "spec.types",
        ),
        ("doNotTrack: true, applyOnForward: true, egress: [{action: Deny}]", ""),
        ("doNotTrack: 'true'", "spec.doNotTrack"),
    ];
    for kind in ["GlobalNetworkPolicy", "StagedGlobalNetworkPolicy"] {
        check(kind, "a", &global);
    }
    for kind in ["NetworkPolicy", "StagedNetworkPolicy"] {
        check(
            kind,
            "a",
            &[
                ("namespaceSelector: has(a)", "spec.namespaceSelector"),
                ("preDNAT: true", "spec.preDNAT"),
                ("stagedAction: Sit", "spec.stagedAction"),
            ],
        );
    }
}

fn policy(text: &str) -> Option<Policy> {
    match resource(text) {
        Resource::Policy(policy) => Some(policy.as_ref().clone()),
        Resource::Inert(_) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn staged_policies() {
    for (kind, key) in [
        ("StagedNetworkPolicy", "StagedNetworkPolicy/default/a"),
        ("StagedGlobalNetworkPolicy", "StagedGlobalNetworkPolicy/a"),
    ] {
        for action in [
            "",
            "stagedAction: Set,",
            "stagedAction: Learn,",
            "stagedAction: Ignore,",
        ] {
            let spec = format!("{action} selector: has(a), tier: t, ingress: [{{action: Log}}]");
            let policy = policy(&record(kind, "name: a", &spec)).unwrap();
            assert!(
                policy.staged && policy.ingress.len() == 1 && policy.tier == "t",
                "{spec}"
            );
            assert_eq!(policy.key.to_string(), key);
        }
        // A staged removal: nothing is left of the policy.
        let delete = "stagedAction: Delete, tier: eng, selector: '', types: [], ingress: []";
        assert_eq!(policy(&record(kind, "name: eng.a", delete)), None);
        for (more, field) in [
            ("order: 0", "spec.order"),
            ("selector: all()", "spec.selector"),
            ("ingress: [{action: Allow}]", "spec.ingress"),
            ("types: [Ingress]", "spec.types"),
            ("serviceAccountSelector: all()", "spec.serviceAccountSelector"),
        ] {
            check(kind, "a", &[(&format!("stagedAction: Delete, {more}"), field)]);
        }
        check(kind, "a", &[("stagedAction: set", "spec.stagedAction")]);
    }
    assert!(!policy(&record("NetworkPolicy", "name: a", "")).unwrap().staged);
}

#[test]
fn staged_policies_of_kubernetes_are_named_as_kubernetes_does() {
    for name in ["a", "a.b.c", "knp.default.a"] {
        let text = record(
            "StagedKubernetesNetworkPolicy",
            &format!("name: {name}"),
            "podSelector: {}",
        );
        assert!(policy(&text).unwrap().staged);
    }
    check(
        "StagedKubernetesNetworkPolicy",
        "A",
        &[("podSelector: {}", "metadata.name")],
    );
}

#[test]
fn policies_of_host_endpoints_alone_are_inert() {
    for kind in ["GlobalNetworkPolicy", "StagedGlobalNetworkPolicy"] {
        for (field, spec) in [
            ("spec.preDNAT", "preDNAT: true, applyOnForward: true"),
            ("spec.doNotTrack", "doNotTrack: true, applyOnForward: true"),
        ] {
            let text = record(kind, "name: a", spec);
            assert_eq!((warnings(&text).as_str(), policy(&text)), (field, None));
        }
        let text = record(kind, "name: a", "applyOnForward: true");
        assert_eq!(warnings(&text), "spec.applyOnForward");
        assert!(policy(&text).is_some());
    }
}

#[test]
fn selectors_of_policies_are_read() {
    let spec = "selector: has(a), namespaceSelector: has(b), serviceAccountSelector: has(c)";
    let policy = policy(&record("GlobalNetworkPolicy", "name: a", spec)).unwrap();
    let text = |selector: Option<felid_model::Selector>| selector.map(|selector| selector.to_string());
    assert_eq!(policy.selector.to_string(), "has(a)");
    assert_eq!(text(policy.namespace_selector).as_deref(), Some("has(b)"));
    assert_eq!(text(policy.service_account_selector).as_deref(), Some("has(c)"));
    assert_eq!(
        errors(&record("GlobalNetworkPolicy", "name: a", "selector: 7")),
        "spec.selector"
    );
}
