//! What the tests of compiled programs share: a model of the machine, and checks that hold for
//! every program.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod cases;
pub(crate) mod machine;

use std::collections::BTreeMap;

use felid_common::{LOG_RULES, NamedPortKey, Scratch, VERDICT_ALLOW, VERDICT_DENY};
use felid_compile::Direction;
use felid_compile::program::{Program, RuleRef, table_id};
use felid_compile::reference::{Decided, Decision, Packet, Staged};
use felid_compile::testing::{NumberedCounters, World};
use felid_compile::transaction::CounterName;
use felid_model::resolved::NamedPortMember;
use machine::{End, Machine, Run};
use std::net::IpAddr;
use zerocopy::{FromBytes as _, IntoBytes as _};

/// The address as it lies in the packet.
pub(crate) fn address_words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
        IpAddr::V6(v6) => <[u32; 4]>::read_from_bytes(&v6.octets()).unwrap(),
    }
}

/// What a static program would leave in the scratch.
pub(crate) fn scratch_of(packet: &Packet, bank: u32, src_class: u32, dst_class: u32) -> Scratch {
    Scratch {
        src: address_words(packet.src),
        dst: address_words(packet.dst),
        src_class,
        dst_class,
        src_port: packet.src_port,
        dst_port: packet.dst_port,
        protocol: packet.protocol.0,
        ip_version: packet.ip_version(),
        icmp_type: packet.icmp_type,
        icmp_code: packet.icmp_code,
        bank,
        ..Scratch::default()
    }
}

/// A class that no program may look at: all ones.
const FORBIDDEN_CLASS: u32 = 999;
const PEER_CLASS: u32 = 7;
const NAMED_CLASS: u32 = 8;
const OWN_CLASS: u32 = 9;

/// What a run left behind.
pub(crate) struct Outcome {
    /// It was from nowhere that the endpoint may send from.
    pub(crate) spoofed: bool,
    pub(crate) run: Run,
    pub(crate) after: Scratch,
    /// Counted by the program itself.
    pub(crate) counted: BTreeMap<u32, u64>,
}

/// Runs a program on a packet in this world. `bank` must not matter.
pub(crate) fn run(program: &Program, world: &World, packet: &Packet, direction: Direction, bank: u32) -> Outcome {
    let (peer, peer_port, classes) = match direction {
        Direction::Ingress => (packet.src, packet.src_port, (PEER_CLASS, FORBIDDEN_CLASS)),
        Direction::Egress => (packet.dst, packet.dst_port, (FORBIDDEN_CLASS, PEER_CLASS)),
    };
    let mut before = scratch_of(packet, bank, classes.0, classes.1);
    let spoofed = direction == Direction::Egress && !world.own.contains(&packet.src);
    if spoofed {
        before.spoofed = packet.ip_version().into();
        before.src_class = OWN_CLASS;
    }
    let mut machine = Machine::new(program);
    machine.scratch = before.as_bytes().to_vec();
    let row = |words: Vec<u64>| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    machine.rows.insert(0, row(vec![0; world.row_words()]));
    machine
        .rows
        .insert(PEER_CLASS, row(world.class_row(&world.sets_of(peer))));
    if spoofed {
        let own = row(world.class_row(&world.sets_of(packet.src)));
        machine.rows.insert(OWN_CLASS, own);
    }
    machine
        .rows
        .insert(FORBIDDEN_CLASS, row(vec![u64::MAX; world.row_words()]));
    let member = NamedPortMember {
        address: peer,
        protocol: packet.protocol,
        port: peer_port,
    };
    let named_sets = world.named_sets_of(&member);
    if !named_sets.is_empty() {
        machine.rows.insert(NAMED_CLASS, row(world.class_row(&named_sets)));
        let key = NamedPortKey {
            address: address_words(peer),
            port: peer_port,
            protocol: packet.protocol.0,
            ip_version: packet.ip_version(),
        };
        let mut class = [FORBIDDEN_CLASS; 2];
        class[bank as usize] = NAMED_CLASS;
        machine.named.insert(key.as_bytes().to_vec(), class);
    }
    let run = machine.run();
    let after = Scratch::read_from_bytes(&machine.scratch).unwrap();
    let untouched = Scratch {
        verdict: 0,
        rule: 0,
        counter: 0,
        log_count: 0,
        log_rules: [0; LOG_RULES],
        log_program: 0,
        spoofed: before.spoofed,
        ..after
    };
    assert_eq!(untouched, before, "the program wrote what is not its own");
    Outcome {
        spoofed: spoofed && !world.spoofed.iter().any(|net| net.contains(&packet.src)),
        run,
        after,
        counted: machine.counted,
    }
}

