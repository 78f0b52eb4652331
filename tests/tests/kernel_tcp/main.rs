//! TCP through the kernel programs: fast and slow paths, states, promotion, reuse, both families.
#![expect(clippy::unwrap_used, reason = "tests")]

mod blind;
mod direction;
mod ends;
mod same_port;

use felid_common::{
    DropReason, EGRESS, Event, FLOW_REDIRECT, GENERATION_EXEMPT, INGRESS, PEER_HOST, Peer, protocol::TCP,
};
use felid_tests::bpf_fixture::{Fixture, Policy, SETTINGS};
use felid_tests::packet_craft::{ACK, Craft, FIN, RST, SYN, checksum};

struct Pair {
    a: &'static str,
    b: &'static str,
}

const V4: Pair = Pair {
    a: "10.65.0.2",
    b: "10.65.0.3",
};
const V6: Pair = Pair {
    a: "fd00:65::2",
    b: "fd00:65::3",
};

fn two() -> Fixture {
    let mut fixture = Fixture::new().unwrap();
    fixture.endpoint(1, &[V4.a, V6.a]).unwrap();
    fixture.endpoint(2, &[V4.b, V6.b]).unwrap();
    fixture
}

fn packet(src: &str, dst: &str) -> Craft {
    Craft::new(
        src.parse::<std::net::IpAddr>().unwrap(),
        dst.parse::<std::net::IpAddr>().unwrap(),
    )
}

/// SYN, SYN-ACK, ACK between endpoints 1 and 2 by the fast path.
fn handshake(fixture: &Fixture, pair: &Pair) {
    fixture
        .from_workload(1, &packet(pair.a, pair.b).tcp_with(40000, 80, SYN, 100, 0).build())
        .unwrap()
        .redirected(12);
    let (established, flow) = fixture.flow(TCP, pair.a, 40000, pair.b, 80).unwrap().unwrap();
    assert!(!established);
    assert_eq!(flow.tcp_original, SYN);
    fixture
        .from_workload(
            2,
            &packet(pair.b, pair.a).tcp_with(80, 40000, SYN | ACK, 500, 101).build(),
        )
        .unwrap()
        .redirected(11);
    let (established, flow) = fixture.flow(TCP, pair.a, 40000, pair.b, 80).unwrap().unwrap();
    assert!(!established);
    assert_eq!((flow.originator.expects, flow.responder.expects), (501, 101));
    fixture
        .from_workload(1, &packet(pair.a, pair.b).tcp_with(40000, 80, ACK, 101, 501).build())
        .unwrap()
        .redirected(12);
    let (established, flow) = fixture.flow(TCP, pair.a, 40000, pair.b, 80).unwrap().unwrap();
    assert!(established, "{flow:?}");
    assert_eq!((flow.originator.endpoint, flow.responder.endpoint), (101, 102));
    assert_ne!(flow.flags & FLOW_REDIRECT, 0);
}

#[test]
fn handshake_promotes_and_delivers_straight_into_the_other_namespace() {
    let fixture = two();
    for pair in [&V4, &V6] {
        handshake(&fixture, pair);
        let sent = packet(pair.a, pair.b).tcp(40000, 80, ACK).build();
        let outcome = fixture.from_workload(1, &sent).unwrap();
        outcome.redirected(12);
        assert_eq!(outcome.packet[..6], [2, 0, 0, 0, 0, 2], "the workload's MAC");
        assert_eq!(
            outcome.packet[6..12],
            [0xee, 0xee, 0xee, 0xee, 0xee, 2],
            "its host side's MAC"
        );
        if pair.a.contains(':') {
            assert_eq!(outcome.packet[21], 63, "hop limit");
            assert_eq!(outcome.packet[22..], sent[22..]);
        } else {
            assert_eq!(outcome.packet[22], 63, "TTL");
            assert_eq!(checksum(&outcome.packet[14..34]), 0, "IPv4 checksum");
            assert_eq!(outcome.packet[26..], sent[26..]);
        }
        // And back.
        let outcome = fixture
            .from_workload(2, &packet(pair.b, pair.a).tcp(80, 40000, ACK).build())
            .unwrap();
        outcome.redirected(11);
        assert_eq!(outcome.packet[..6], [2, 0, 0, 0, 0, 1]);
    }
    assert_eq!(fixture.flows().unwrap(), (2, 0));
    assert_eq!(fixture.events(Event::Promoted).unwrap(), 2);
    assert_eq!(fixture.counter(EGRESS, 1).unwrap(), 2);
    assert_eq!(fixture.counter(INGRESS, 2).unwrap(), 2);
    assert_eq!(fixture.counter(EGRESS, 2).unwrap(), 0, "replies are not judged");
}

