//! What policy programs are given, and what becomes of their verdicts: banks, classes, generations,
//! counters, tables that are full.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use felid_common::{
    DropReason, EGRESS, Event, FLOW_DEAD, INGRESS, Peer, SETTING_NETS_V4, SETTING_NETS_V6, SWEEP_ESTABLISHED,
    SWEEP_HALF_OPEN, Sweep,
    protocol::{TCP, UDP},
};
use felid_tests::bpf_fixture::{Context, Fixture, Policy, SETTINGS, key, run, words};
use felid_tests::packet_craft::{Craft, SYN};
use zerocopy::{FromBytes as _, IntoBytes as _};

const PAIRS: [(&str, &str); 2] = [("10.65.0.2", "10.65.0.3"), ("fd00:65::2", "fd00:65::3")];
const FAR: [&str; 2] = ["198.51.100.9", "2001:db8:9::9"];

fn two() -> Fixture {
    let mut fixture = Fixture::new().unwrap();
    fixture.endpoint(1, &["10.65.0.2", "fd00:65::2"]).unwrap();
    fixture.endpoint(2, &["10.65.0.3", "fd00:65::3"]).unwrap();
    fixture
}

fn craft(src: &str, dst: &str) -> Craft {
    Craft::new(src.parse::<IpAddr>().unwrap(), dst.parse::<IpAddr>().unwrap())
}

fn query(pair: (&str, &str), port: u16) -> Vec<u8> {
    craft(pair.0, pair.1).udp(port, 53, b"query").build()
}

/// A UDP flow that was answered, so that it is established.
fn establish(fixture: &Fixture, (a, b): (&str, &str), port: u16) {
    fixture
        .from_workload(1, &craft(a, b).udp(port, 53, b"query").build())
        .unwrap()
        .redirected(12);
    fixture
        .from_workload(2, &craft(b, a).udp(53, port, b"answer").build())
        .unwrap()
        .redirected(11);
    assert!(fixture.flow(UDP, a, port, b, 53).unwrap().unwrap().0);
}

#[test]
fn the_tuple_as_policies_see_it() {
    let fixture = two();
    for (a, b) in PAIRS {
        fixture.from_workload(1, &query((a, b), 40000)).unwrap().redirected(12);
        let scratch = fixture.scratch().unwrap();
        assert_eq!(
            (scratch.src, scratch.dst),
            (words(a.parse().unwrap()), words(b.parse().unwrap()))
        );
        assert_eq!((scratch.src_port, scratch.dst_port, scratch.protocol), (40000, 53, UDP));
        assert_eq!(scratch.ip_version, if a.contains(':') { 6 } else { 4 });
    }
    assert_eq!(
        (
            fixture.counter(EGRESS, 1).unwrap(),
            fixture.counter(INGRESS, 2).unwrap()
        ),
        (2, 2)
    );
}

#[test]
fn one_word_switches_programs_and_classes_together() {
    let mut fixture = two();
    fixture.policy_in(0, EGRESS, 1, Policy::DestinationClass(5)).unwrap();
    fixture.policy_in(1, EGRESS, 1, Policy::DestinationClass(6)).unwrap();
    for address in [PAIRS[0].1, PAIRS[1].1] {
        fixture
            .peer(
                address,
                Peer {
                    class: [5, 7],
                    endpoint: 2,
                    id: 102,
                    ..Peer::default()
                },
            )
            .unwrap();
    }
    for (n, pair) in PAIRS.into_iter().enumerate() {
        let port = 100 * (n as u16 + 1);
        fixture.set_epoch(2).unwrap();
        fixture.from_workload(1, &query(pair, port)).unwrap().redirected(12);
        fixture.set_epoch(3).unwrap();
        fixture
            .from_workload(1, &query(pair, port + 1))
            .unwrap()
            .dropped(DropReason::EgressPolicy);
        fixture
            .peer(
                pair.1,
                Peer {
                    class: [5, 6],
                    endpoint: 2,
                    id: 102,
                    ..Peer::default()
                },
            )
            .unwrap();
        fixture.from_workload(1, &query(pair, port + 1)).unwrap().redirected(12);
        // Both policies of a packet come from one bank.
        fixture.policy_in(0, INGRESS, 2, Policy::Deny).unwrap();
        fixture.from_workload(1, &query(pair, port + 2)).unwrap().redirected(12);
        fixture.set_epoch(4).unwrap();
        fixture
            .from_workload(1, &query(pair, port + 3))
            .unwrap()
            .dropped(DropReason::IngressPolicy);
        fixture.policy_in(0, INGRESS, 2, Policy::Allow).unwrap();
    }
}

