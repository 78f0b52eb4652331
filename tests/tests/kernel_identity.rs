//! Who a packet is from and to: spoofing, the host, endpoints that come and go, delivery that is
//! not possible.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use felid_common::{
    DropReason, EGRESS, ENDPOINT_CHECK_MAC, ENDPOINT_REDIRECTABLE, ENDPOINT_SPOOFS, FLOW_REDIRECT, INGRESS, PEER_HOST,
    Peer, SETTING_HOST_REACHABLE, protocol::TCP,
};
use felid_tests::bpf_fixture::{Context, Fixture, Policy, SETTINGS, command, run};
use felid_tests::packet_craft::{ACK, Craft, SYN};

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

fn establish(fixture: &Fixture, a: &str, b: &str) {
    fixture
        .from_workload(1, &craft(a, b).tcp_with(40000, 80, SYN, 100, 0).build())
        .unwrap()
        .redirected(12);
    fixture
        .from_workload(2, &craft(b, a).tcp_with(80, 40000, SYN | ACK, 500, 101).build())
        .unwrap()
        .redirected(11);
    fixture
        .from_workload(1, &craft(a, b).tcp_with(40000, 80, ACK, 101, 501).build())
        .unwrap()
        .redirected(12);
}

#[test]
fn a_workload_has_its_own_addresses_only() {
    let mut fixture = two();
    fixture
        .peer(
            "192.0.2.1",
            Peer {
                flags: PEER_HOST,
                ..Peer::default()
            },
        )
        .unwrap();
    for ((_, b), far) in PAIRS.into_iter().zip(FAR) {
        // Unknown addresses, the host's, a neighbour's, none.
        let none = if b.contains(':') { "::" } else { "0.0.0.0" };
        for (src, reason) in [
            (far, DropReason::SpoofedAddress),
            (b, DropReason::SpoofedAddress),
            (none, DropReason::Martian),
        ] {
            fixture
                .from_workload(1, &craft(src, b).udp(1, 2, b"").build())
                .unwrap()
                .dropped(reason);
        }
        // A neighbour's established flow does not help.
    }
    fixture
        .from_workload(1, &craft("192.0.2.1", "10.65.0.3").udp(1, 2, b"").build())
        .unwrap()
        .dropped(DropReason::SpoofedAddress);
    for (a, b) in PAIRS {
        establish(&fixture, a, b);
        fixture
            .from_workload(2, &craft(a, b).tcp(40000, 80, ACK).build())
            .unwrap()
            .dropped(DropReason::SpoofedAddress);
        fixture
            .from_workload(1, &craft(b, a).tcp(80, 40000, ACK).build())
            .unwrap()
            .dropped(DropReason::SpoofedAddress);
    }
    assert_eq!(fixture.flows().unwrap(), (2, 0));
}

#[test]
fn a_workload_has_its_own_mac_only_if_the_record_names_one() {
    let mut fixture = two();
    for (a, b) in PAIRS {
        let other = [2, 0, 0, 0, 9, 9];
        fixture.set_endpoint(1, Fixture::record(1)).unwrap();
        fixture
            .from_workload(1, &craft(a, b).mac(other).tcp(1, 2, SYN).build())
            .unwrap()
            .redirected(12);
        establish(&fixture, a, b);
        let mut record = Fixture::record(1);
        record.flags |= ENDPOINT_CHECK_MAC;
        fixture.set_endpoint(1, record).unwrap();
        let good = craft(a, b).tcp(40000, 80, ACK);
        fixture.from_workload(1, &good.build()).unwrap().redirected(12);
        fixture
            .from_workload(1, &good.clone().mac(other).build())
            .unwrap()
            .dropped(DropReason::SpoofedMac);
        for byte in 0..6 {
            let mut mac = record.mac;
            mac[byte] ^= 0x40;
            fixture
                .from_workload(1, &good.clone().mac(mac).build())
                .unwrap()
                .dropped(DropReason::SpoofedMac);
        }
        fixture
            .from_workload(1, &craft(a, b).mac(other).tcp(3, 4, SYN).build())
            .unwrap()
            .dropped(DropReason::SpoofedMac);
    }
}

