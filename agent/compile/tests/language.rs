//! What Log rules, staged policies, ICMP terms and services mean, said one by one; and that
//! explanations agree with decisions.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;

use felid_compile::explain::{RuleResult, TierEnd, explain};
use felid_compile::reference::{Decided, Decision, Mismatch, Packet, Term, evaluate};
use felid_compile::testing::{NumberedCounters, Rng, Shape, World};
use felid_compile::{Direction, compile};
use felid_model::resolved::{
    NamedPortMember, ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedRules, ResolvedTier, SetId,
};
use felid_model::{IcmpMatch, Kind, Protocol, ResourceKey};
use support::{assert_same, check_form, run};

use ResolvedAction::{Allow, Deny, Log, Pass};

fn rule(action: ResolvedAction) -> ResolvedRule {
    ResolvedRule::new(0, action)
}

/// A rule for one destination port.
fn port(action: ResolvedAction, port: u16) -> ResolvedRule {
    let mut rule = rule(action);
    rule.destination.ports = vec![(port, port)];
    rule
}

fn list(name: &str, staged: bool, rules: Vec<ResolvedRule>) -> ResolvedRules {
    let rules = rules.into_iter().enumerate().map(|(index, rule)| ResolvedRule {
        index: index as u32,
        ..rule
    });
    ResolvedRules {
        key: ResourceKey {
            kind: if staged {
                Kind::StagedGlobalNetworkPolicy
            } else {
                Kind::GlobalNetworkPolicy
            },
            namespace: None,
            name: name.into(),
        },
        staged,
        rules: Arc::new(rules.collect()),
    }
}

fn tier(name: &str, policies: Vec<ResolvedRules>) -> ResolvedTier {
    ResolvedTier {
        name: name.into(),
        end_pass: false,
        policies,
    }
}

fn policy(tiers: Vec<ResolvedTier>) -> ResolvedPolicy {
    ResolvedPolicy {
        tiers,
        profiles: vec![list("profile", false, vec![rule(Allow)])],
        closed: None,
    }
}

fn packet(protocol: u8, port: u16, icmp: (u8, u8)) -> Packet {
    Packet {
        src: "10.0.0.1".parse().unwrap(),
        dst: "10.0.0.2".parse().unwrap(),
        protocol: Protocol(protocol),
        src_port: 40000,
        dst_port: port,
        icmp_type: icmp.0,
        icmp_code: icmp.1,
    }
}

fn world(packet: &Packet, direction: Direction) -> World {
    World {
        own: vec![if direction == Direction::Ingress {
            packet.dst
        } else {
            packet.src
        }],
        ..World::default()
    }
}

/// The reference's decision, once compiled code agrees with it in both directions.
fn judge_in(policy: &ResolvedPolicy, packet: &Packet, world_of: impl Fn(Direction) -> World) -> Decision {
    let mut decision = None;
    for direction in [Direction::Ingress, Direction::Egress] {
        let world = world_of(direction);
        let expected = evaluate(policy, packet, &world);
        let mut counters = NumberedCounters::default();
        let program = compile(policy, direction, &world.own(), &world, &mut counters).unwrap();
        check_form(&program);
        for bank in [0, 1] {
            let outcome = run(&program, &world, packet, direction, bank);
            assert_same(&program, &counters, &outcome, &expected);
        }
        assert_eq!(explain(policy, packet, &world).decision, expected);
        decision = Some(expected);
    }
    decision.unwrap()
}

fn judge(policy: &ResolvedPolicy, packet: &Packet) -> Decision {
    judge_in(policy, packet, |direction| world(packet, direction))
}

fn indices(decided: &[Decided]) -> Vec<u32> {
    let index = |by: &Decided| match by {
        Decided::Rule { index, .. } => Some(*index),
        _ => None,
    };
    decided.iter().filter_map(index).collect()
}

#[test]
fn log_goes_on() {
    let rules = vec![
        rule(Log),
        port(Log, 81),
        port(Deny, 80),
        rule(Log),
        rule(Allow),
        rule(Log),
    ];
    let policy = policy(vec![tier("default", vec![list("a", false, rules)])]);
    let denied = judge(&policy, &packet(6, 80, (0, 0)));
    assert!(!denied.allowed);
    assert_eq!(indices(&denied.logged), [0]);
    let allowed = judge(&policy, &packet(6, 81, (0, 0)));
    assert!(allowed.allowed);
    assert_eq!(indices(&allowed.logged), [0, 1, 3]);
}

