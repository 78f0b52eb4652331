//! Rules.

use felid_model::{Action, IcmpMatch, Resource, Rule};

use crate::{errors, record, resource};

const KINDS: [&str; 5] = [
    "NetworkPolicy",
    "GlobalNetworkPolicy",
    "StagedNetworkPolicy",
    "StagedGlobalNetworkPolicy",
    "Profile",
];

/// Checks rules in every kind and direction; paths are from the rule.
fn check(rules: &[(&str, &str)]) {
    for (rule, wanted) in rules {
        for kind in KINDS {
            for direction in ["ingress", "egress"] {
                let text = record(kind, "name: a", &format!("{direction}: [{{{rule}}}]"));
                let found = errors(&text).replace(&format!("spec.{direction}[0]."), "");
                assert_eq!(found, *wanted, "{text}");
            }
        }
    }
}

fn read(rule: &str) -> Rule {
    match resource(&record("NetworkPolicy", "name: a", &format!("ingress: [{{{rule}}}]"))) {
        Resource::Policy(policy) => policy.ingress[0].clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn actions_versions_protocols() {
    check(&[
        ("action: Allow", ""),
        ("action: Deny", ""),
        ("action: Log", ""),
        ("action: Pass", ""),
        ("", "action"),
        ("action: ''", "action"),
        ("action: null", "action"),
        ("action: allow", "action"),
        ("action: Reject", "action"),
        ("action: Allow, ipVersion: 4", ""),
        ("action: Allow, ipVersion: 6", ""),
        ("action: Allow, ipVersion: null", ""),
        ("action: Allow, ipVersion: 0", "ipVersion"),
        ("action: Allow, ipVersion: 5", "ipVersion"),
        ("action: Allow, ipVersion: '4'", "ipVersion"),
        ("action: Allow, ipVersion: 4.5", "ipVersion"),
    ]);
    for key in ["protocol", "notProtocol"] {
        for good in [
            "TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "UDPLite", "1", "255", "'255'", "'6'", "null",
        ] {
            check(&[(&format!("action: Allow, {key}: {good}"), "")]);
        }
        for bad in [
            "tcp", "Tcp", "icmpv6", "UDPlite", "tcpfoo", "0", "'0'", "256", "'256'", "-1", "6.5", "''", "true", "[TCP]",
        ] {
            check(&[(&format!("action: Allow, {key}: {bad}"), key)]);
        }
        for (protocol, version, other) in [
            ("ICMP", 4, 6),
            ("1", 4, 6),
            ("'1'", 4, 6),
            ("ICMPv6", 6, 4),
            ("58", 6, 4),
        ] {
            check(&[
                (&format!("action: Deny, {key}: {protocol}, ipVersion: {version}"), ""),
                (&format!("action: Deny, {key}: {protocol}, ipVersion: {other}"), key),
            ]);
        }
    }
}

#[test]
fn icmp() {
    for protocol in ["ICMP", "ICMPv6", "1", "58", "'58'"] {
        for good in [
            "",
            "type: 0",
            "type: 254",
            "type: 128, code: 0",
            "type: 128, code: 255",
            "type: 8, code: null",
        ] {
            check(&[(&format!("action: Allow, protocol: {protocol}, icmp: {{{good}}}"), "")]);
        }
    }
    for (bad, fields) in [
        ("type: 255", "type"),
        ("type: -1", "type"),
        ("type: '8'", "type"),
        ("type: 8, code: 256", "code"),
        ("type: 8, code: -1", "code"),
        ("code: 0", "code"),
        ("type: null, code: 3", "code"),
    ] {
        check(&[
            (
                &format!("action: Allow, protocol: ICMP, icmp: {{{bad}}}"),
                &format!("icmp.{fields}"),
            ),
            (
                &format!("action: Allow, notICMP: {{{bad}}}"),
                &format!("notICMP.{fields}"),
            ),
        ]);
    }
    check(&[
        ("action: Allow, icmp: {type: 8}", "icmp"),
        ("action: Allow, icmp: {}", "icmp"),
        ("action: Allow, protocol: TCP, icmp: {type: 8}", "icmp"),
        ("action: Allow, notProtocol: ICMP, icmp: {type: 8}", "icmp"),
        ("action: Allow, icmp: null", ""),
        ("action: Allow, notICMP: {type: 8}", ""),
        ("action: Allow, protocol: TCP, notICMP: {type: 8, code: 1}", ""),
    ]);
    let rule = read("action: Deny, protocol: ICMP, icmp: {type: 8}, notICMP: {type: 3, code: 1}");
    let icmp = |icmp_type, code| Some(IcmpMatch { icmp_type, code });
    assert_eq!(
        (rule.fields.icmp, rule.fields.not_icmp),
        (icmp(Some(8), None), icmp(Some(3), Some(1)))
    );
    let empty = read("action: Deny, protocol: ICMP, icmp: {}, notICMP: {}");
    assert!(empty.fields.is_empty());
}

#[test]
fn ports() {
    for side in ["source", "destination"] {
        for key in ["ports", "notPorts"] {
            let path = format!("{side}.{key}");
            let with = |protocol: &str, port: &str, wanted: &str| {
                check(&[(
                    &format!("action: Allow{protocol}, {side}: {{{key}: [{port}]}}"),
                    &wanted.replace('@', &path),
                )]);
            };
            for protocol in [
                ", protocol: TCP",
                ", protocol: 17",
                ", protocol: SCTP",
                ", protocol: '132'",
            ] {
                for port in [
                    "1",
                    "65535",
                    "'80'",
                    "'0080'",
                    "'80:90'",
                    "'80:80'",
                    "http",
                    "a-b-c",
                    "0a",
                    "'123456789012-45'",
                ] {
                    let wanted = if port.contains("12-45") { "@[0]" } else { "" };
                    with(protocol, port, wanted);
                }
            }
            for port in [
                "0",
                "-1",
                "65536",
                "1.5",
                "'0'",
                "'65536'",
                "'90:80'",
                "'80:'",
                "':80'",
                "'0:80'",
                "'80:65536'",
                "a_b",
                "HTTP",
                "-a",
                "a-",
                "a--b",
                "'80-90'",
                "abcdefghijklmnop",
                "''",
                "null",
                "{}",
                "' 80'",
                "a.b",
            ] {
                with(", protocol: TCP", port, "@[0]");
            }
            with("", "http", "");
            with("", "80", "@[0]");
            with("", "'80:90'", "@[0]");
            with("", "http, 80", "@[1]");
            with(", notProtocol: TCP", "http", "");
            for protocol in ["ICMP", "ICMPv6", "UDPLite", "47", "'1'"] {
                with(&format!(", protocol: {protocol}"), "80", "@");
                with(&format!(", protocol: {protocol}"), "http", "@");
                with(&format!(", protocol: {protocol}"), "", "");
            }
        }
    }
}

#[test]
fn nets() {
    for side in ["source", "destination"] {
        for key in ["nets", "notNets"] {
            for good in [
                "10.0.0.0/8",
                "10.0.0.1/32",
                "'fd00::/8'",
                "'::1/128'",
                "10.0.0.0/8, 10.0.0.0/8",
                "",
            ] {
                check(&[(&format!("action: Allow, {side}: {{{key}: [{good}]}}"), "")]);
            }
            for bad in [
                "10.0.0.1",
                "'::1'",
                "10.1.2.3/8",
                "'fd00::1/8'",
                "nope",
                "''",
                "10.0.0.0/33",
                "10.0.0/8",
                "7",
                "null",
            ] {
                check(&[(
                    &format!("action: Allow, {side}: {{{key}: [{bad}]}}"),
                    &format!("{side}.{key}[0]"),
                )]);
            }
            check(&[(
                &format!("action: Allow, {side}: {{{key}: [10.0.0.0/8, 'fd00::/8']}}"),
                &format!("{side}.{key}"),
            )]);
            for (version, net) in [(4, "'fd00::/8'"), (6, "10.0.0.0/8")] {
                check(&[(
                    &format!("action: Allow, ipVersion: {version}, {side}: {{{key}: [{net}]}}"),
                    &format!("{side}.{key}"),
                )]);
            }
        }
        for net in ["0.0.0.0/0", "'::/0'", "'0::0/0'"] {
            check(&[
                (&format!("action: Allow, {side}: {{nets: [{net}]}}"), ""),
                (
                    &format!("action: Allow, {side}: {{notNets: [{net}]}}"),
                    &format!("{side}.notNets[0]"),
                ),
            ]);
        }
    }
    check(&[
        (
            "action: Allow, source: {nets: [10.0.0.0/8]}, destination: {notNets: ['fd00::/8']}",
            "destination.notNets",
        ),
        (
            "action: Allow, source: {notNets: ['fd00::/8']}, destination: {nets: [10.0.0.0/8]}",
            "destination.nets",
        ),
        (
            "action: Allow, ipVersion: 4, source: {nets: [10.0.0.0/8]}, destination: {nets: [11.0.0.0/8]}",
            "",
        ),
    ]);
}

#[test]
fn selectors() {
    for side in ["source", "destination"] {
        let with = |entity: &str, field: &str| {
            let wanted = if field.is_empty() {
                String::new()
            } else {
                format!("{side}.{field}")
            };
            check(&[(&format!("action: Allow, {side}: {{{entity}}}"), &wanted)]);
        };
        with("selector: \"a == 'b'\", notSelector: has(c/d/e)", "");
        with("selector: ''", "");
        with("selector: a = b", "selector");
        with("notSelector: thing &", "notSelector");
        with("selector: global()", "selector");
        with("notSelector: global()", "notSelector");
        for good in ["global()", "' global() '", "all()", "has(a)"] {
            with(&format!("namespaceSelector: {good}"), "");
        }
        for bad in [
            "global() || has(a)",
            "'!global()'",
            "(global())",
            "has(a) && global()",
            "global",
        ] {
            with(&format!("namespaceSelector: {bad}"), "namespaceSelector");
        }
        with("serviceAccounts: {names: [a, B c], selector: has(d)}", "");
        with("serviceAccounts: {}", "");
        with("serviceAccounts: {selector: role=}", "serviceAccounts.selector");
        with("serviceAccounts: {names: a}", "serviceAccounts.names");
    }
    let rule = read("action: Allow, source: {serviceAccounts: {names: [a, b], selector: has(c)}}");
    let accounts = rule.source.service_accounts.unwrap();
    assert_eq!(
        (accounts.names, accounts.selector.unwrap().to_string()),
        (vec!["a".to_owned(), "b".to_owned()], "has(c)".to_owned())
    );
}

#[test]
fn services() {
    let services = |kind: &str, direction: &str, side: &str, entity: &str, more: &str| {
        let rule = format!("action: Allow{more}, {side}: {{{entity}}}");
        let text = record(kind, "name: a", &format!("{direction}: [{{{rule}}}]"));
        errors(&text).replace(&format!("spec.{direction}[0].{side}."), "")
    };
    let full = "services: {name: s, namespace: n}";
    for kind in KINDS {
        for (direction, side, good) in [
            ("ingress", "source", true),
            ("egress", "destination", true),
            ("ingress", "destination", false),
            ("egress", "source", false),
        ] {
            let wanted = if good { "" } else { "services" };
            assert_eq!(
                services(kind, direction, side, full, ""),
                wanted,
                "{kind} {direction} {side}"
            );
        }
        for (direction, side) in [("ingress", "source"), ("egress", "destination")] {
            let found = services(kind, direction, side, "services: {name: s}", "");
            let wanted = if kind.contains("Global") {
                "services.namespace"
            } else {
                ""
            };
            assert_eq!(found, wanted, "{kind}");
            for (entity, wanted) in [
                ("services: {namespace: n}", "services.name"),
                ("services: {name: '', namespace: n}", "services.name"),
                ("services: {name: S, namespace: n}", "services.name"),
                ("services: {name: s, namespace: _}", "services.namespace"),
                ("services: {name: s, namespace: n}, selector: has(a)", "selector"),
                ("services: {name: s, namespace: n}, notSelector: has(a)", "notSelector"),
                (
                    "services: {name: s, namespace: n}, namespaceSelector: has(a)",
                    "namespaceSelector",
                ),
                (
                    "services: {name: s, namespace: n}, serviceAccounts: {names: [a]}",
                    "serviceAccounts",
                ),
                ("services: {name: s, namespace: n}, nets: [10.0.0.0/8]", "nets"),
                ("services: {name: s, namespace: n}, notNets: [10.0.0.0/8]", "notNets"),
                (
                    "services: {name: s, namespace: n}, selector: '', nets: [], notNets: []",
                    "",
                ),
            ] {
                assert_eq!(
                    services(kind, direction, side, entity, ""),
                    wanted,
                    "{kind} {direction} {entity}"
                );
            }
            for key in ["ports", "notPorts"] {
                let wanted = if side == "source" { "" } else { key };
                let entity = format!("{full}, {key}: [80]");
                assert_eq!(
                    services(kind, direction, side, &entity, ", protocol: TCP"),
                    wanted,
                    "{kind}"
                );
            }
        }
    }
    let service = read("action: Allow, source: {services: {name: s}}")
        .source
        .services
        .unwrap();
    assert_eq!((service.name.as_str(), service.namespace), ("s", None));
}

#[test]
fn metadata_of_rules() {
    check(&[
        ("action: Allow, metadata: {annotations: {name: x, Foo.com/Bar: ''}}", ""),
        ("action: Allow, metadata: {}", ""),
        (
            "action: Allow, metadata: {annotations: {...: x}}",
            "metadata.annotations....",
        ),
        (
            "action: Allow, metadata: {annotations: {a: 1}}",
            "metadata.annotations.a",
        ),
    ]);
}

#[test]
fn what_felid_cannot_match_closes_the_rule() {
    check(&[
        ("action: Allow, http: {methods: [GET]}", "http"),
        ("action: Allow, protocol: TCP, http: {}", "http"),
        ("action: Deny, destination: {domains: [a.b]}", "destination.domains"),
        ("action: Log, colour: red", "colour"),
        ("action: Allow, http: null", ""),
    ]);
    for action in [Action::Allow, Action::Deny, Action::Pass, Action::Log] {
        let rule = format!("ingress: [{{action: {action}, http: {{methods: [GET]}}}}]");
        match crate::decoded(&record("NetworkPolicy", "name: a", &rule)) {
            felid_model::Decoded::Resource {
                resource: Resource::Policy(policy),
                ..
            } => assert_eq!(policy.ingress[0].unknown_fields, ["http"]),
            other => panic!("{other:?}"),
        }
    }
}
