//! One source port used twice towards one backend: by a redirected flow, and by one that netfilter
//! translated on its way through the host's stack.

use felid_common::{ALIASED, DropReason, FLOW_REDIRECT, INGRESS, protocol};
use felid_tests::bpf_fixture::Policy;
use felid_tests::packet_craft::{ACK, SYN};

use crate::{Pair, V4, V6, handshake, packet, two};

/// The port that stands for 40000 at the backend.
const ALIAS: u16 = 40000 ^ 0x8000;

/// Source and destination port of a packet without IPv4 options or IPv6 extension headers.
fn ports(packet: &[u8]) -> (u16, u16) {
    let at = if packet[12] == 0x08 { 34 } else { 54 };
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    (port(at), port(at + 2))
}

#[test]
fn a_connection_through_a_service_has_a_port_of_its_own() {
    for pair in [&V4, &V6] {
        let mut fixture = two();
        handshake(&fixture, pair);
        let there = |flags, sequence, acknowledged| {
            packet(pair.a, pair.b)
                .tcp_with(40000, 80, flags, sequence, acknowledged)
                .build()
        };
        let back = |port, flags, sequence, acknowledged| {
            packet(pair.b, pair.a)
                .tcp_with(80, port, flags, sequence, acknowledged)
                .build()
        };
        // Netfilter has put endpoint 2's address for the service's. It is judged like any other.
        let syn = there(SYN, 9000, 0);
        fixture.policy(INGRESS, 2, Policy::Deny).unwrap();
        let outcome = fixture.to_workload(2, 11, &syn).unwrap();
        outcome.dropped(DropReason::IngressPolicy);
        fixture.policy(INGRESS, 2, Policy::Allow).unwrap();
        let outcome = fixture.to_workload(2, 11, &syn).unwrap();
        outcome.passed();
        assert_eq!(ports(&outcome.packet), (ALIAS, 80));
        let expected = packet(pair.a, pair.b).tcp_with(ALIAS, 80, SYN, 9000, 0).build();
        assert_eq!(outcome.packet, expected, "the checksum, too");
        assert_eq!(fixture.scratch().unwrap().src_port, 40000, "policy sees the true port");
        let (_, flow) = fixture.flow(protocol::TCP, pair.a, ALIAS, pair.b, 80).unwrap().unwrap();
        assert_eq!((flow.flags & FLOW_REDIRECT, flow.tcp_original & ALIASED), (0, ALIASED));
        // The answer goes back by the host's stack, with the port that it knows.
        let outcome = fixture.from_workload(2, &back(ALIAS, SYN | ACK, 70, 9001)).unwrap();
        outcome.passed();
        assert_eq!(outcome.packet, back(40000, SYN | ACK, 70, 9001));
        fixture.to_workload(2, 11, &there(ACK, 9001, 71)).unwrap().passed();
        assert!(
            fixture
                .flow(protocol::TCP, pair.a, ALIAS, pair.b, 80)
                .unwrap()
                .unwrap()
                .0
        );
        for _ in 0..3 {
            let outcome = fixture.to_workload(2, 11, &there(ACK, 9001, 71)).unwrap();
            outcome.passed();
            assert_eq!(ports(&outcome.packet), (ALIAS, 80));
            let outcome = fixture.from_workload(2, &back(ALIAS, ACK, 71, 9001)).unwrap();
            outcome.passed();
            assert_eq!(ports(&outcome.packet), (80, 40000));
        }
        // The redirected one goes on as before, with both ports as they are.
        let outcome = fixture.from_workload(1, &there(ACK, 101, 501)).unwrap();
        outcome.redirected(12);
        assert_eq!(ports(&outcome.packet), (40000, 80));
        let outcome = fixture.from_workload(2, &back(40000, ACK, 501, 101)).unwrap();
        outcome.redirected(11);
        assert_eq!(ports(&outcome.packet), (80, 40000));
        // What the originator sends from the port that stands for its other one would be taken for
        // that.
        let own = packet(pair.a, pair.b).tcp_with(ALIAS, 80, SYN, 1, 0).build();
        let outcome = fixture.from_workload(1, &own).unwrap();
        outcome.dropped(DropReason::NatCollision);
    }
}

#[test]
fn datagrams_as_well() {
    for pair in [&V4, &V6] {
        let fixture = two();
        let ask = packet(pair.a, pair.b).udp(40000, 53, b"question").build();
        let answer = |port| packet(pair.b, pair.a).udp(53, port, b"answer").build();
        fixture.from_workload(1, &ask).unwrap().redirected(12);
        fixture.from_workload(2, &answer(40000)).unwrap().redirected(11);
        let outcome = fixture.to_workload(2, 11, &ask).unwrap();
        outcome.passed();
        let expected = packet(pair.a, pair.b).udp(ALIAS, 53, b"question").build();
        assert_eq!(outcome.packet, expected);
        let outcome = fixture.from_workload(2, &answer(ALIAS)).unwrap();
        outcome.passed();
        assert_eq!(outcome.packet, answer(40000));
        fixture.from_workload(1, &ask).unwrap().redirected(12);
        fixture.from_workload(2, &answer(40000)).unwrap().redirected(11);
    }
}

#[test]
fn revoked_like_any_other() {
    let pair: &Pair = &V4;
    let mut fixture = two();
    handshake(&fixture, pair);
    let there = |flags, sequence, acknowledged| {
        packet(pair.a, pair.b)
            .tcp_with(40000, 80, flags, sequence, acknowledged)
            .build()
    };
    fixture.to_workload(2, 11, &there(SYN, 9000, 0)).unwrap().passed();
    let mut record = felid_tests::bpf_fixture::Fixture::record(2);
    record.ingress_generation += 1;
    fixture.set_endpoint(2, record).unwrap();
    fixture.policy(INGRESS, 2, Policy::Deny).unwrap();
    let outcome = fixture.to_workload(2, 11, &there(SYN, 9000, 0)).unwrap();
    outcome.dropped(DropReason::IngressPolicy);
    let answer = packet(pair.b, pair.a).tcp_with(80, ALIAS, SYN | ACK, 70, 9001).build();
    let outcome = fixture.from_workload(2, &answer).unwrap();
    outcome.dropped(DropReason::IngressPolicy);
    // A closed redirected flow's port is free.
    let fixture = two();
    handshake(&fixture, pair);
    let reset = packet(pair.a, pair.b)
        .tcp_with(40000, 80, felid_tests::packet_craft::RST, 101, 0)
        .build();
    fixture.from_workload(1, &reset).unwrap().redirected(12);
    let outcome = fixture.to_workload(2, 11, &there(SYN, 9000, 0)).unwrap();
    outcome.passed();
    assert_eq!(ports(&outcome.packet), (40000, 80));
}