#[test]
fn more_log_rules_than_are_told() {
    let mut rules: Vec<_> = (0..9).map(|_| rule(Log)).collect();
    rules.push(rule(Allow));
    let policy = policy(vec![tier("default", vec![list("a", false, rules)])]);
    assert_eq!(judge(&policy, &packet(17, 53, (0, 0))).logged.len(), 9);
}

#[test]
fn log_alone_does_not_keep_a_tier_from_ending() {
    let end = policy(vec![tier("default", vec![list("a", false, vec![rule(Log)])])]);
    let decision = judge(&end, &packet(6, 80, (0, 0)));
    assert_eq!(
        (decision.allowed, decision.by),
        (false, Decided::EndOfTier("default".into()))
    );
    let mut in_profile = policy(vec![]);
    in_profile.profiles = vec![list("profile", false, vec![rule(Log), rule(Pass), rule(Allow)])];
    let decision = judge(&in_profile, &packet(6, 80, (0, 0)));
    assert_eq!((decision.allowed, decision.logged.len()), (false, 1));
}

#[test]
fn staged_policies_change_nothing() {
    let staged = list(
        "s",
        true,
        vec![rule(Log), port(Deny, 80), port(Pass, 81), port(Allow, 82)],
    );
    let real = list("r", false, vec![port(Allow, 80), port(Deny, 82)]);
    let both = policy(vec![tier(
        "default",
        vec![staged.clone(), real.clone(), staged.clone()],
    )]);
    for (port, allowed, action, times) in [
        (80, true, Some(Deny), 1),
        (81, false, Some(Pass), 2),
        (82, false, Some(Allow), 1),
        (83, false, None, 0),
    ] {
        let decision = judge(&both, &packet(6, port, (0, 0)));
        assert_eq!(decision.allowed, allowed, "{port}");
        assert_eq!(decision.staged.len(), times, "{port}");
        assert!(decision.staged.iter().all(|staged| Some(staged.action) == action));
        assert!(decision.logged.is_empty());
    }
}

#[test]
fn a_tier_of_staged_policies_only_hands_on() {
    let staged = list("s", true, vec![rule(Deny)]);
    let policy = policy(vec![tier("first", vec![staged])]);
    let decision = judge(&policy, &packet(6, 80, (0, 0)));
    assert!(decision.allowed);
    assert_eq!(decision.passed, [Decided::EndOfTier("first".into())]);
    assert_eq!(decision.staged.len(), 1);
}

#[test]
fn icmp_types() {
    let mut wanted = rule(Allow);
    wanted.fields.icmp = Some(IcmpMatch {
        icmp_type: Some(8),
        code: Some(1),
    });
    let mut unwanted = rule(Deny);
    unwanted.fields.not_icmp = Some(IcmpMatch {
        icmp_type: Some(3),
        code: None,
    });
    let policy = policy(vec![tier(
        "default",
        vec![list("a", false, vec![wanted, unwanted, rule(Allow)])],
    )]);
    for (protocol, icmp, by) in [
        (1, (8, 1), 0),
        (58, (8, 1), 0),
        (1, (8, 0), 1),
        (6, (0, 0), 1),
        (17, (8, 1), 1),
        (1, (3, 0), 2),
        (58, (3, 7), 2),
    ] {
        let decision = judge(&policy, &packet(protocol, 0, icmp));
        assert_eq!(indices(&[decision.by]), [by], "{protocol} {icmp:?}");
    }
}

#[test]
fn ports_behind_services() {
    let mut allow = rule(Allow);
    let service = SetId("p:service".into());
    allow.destination.service_ports = vec![service.clone()];
    // It asks for what it forbids.
    let mut never = rule(Deny);
    never.destination.service_ports = vec![service.clone()];
    never.destination.not_named_ports = vec![service.clone()];
    let policy = policy(vec![tier("default", vec![list("a", false, vec![never, allow])])]);
    for (protocol, port, allowed) in [(6, 80, true), (6, 81, false), (17, 80, false), (1, 0, false)] {
        let packet = packet(protocol, port, (8, 0));
        let decision = judge_in(&policy, &packet, |direction| {
            let mut world = world(&packet, direction);
            world.slots.insert(service.clone(), 5);
            world
                .named_ports
                .entry(service.clone())
                .or_default()
                .insert(NamedPortMember {
                    address: packet.dst,
                    protocol: Protocol(6),
                    port: 80,
                });
            world
        });
        assert_eq!(decision.allowed, allowed, "{protocol} {port}");
    }
}

