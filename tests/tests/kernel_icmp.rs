//! ICMP and ICMPv6 in the kernel programs: queries as flows, errors about known flows.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use felid_common::{DropReason, EGRESS, Event, INGRESS, PEER_HOST, Peer, protocol};
use felid_tests::bpf_fixture::{Fixture, Policy, SETTINGS};
use felid_tests::packet_craft::{Craft, SYN, fragment_header};

const PAIRS: [(&str, &str); 2] = [("10.65.0.2", "10.65.0.3"), ("fd00:65::2", "fd00:65::3")];

fn two() -> Fixture {
    let mut fixture = Fixture::new().unwrap();
    fixture.endpoint(1, &["10.65.0.2", "fd00:65::2"]).unwrap();
    fixture.endpoint(2, &["10.65.0.3", "fd00:65::3"]).unwrap();
    fixture
}

fn craft(src: &str, dst: &str) -> Craft {
    Craft::new(src.parse::<IpAddr>().unwrap(), dst.parse::<IpAddr>().unwrap())
}

/// "Port unreachable" in the family of the addresses, about `inner`.
fn unreachable(src: &str, dst: &str, inner: &[u8]) -> Craft {
    let v6 = src.contains(':');
    craft(src, dst).icmp(if v6 { 1 } else { 3 }, if v6 { 4 } else { 3 }, [0; 4], inner)
}

#[test]
fn echo_is_a_flow_by_its_identifier() {
    let mut fixture = two();
    for (n, (a, b)) in PAIRS.into_iter().enumerate() {
        let number = if n == 0 { protocol::ICMP } else { protocol::ICMPV6 };
        fixture.policy(EGRESS, 2, Policy::Deny).unwrap();
        fixture
            .from_workload(2, &craft(b, a).echo(77, true).build())
            .unwrap()
            .dropped(DropReason::EgressPolicy);
        fixture
            .from_workload(1, &craft(a, b).echo(77, false).build())
            .unwrap()
            .redirected(12);
        assert!(!fixture.flow(number, a, 77, b, 77).unwrap().unwrap().0);
        fixture
            .from_workload(2, &craft(b, a).echo(77, true).build())
            .unwrap()
            .redirected(11);
        assert!(fixture.flow(number, a, 77, b, 77).unwrap().unwrap().0, "answered");
        // Another identifier, another type: not this flow.
        fixture
            .from_workload(2, &craft(b, a).echo(78, true).build())
            .unwrap()
            .dropped(DropReason::EgressPolicy);
        fixture
            .from_workload(
                2,
                &craft(b, a)
                    .icmp(if n == 0 { 14 } else { 161 }, 0, [0, 77, 0, 1], &[0; 12])
                    .build(),
            )
            .unwrap()
            .dropped(DropReason::EgressPolicy);
        // A query the other way under the same identifier is a flow of its own, which has to be
        // allowed.
        fixture
            .from_workload(2, &craft(b, a).echo(77, false).build())
            .unwrap()
            .dropped(DropReason::EgressPolicy);
        fixture
            .from_workload(2, &craft(b, a).echo(77, true).build())
            .unwrap()
            .redirected(11);
        // Silent for too long.
        fixture
            .edit_flow(number, a, 77, b, 77, |flow| {
                flow.last_seen = flow.last_seen.wrapping_sub(SETTINGS.icmp + 100)
            })
            .unwrap();
        fixture
            .from_workload(2, &craft(b, a).echo(77, true).build())
            .unwrap()
            .dropped(DropReason::EgressPolicy);
        fixture.policy(EGRESS, 2, Policy::Allow).unwrap();
    }
}

#[test]
fn an_answer_that_nobody_asked_for_makes_no_flow() {
    let mut fixture = two();
    for (a, b) in PAIRS {
        fixture.policy(EGRESS, 2, Policy::Deny).unwrap();
        fixture
            .from_workload(1, &craft(a, b).echo(3, true).build())
            .unwrap()
            .redirected(12);
        assert_eq!(fixture.flows().unwrap(), (0, 0));
        fixture
            .from_workload(2, &craft(b, a).echo(3, false).build())
            .unwrap()
            .dropped(DropReason::EgressPolicy);
    }
}