#[test]
fn classes_of_addresses_and_of_networks() {
    let mut fixture = two();
    fixture.policy(INGRESS, 2, Policy::SourceClass(9)).unwrap();
    for ((_, b), far) in PAIRS.into_iter().zip(FAR) {
        let packet = craft(far, b).tcp(1000, 80, SYN).build();
        fixture
            .to_workload(2, 1, &packet)
            .unwrap()
            .dropped(DropReason::IngressPolicy);
        fixture.net(far, if b.contains(':') { 48 } else { 24 }, [9, 9]).unwrap();
        // Networks count only if the settings say that there are some.
        fixture
            .to_workload(2, 1, &packet)
            .unwrap()
            .dropped(DropReason::IngressPolicy);
        let mut settings = SETTINGS;
        settings.flags = SETTING_NETS_V4 | SETTING_NETS_V6;
        fixture.set_settings(settings).unwrap();
        fixture.to_workload(2, 1, &packet).unwrap().passed();
        // The longest prefix has the last word, and an address of its own even more.
        fixture
            .net(far, if b.contains(':') { 128 } else { 32 }, [8, 8])
            .unwrap();
        fixture
            .to_workload(2, 1, &craft(far, b).tcp(1001, 80, SYN).build())
            .unwrap()
            .dropped(DropReason::IngressPolicy);
        fixture
            .peer(
                far,
                Peer {
                    class: [9, 9],
                    ..Peer::default()
                },
            )
            .unwrap();
        fixture
            .to_workload(2, 1, &craft(far, b).tcp(1001, 80, SYN).build())
            .unwrap()
            .passed();
        fixture.set_settings(SETTINGS).unwrap();
    }
}

#[test]
fn a_raised_generation_judges_again_by_the_original_tuple() {
    let mut fixture = two();
    for (n, pair) in PAIRS.into_iter().enumerate() {
        let (a, b) = pair;
        let port = 1000 + n as u16;
        establish(&fixture, pair, port);
        let forward = craft(a, b).udp(port, 53, b"query").build();
        let back = craft(b, a).udp(53, port, b"answer").build();
        // Port 53 stays allowed at endpoint 2, whose replies go to another port.
        fixture.policy(INGRESS, 2, Policy::Port(53)).unwrap();
        let mut record = Fixture::record(2);
        record.ingress_generation = 2;
        fixture.set_endpoint(2, record).unwrap();
        let before = fixture.counter(INGRESS, 2).unwrap();
        fixture.from_workload(2, &back).unwrap().redirected(11);
        assert_eq!(fixture.counter(INGRESS, 2).unwrap(), before + 1);
        fixture.from_workload(2, &back).unwrap().redirected(11);
        fixture.from_workload(1, &forward).unwrap().redirected(12);
        assert_eq!(fixture.counter(INGRESS, 2).unwrap(), before + 1, "once");
        // Now it is denied: either end's next packet ends the flow, for both ends.
        fixture.policy(INGRESS, 2, Policy::Deny).unwrap();
        record.ingress_generation = 3;
        fixture.set_endpoint(2, record).unwrap();
        if n == 0 {
            fixture
                .from_workload(1, &forward)
                .unwrap()
                .dropped(DropReason::IngressPolicy);
        } else {
            fixture
                .from_workload(2, &back)
                .unwrap()
                .dropped(DropReason::IngressPolicy);
        }
        let (_, flow) = fixture
            .flow(UDP, a, port, b, 53)
            .unwrap()
            .expect("remembered as revoked");
        assert!(flow.flags & felid_common::FLOW_REVOKED != 0);
        fixture
            .from_workload(1, &forward)
            .unwrap()
            .dropped(DropReason::IngressPolicy);
        // Replies are no new flow of endpoint 2, which its egress policy would allow.
        fixture
            .from_workload(2, &back)
            .unwrap()
            .dropped(DropReason::IngressPolicy);
        fixture.policy(INGRESS, 2, Policy::Allow).unwrap();
        fixture.set_endpoint(2, Fixture::record(2)).unwrap();
    }
    assert_eq!(fixture.events(Event::Revoked).unwrap(), 2);
}