#[test]
fn nobody_else_comes_with_a_local_address() {
    let mut fixture = two();
    for ((a, b), far) in PAIRS.into_iter().zip(FAR) {
        let packet = craft(a, b).udp(5, 6, b"").build();
        // From the wire, from the host, from the wrong workload; only the right one.
        for came_by in [1, 0, 12, 77] {
            fixture
                .to_workload(2, came_by, &packet)
                .unwrap()
                .dropped(DropReason::SpoofedAddress);
        }
        fixture.to_workload(2, 11, &packet).unwrap().passed();
        fixture
            .to_workload(2, 1, &craft(far, b).udp(5, 6, b"").build())
            .unwrap()
            .passed();
        // Not the endpoint's own address.
        fixture
            .to_workload(2, 1, &craft(far, a).udp(5, 6, b"").build())
            .unwrap()
            .dropped(DropReason::ForeignDestination);
        fixture
            .to_workload(2, 1, &craft(far, far).udp(5, 6, b"").build())
            .unwrap()
            .dropped(DropReason::ForeignDestination);
    }
    // The host's multicast is let in and makes no flow.
    fixture
        .peer(
            "192.0.2.1",
            Peer {
                flags: PEER_HOST,
                ..Peer::default()
            },
        )
        .unwrap();
    let flows = fixture.flows().unwrap();
    fixture
        .to_workload(2, 0, &craft("192.0.2.1", "224.0.0.251").udp(5353, 5353, b"").build())
        .unwrap()
        .passed();
    fixture
        .to_workload(2, 0, &craft("fe80::1", "ff02::fb").udp(5353, 5353, b"").build())
        .unwrap()
        .passed();
    fixture
        .to_workload(2, 1, &craft("192.0.2.1", "224.0.0.251").udp(5353, 5353, b"").build())
        .unwrap()
        .dropped(DropReason::ForeignDestination);
    assert_eq!(fixture.flows().unwrap(), flows);
}

#[test]
fn an_address_that_became_local_comes_from_its_interface_only() {
    let mut fixture = two();
    fixture.endpoint(3, &[]).unwrap();
    for ((_, b), far) in PAIRS.into_iter().zip(FAR) {
        // From outside: a connection, and a query without an answer.
        let (from, to) = (craft(far, b), craft(b, far));
        let packet =
            |flags, sequence, acknowledged| from.clone().tcp_with(40000, 80, flags, sequence, acknowledged).build();
        fixture.to_workload(2, 1, &packet(SYN, 1, 0)).unwrap().passed();
        let answer = to.tcp_with(80, 40000, SYN | ACK, 7, 2).build();
        fixture.from_workload(2, &answer).unwrap().passed();
        fixture.to_workload(2, 1, &packet(ACK, 2, 8)).unwrap().passed();
        assert!(fixture.flow(TCP, far, 40000, b, 80).unwrap().unwrap().0);
        let query = from.clone().udp(5, 53, b"query").build();
        fixture.to_workload(2, 1, &query).unwrap().passed();
        // Now the address is endpoint 3's. An established flow is looked at closely once a second.
        let moved = Peer {
            endpoint: 3,
            id: 103,
            ..Peer::default()
        };
        fixture.peer(far, moved).unwrap();
        let age = |flow: &mut felid_common::Flow| flow.last_seen = flow.last_seen.wrapping_sub(2 * SETTINGS.hz);
        fixture.edit_flow(TCP, far, 40000, b, 80, age).unwrap();
        for packet in [packet(ACK, 2, 8), query] {
            for came_by in [1, 0, 11] {
                fixture
                    .to_workload(2, came_by, &packet)
                    .unwrap()
                    .dropped(DropReason::SpoofedAddress);
            }
            fixture.policy(INGRESS, 2, Policy::Deny).unwrap();
            // The new owner's flow is another one.
            fixture
                .to_workload(2, 13, &packet)
                .unwrap()
                .dropped(DropReason::IngressPolicy);
            fixture.policy(INGRESS, 2, Policy::Allow).unwrap();
            fixture.to_workload(2, 13, &packet).unwrap().passed();
        }
        assert_eq!(
            fixture
                .flow(TCP, far, 40000, b, 80)
                .unwrap()
                .unwrap()
                .1
                .originator
                .endpoint,
            103
        );
    }
}