#[test]
fn a_set_that_is_wanted_and_unwanted_is_never_found() {
    let set = SetId("p:service".into());
    let mut both = rule(Allow);
    both.destination.service_ports = vec![set.clone()];
    both.destination.not_named_ports = vec![set.clone()];
    let mut selected = rule(Allow);
    selected.source.sets = vec![set.clone()];
    selected.source.not_sets = vec![set.clone()];
    let policy = policy(vec![tier("default", vec![list("a", false, vec![both, selected])])]);
    let packet = packet(6, 80, (0, 0));
    let decision = judge_in(&policy, &packet, |direction| {
        let mut world = world(&packet, direction);
        world.slots.insert(set.clone(), 5);
        world.sets.insert(set.clone(), vec![packet.src.into()]);
        world
            .named_ports
            .entry(set.clone())
            .or_default()
            .insert(NamedPortMember {
                address: packet.dst,
                protocol: Protocol(6),
                port: 80,
            });
        // The source is not the endpoint's own, but one that it may send from.
        if direction == Direction::Egress {
            world.own = vec!["10.0.0.9".parse().unwrap()];
            world.spoofed = vec![packet.src.into()];
        }
        world
    });
    assert!(!decision.allowed);
}

#[test]
fn explanations_say_why_not() {
    let mut other = rule(Allow);
    other.source.not_sets = vec![SetId("s:a".into()), SetId("s:b".into())];
    let tiers = vec![
        tier("one", vec![list("s", true, vec![rule(Deny), rule(Allow)])]),
        tier(
            "two",
            vec![list("a", false, vec![port(Allow, 81), other, rule(Deny), rule(Allow)])],
        ),
        tier("three", vec![list("b", false, vec![rule(Allow)])]),
    ];
    let policy = policy(tiers);
    let packet = packet(6, 80, (0, 0));
    let mut world = world(&packet, Direction::Ingress);
    world.sets.insert(SetId("s:b".into()), vec![packet.src.into()]);
    let trace = explain(&policy, &packet, &world);
    let ends: Vec<_> = trace.tiers.iter().map(|tier| tier.end).collect();
    assert_eq!(
        ends,
        [
            TierEnd::EndPass,
            TierEnd::Denied,
            TierEnd::NotReached,
            TierEnd::NotReached
        ]
    );
    let found = |tier: usize| -> Vec<RuleResult> {
        let policy = &trace.tiers[tier].policies[0];
        policy.rules.iter().map(|rule| rule.found.clone()).collect()
    };
    assert_eq!(found(0), [RuleResult::Matched, RuleResult::NotReached]);
    let set = Some(SetId("s:b".into()));
    assert_eq!(
        found(1),
        [
            RuleResult::Mismatch {
                reason: Mismatch::Destination(Term::Ports),
                set: None
            },
            RuleResult::Mismatch {
                reason: Mismatch::Source(Term::NotSet(1)),
                set
            },
            RuleResult::Matched,
            RuleResult::NotReached,
        ]
    );
    assert_eq!(found(2), [RuleResult::NotReached]);
}

/// What a trace says matched is what the decision names.
#[test]
fn explanations_agree_with_decisions() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let world = World::random(&mut rng);
        let policy = world.policy(&mut rng, Shape::Small);
        for _ in 0..10 {
            let packet = world.packet(&mut rng, &policy, Direction::Ingress);
            let trace = explain(&policy, &packet, &world);
            let Decision {
                by,
                passed,
                logged,
                staged,
                ..
            } = &trace.decision;
            let said = passed
                .iter()
                .chain([by])
                .chain(logged)
                .chain(staged.iter().map(|staged| &staged.by));
            let said = said.filter(|by| matches!(by, Decided::Rule { .. })).count();
            let rules = trace.tiers.iter().flat_map(|tier| &tier.policies).flat_map(|policy| {
                let told = |action| !(policy.staged && action == Log);
                policy.rules.iter().filter(move |rule| told(rule.action))
            });
            let matched = rules.filter(|rule| rule.found == RuleResult::Matched).count();
            assert_eq!(said, matched, "seed {seed}: {packet:?}");
        }
    }
}
