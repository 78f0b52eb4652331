//! Whoever opens a connection against the direction of an open one begins a flow of his own, which
//! is judged.

use felid_common::{DropReason, EGRESS, INGRESS, protocol};
use felid_tests::bpf_fixture::{Policy, SETTINGS};
use felid_tests::packet_craft::{ACK, FIN, SYN};

use crate::{V4, V6, handshake, packet, two};

#[test]
fn a_syn_against_an_open_flow_is_judged_in_its_own_direction() {
    for pair in [&V4, &V6] {
        for finished in [false, true] {
            let mut fixture = two();
            handshake(&fixture, pair);
            if finished {
                let fin = packet(pair.a, pair.b).tcp_with(40000, 80, FIN | ACK, 101, 501).build();
                fixture.from_workload(1, &fin).unwrap().redirected(12);
            }
            let syn = packet(pair.b, pair.a).tcp_with(80, 40000, SYN, 9000, 0).build();
            // Endpoint 2 may send nothing, then nobody may reach endpoint 1.
            fixture.policy(EGRESS, 2, Policy::Deny).unwrap();
            fixture
                .from_workload(2, &syn)
                .unwrap()
                .dropped(DropReason::EgressPolicy);
            fixture.policy(EGRESS, 2, Policy::Allow).unwrap();
            fixture.policy(INGRESS, 1, Policy::Deny).unwrap();
            fixture
                .from_workload(2, &syn)
                .unwrap()
                .dropped(DropReason::IngressPolicy);
            // The open one has not noticed.
            assert!(
                fixture
                    .flow(protocol::TCP, pair.a, 40000, pair.b, 80)
                    .unwrap()
                    .unwrap()
                    .0
            );
            let data = packet(pair.b, pair.a).tcp_with(80, 40000, ACK, 501, 101).build();
            fixture.from_workload(2, &data).unwrap().redirected(11);
            // Once it is allowed, the flow is endpoint 2's.
            fixture.policy(INGRESS, 1, Policy::Allow).unwrap();
            fixture.from_workload(2, &syn).unwrap().redirected(11);
            let (established, flow) = fixture.flow(protocol::TCP, pair.a, 40000, pair.b, 80).unwrap().unwrap();
            assert!(!established);
            assert_eq!((flow.originator.endpoint, flow.responder.endpoint), (102, 101));
            let answer = packet(pair.a, pair.b).tcp_with(40000, 80, SYN | ACK, 70, 9001).build();
            fixture.from_workload(1, &answer).unwrap().redirected(12);
            let ack = packet(pair.b, pair.a).tcp_with(80, 40000, ACK, 9001, 71).build();
            fixture.from_workload(2, &ack).unwrap().redirected(11);
            assert!(
                fixture
                    .flow(protocol::TCP, pair.a, 40000, pair.b, 80)
                    .unwrap()
                    .unwrap()
                    .0
            );
        }
    }
}

#[test]
fn from_beyond_the_host_too() {
    for (own, far) in [(V4.b, "192.0.2.9"), (V6.b, "2001:db8::9")] {
        let mut fixture = two();
        let mut settings = SETTINGS;
        settings.flags = felid_common::SETTING_HOST_REACHABLE;
        fixture.set_settings(settings).unwrap();
        let out = |flags, sequence, acknowledged| {
            packet(own, far)
                .tcp_with(7000, 7081, flags, sequence, acknowledged)
                .build()
        };
        let back = |flags, sequence, acknowledged| {
            packet(far, own)
                .tcp_with(7081, 7000, flags, sequence, acknowledged)
                .build()
        };
        fixture.from_workload(2, &out(SYN, 100, 0)).unwrap().passed();
        fixture.to_workload(2, 2, &back(SYN | ACK, 500, 101)).unwrap().passed();
        fixture.from_workload(2, &out(ACK, 101, 501)).unwrap().passed();
        fixture.policy(INGRESS, 2, Policy::Deny).unwrap();
        fixture
            .to_workload(2, 2, &back(SYN, 9000, 0))
            .unwrap()
            .dropped(DropReason::IngressPolicy);
        fixture.to_workload(2, 2, &back(ACK, 501, 101)).unwrap().passed();
    }
}

#[test]
fn both_may_open_at_once() {
    for pair in [&V4, &V6] {
        let mut fixture = two();
        fixture.policy(EGRESS, 2, Policy::Deny).unwrap();
        let there = |flags, sequence, acknowledged| {
            packet(pair.a, pair.b)
                .tcp_with(40000, 80, flags, sequence, acknowledged)
                .build()
        };
        let back = |flags, sequence, acknowledged| {
            packet(pair.b, pair.a)
                .tcp_with(80, 40000, flags, sequence, acknowledged)
                .build()
        };
        fixture.from_workload(1, &there(SYN, 100, 0)).unwrap().redirected(12);
        fixture.from_workload(2, &back(SYN, 500, 0)).unwrap().redirected(11);
        fixture
            .from_workload(1, &there(SYN | ACK, 100, 501))
            .unwrap()
            .redirected(12);
        fixture
            .from_workload(2, &back(SYN | ACK, 500, 101))
            .unwrap()
            .redirected(11);
        fixture.from_workload(1, &there(ACK, 101, 501)).unwrap().redirected(12);
        fixture.from_workload(2, &back(ACK, 501, 101)).unwrap().redirected(11);
        assert!(
            fixture
                .flow(protocol::TCP, pair.a, 40000, pair.b, 80)
                .unwrap()
                .unwrap()
                .0
        );
    }
}

#[test]
fn an_association_of_sctp_as_well() {
    for pair in [&V4, &V6] {
        let mut fixture = two();
        let chunk = |there: bool, kind: u8| {
            let (from, to, ports) = if there {
                (pair.a, pair.b, [[0x1b, 0x58], [0x1b, 0xa9]])
            } else {
                (pair.b, pair.a, [[0x1b, 0xa9], [0x1b, 0x58]])
            };
            let mut bytes = ports.concat();
            bytes.extend([0; 8]);
            bytes.extend([kind, 0, 0, 20]);
            bytes.extend([0; 16]);
            packet(from, to).raw(protocol::SCTP, bytes).build()
        };
        const INIT: u8 = 1;
        const INIT_ACK: u8 = 2;
        const DATA: u8 = 0;
        fixture.from_workload(1, &chunk(true, INIT)).unwrap().redirected(12);
        fixture
            .from_workload(2, &chunk(false, INIT_ACK))
            .unwrap()
            .redirected(11);
        fixture.policy(EGRESS, 2, Policy::Deny).unwrap();
        fixture.from_workload(2, &chunk(false, DATA)).unwrap().redirected(11);
        fixture
            .from_workload(2, &chunk(false, INIT))
            .unwrap()
            .dropped(DropReason::EgressPolicy);
        fixture.from_workload(1, &chunk(true, DATA)).unwrap().redirected(12);
    }
}
