//! How flows end: closing, resets, timeouts, and what may take their place.

use felid_common::{DropReason, EGRESS, Event, FLOW_CLOSING, INGRESS, TCP_AFTER_RST, TCP_RST, protocol::TCP};
use felid_tests::bpf_fixture::{Fixture, Policy, SETTINGS};
use felid_tests::packet_craft::{ACK, FIN, RST, SYN};

use crate::{V4, V6, handshake, packet, two};

#[test]
fn closing_states_and_reuse_of_ports() {
    let mut fixture = two();
    handshake(&fixture, &V4);
    let send = |fixture: &Fixture, flags| {
        fixture
            .from_workload(1, &packet(V4.a, V4.b).tcp_with(40000, 80, flags, 101, 501).build())
            .unwrap()
    };
    let reply = |fixture: &Fixture, flags| {
        fixture
            .from_workload(2, &packet(V4.b, V4.a).tcp_with(80, 40000, flags, 501, 101).build())
            .unwrap()
    };
    // A SYN in the middle of an established connection changes nothing.
    send(&fixture, SYN).redirected(12);
    assert!(fixture.flow(TCP, V4.a, 40000, V4.b, 80).unwrap().unwrap().0);
    // One FIN is half a close.
    send(&fixture, FIN | ACK).redirected(12);
    send(&fixture, SYN).redirected(12);
    assert!(fixture.flow(TCP, V4.a, 40000, V4.b, 80).unwrap().unwrap().0);
    reply(&fixture, FIN | ACK).redirected(11);
    send(&fixture, ACK).redirected(12);
    assert!(fixture.flow(TCP, V4.a, 40000, V4.b, 80).unwrap().unwrap().0);
    // Both: a SYN begins a new flow, which is judged.
    fixture.policy(INGRESS, 2, Policy::Deny).unwrap();
    send(&fixture, SYN).dropped(DropReason::IngressPolicy);
    fixture.policy(INGRESS, 2, Policy::Allow).unwrap();
    send(&fixture, SYN).redirected(12);
    let (established, flow) = fixture.flow(TCP, V4.a, 40000, V4.b, 80).unwrap().unwrap();
    assert!(
        !established && flow.tcp_original == SYN && flow.tcp_reply == 0,
        "{flow:?}"
    );
    assert_eq!(fixture.events(Event::Reused).unwrap(), 1);
    assert_eq!(fixture.flows().unwrap(), (0, 1));
}

#[test]
fn the_other_end_may_reuse_the_ports_too() {
    let fixture = two();
    handshake(&fixture, &V6);
    fixture
        .from_workload(1, &packet(V6.a, V6.b).tcp_with(40000, 80, RST, 101, 0).build())
        .unwrap()
        .redirected(12);
    fixture
        .from_workload(2, &packet(V6.b, V6.a).tcp(80, 40000, SYN).build())
        .unwrap()
        .redirected(11);
    let (established, flow) = fixture.flow(TCP, V6.a, 40000, V6.b, 80).unwrap().unwrap();
    assert!(!established);
    assert_eq!((flow.originator.endpoint, flow.responder.endpoint), (102, 101));
}

#[test]
fn traffic_in_both_directions_takes_a_reset_back() {
    let fixture = two();
    handshake(&fixture, &V4);
    let send = |flags| {
        fixture
            .from_workload(1, &packet(V4.a, V4.b).tcp_with(40000, 80, flags, 101, 501).build())
            .unwrap()
            .redirected(12)
    };
    let reply = |flags| {
        fixture
            .from_workload(2, &packet(V4.b, V4.a).tcp_with(80, 40000, flags, 501, 101).build())
            .unwrap()
            .redirected(11)
    };
    let flow = || fixture.flow(TCP, V4.a, 40000, V4.b, 80).unwrap().unwrap().1;
    reply(RST);
    assert_ne!(flow().tcp_reply & TCP_RST, 0);
    send(ACK);
    send(ACK);
    assert_ne!(flow().tcp_reply & TCP_RST, 0, "one direction alone takes nothing back");
    assert_ne!(flow().tcp_original & TCP_AFTER_RST, 0);
    reply(ACK);
    assert_eq!((flow().tcp_original | flow().tcp_reply) & (TCP_RST | TCP_AFTER_RST), 0);
}

