//! How large programs are, what a packet costs in them, and what is refused for its size.

use super::*;

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
    // The peer is in every set, and every range but the last rule's misses its port only at the
    // last look.
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