#[test]
fn to_the_host() {
    let mut fixture = two();
    fixture
        .peer(
            "192.0.2.1",
            Peer {
                flags: PEER_HOST,
                ..Peer::default()
            },
        )
        .unwrap();
    fixture
        .peer(
            "2001:db8::1",
            Peer {
                flags: PEER_HOST,
                ..Peer::default()
            },
        )
        .unwrap();
    fixture
        .peer(
            "fe80::1",
            Peer {
                flags: PEER_HOST,
                ..Peer::default()
            },
        )
        .unwrap();
    let (v4, v6) = (
        ["192.0.2.1", "224.0.0.251", "255.255.255.255"],
        ["2001:db8::1", "ff02::fb", "fe80::1"],
    );
    // Whether it ends at the host is decided where it does, behind every translation; the policy of
    // the workload comes first.
    for ((a, _), hosts) in [(PAIRS[0], v4), (PAIRS[1], v6)] {
        for host in hosts {
            let packet = craft(a, host).udp(5353, 5353, b"").build();
            fixture.policy(EGRESS, 1, Policy::Deny).unwrap();
            fixture
                .from_workload(1, &packet)
                .unwrap()
                .dropped(DropReason::EgressPolicy);
            fixture.policy(EGRESS, 1, Policy::Allow).unwrap();
            fixture.from_workload(1, &packet).unwrap().passed();
        }
    }
    // On the link is the host alone: it must not look for others there.
    fixture
        .from_workload(1, &craft(PAIRS[1].0, "fe80::77").udp(5353, 5353, b"").build())
        .unwrap()
        .dropped(DropReason::EndpointToHost);
    // Answers to what the host began are not asked about.
    fixture
        .to_workload(1, 0, &craft("192.0.2.1", PAIRS[0].0).udp(9, 10, b"").build())
        .unwrap()
        .passed();
    fixture
        .from_workload(1, &craft(PAIRS[0].0, "192.0.2.1").udp(10, 9, b"").build())
        .unwrap()
        .passed();
}

#[test]
fn a_new_endpoint_does_not_inherit_flows() {
    let mut fixture = two();
    for (a, b) in PAIRS {
        establish(&fixture, a, b);
        let packet = craft(a, b).tcp(40000, 80, ACK).build();
        // Endpoint 2 is replaced by another that has its index and addresses.
        let mut record = Fixture::record(2);
        record.id = 777;
        fixture.set_endpoint(2, record).unwrap();
        // Its addresses still name the old one: not local at all until they are written.
        fixture.from_workload(1, &packet).unwrap();
        for address in [PAIRS[0].1, PAIRS[1].1] {
            fixture
                .peer(
                    address,
                    Peer {
                        endpoint: 2,
                        id: 777,
                        ..Peer::default()
                    },
                )
                .unwrap();
        }
        fixture.policy(INGRESS, 2, Policy::Deny).unwrap();
        fixture
            .from_workload(1, &craft(a, b).tcp(40000, 80, ACK).build())
            .unwrap();
        establish_denied(&fixture, a, b);
        // The old stub is nobody's.
        fixture
            .from_workload(2, &craft(b, a).tcp(80, 40000, ACK).build())
            .unwrap()
            .dropped(DropReason::UnknownInterface);
        fixture.policy(INGRESS, 2, Policy::Allow).unwrap();
        fixture.set_endpoint(2, Fixture::record(2)).unwrap();
        for address in [PAIRS[0].1, PAIRS[1].1] {
            fixture
                .peer(
                    address,
                    Peer {
                        endpoint: 2,
                        id: 102,
                        ..Peer::default()
                    },
                )
                .unwrap();
        }
    }
}