#[test]
fn checksum_survives_every_value() {
    let fixture = two();
    handshake(&fixture, &V4);
    for identification in 0..=u16::MAX / 97 {
        let mut craft = packet(V4.a, V4.b).tcp(40000, 80, ACK);
        craft.fragment.0 = identification * 97;
        let outcome = fixture.from_workload(1, &craft.build()).unwrap();
        outcome.redirected(12);
        assert_eq!(checksum(&outcome.packet[14..34]), 0, "identification {identification}");
    }
}

#[test]
fn denied_by_either_side() {
    let mut fixture = two();
    for pair in [&V4, &V6] {
        fixture.policy(EGRESS, 1, Policy::Deny).unwrap();
        fixture
            .from_workload(1, &packet(pair.a, pair.b).tcp(1, 80, SYN).build())
            .unwrap()
            .dropped(DropReason::EgressPolicy);
        fixture.policy(EGRESS, 1, Policy::Allow).unwrap();
        fixture.policy(INGRESS, 2, Policy::Port(81)).unwrap();
        fixture
            .from_workload(1, &packet(pair.a, pair.b).tcp(1, 80, SYN).build())
            .unwrap()
            .dropped(DropReason::IngressPolicy);
        fixture
            .from_workload(1, &packet(pair.a, pair.b).tcp(1, 81, SYN).build())
            .unwrap()
            .redirected(12);
        fixture.no_policy(INGRESS, 2).unwrap();
        fixture
            .from_workload(1, &packet(pair.a, pair.b).tcp(2, 81, SYN).build())
            .unwrap()
            .dropped(DropReason::NoPolicy);
        fixture.policy(INGRESS, 2, Policy::Allow).unwrap();
    }
    assert_eq!(fixture.flows().unwrap(), (0, 2));
}

#[test]
fn a_forged_acknowledgement_does_not_promote() {
    let fixture = two();
    fixture
        .from_workload(1, &packet(V4.a, V4.b).tcp_with(40000, 80, SYN, 100, 0).build())
        .unwrap()
        .redirected(12);
    fixture
        .from_workload(2, &packet(V4.b, V4.a).tcp_with(80, 40000, SYN | ACK, 500, 101).build())
        .unwrap()
        .redirected(11);
    fixture
        .from_workload(
            1,
            &packet(V4.a, V4.b).tcp_with(40000, 80, ACK, 101, 0x4000_0000).build(),
        )
        .unwrap()
        .redirected(12);
    assert!(!fixture.flow(TCP, V4.a, 40000, V4.b, 80).unwrap().unwrap().0);
    // The responder would answer with a reset, which does not promote either.
    fixture
        .from_workload(2, &packet(V4.b, V4.a).tcp_with(80, 40000, RST, 0x4000_0000, 0).build())
        .unwrap()
        .redirected(11);
    assert!(!fixture.flow(TCP, V4.a, 40000, V4.b, 80).unwrap().unwrap().0);
    // If it goes on with the connection all the same, it is one.
    fixture
        .from_workload(2, &packet(V4.b, V4.a).tcp(80, 40000, ACK).build())
        .unwrap()
        .redirected(11);
    assert!(fixture.flow(TCP, V4.a, 40000, V4.b, 80).unwrap().unwrap().0);
}