#[test]
fn timeouts_by_state() {
    let mut fixture = two();
    let age = |fixture: &Fixture, jiffies: u32| {
        fixture
            .edit_flow(TCP, V4.a, 40000, V4.b, 80, |flow| {
                flow.last_seen = flow.last_seen.wrapping_sub(jiffies)
            })
            .unwrap();
    };
    // Established. Written back only when a second old.
    handshake(&fixture, &V4);
    let before = fixture.flow(TCP, V4.a, 40000, V4.b, 80).unwrap().unwrap().1.last_seen;
    age(&fixture, SETTINGS.tcp_established - 1000);
    fixture.policy(EGRESS, 1, Policy::Deny).unwrap();
    fixture.policy(EGRESS, 2, Policy::Deny).unwrap();
    fixture
        .from_workload(2, &packet(V4.b, V4.a).tcp_with(80, 40000, ACK, 501, 101).build())
        .unwrap()
        .redirected(11);
    let after = fixture.flow(TCP, V4.a, 40000, V4.b, 80).unwrap().unwrap().1.last_seen;
    assert!(after.wrapping_sub(before) < 100_000, "seen just now");
    age(&fixture, SETTINGS.tcp_established + 1000);
    fixture
        .from_workload(2, &packet(V4.b, V4.a).tcp_with(80, 40000, ACK, 501, 101).build())
        .unwrap()
        .dropped(DropReason::EgressPolicy);
    // After both FINs: 30 s.
    fixture
        .edit_flow(TCP, V4.a, 40000, V4.b, 80, |flow| flow.last_seen = after)
        .unwrap();
    for (n, from, to, ports, numbers) in [
        (1, V4.a, V4.b, (40000, 80), (101, 501)),
        (2, V4.b, V4.a, (80, 40000), (501, 102)),
    ] {
        let fin = packet(from, to).tcp_with(ports.0, ports.1, FIN | ACK, numbers.0, numbers.1);
        fixture.from_workload(n, &fin.build()).unwrap();
    }
    age(&fixture, SETTINGS.tcp_fin + 1000);
    fixture
        .from_workload(1, &packet(V4.a, V4.b).tcp(40000, 80, ACK).build())
        .unwrap()
        .dropped(DropReason::EgressPolicy);
}

#[test]
fn unanswered_flows_expire_after_the_syn_timeout() {
    let fixture = two();
    fixture
        .from_workload(1, &packet(V6.a, V6.b).tcp(40000, 80, SYN).build())
        .unwrap()
        .redirected(12);
    fixture
        .edit_flow(TCP, V6.a, 40000, V6.b, 80, |flow| {
            flow.last_seen = flow.last_seen.wrapping_sub(SETTINGS.tcp_syn + 10)
        })
        .unwrap();
    fixture
        .from_workload(1, &packet(V6.a, V6.b).tcp(40000, 80, SYN).build())
        .unwrap()
        .redirected(12);
    assert_eq!(fixture.events(Event::Reused).unwrap(), 1);
    assert_eq!(fixture.flows().unwrap(), (0, 1));
}

#[test]
fn both_fins_are_noted_at_either_hook() {
    let mut fixture = two();
    for pair in [&V4, &V6] {
        // Past the stack, and through it.
        for (n, flags) in [(0, felid_common::ENDPOINT_REDIRECTABLE), (1, 0)] {
            let mut record = Fixture::record(2);
            record.flags = flags;
            fixture.set_endpoint(2, record).unwrap();
            let port = 40000 + n;
            let go = |there: bool, flags, sequence, acknowledged| {
                let (from, to, ends, ports) = if there {
                    (1, 2, (pair.a, pair.b), (port, 80))
                } else {
                    (2, 1, (pair.b, pair.a), (80, port))
                };
                let packet = packet(ends.0, ends.1)
                    .tcp_with(ports.0, ports.1, flags, sequence, acknowledged)
                    .build();
                let outcome = fixture.from_workload(from, &packet).unwrap();
                if n == 0 {
                    outcome.redirected(to + 10);
                } else {
                    outcome.passed();
                    fixture.to_workload(to, from + 10, &packet).unwrap().passed();
                }
            };
            let flow = || fixture.flow(TCP, pair.a, port, pair.b, 80).unwrap().unwrap();
            go(true, SYN, 100, 0);
            go(false, SYN | ACK, 500, 101);
            go(true, ACK, 101, 501);
            assert!(flow().0);
            go(false, FIN | ACK, 501, 101);
            assert_eq!((flow().1.tcp_original & FIN, flow().1.tcp_reply & FIN), (0, FIN));
            assert_eq!(flow().1.flags & FLOW_CLOSING, 0);
            go(true, FIN | ACK, 101, 502);
            assert_eq!((flow().1.tcp_original & FIN, flow().1.tcp_reply & FIN), (FIN, FIN));
            assert_ne!(flow().1.flags & FLOW_CLOSING, 0);
            go(false, ACK, 502, 102);
            assert!(flow().0);
            // A reset is for the slow programs, which note it.
            go(false, RST | ACK, 502, 102);
            assert_ne!(flow().1.tcp_reply & TCP_RST, 0);
        }
    }
    assert_eq!(fixture.events(Event::Promoted).unwrap(), 4);
}