#[test]
fn both_sides_stale_are_both_judged() {
    let mut fixture = two();
    let (a, b) = PAIRS[1];
    establish(&fixture, PAIRS[1], 7);
    for n in [1, 2] {
        let mut record = Fixture::record(n);
        record.egress_generation = 5;
        record.ingress_generation = 5;
        fixture.set_endpoint(n, record).unwrap();
    }
    let counts = (
        fixture.counter(EGRESS, 1).unwrap(),
        fixture.counter(INGRESS, 2).unwrap(),
    );
    fixture
        .from_workload(2, &craft(b, a).udp(53, 7, b"").build())
        .unwrap()
        .redirected(11);
    assert_eq!(
        (
            fixture.counter(EGRESS, 1).unwrap(),
            fixture.counter(INGRESS, 2).unwrap()
        ),
        (counts.0 + 1, counts.1 + 1)
    );
    let (_, flow) = fixture.flow(UDP, a, 7, b, 53).unwrap().unwrap();
    assert_eq!((flow.originator.generation, flow.responder.generation), (5, 5));
    // The originator's egress policy denies: the responder's packet is refused, too.
    fixture.policy(EGRESS, 1, Policy::Deny).unwrap();
    let mut record = Fixture::record(1);
    record.egress_generation = 6;
    record.ingress_generation = 5;
    fixture.set_endpoint(1, record).unwrap();
    fixture
        .from_workload(2, &craft(b, a).udp(53, 7, b"").build())
        .unwrap()
        .dropped(DropReason::EgressPolicy);
}

#[test]
fn through_the_stack_each_hook_renews_its_own_side() {
    let mut fixture = two();
    let mut record = Fixture::record(2);
    record.flags = 0;
    fixture.set_endpoint(2, record).unwrap();
    for (a, b) in PAIRS {
        let forward = craft(a, b).udp(9, 53, b"query").build();
        let back = craft(b, a).udp(53, 9, b"answer").build();
        fixture.from_workload(1, &forward).unwrap().passed();
        fixture.to_workload(2, 11, &forward).unwrap().passed();
        fixture.from_workload(2, &back).unwrap().passed();
        fixture.to_workload(1, 12, &back).unwrap().passed();
        record.ingress_generation += 1;
        fixture.set_endpoint(2, record).unwrap();
        fixture.from_workload(1, &forward).unwrap().passed();
        fixture.policy(INGRESS, 2, Policy::Deny).unwrap();
        fixture
            .to_workload(2, 11, &forward)
            .unwrap()
            .dropped(DropReason::IngressPolicy);
        let (_, flow) = fixture.flow(UDP, a, 9, b, 53).unwrap().unwrap();
        assert!(flow.flags & felid_common::FLOW_REVOKED != 0);
        fixture.policy(INGRESS, 2, Policy::Allow).unwrap();
        // From outside, replies at the originator's hook: its egress side.
        let far = if a.contains(':') { FAR[1] } else { FAR[0] };
        let mut settings = SETTINGS;
        settings.flags = felid_common::SETTING_HOST_REACHABLE;
        fixture.set_settings(settings).unwrap();
        fixture
            .from_workload(1, &craft(a, far).udp(9, 53, b"").build())
            .unwrap()
            .passed();
        fixture
            .to_workload(1, 1, &craft(far, a).udp(53, 9, b"").build())
            .unwrap()
            .passed();
        let mut one = Fixture::record(1);
        one.egress_generation = 9;
        fixture.set_endpoint(1, one).unwrap();
        fixture
            .to_workload(1, 1, &craft(far, a).udp(53, 9, b"").build())
            .unwrap()
            .passed();
        assert_eq!(
            fixture
                .flow(UDP, a, 9, far, 53)
                .unwrap()
                .unwrap()
                .1
                .originator
                .generation,
            9
        );
        fixture.policy(EGRESS, 1, Policy::Deny).unwrap();
        one.egress_generation = 10;
        fixture.set_endpoint(1, one).unwrap();
        fixture
            .to_workload(1, 1, &craft(far, a).udp(53, 9, b"").build())
            .unwrap()
            .dropped(DropReason::EgressPolicy);
        fixture.policy(EGRESS, 1, Policy::Allow).unwrap();
        fixture.set_endpoint(1, Fixture::record(1)).unwrap();
        fixture.set_settings(SETTINGS).unwrap();
    }
}