#[test]
fn the_type_is_what_was_judged() {
    let mut fixture = two();
    fixture.policy(INGRESS, 2, Policy::IcmpType(8)).unwrap();
    let (a, b) = PAIRS[0];
    fixture
        .from_workload(1, &craft(a, b).echo(5, false).build())
        .unwrap()
        .redirected(12);
    fixture
        .from_workload(1, &craft(a, b).icmp(13, 0, [0, 5, 0, 1], &[0; 12]).build())
        .unwrap()
        .dropped(DropReason::IngressPolicy);
    // Judged again on a reply: by the query.
    fixture
        .from_workload(2, &craft(b, a).echo(5, true).build())
        .unwrap()
        .redirected(11);
    let mut record = Fixture::record(2);
    record.ingress_generation = 2;
    fixture.set_endpoint(2, record).unwrap();
    fixture
        .from_workload(2, &craft(b, a).echo(5, true).build())
        .unwrap()
        .redirected(11);
    assert_eq!(fixture.events(Event::Rejudged).unwrap(), 1);
    let (_, src_port, dst_port) = {
        let scratch = fixture.scratch().unwrap();
        (scratch.protocol, scratch.src_port, scratch.dst_port)
    };
    assert_eq!((src_port, dst_port), (0, 0), "policies see no ports in ICMP");
}

#[test]
fn errors_about_known_flows_go_back_to_their_origin() {
    let fixture = two();
    for (a, b) in PAIRS {
        let sent = craft(a, b).udp(40000, 53, b"query");
        // About nothing.
        fixture
            .from_workload(2, &unreachable(b, a, &sent.ip()).build())
            .unwrap()
            .dropped(DropReason::UnrelatedError);
        fixture.from_workload(1, &sent.build()).unwrap().redirected(12);
        let flows = fixture.flows().unwrap();
        let outcome = fixture
            .from_workload(2, &unreachable(b, a, &sent.ip()).build())
            .unwrap();
        outcome.redirected(11);
        assert_eq!(outcome.packet[..6], [2, 0, 0, 0, 0, 1]);
        // As little as eight bytes behind the IP header are enough.
        let header = if a.contains(':') { 40 } else { 20 };
        fixture
            .from_workload(2, &unreachable(b, a, &sent.ip()[..header + 8]).build())
            .unwrap()
            .redirected(11);
        fixture
            .from_workload(2, &unreachable(b, a, &sent.ip()[..header + 3]).build())
            .unwrap()
            .dropped(DropReason::UnrelatedError);
        fixture
            .from_workload(2, &unreachable(b, a, &sent.ip()[..header - 1]).build())
            .unwrap()
            .dropped(DropReason::UnrelatedError);
        fixture
            .from_workload(2, &unreachable(b, a, &[]).build())
            .unwrap()
            .dropped(DropReason::UnrelatedError);
        // Through the stack: the other hook lets it in; a router's as well.
        fixture
            .to_workload(1, 12, &unreachable(b, a, &sent.ip()).build())
            .unwrap()
            .passed();
        let router = if a.contains(':') { "2001:db8::9" } else { "192.0.2.9" };
        fixture
            .to_workload(1, 1, &unreachable(router, a, &sent.ip()).build())
            .unwrap()
            .passed();
        // It does not extend the flow's life or make flows.
        assert_eq!(fixture.flows().unwrap(), flows);
        // The other port, the other direction (its own packet), someone else's flow, not the
        // origin's address.
        let other = craft(a, b).udp(40001, 53, b"query");
        fixture
            .from_workload(2, &unreachable(b, a, &other.ip()).build())
            .unwrap()
            .dropped(DropReason::UnrelatedError);
        fixture
            .from_workload(1, &unreachable(a, b, &sent.ip()).build())
            .unwrap()
            .dropped(DropReason::UnrelatedError);
        fixture
            .from_workload(1, &unreachable(a, a, &sent.ip()).build())
            .unwrap()
            .dropped(DropReason::UnrelatedError);
        fixture
            .to_workload(2, 11, &unreachable(a, b, &sent.ip()).build())
            .unwrap()
            .dropped(DropReason::UnrelatedError);
        // In another's name.
        fixture
            .from_workload(2, &unreachable(router, a, &sent.ip()).build())
            .unwrap()
            .dropped(DropReason::SpoofedAddress);
        fixture
            .to_workload(1, 1, &unreachable(b, a, &sent.ip()).build())
            .unwrap()
            .dropped(DropReason::SpoofedAddress);
        // A reply may be complained about, too.
        let reply = craft(b, a).udp(53, 40000, b"answer");
        fixture.from_workload(2, &reply.build()).unwrap().redirected(11);
        fixture
            .from_workload(1, &unreachable(a, b, &reply.ip()).build())
            .unwrap()
            .redirected(12);
    }
}

