//! Rules of records against the rules over sets that they become.

mod common;

use common::*;
use felid_model::resolved::{ResolvedAction, ResolvedRule, ResolvedSide, SetId};
use felid_model::*;

/// The rules that become of these in an ingress policy, in namespace `a` or global.
fn resolved(namespace: Option<&str>, rules: Vec<Rule>) -> Vec<ResolvedRule> {
    let mut calc = calc();
    calc.apply(endpoint(wep("w", "", "10.0.0.1")));
    calc.apply(enforced(policy(namespace, "p", "all()", rules)));
    let world = World::of(calc.flush());
    let endpoint = world.endpoints.get(&wep_key("w")).expect("the endpoint is local");
    endpoint.ingress.tiers[0].policies[0].rules.to_vec()
}

/// The source side that becomes of this one.
fn source(namespace: Option<&str>, entity: EntityRule) -> ResolvedSide {
    resolved(namespace, vec![allow_source(entity)]).remove(0).source
}

fn uid(text: &str) -> SetId {
    SetId(selector(text).uid().into())
}

fn entity(own: Option<&str>, not: Option<&str>, namespaces: Option<&str>) -> EntityRule {
    EntityRule {
        selector: own.map(selector),
        not_selector: not.map(selector),
        namespace_selector: namespaces.map(selector),
        ..EntityRule::default()
    }
}

fn named(name: &str) -> Port {
    Port::Named(name.to_owned())
}

#[test]
fn one_positive_selector_a_side() {
    let here = "projectcalico.org/namespace == 'a'";
    for (namespace, entity, expected) in [
        (None, entity(Some("x == 'y'"), None, None), "x == 'y'"),
        (None, entity(Some("all()"), None, None), "all()"),
        (
            Some("a"),
            entity(Some("x == 'y'"), None, None),
            &format!("{here} && x == 'y'"),
        ),
        (Some("a"), entity(Some("all()"), None, None), here),
        (
            Some("a"),
            entity(None, Some("x == 'y'"), None),
            &format!("{here} && !(x == 'y')"),
        ),
        (
            None,
            entity(Some("a == 'b'"), Some("x == 'y'"), None),
            "a == 'b' && !(x == 'y')",
        ),
        (None, entity(None, None, Some("x == 'y'")), "pcns.x == 'y'"),
        (Some("a"), entity(None, None, Some("x == 'y'")), "pcns.x == 'y'"),
        (
            Some("a"),
            entity(Some("k == 'v'"), None, Some("x == 'y'")),
            "pcns.x == 'y' && k == 'v'",
        ),
        (
            Some("a"),
            entity(None, None, Some("all()")),
            "has(projectcalico.org/namespace)",
        ),
        (
            None,
            entity(None, None, Some("global()")),
            "!has(projectcalico.org/namespace)",
        ),
        (
            None,
            entity(Some("k == 'v'"), None, Some("global()")),
            "!has(projectcalico.org/namespace) && k == 'v'",
        ),
    ] {
        let side = ResolvedSide {
            sets: vec![uid(expected)],
            ..ResolvedSide::default()
        };
        assert_eq!(source(namespace, entity), side, "{expected}");
    }
}

#[test]
fn without_a_positive_selector_the_rest_of_the_world_counts_too() {
    assert_eq!(source(Some("a"), EntityRule::default()), ResolvedSide::default());
    assert_eq!(source(None, EntityRule::default()), ResolvedSide::default());
    let side = ResolvedSide {
        not_sets: vec![uid("x == 'y'")],
        ..ResolvedSide::default()
    };
    assert_eq!(source(None, entity(None, Some("x == 'y'"), None)), side);
}