fn establish_denied(fixture: &Fixture, a: &str, b: &str) {
    fixture
        .from_workload(1, &craft(a, b).tcp(41000, 80, SYN).build())
        .unwrap()
        .dropped(DropReason::IngressPolicy);
}

#[test]
fn an_address_that_moves_takes_its_flows_along_judged_again() {
    let mut fixture = two();
    fixture.endpoint(3, &[]).unwrap();
    let (a, b) = PAIRS[0];
    establish(&fixture, a, b);
    // Endpoint 3 takes the address over.
    fixture
        .peer(
            b,
            Peer {
                endpoint: 3,
                id: 103,
                ..Peer::default()
            },
        )
        .unwrap();
    let mut record = Fixture::record(2);
    record.egress_generation += 1;
    record.ingress_generation += 1;
    fixture.set_endpoint(2, record).unwrap();
    fixture.policy(EGRESS, 3, Policy::Deny).unwrap();
    fixture
        .from_workload(2, &craft(b, a).tcp(80, 40000, ACK).build())
        .unwrap()
        .dropped(DropReason::SpoofedAddress);
    fixture
        .from_workload(3, &craft(b, a).tcp(80, 40000, ACK).build())
        .unwrap()
        .dropped(DropReason::EgressPolicy);
}

#[test]
fn no_hop_left_goes_through_the_stack_which_says_so() {
    let fixture = two();
    for (a, b) in PAIRS {
        establish(&fixture, a, b);
        for packet in [
            craft(a, b).tcp(40000, 80, ACK),
            craft(a, b).tcp(40000, 80, ACK | 1),
            craft(a, b).tcp(7, 8, SYN),
        ] {
            for hops in [0, 1] {
                let packet = packet.clone().hops(hops).build();
                let outcome = fixture.from_workload(1, &packet).unwrap();
                outcome.passed();
                assert_eq!(outcome.packet, packet, "untouched");
            }
            fixture
                .from_workload(1, &packet.hops(2).build())
                .unwrap()
                .redirected(12);
        }
    }
}

#[test]
fn too_long_for_the_other_side_goes_through_the_stack() {
    let mut fixture = two();
    command("ip", &["link", "set", "d2", "mtu", "1300"]).unwrap();
    let mut record = Fixture::record(2);
    record.mtu = 1300;
    fixture.set_endpoint(2, record).unwrap();
    for (a, b) in PAIRS {
        establish(&fixture, a, b);
        let of = |length: usize| {
            let mut packet = craft(a, b).tcp(40000, 80, ACK);
            let header = packet.ip().len();
            packet.payload.extend(vec![0; length - header]);
            packet.build()
        };
        fixture.from_workload(1, &of(1300)).unwrap().redirected(12);
        let outcome = fixture.from_workload(1, &of(1301)).unwrap();
        outcome.passed();
        assert_eq!(outcome.packet, of(1301));
        // The other way round there is room.
        let mut packet = craft(b, a).tcp(80, 40000, ACK);
        packet.payload.extend(vec![0; 1200]);
        fixture.from_workload(2, &packet.build()).unwrap().redirected(11);
    }
}

#[test]
fn what_cannot_be_redirected_to_uses_the_stack() {
    let mut fixture = two();
    for (a, b) in PAIRS {
        establish(&fixture, a, b);
        let mut record = Fixture::record(2);
        record.flags &= !ENDPOINT_REDIRECTABLE;
        fixture.set_endpoint(2, record).unwrap();
        fixture
            .from_workload(1, &craft(a, b).tcp(40000, 80, ACK).build())
            .unwrap()
            .passed();
        fixture
            .to_workload(2, 11, &craft(a, b).tcp(40000, 80, ACK).build())
            .unwrap()
            .passed();
        fixture
            .from_workload(1, &craft(a, b).tcp(6, 7, SYN).build())
            .unwrap()
            .passed();
        assert_eq!(
            fixture.flow(TCP, a, 6, b, 7).unwrap().unwrap().1.flags & FLOW_REDIRECT,
            0
        );
        fixture.set_endpoint(2, Fixture::record(2)).unwrap();
        fixture
            .from_workload(1, &craft(a, b).tcp(40000, 80, ACK).build())
            .unwrap()
            .redirected(12);
        // The path is the entry's: it stays.
        fixture
            .from_workload(1, &craft(a, b).tcp(6, 7, SYN).build())
            .unwrap()
            .passed();
    }
}