#[test]
fn errors_about_every_kind_of_flow() {
    let fixture = two();
    for (a, b) in PAIRS {
        for sent in [
            craft(a, b).tcp(40000, 80, SYN),
            craft(a, b).sctp(40000, 80),
            craft(a, b).echo(9, false),
            craft(a, b).raw(47, vec![0; 16]),
        ] {
            fixture
                .from_workload(2, &unreachable(b, a, &sent.ip()).build())
                .unwrap()
                .dropped(DropReason::UnrelatedError);
            fixture.from_workload(1, &sent.build()).unwrap().redirected(12);
            fixture
                .from_workload(2, &unreachable(b, a, &sent.ip()).build())
                .unwrap()
                .redirected(11);
        }
        // An error about an error, or about a message that is no query, is about no flow.
        for kind in if a.contains(':') { [1, 135] } else { [3, 5] } {
            let inner = craft(a, b).icmp(kind, 0, [0; 4], &[0; 40]);
            fixture
                .from_workload(2, &unreachable(b, a, &inner.ip()).build())
                .unwrap()
                .dropped(DropReason::UnrelatedError);
        }
    }
    // IPv4 options inside; IPv6 extension headers inside; later fragments show no ports.
    let (a, b) = PAIRS[0];
    let mut sent = craft(a, b).udp(1, 2, b"");
    sent.options = vec![1; 8];
    fixture.from_workload(1, &sent.build()).unwrap().redirected(12);
    fixture
        .from_workload(2, &unreachable(b, a, &sent.ip()).build())
        .unwrap()
        .redirected(11);
    sent.fragment = (1, 3);
    fixture
        .from_workload(2, &unreachable(b, a, &sent.ip()).build())
        .unwrap()
        .dropped(DropReason::UnrelatedError);
    let (a, b) = PAIRS[1];
    let mut sent = craft(a, b).udp(1, 2, b"");
    sent.extensions = vec![(60, vec![0; 8])];
    fixture.from_workload(1, &sent.build()).unwrap().redirected(12);
    fixture
        .from_workload(2, &unreachable(b, a, &sent.ip()).build())
        .unwrap()
        .redirected(11);
    sent.extensions = vec![fragment_header(8, false, 1)];
    fixture
        .from_workload(2, &unreachable(b, a, &sent.ip()).build())
        .unwrap()
        .dropped(DropReason::UnrelatedError);
}

#[test]
fn the_hosts_own_errors_reach_its_workloads() {
    let mut fixture = two();
    fixture.policy(INGRESS, 1, Policy::Deny).unwrap();
    for ((a, b), host) in PAIRS.into_iter().zip(["192.0.2.1", "2001:db8::1"]) {
        fixture
            .peer(
                host,
                Peer {
                    flags: PEER_HOST,
                    ..Peer::default()
                },
            )
            .unwrap();
        let sent = craft(a, b).udp(40000, 53, b"query");
        let error = unreachable(host, a, &sent.ip()).build();
        fixture.to_workload(1, 0, &error).unwrap().passed();
        fixture
            .to_workload(1, 1, &error)
            .unwrap()
            .dropped(DropReason::UnrelatedError);
    }
}

#[test]
fn errors_wait_for_a_flow_to_be_judged_again() {
    let mut fixture = two();
    let (a, b) = PAIRS[0];
    let sent = craft(a, b).udp(40000, 53, b"query");
    fixture.from_workload(1, &sent.build()).unwrap().redirected(12);
    let mut record = Fixture::record(2);
    record.ingress_generation = 2;
    fixture.set_endpoint(2, record).unwrap();
    fixture
        .from_workload(2, &unreachable(b, a, &sent.ip()).build())
        .unwrap()
        .dropped(DropReason::UnrelatedError);
    fixture.from_workload(1, &sent.build()).unwrap().redirected(12);
    fixture
        .from_workload(2, &unreachable(b, a, &sent.ip()).build())
        .unwrap()
        .redirected(11);
}

#[test]
fn redirects_are_not_a_workloads_to_send() {
    let fixture = two();
    let (a, b) = PAIRS[0];
    let sent = craft(a, b).udp(40000, 53, b"query");
    fixture.from_workload(1, &sent.build()).unwrap().redirected(12);
    fixture
        .from_workload(2, &craft(b, a).icmp(5, 1, [10, 65, 0, 9], &sent.ip()).build())
        .unwrap()
        .dropped(DropReason::SpoofedNeighbour);
}