#[test]
fn named_ports_are_filtered_already() {
    let ports = |ports: Vec<Port>, not_ports: Vec<Port>| EntityRule {
        ports,
        not_ports,
        ..entity(Some("x == 'y'"), None, None)
    };
    let only_named = source(None, ports(vec![named("http")], vec![]));
    assert_eq!(
        (
            only_named.sets.len(),
            only_named.named_ports.len(),
            only_named.ports.len()
        ),
        (0, 1, 0)
    );
    let mixed = source(None, ports(vec![named("http"), Port::Range(80, 90)], vec![]));
    assert_eq!(
        (&mixed.sets, &mixed.named_ports, &mixed.ports),
        (&vec![uid("x == 'y'")], &only_named.named_ports, &vec![(80, 90)])
    );
    let not = source(None, ports(vec![], vec![named("http"), Port::Range(1, 2)]));
    assert_eq!(
        (not.sets, not.not_named_ports, not.not_ports),
        (mixed.sets, mixed.named_ports, vec![(1, 2)])
    );

    // Protocol, filter and name make the set.
    let id = |protocol, filter: &str, name: &str| {
        let source = EntityRule {
            ports: vec![named(name)],
            ..entity(Some(filter), None, None)
        };
        resolved(
            None,
            vec![Rule {
                protocol,
                ..allow_source(source)
            }],
        )
        .remove(0)
        .source
        .named_ports
        .remove(0)
    };
    let ids = [
        id(None, "x == 'y'", "http"),
        id(Some(Protocol(6)), "x == 'y'", "http"),
        id(Some(Protocol(17)), "x == 'y'", "http"),
        id(None, "x == 'z'", "http"),
        id(None, "x == 'y'", "dns"),
    ];
    assert!(ids.iter().all(|id| id.0.starts_with("n:")));
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());
    assert_eq!(ids[0], only_named.named_ports[0]);
}

#[test]
fn long_lists_become_sets_and_short_ones_stay() {
    let list = |count: u8, more: &str| {
        let v4: Vec<String> = (0..count).map(|i| format!("10.{i}.0.0/16")).collect();
        nets(&format!("{} {more}", v4.join(" ")))
    };
    let positive = |nets| {
        source(
            None,
            EntityRule {
                nets,
                ..EntityRule::default()
            },
        )
    };
    let short = positive(list(8, "fd00::/64"));
    assert_eq!((short.sets.len(), short.nets.len()), (0, 9));
    let long = positive(list(9, "fd00::/64"));
    assert_eq!((long.sets.len(), long.nets.len()), (1, 0));
    assert!(long.sets[0].0.starts_with("c:"));
    let mut reversed = list(9, "fd00::/64");
    reversed.reverse();
    assert_eq!(positive(reversed), long);

    // A family without an entry must not match: absent from a positive set that is so by itself,
    // absent from a negated one it has to be said.
    let rule = |not_nets, ip_version, destination| {
        let destination = EntityRule {
            not_nets: destination,
            ..EntityRule::default()
        };
        let source = EntityRule {
            not_nets,
            ..EntityRule::default()
        };
        resolved(
            None,
            vec![Rule {
                ip_version,
                destination,
                ..allow_source(source)
            }],
        )
        .pop()
    };
    let versions = |rule: Option<ResolvedRule>| rule.map(|rule| rule.ip_version);
    let v6: Vec<String> = (0..9).map(|i| format!("fd00:{i}::/32")).collect();
    let v6 = nets(&v6.join(" "));
    assert_eq!(versions(rule(list(9, ""), None, vec![])), Some(Some(4)));
    assert_eq!(versions(rule(v6.clone(), None, vec![])), Some(Some(6)));
    assert_eq!(versions(rule(list(9, "fd00::/64"), None, vec![])), Some(None));
    assert_eq!(versions(rule(list(9, ""), Some(4), vec![])), Some(Some(4)));
    assert_eq!(versions(rule(list(9, ""), Some(6), vec![])), None);
    assert_eq!(versions(rule(list(9, ""), None, v6)), None);
}

#[test]
fn unknown_fields_never_open() {
    let unknown = |action| Rule {
        unknown_fields: vec!["http".to_owned()],
        ..rule(action)
    };
    let rules = resolved(
        None,
        vec![
            unknown(Action::Allow),
            unknown(Action::Pass),
            unknown(Action::Deny),
            rule(Action::Pass),
            rule(Action::Allow),
        ],
    );
    let have: Vec<(u32, ResolvedAction)> = rules.iter().map(|rule| (rule.index, rule.action)).collect();
    let expected = [
        (1, ResolvedAction::Deny),
        (2, ResolvedAction::Deny),
        (3, ResolvedAction::Pass),
        (4, ResolvedAction::Allow),
    ];
    assert_eq!(have, expected);
}

#[test]
fn sets_of_rules_that_cannot_match_are_not_active() {
    let mut calc = calc();
    calc.apply(endpoint(wep("w", "app=x", "10.0.0.1")));
    let dead = Rule {
        unknown_fields: vec!["http".to_owned()],
        ..allow_from("app == 'x'")
    };
    // Nor those of a direction in which the policy does not apply.
    let egress = vec![allow_from("has(app)")];
    calc.apply(enforced(Policy {
        egress,
        ..policy(None, "p", "all()", vec![dead])
    }));
    assert_eq!(World::of(calc.flush()).members.len(), 0);
    assert_eq!(calc.stats().sets, 0);
}
