//! Size and cost of programs, what is shared, what is refused, and what happens where something is missing.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::net::IpAddr;
use std::sync::Arc;

use felid_common::{NamedPortKey, Scratch, VERDICT_ALLOW, VERDICT_DENY, fixed};
use felid_compile::listing::listing;
use felid_compile::program::{MapRef, Program};
use felid_compile::reference::Packet;
use felid_compile::stub::{Hook, stub};
use felid_compile::testing::{NumberedCounters, World};
use felid_compile::transaction::EndpointId;
use felid_compile::{CompileError, Direction, compile, prepare};
use felid_model::resolved::{
    NamedPortMember, ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedRules, ResolvedSide, ResolvedTier, SetId,
    SetIds,
};
use felid_model::{Kind, Protocol, ResourceKey};
use ipnet::IpNet;
use support::machine::{End, Machine};
use support::{Outcome, check_form, run};
use zerocopy::{FromBytes as _, IntoBytes as _};

const TCP: Option<Protocol> = Some(Protocol(6));

fn set(index: usize) -> SetId {
    SetId(format!("s:{index}").into())
}

/// An Allow for ingress.
fn rule(index: usize, protocol: Option<Protocol>, source: ResolvedSide, ports: &[(u16, u16)]) -> ResolvedRule {
    ResolvedRule {
        icmp: None,
        not_icmp: None,
        index: index as u32,
        action: ResolvedAction::Allow,
        ip_version: None,
        protocol,
        not_protocol: None,
        source,
        destination: ResolvedSide {
            ports: ports.to_vec(),
            ..ResolvedSide::default()
        },
    }
}

fn from_set(index: usize) -> ResolvedSide {
    ResolvedSide {
        sets: vec![set(index)],
        ..ResolvedSide::default()
    }
}

fn policy(rules: Vec<ResolvedRule>) -> ResolvedPolicy {
    let key = ResourceKey {
        kind: Kind::GlobalNetworkPolicy,
        namespace: None,
        name: "shop".into(),
    };
    let tier = ResolvedTier {
        name: "default".into(),
        end_pass: false,
        policies: vec![ResolvedRules {
            staged: false,
            key,
            rules: Arc::new(rules),
        }],
    };
    ResolvedPolicy {
        tiers: vec![tier],
        profiles: Vec::new(),
        closed: None,
    }
}