#[test]
fn an_element_that_became_another_flow_is_not_taken_for_this_one() {
    let fixture = two();
    for pair in PAIRS {
        establish(&fixture, pair, 5);
        fixture
            .edit_flow(UDP, pair.0, 5, pair.1, 53, |flow| flow.check ^= 2)
            .unwrap();
        let created = fixture.events(Event::Created).unwrap();
        fixture.from_workload(1, &query(pair, 5)).unwrap().redirected(12);
        assert_eq!(fixture.events(Event::Created).unwrap(), created + 1, "judged anew");
    }
}

#[test]
fn an_element_that_became_another_address_is_not_taken_for_this_one() {
    let mut fixture = two();
    for pair in PAIRS {
        let mine = |class| Peer {
            class: [class; 2],
            endpoint: 2,
            id: 102,
            ..Peer::default()
        };
        let words = words(pair.1.parse().unwrap());
        let others = [
            Peer::default(),
            mine(0),
            mine(0).sealed(&[words[0] ^ 1, words[1], words[2], words[3]]),
            // The check of one state, the content of another.
            Peer {
                check: mine(3).check_for(&words),
                ..mine(4)
            },
        ];
        for other in others {
            fixture.raw_peer(pair.1, other).unwrap();
            let internal = fixture.drops(DropReason::Internal).unwrap();
            fixture
                .from_workload(1, &query(pair, 5))
                .unwrap()
                .dropped(DropReason::Internal);
            assert_eq!(fixture.drops(DropReason::Internal).unwrap(), internal + 1);
        }
        assert_eq!(fixture.flows().unwrap().1, usize::from(pair.0.contains(':')));
        fixture.peer(pair.1, mine(0)).unwrap();
        fixture.from_workload(1, &query(pair, 5)).unwrap().redirected(12);
    }
}

#[test]
fn an_entry_that_the_sweeper_claimed_is_a_miss() {
    let fixture = two();
    for pair in PAIRS {
        establish(&fixture, pair, 5);
        fixture
            .edit_flow(UDP, pair.0, 5, pair.1, 53, |flow| flow.flags |= FLOW_DEAD)
            .unwrap();
        fixture.from_workload(1, &query(pair, 5)).unwrap().redirected(12);
        let (established, flow) = fixture.flow(UDP, pair.0, 5, pair.1, 53).unwrap().unwrap();
        assert!(!established && flow.flags & FLOW_DEAD == 0);
    }
}