#[test]
fn a_reply_without_a_flow_is_judged_in_its_own_direction() {
    let mut fixture = two();
    fixture.policy(EGRESS, 2, Policy::Deny).unwrap();
    fixture
        .from_workload(2, &packet(V4.b, V4.a).tcp(80, 40000, SYN | ACK).build())
        .unwrap()
        .dropped(DropReason::EgressPolicy);
    handshake(&fixture, &V4);
    fixture
        .from_workload(2, &packet(V4.b, V4.a).tcp(80, 40000, ACK).build())
        .unwrap()
        .redirected(11);
}

#[test]
fn through_the_stack_both_hooks_judge_their_own_side() {
    let mut fixture = two();
    // Endpoint 2 cannot be reached past the stack.
    let mut record = Fixture::record(2);
    record.flags = 0;
    fixture.set_endpoint(2, record).unwrap();
    fixture.policy(INGRESS, 2, Policy::Port(80)).unwrap();
    for pair in [&V4, &V6] {
        let syn = packet(pair.a, pair.b).tcp_with(40000, 80, SYN, 100, 0).build();
        let outcome = fixture.from_workload(1, &syn).unwrap();
        outcome.passed();
        assert_eq!(outcome.packet, syn, "untouched");
        let (_, flow) = fixture.flow(TCP, pair.a, 40000, pair.b, 80).unwrap().unwrap();
        assert_eq!(
            (
                flow.originator.endpoint,
                flow.responder.endpoint,
                flow.flags & FLOW_REDIRECT
            ),
            (101, 0, 0)
        );
        fixture.to_workload(2, 11, &syn).unwrap().passed();
        let (_, flow) = fixture.flow(TCP, pair.a, 40000, pair.b, 80).unwrap().unwrap();
        assert_eq!((flow.originator.endpoint, flow.responder.endpoint), (101, 102));
        let answer = packet(pair.b, pair.a).tcp_with(80, 40000, SYN | ACK, 500, 101).build();
        fixture.from_workload(2, &answer).unwrap().passed();
        fixture.to_workload(1, 12, &answer).unwrap().passed();
        let ack = packet(pair.a, pair.b).tcp_with(40000, 80, ACK, 101, 501).build();
        fixture.from_workload(1, &ack).unwrap().passed();
        fixture.to_workload(2, 11, &ack).unwrap().passed();
        assert!(fixture.flow(TCP, pair.a, 40000, pair.b, 80).unwrap().unwrap().0);
        fixture.to_workload(2, 11, &ack).unwrap().passed();
        // From any other interface, or from nowhere, the source is a lie; on a hit, too.
        fixture
            .to_workload(2, 1, &ack)
            .unwrap()
            .dropped(DropReason::SpoofedAddress);
        fixture
            .to_workload(2, 0, &ack)
            .unwrap()
            .dropped(DropReason::SpoofedAddress);
        // Denied at the second hook.
        let syn = packet(pair.a, pair.b).tcp(40001, 81, SYN).build();
        fixture.from_workload(1, &syn).unwrap().passed();
        fixture
            .to_workload(2, 11, &syn)
            .unwrap()
            .dropped(DropReason::IngressPolicy);
    }
}

#[test]
fn an_entry_that_never_passed_this_hook_says_nothing_about_replies() {
    let mut fixture = two();
    let mut record = Fixture::record(2);
    record.flags = 0;
    fixture.set_endpoint(2, record).unwrap();
    fixture.policy(EGRESS, 2, Policy::Deny).unwrap();
    fixture
        .from_workload(1, &packet(V4.a, V4.b).tcp(40000, 80, SYN).build())
        .unwrap()
        .passed();
    // Endpoint 2 never saw it: what it sends is its own initiative.
    fixture
        .from_workload(2, &packet(V4.b, V4.a).tcp(80, 40000, SYN | ACK).build())
        .unwrap()
        .dropped(DropReason::EgressPolicy);
    fixture
        .from_workload(2, &packet(V4.b, V4.a).tcp(80, 40000, ACK).build())
        .unwrap()
        .dropped(DropReason::EgressPolicy);
}