/// The peer 10.0.0.9 is in set `member` only; the endpoint is 10.0.0.1 and fd00::1.
fn world(sets: usize, member: usize) -> World {
    let mut world = World {
        own: addresses(&["10.0.0.1", "fd00::1"]),
        ..World::default()
    };
    for index in 0..sets {
        world.slots.insert(set(index), index as u32);
        world.sets.insert(set(index), Vec::new());
    }
    world.sets.insert(set(member), vec!["10.0.0.9/32".parse().unwrap()]);
    world
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn packet(protocol: u8, port: u16) -> Packet {
    let [src, dst] = ["10.0.0.9", "10.0.0.1"].map(|text| text.parse().unwrap());
    Packet {
        src,
        dst,
        protocol: Protocol(protocol),
        src_port: 40_000,
        dst_port: port,
        icmp_type: 0,
        icmp_code: 0,
    }
}

fn build(policy: &ResolvedPolicy, world: &World) -> Program {
    let program = compile(
        policy,
        Direction::Ingress,
        &world.own(),
        world,
        &mut NumberedCounters::default(),
    )
    .unwrap();
    check_form(&program);
    program
}

fn size(program: &Program) -> usize {
    program.chunks.iter().map(|chunk| chunk.insns.len()).sum()
}

/// Instructions that a packet of the last of n rules executes.
fn steps_of_last(n: usize, make: impl Fn(usize) -> (ResolvedRule, Packet)) -> usize {
    let world = world(n, n - 1);
    let program = build(&policy((0..n).map(|index| make(index).0).collect()), &world);
    let Outcome { run, after, .. } = run(&program, &world, &make(n - 1).1, Direction::Ingress, 0);
    assert_eq!((run.end, after.verdict), (End::Judged, VERDICT_ALLOW));
    assert_eq!(program.rules[after.rule as usize].index, Some(n as u32 - 1));
    run.steps
}

#[test]
fn a_rule_with_a_port_costs_a_logarithm() {
    let with_port = |index: usize| {
        let port = 1000 + 3 * index as u16;
        (rule(index, TCP, from_set(index), &[(port, port)]), packet(6, port))
    };
    let [ten, hundred, thousand, ten_thousand] = [10, 100, 1000, 10_000].map(|n| steps_of_last(n, with_port));
    assert!(hundred <= ten + 12, "{ten} {hundred}");
    assert!(thousand <= ten + 24, "{ten} {thousand}");
    // Several segments and chunks, each with an entry of its own.
    assert!(ten_thousand <= ten + 300, "{ten} {ten_thousand}");
}

/// A network of its own for each rule; the last one has the peer.
fn from_net(index: usize, last: bool) -> ResolvedSide {
    let net = if last {
        "10.0.0.8/29".parse().unwrap()
    } else {
        IpNet::new(IpAddr::from([100, (index >> 8) as u8, index as u8, 0]), 24).unwrap()
    };
    ResolvedSide {
        nets: vec![net],
        ..ResolvedSide::default()
    }
}

/// Instructions that the last of 10,000 rules costs a packet more than the last of ten.
fn price(make: impl Fn(usize, bool) -> (ResolvedRule, Packet)) -> usize {
    let [ten, many] = [10, 10_000].map(|n| steps_of_last(n, |index| make(index, index + 1 == n)));
    many.saturating_sub(ten)
}

#[test]
fn a_new_flow_costs_about_the_same_whatever_rules_differ_in() {
    let port = |index: usize| 1000 + 3 * index as u16;
    // 157 words of the class row, two instructions each.
    let row = 2 * 157;
    let selectors = price(|i, _| (rule(i, None, from_set(i), &[]), packet(6, 80)));
    assert!(selectors < row + 120, "selectors: {selectors}");
    let same_port = price(|i, _| (rule(i, TCP, from_set(i), &[(80, 80)]), packet(6, 80)));
    assert!(same_port < row + 120, "selectors at one port: {same_port}");
    let nets = price(|i, last| (rule(i, TCP, from_net(i, last), &[]), packet(6, 80)));
    assert!(nets < 80, "nets: {nets}");
    let all = price(|i, last| {
        let source = ResolvedSide {
            sets: vec![set(i)],
            ..from_net(i, last)
        };
        (rule(i, TCP, source, &[(port(i), port(i))]), packet(6, port(i)))
    });
    assert!(all < 80, "all: {all}");
    let in_turn = price(|i, last| match i % 2 {
        0 => (rule(i, TCP, from_set(i), &[(port(i), port(i))]), packet(6, port(i))),
        _ => (
            rule(i, None, from_set(i), &[]),
            packet(6, if last { 80 } else { port(i) }),
        ),
    });
    // Every other bit of a word is another list's: the words are masked.
    assert!(in_turn < 2 * row + 120, "ports and none in turn: {in_turn}");
    let ranges = price(|i, _| {
        let range = (i as u16, u16::MAX - i as u16);
        (rule(i, TCP, from_set(i), &[range]), packet(6, 20_000))
    });
    assert!(ranges < row + 120, "nested ranges: {ranges}");
    // Slots in the opposite order of the rules: all words are gone through.
    let backwards = {
        let n = 10_000;
        let mut world = world(n, n - 1);
        for (index, slot) in (0..n).zip((0..n as u32).rev()) {
            world.slots.insert(set(index), slot);
        }
        let program = build(
            &policy((0..n).map(|i| rule(i, TCP, from_set(i), &[])).collect()),
            &world,
        );
        run(&program, &world, &packet(6, 80), Direction::Ingress, 0).run.steps
    };
    assert!(backwards < 2 * row + 300, "slots in another order: {backwards}");
    let few_ports = price(|i, _| {
        let port = 80 + i as u16 % 10;
        (rule(i, TCP, from_set(i), &[(port, port)]), packet(6, port))
    });
    assert!(few_ports < 10 * row, "ten ports: {few_ports}");
}

#[test]
fn what_no_index_tells_apart_is_linear() {
    let everywhere = |n: usize| {
        let mut world = world(n, 0);
        for members in world.sets.values_mut() {
            members.push("10.0.0.9/32".parse().unwrap());
        }
        world
    };
    // The peer is in every set, and every range but the last rule's misses its port only at the last look.
    let n = 10_000;
    let world = everywhere(n);
    let rules = (0..n).map(|i| {
        let (first, last) = if i + 1 == n {
            (0, 40_000)
        } else {
            (i as u16, 39_999 - i as u16)
        };
        rule(i, TCP, from_set(i), &[(first, last)])
    });
    let program = build(&policy(rules.collect()), &world);
    let outcome = run(&program, &world, &packet(6, 40_000), Direction::Ingress, 0);
    let (steps, after) = (outcome.run.steps, outcome.after);
    assert_eq!((outcome.run.end, after.verdict), (End::Judged, VERDICT_ALLOW));
    assert_eq!(program.rules[after.rule as usize].index, Some(n as u32 - 1));
    assert!(steps < 8 * n, "{steps}");
    // With a port each, the tree finds the one rule that matters.
    let rules = (0..n).map(|i| rule(i, TCP, from_set(i), &[(i as u16, i as u16)]));
    let program = build(&policy(rules.collect()), &world);
    let outcome = run(&program, &world, &packet(6, n as u16 - 1), Direction::Ingress, 0);
    assert!(outcome.run.steps < 120, "{}", outcome.run.steps);
}

#[test]
fn size_is_linear_in_the_rules_whatever_they_are() {
    type Make = fn(usize) -> ResolvedRule;
    let kinds: [(&str, Make); 6] = [
        ("a port each", |i| rule(i, TCP, from_set(i), &[(i as u16, i as u16)])),
        ("nested ranges", |i| {
            rule(i, TCP, from_set(i), &[(i as u16, u16::MAX - i as u16)])
        }),
        ("ports and none in turn", |i| match i % 2 {
            0 => rule(i, TCP, from_set(i), &[(i as u16, i as u16)]),
            _ => rule(i, None, from_set(i), &[]),
        }),
        ("many ranges", |i| {
            rule(
                i,
                TCP,
                from_set(i),
                &[100, 200, 300, 400].map(|p| (p + i as u16, p + i as u16 + 9)),
            )
        }),
        ("protocols", |i| rule(i, Some(Protocol(i as u8)), from_set(i), &[])),
        ("source ports", |i| {
            let ports = vec![(i as u16, i as u16 + 5), (60_000, 60_100)];
            rule(
                i,
                TCP,
                ResolvedSide { ports, ..from_set(i) },
                &[(80, 80 + i as u16 % 7)],
            )
        }),
    ];
    for (name, make) in kinds {
        let [small, large] = [100, 1600].map(|n| size(&build(&policy((0..n).map(make).collect()), &world(n, 0))));
        assert!(
            large < 20 * small,
            "{name}: {small} instructions for 100 rules, {large} for 1,600"
        );
        assert!(large < 1600 * 60, "{name}: {large}");
    }
}

#[test]
fn what_is_too_large_is_refused_with_numbers() {
    let error = |rules: Vec<ResolvedRule>, world: &World| {
        compile(
            &policy(rules),
            Direction::Ingress,
            &world.own(),
            world,
            &mut NumberedCounters::default(),
        )
        .err()
        .unwrap()
    };
    let many = 2_500;
    let nets = |i: u32| {
        (0..64)
            .map(|n| IpNet::from(IpAddr::from((2 * (i * 64 + n)).to_be_bytes())))
            .collect()
    };
    let rules = (0..many)
        .map(|i| {
            rule(
                i,
                TCP,
                ResolvedSide {
                    nets: nets(i as u32),
                    ..from_set(i)
                },
                &[],
            )
        })
        .collect();
    let found = error(rules, &world(many, 0));
    assert!(
        matches!(
            found,
            CompileError::TooManyChunks {
                chunks: 16..,
                limit: 14,
                ..
            }
        ),
        "{found}"
    );
    let ranges: Vec<(u16, u16)> = (0..20_000).map(|i| (3 * i, 3 * i + 1)).collect();
    let source = ResolvedSide {
        ports: ranges,
        ..ResolvedSide::default()
    };
    let found = error(vec![rule(0, TCP, source, &[])], &world(1, 0));
    assert!(
        matches!(found, CompileError::RuleTooLarge { insns: 20_000.., .. }),
        "{found}"
    );
    let found = error(vec![rule(0, TCP, from_set(5), &[])], &world(1, 0));
    assert_eq!(found, CompileError::NoSlot(set(5)));
    let mut far = world(1, 0);
    far.slots.insert(set(0), 300_000);
    let found = error(vec![rule(0, TCP, from_set(0), &[])], &far);
    assert!(
        matches!(found, CompileError::SlotOutOfRange { slot: 300_000, .. }),
        "{found}"
    );
}

#[test]
fn endpoints_that_decide_alike_share_a_program() {
    let mut rules = vec![
        rule(0, TCP, from_set(0), &[(80, 80)]),
        rule(1, TCP, from_set(1), &[(443, 443)]),
    ];
    rules[1].destination.sets = vec![set(2)];
    rules[0].destination.named_ports = vec![set(3)];
    let policy = policy(rules);
    let with_own = |own: &[&str], port: u16| {
        let mut world = world(3, 0);
        world.own = addresses(own);
        let address = world.own[0];
        let member = NamedPortMember {
            address,
            protocol: Protocol(6),
            port,
        };
        world.named_ports.insert(set(3), [member].into());
        world
    };
    let (one, other) = (
        with_own(&["10.0.0.1", "fd00::1"], 81),
        with_own(&["10.0.0.2", "fd00::2"], 81),
    );
    assert_eq!(build(&policy, &one), build(&policy, &other));
    // A named port of another number, or a membership of the endpoint itself, is another decision.
    let third = with_own(&["10.0.0.3", "fd00::3"], 82);
    assert_ne!(build(&policy, &one), build(&policy, &third));
    let mut fourth = with_own(&["10.0.0.4", "fd00::4"], 81);
    fourth.sets.insert(
        set(2),
        vec!["10.0.0.4/32".parse().unwrap(), "fd00::4/128".parse().unwrap()],
    );
    assert_ne!(build(&policy, &one), build(&policy, &fourth));
    // Sets of the endpoint's own side are not tested at run time, nor are those of rules that never match.
    assert_eq!(prepare(&policy, Direction::Ingress, &one.own()).sets(), [set(0)]);
    assert_eq!(
        prepare(&policy, Direction::Ingress, &fourth.own()).sets(),
        [set(0), set(1)]
    );
    let program = build(&policy, &fourth);
    assert_eq!(program.sets, [set(0), set(1)].into());
    assert_eq!(program.named_port_sets, SetIds::new());
}

#[test]
fn closed_endpoints_and_versions_without_address_are_denied() {
    let open = policy(vec![rule(0, None, ResolvedSide::default(), &[])]);
    let mut world = world(1, 0);
    let verdict = |policy: &ResolvedPolicy, world: &World| {
        let program = build(policy, world);
        let Outcome { run, after, .. } = run(&program, world, &packet(6, 80), Direction::Ingress, 0);
        assert_eq!(run.end, End::Judged);
        (after.verdict, program.rules[after.rule as usize].text.clone())
    };
    assert_eq!(verdict(&open, &world).0, VERDICT_ALLOW);
    let closed = ResolvedPolicy {
        closed: Some("a bad policy".into()),
        ..open.clone()
    };
    assert_eq!(
        verdict(&closed, &world),
        (VERDICT_DENY, "Deny: closed: a bad policy".to_owned())
    );
    world.own = addresses(&["fd00::1"]);
    assert_eq!(verdict(&open, &world).0, VERDICT_DENY);
}

#[test]
fn a_missing_class_row_drops() {
    let world = world(1, 0);
    let program = build(&policy(vec![rule(0, TCP, from_set(0), &[])]), &world);
    let scratch = support::scratch_of(&packet(6, 80), 0, 77, 0);
    let mut machine = Machine::new(&program);
    machine.scratch = zerocopy::IntoBytes::as_bytes(&scratch).to_vec();
    assert_eq!(machine.run().end, End::Returned(2));
}

#[test]
fn a_named_port_that_became_another_is_looked_up_again_and_then_dropped() {
    let mut world = world(1, 0);
    world.slots.insert(set(1), 1);
    let member = NamedPortMember {
        address: addresses(&["10.0.0.9"])[0],
        protocol: Protocol(6),
        port: 40_000,
    };
    world.named_ports.insert(set(1), [member].into());
    let source = ResolvedSide {
        named_ports: vec![set(1)],
        ..ResolvedSide::default()
    };
    let program = build(&policy(vec![rule(0, TCP, source, &[])]), &world);
    let key = NamedPortKey {
        address: [u32::from_ne_bytes([10, 0, 0, 9]), 0, 0, 0],
        port: member.port,
        protocol: 6,
        ip_version: 4,
    };
    for (torn, end) in [(0, End::Judged), (1, End::Judged), (2, End::Returned(2))] {
        let mut machine = Machine::new(&program);
        machine.scratch = support::scratch_of(&packet(6, 80), 0, 0, 0).as_bytes().to_vec();
        let row = |sets: &[SetId]| world.class_row(&sets.iter().cloned().collect());
        machine.rows.insert(0, row(&[]).as_bytes().to_vec());
        machine.rows.insert(5, row(&[set(1)]).as_bytes().to_vec());
        machine.named.insert(key.as_bytes().to_vec(), [5, 0]);
        machine.torn = torn;
        assert_eq!(machine.run().end, end, "{torn}");
        let after = Scratch::read_from_bytes(&machine.scratch).unwrap();
        assert_eq!(after.verdict, if torn < 2 { VERDICT_ALLOW } else { 0 });
    }
}

#[test]
fn stubs_name_the_endpoint() {
    let endpoint = EndpointId {
        index: 3,
        id: 0xffff_fff0,
    };
    let [from, to] = [Hook::FromWorkload, Hook::ToWorkload].map(|hook| stub(hook, endpoint));
    assert_eq!(from.maps, [(4, MapRef::Fixed)]);
    // cb[0] and cb[1] of __sk_buff.
    assert_eq!([from.insns[1].off, from.insns[3].off], [48, 52]);
    assert_eq!([from.insns[0].imm, from.insns[2].imm], [3, -16]);
    assert_eq!(
        [from.insns[6].imm, to.insns[6].imm],
        [fixed::FROM_WORKLOAD as i32, fixed::TO_WORKLOAD as i32]
    );
    assert_eq!(from.insns[8].imm, 2);
}

#[test]
fn listings_name_maps_and_rules() {
    let world = world(2, 0);
    let program = build(&policy(vec![rule(4, TCP, from_set(1), &[(80, 80)])]), &world);
    let lines = listing(&program);
    let text: Vec<String> = lines.iter().map(|line| line.code.clone()).collect();
    assert!(text.contains(&"r1 = map[classes]".to_owned()), "{text:#?}");
    assert!(text.contains(&"if w1 & 0x2 goto 31".to_owned()), "{text:#?}");
    assert_eq!(text.last().unwrap(), "exit");
    let notes: Vec<_> = lines.iter().filter_map(|line| line.note.clone()).collect();
    assert!(
        notes.contains(&"tier default GlobalNetworkPolicy/shop rule 4: Allow TCP from s:1 to ports 80".to_owned()),
        "{notes:#?}"
    );
    assert!(
        notes.contains(&"tier default: Deny: end of tier default".to_owned()),
        "{notes:#?}"
    );
}

#[test]
fn a_hundred_thousand_rules_work_or_are_refused_with_the_numbers() {
    let n = 100_000;
    let world = world(n, n - 1);
    let port = |i: usize| (i % 60_000) as u16;
    let rules = (0..n)
        .map(|i| rule(i, TCP, from_set(i), &[(port(i), port(i))]))
        .collect();
    let program = build(&policy(rules), &world);
    let outcome = run(&program, &world, &packet(6, port(n - 1)), Direction::Ingress, 0);
    assert_eq!(program.rules[outcome.after.rule as usize].index, Some(n as u32 - 1));
    assert!(outcome.run.steps < 150, "{}", outcome.run.steps);
    // Five ranges each, too large for any program.
    let rules = (0..n).map(|i| {
        let range = |k: usize| ((i * 7 + k * 9_001) % 65_536) as u16;
        let ports: Vec<_> = (0..12).map(|k| (range(k), range(k))).collect();
        rule(i, TCP, from_set(i), &ports)
    });
    let found = compile(
        &policy(rules.collect()),
        Direction::Ingress,
        &world.own(),
        &world,
        &mut NumberedCounters::default(),
    );
    let error = found.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("100001 rules need"), "{error}");
}