#[test]
fn a_full_table_leaves_flows_half_open() {
    let mut fixture = Fixture::with_sizes(&[("established_v4", 1), ("established_v6", 1)]).unwrap();
    fixture.endpoint(1, &["10.65.0.2", "fd00:65::2"]).unwrap();
    fixture.endpoint(2, &["10.65.0.3", "fd00:65::3"]).unwrap();
    for (n, pair) in PAIRS.into_iter().enumerate() {
        establish(&fixture, pair, 1);
        for _ in 0..2 {
            fixture.from_workload(1, &query(pair, 2)).unwrap().redirected(12);
            fixture
                .from_workload(2, &craft(pair.1, pair.0).udp(53, 2, b"answer").build())
                .unwrap()
                .redirected(11);
        }
        assert!(
            !fixture.flow(UDP, pair.0, 2, pair.1, 53).unwrap().unwrap().0,
            "works, half-open"
        );
        assert!(
            fixture.flow(UDP, pair.0, 1, pair.1, 53).unwrap().unwrap().0,
            "the first one stays"
        );
        assert_eq!(fixture.events(Event::EstablishedFull).unwrap(), 2 * (n as u64 + 1));
    }
}

fn sweep(fixture: &Fixture, v6: bool, table: u32, keys: &[Vec<u8>]) -> u32 {
    let header = Sweep {
        table,
        count: keys.len() as u32,
        ..Sweep::default()
    };
    let data = [header.as_bytes(), &keys.concat()].concat();
    let program = fixture.program(if v6 { "sweep_v6" } else { "sweep_v4" });
    let outcome = run(program, &data, &Context::new(0, 0), 1).unwrap();
    assert_eq!(outcome.code, 0);
    Sweep::read_from_bytes(&outcome.packet[..16]).unwrap().deleted
}

#[test]
fn the_sweeper_takes_what_has_expired_and_nothing_else() {
    let fixture = two();
    for pair in PAIRS {
        let v6 = pair.0.contains(':');
        let (a, b): (IpAddr, IpAddr) = (pair.0.parse().unwrap(), pair.1.parse().unwrap());
        let count = if v6 { 64 } else { 128 };
        for port in 1..=count {
            establish(&fixture, pair, port);
            if port % 3 == 0 {
                fixture
                    .edit_flow(UDP, pair.0, port, pair.1, 53, |flow| {
                        flow.last_seen = flow.last_seen.wrapping_sub(SETTINGS.udp + 1)
                    })
                    .unwrap();
            }
        }
        let keys: Vec<Vec<u8>> = (1..=count)
            .map(|port| key("established", UDP, a, port, b, 53).1)
            .collect();
        assert_eq!(sweep(&fixture, v6, SWEEP_ESTABLISHED, &keys), u32::from(count) / 3);
        assert_eq!(sweep(&fixture, v6, SWEEP_ESTABLISHED, &keys), 0);
        for port in 1..=count {
            assert_eq!(
                fixture.flow(UDP, pair.0, port, pair.1, 53).unwrap().is_some(),
                port % 3 != 0
            );
        }
        // Half-open ones by their own timeouts.
        fixture
            .from_workload(1, &craft(pair.0, pair.1).tcp(1, 80, SYN).build())
            .unwrap()
            .redirected(12);
        let keys = vec![
            key("half_open", TCP, a, 1, b, 80).1,
            key("half_open", TCP, a, 2, b, 80).1,
        ];
        assert_eq!(sweep(&fixture, v6, SWEEP_HALF_OPEN, &keys), 0);
        fixture
            .edit_flow(TCP, pair.0, 1, pair.1, 80, |flow| {
                flow.last_seen = flow.last_seen.wrapping_sub(SETTINGS.tcp_syn + 1)
            })
            .unwrap();
        assert_eq!(sweep(&fixture, v6, SWEEP_ESTABLISHED, &keys), 0, "the other table");
        assert_eq!(sweep(&fixture, v6, SWEEP_HALF_OPEN, &keys), 1);
        assert_eq!(sweep(&fixture, v6, SWEEP_HALF_OPEN, &[]), 0);
    }
}