#[test]
fn the_host_reaches_its_workloads_but_what_it_forwards_is_judged() {
    let mut fixture = two();
    fixture.policy(INGRESS, 1, Policy::Deny).unwrap();
    fixture.policy(EGRESS, 1, Policy::Deny).unwrap();
    for (host, workload) in [("192.0.2.1", V4.a), ("2001:db8::1", V6.a)] {
        fixture
            .peer(
                host,
                Peer {
                    flags: PEER_HOST,
                    ..Peer::default()
                },
            )
            .unwrap();
        let syn = packet(host, workload).tcp_with(50000, 80, SYN, 1, 0).build();
        fixture
            .to_workload(1, 1, &syn)
            .unwrap()
            .dropped(DropReason::IngressPolicy);
        fixture.to_workload(1, 0, &syn).unwrap().passed();
        let (_, flow) = fixture.flow(TCP, host, 50000, workload, 80).unwrap().unwrap();
        assert_eq!(
            (flow.responder.endpoint, flow.responder.generation),
            (101, GENERATION_EXEMPT)
        );
        let answer = packet(workload, host).tcp_with(80, 50000, SYN | ACK, 7, 2).build();
        fixture.from_workload(1, &answer).unwrap().passed();
        let ack = packet(host, workload).tcp_with(50000, 80, ACK, 2, 8).build();
        fixture.to_workload(1, 0, &ack).unwrap().passed();
        assert!(fixture.flow(TCP, host, 50000, workload, 80).unwrap().unwrap().0);
        fixture.to_workload(1, 0, &ack).unwrap().passed();
        // The same five-tuple, forwarded under the host's address: judged, and the host's flow
        // lives on.
        fixture
            .to_workload(1, 1, &ack)
            .unwrap()
            .dropped(DropReason::IngressPolicy);
        fixture.to_workload(1, 0, &ack).unwrap().passed();
        fixture
            .from_workload(1, &packet(workload, host).tcp(80, 50000, ACK).build())
            .unwrap()
            .passed();
    }
}

#[test]
fn the_host_begins_a_flow_with_a_syn_only() {
    let mut fixture = two();
    fixture.policy(INGRESS, 1, Policy::Deny).unwrap();
    fixture.policy(EGRESS, 1, Policy::Deny).unwrap();
    for (host, workload) in [("192.0.2.1", V4.a), ("2001:db8::1", V6.a)] {
        let own = Peer {
            flags: PEER_HOST,
            ..Peer::default()
        };
        fixture.peer(host, own).unwrap();
        // What looks like an answer: whose connection it is nobody knows any more.
        for flags in [SYN | ACK, ACK, FIN | ACK, RST, RST | ACK] {
            let packet = packet(host, workload).tcp_with(80, 50000, flags, 7, 2).build();
            fixture.to_workload(1, 0, &packet).unwrap().passed();
        }
        assert!(fixture.flow(TCP, host, 80, workload, 50000).unwrap().is_none());
        fixture
            .from_workload(1, &packet(workload, host).tcp(50000, 80, ACK).build())
            .unwrap()
            .dropped(DropReason::EgressPolicy);
        // Likewise where an older flow has expired.
        fixture.policy(EGRESS, 1, Policy::Allow).unwrap();
        let mut settings = SETTINGS;
        settings.flags = felid_common::SETTING_HOST_REACHABLE;
        fixture.set_settings(settings).unwrap();
        let syn = packet(workload, host).tcp(50000, 80, SYN).build();
        fixture.from_workload(1, &syn).unwrap().passed();
        fixture.policy(EGRESS, 1, Policy::Deny).unwrap();
        let old = |flow: &mut felid_common::Flow| flow.last_seen = flow.last_seen.wrapping_sub(SETTINGS.tcp_syn + 1);
        fixture.edit_flow(TCP, workload, 50000, host, 80, old).unwrap();
        let answer = packet(host, workload).tcp(80, 50000, ACK).build();
        fixture.to_workload(1, 0, &answer).unwrap().passed();
        fixture
            .from_workload(1, &packet(workload, host).tcp(50000, 80, ACK).build())
            .unwrap()
            .dropped(DropReason::EgressPolicy);
        fixture.set_settings(SETTINGS).unwrap();
    }
}
