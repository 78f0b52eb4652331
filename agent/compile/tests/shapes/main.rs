//! Size and cost of programs, what is shared, what is refused, and what happens where something is
//! missing.
#![expect(clippy::unwrap_used, reason = "tests")]

mod size;
#[path = "../support/mod.rs"]
mod support;

use std::net::IpAddr;
use std::sync::Arc;

use felid_common::{NamedPortKey, Scratch, VERDICT_ALLOW, VERDICT_DENY, static_programs};
use felid_compile::listing::listing;
use felid_compile::program::{MapRef, Program};
use felid_compile::reference::Packet;
use felid_compile::stub::{Hook, SkbLayout, stub};
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
        protocol,
        source,
        destination: ResolvedSide {
            ports: ports.to_vec(),
            ..ResolvedSide::default()
        },
        ..ResolvedRule::new(index as u32, ResolvedAction::Allow)
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
    // Sets of the endpoint's own side are not tested at run time, nor are those of rules that never
    // match.
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
    let [from, to] = [Hook::FromWorkload, Hook::ToWorkload].map(|hook| stub(hook, endpoint, &SkbLayout::default()));
    // cb[0] and cb[1] of __sk_buff.
    assert_eq!((from.insns[2].code, from.insns[2].off), (0x7b, 48));
    assert_eq!([from.insns[0].imm, from.insns[1].imm], [3, -16]);
    // cb[4] on every way: zero, or what a register says.
    let stores = |code: u8| {
        from.insns
            .iter()
            .filter(|insn| (insn.code, insn.off) == (code, 64))
            .count()
    };
    assert_eq!([stores(0x62), stores(0x63)], [1, 2]);
    let (at, _) = from.maps[0];
    assert_eq!(from.maps, [(at, MapRef::StaticPrograms)]);
    assert_eq!(
        (from.insns[at].code, from.insns[at + 2].imm),
        (0x18, static_programs::FROM_WORKLOAD as i32)
    );
    // And back to the call from the end.
    let last = from.insns.len() - 1;
    assert_eq!(
        (from.insns[last].code, last as i64 + 1 + i64::from(from.insns[last].off)),
        (0x05, at as i64)
    );
    assert_eq!(to.insns[at + 2].imm, static_programs::TO_WORKLOAD as i32);
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