#[test]
fn to_itself_goes_through_the_stack() {
    let mut fixture = two();
    fixture
        .peer(
            "10.65.0.4",
            Peer {
                endpoint: 1,
                id: 101,
                ..Peer::default()
            },
        )
        .unwrap();
    let packet = craft("10.65.0.2", "10.65.0.4").tcp(40000, 80, SYN).build();
    fixture.from_workload(1, &packet).unwrap().passed();
    fixture.policy(INGRESS, 1, Policy::Port(81)).unwrap();
    fixture
        .to_workload(1, 11, &packet)
        .unwrap()
        .dropped(DropReason::IngressPolicy);
    fixture.policy(INGRESS, 1, Policy::Port(80)).unwrap();
    fixture.from_workload(1, &packet).unwrap().passed();
    fixture.to_workload(1, 11, &packet).unwrap().passed();
    let (_, flow) = fixture.flow(TCP, "10.65.0.2", 40000, "10.65.0.4", 80).unwrap().unwrap();
    assert_eq!(
        (
            flow.originator.endpoint,
            flow.responder.endpoint,
            flow.flags & FLOW_REDIRECT
        ),
        (101, 101, 0)
    );
}

#[test]
fn unknown_interfaces_are_closed() {
    let fixture = two();
    for packet in [
        craft("10.65.0.2", "10.65.0.3").tcp(1, 2, SYN).build(),
        vec![0; 14],
        vec![0xff; 60],
    ] {
        run(fixture.program("closed"), &packet, &Context::new(11, 11), 1)
            .unwrap()
            .dropped(DropReason::UnknownInterface);
    }
    assert_eq!(fixture.drops(DropReason::UnknownInterface).unwrap(), 3);
}

#[test]
fn addresses_that_belong_on_no_link_go_nowhere() {
    let mut fixture = Fixture::new().unwrap();
    fixture.endpoint(1, &["10.65.0.2", "fd00:65::2"]).unwrap();
    for host in ["127.0.0.1", "::1", "192.0.2.1"] {
        fixture
            .peer(
                host,
                Peer {
                    flags: PEER_HOST,
                    ..Peer::default()
                },
            )
            .unwrap();
    }
    let mut record = Fixture::record(1);
    // Trusted to send from anywhere, and to reach the host.
    record.flags |= ENDPOINT_SPOOFS;
    fixture.set_endpoint(1, record).unwrap();
    let mut settings = SETTINGS;
    settings.flags = SETTING_HOST_REACHABLE;
    fixture.set_settings(settings).unwrap();
    let send = |src: &str, dst: &str| {
        let craft = Craft::new(src.parse::<IpAddr>().unwrap(), dst.parse::<IpAddr>().unwrap());
        for packet in [
            craft.clone().udp(1, 2, b"x"),
            craft.clone().tcp(1, 2, SYN),
            craft.clone().echo(3, false),
            craft.raw(99, vec![0; 8]),
        ] {
            fixture
                .from_workload(1, &packet.build())
                .unwrap()
                .dropped(DropReason::Martian);
        }
    };
    let (own, other) = ("10.65.0.2", "192.0.2.1");
    for address in ["127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3"] {
        send(own, address);
        send(address, other);
    }
    for source in ["224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255"] {
        send(source, other);
    }
    let (own, other) = ("fd00:65::2", "2001:db8::1");
    for address in ["::1", "::ffff:127.0.0.1", "::ffff:10.65.0.3"] {
        send(own, address);
        send(address, other);
    }
    send(own, "::");
    for source in ["ff02::1", "ff0e::1", "::"] {
        send(source, other);
    }
}