#[test]
fn the_clock_ticks() {
    let fixture = two();
    let read = || {
        let outcome = run(fixture.program("clock"), &[0; 64], &Context::new(0, 0), 1).unwrap();
        assert_eq!(outcome.code, 0);
        u64::from_le_bytes(outcome.packet[..8].try_into().unwrap())
    };
    let first = read();
    std::thread::sleep(std::time::Duration::from_millis(100));
    let ticks = read() - first;
    assert!((9..=150).contains(&ticks), "{ticks} ticks in a tenth of a second");
}

#[test]
fn a_second_of_silence_is_noted_by_the_next_packet() {
    let fixture = two();
    let pair = PAIRS[0];
    establish(&fixture, pair, 5);
    let forward = craft(pair.0, pair.1).udp(5, 53, b"query").build();
    let seen = || fixture.flow(UDP, pair.0, 5, pair.1, 53).unwrap().unwrap().1.last_seen;
    fixture
        .edit_flow(UDP, pair.0, 5, pair.1, 53, |flow| {
            flow.last_seen = flow.last_seen.wrapping_sub(SETTINGS.hz / 2)
        })
        .unwrap();
    let before = seen();
    fixture.from_workload(1, &forward).unwrap().redirected(12);
    assert_eq!(seen(), before, "not yet");
    fixture
        .edit_flow(UDP, pair.0, 5, pair.1, 53, |flow| {
            flow.last_seen = flow.last_seen.wrapping_sub(2 * SETTINGS.hz)
        })
        .unwrap();
    let before = seen();
    fixture.from_workload(1, &forward).unwrap().redirected(12);
    assert_ne!(seen(), before);
    // A clock that is behind another CPU's is no reason to end a flow.
    fixture
        .edit_flow(UDP, pair.0, 5, pair.1, 53, |flow| {
            flow.last_seen = flow.last_seen.wrapping_add(SETTINGS.udp)
        })
        .unwrap();
    fixture.from_workload(1, &forward).unwrap().redirected(12);
}

#[test]
fn one_question_and_one_answer_have_a_short_life() {
    for pair in [("10.65.0.2", "192.0.2.9"), ("fd00:65::2", "2001:db8::9")] {
        let mut fixture = Fixture::new().unwrap();
        fixture.endpoint(1, &["10.65.0.2", "fd00:65::2"]).unwrap();
        let mut settings = SETTINGS;
        settings.flags = felid_common::SETTING_HOST_REACHABLE;
        fixture.set_settings(settings).unwrap();
        let ask = |fixture: &Fixture| {
            let packet = craft(pair.0, pair.1).udp(5, 53, b"q").build();
            fixture.from_workload(1, &packet).unwrap()
        };
        let answer = |fixture: &Fixture| {
            let packet = craft(pair.1, pair.0).udp(53, 5, b"a").build();
            fixture.to_workload(1, 2, &packet).unwrap()
        };
        let age = |fixture: &Fixture, jiffies: u32| {
            fixture
                .edit_flow(UDP, pair.0, 5, pair.1, 53, |flow| {
                    flow.last_seen = flow.last_seen.wrapping_sub(jiffies);
                })
                .unwrap();
        };
        fixture.policy(INGRESS, 1, Policy::Deny).unwrap();
        ask(&fixture).passed();
        age(&fixture, SETTINGS.udp_answered + 1000);
        answer(&fixture).passed();
        // Answered, and nothing since: over soon.
        age(&fixture, SETTINGS.udp_answered + 1000);
        answer(&fixture).dropped(DropReason::IngressPolicy);
        // The originator goes on after an answer: as long as any other.
        ask(&fixture).passed();
        answer(&fixture).passed();
        ask(&fixture).passed();
        age(&fixture, SETTINGS.udp_answered + 1000);
        answer(&fixture).passed();
        age(&fixture, SETTINGS.udp + 1000);
        answer(&fixture).dropped(DropReason::IngressPolicy);
    }
}