/// Asserts that a run came to the same decision, logged the same, and counted the same for staged
/// policies.
pub(crate) fn assert_same(program: &Program, counters: &NumberedCounters, outcome: &Outcome, expected: &Decision) {
    let (run, after) = (&outcome.run, &outcome.after);
    assert_eq!(run.end, End::Judged, "ended without a verdict");
    assert_eq!(after.spoofed != 0, outcome.spoofed, "spoofed");
    if outcome.spoofed {
        return;
    }
    assert!(run.tail_calls <= 14 + 1, "{} tail calls", run.tail_calls);
    let verdict = if expected.allowed { VERDICT_ALLOW } else { VERDICT_DENY };
    assert_eq!(after.verdict, verdict, "verdict; the reference says {expected:?}");
    let rule = |index: u32| program.rules.get(index as usize).expect("a rule that the table has");
    assert!(
        same_rule(rule(after.rule), &expected.by),
        "decided by {:?}; the reference says {:?}",
        rule(after.rule),
        expected.by
    );
    assert!(after.counter > 0, "no counter");
    assert_eq!(
        after.log_count as usize,
        expected.logged.len(),
        "number of Log rules; the reference says {expected:?}"
    );
    if after.log_count > 0 {
        assert_eq!(after.log_program, table_id(&program.rules), "whose rules they are");
    }
    for (index, by) in after.log_rules.iter().zip(&expected.logged) {
        assert!(
            same_rule(rule(*index), by),
            "logged by {:?}; the reference says {by:?}",
            rule(*index)
        );
    }
    let mut staged: BTreeMap<u32, u64> = BTreeMap::new();
    for Staged { by, action } in &expected.staged {
        let Decided::Rule { key, tier, .. } = by else {
            panic!("{by:?}")
        };
        let name = CounterName {
            tier: tier.clone().expect("a tier"),
            policy: key.to_string().into(),
            action: *action,
            staged: true,
        };
        let index = counters.0.get(&name);
        *staged.entry(*index.expect("a counter")).or_default() += 1;
    }
    assert_eq!(outcome.counted, staged, "staged; the reference says {expected:?}");
}

fn same_rule(rule: &RuleRef, by: &Decided) -> bool {
    match by {
        Decided::Rule { key, tier, index } => {
            rule.key.as_ref() == Some(key) && rule.tier == *tier && rule.index == Some(*index)
        }
        Decided::EndOfTier(tier) => rule.key.is_none() && rule.tier.as_ref() == Some(tier) && rule.index.is_none(),
        Decided::NoProfile | Decided::Closed(_) => rule.key.is_none() && rule.tier.is_none() && rule.index.is_none(),
    }
}

/// What the verifier would refuse, as far as that can be seen without it.
pub(crate) fn check_form(program: &Program) {
    assert!(program.chunks.len() <= 64);
    for (number, chunk) in program.chunks.iter().enumerate() {
        let insns = &chunk.insns;
        assert!(insns.len() <= 17_000, "chunk {number} has {} instructions", insns.len());
        let mut reached = vec![false; insns.len()];
        reached[0] = true;
        let mut second_half = false;
        for (index, insn) in insns.iter().enumerate() {
            if second_half {
                second_half = false;
                if index + 1 < insns.len() {
                    reached[index + 1] = reached[index + 1] || reached[index - 1];
                }
                continue;
            }
            assert!(reached[index], "chunk {number}: instruction {index} cannot be reached");
            let class = insn.code & 7;
            let is_jump = (class == 5 && insn.code != 0x85 && insn.code != 0x95) || class == 6;
            if is_jump {
                assert!(insn.off >= 0, "chunk {number}: jump backwards at {index}");
                reached[index + 1 + insn.off as usize] = true;
            }
            second_half = insn.code == 0x18;
            if !second_half && insn.code != 0x05 && insn.code != 0x95 {
                reached[index + 1] = true;
            }
        }
        let mut next = 0;
        for (range, _) in &chunk.notes {
            assert_eq!(range.start, next, "notes have gaps");
            next = range.end;
        }
        assert_eq!(next, insns.len());
    }
}
