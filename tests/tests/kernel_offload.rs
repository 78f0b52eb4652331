//! What a packet leaves to the kernel after the verdict, in the kernel programs: the checksum and
//! the segmentation of the header that was judged, and nothing else. New flows and established
//! ones, both hooks, both families.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use felid_common::{
    DropReason, EGRESS, INGRESS, OFFLOAD_CHECKSUM, OFFLOAD_ENCAPSULATED, OFFLOAD_FIELD_SHIFT, OFFLOAD_OTHER,
    OFFLOAD_SCTP, OFFLOAD_TCP_V4, OFFLOAD_TCP_V6, OFFLOAD_UDP, SETTING_ALLOW_IPIP, SETTING_HOST_REACHABLE, protocol,
};
use felid_tests::bpf_fixture::{Context, DROP, Fixture, Outcome, SETTINGS, run};
use felid_tests::packet_craft::{ACK, Craft, SYN, arp, fragment_header};

const A: [&str; 2] = ["10.65.0.2", "fd00:65::2"];
const B: [&str; 2] = ["10.65.0.3", "fd00:65::3"];
const OUTSIDE: [&str; 2] = ["198.51.100.7", "2001:db8:7::7"];
const UPLINK: u32 = 1;

fn two() -> Fixture {
    let mut fixture = Fixture::new().unwrap();
    fixture.endpoint(1, &A).unwrap();
    fixture.endpoint(2, &B).unwrap();
    // (There are no routes here, so whatever is outside counts as the host's.)
    let mut settings = SETTINGS;
    settings.flags = SETTING_HOST_REACHABLE | SETTING_ALLOW_IPIP;
    fixture.set_settings(settings).unwrap();
    fixture
}

fn craft(src: &str, dst: &str) -> Craft {
    Craft::new(src.parse::<IpAddr>().unwrap(), dst.parse::<IpAddr>().unwrap())
}

/// Where L4 begins in a frame without options or extension headers.
const fn l4(family: usize) -> u32 {
    if family == 0 { 34 } else { 54 }
}

const fn word(start: u32, field: u32) -> u32 {
    start | field << OFFLOAD_FIELD_SHIFT | OFFLOAD_CHECKSUM
}

/// From the first endpoint, with what is left to the kernel.
fn send(fixture: &Fixture, offload: u32, packet: &[u8]) -> Outcome {
    let interface = Fixture::record(1).ifindex;
    let context = Context::new(interface, interface).segments(1000, 2).offload(offload);
    run(fixture.stub(1, EGRESS), packet, &context, 1).unwrap()
}

/// To the first endpoint, from outside.
fn arrive(fixture: &Fixture, offload: u32, packet: &[u8]) -> Outcome {
    let context = Context::new(Fixture::record(1).ifindex, UPLINK).offload(offload);
    run(fixture.stub(1, INGRESS), packet, &context, 1).unwrap()
}

#[test]
fn only_the_judged_headers_own_checksum_is_left_to_others() {
    for family in 0..2 {
        let fixture = two();
        let l4 = l4(family);
        let (tcp, udp) = (
            craft(A[family], OUTSIDE[family]).tcp(7, 443, SYN).build(),
            craft(A[family], OUTSIDE[family]).udp(7, 80, &[0; 300]).build(),
        );
        for (packet, field) in [(&tcp, 16), (&udp, 6)] {
            send(&fixture, word(l4, field), packet).passed();
            for start in (0..l4 + 40).chain([255, 1000, 0xffff]) {
                for at in (0..40).chain([254, 255]) {
                    if (start, at) != (l4, field) {
                        send(&fixture, word(start, at), packet).dropped(DropReason::BadOffload);
                    }
                }
            }
        }
        // Other protocols: their own field, or none.
        for (packet, own) in [
            (craft(A[family], OUTSIDE[family]).sctp(7, 80).build(), Some(8)),
            (craft(A[family], OUTSIDE[family]).echo(7, false).build(), Some(2)),
            (craft(A[family], OUTSIDE[family]).raw(99, vec![0; 40]).build(), None),
            (
                craft(A[family], OUTSIDE[family])
                    .raw(protocol::GRE, vec![0; 40])
                    .build(),
                None,
            ),
        ] {
            for field in [0, 2, 4, 6, 8, 16] {
                let outcome = send(&fixture, word(l4, field), &packet);
                if own == Some(field) {
                    outcome.passed();
                } else {
                    outcome.dropped(DropReason::BadOffload);
                }
            }
        }
    }
}

#[test]
fn options_and_extension_headers_move_the_checksum() {
    let fixture = two();
    let mut v4 = craft(A[0], OUTSIDE[0]).udp(7, 80, &[0; 64]);
    v4.options = vec![1, 1, 1, 0];
    let mut v6 = craft(A[1], OUTSIDE[1]).udp(7, 80, &[0; 64]);
    v6.extensions = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])];
    for (packet, old, new) in [(v4.build(), 34, 38), (v6.build(), 54, 62)] {
        send(&fixture, word(new, 6), &packet).passed();
        send(&fixture, word(old, 6), &packet).dropped(DropReason::BadOffload);
    }
}

#[test]
fn established_flows_are_held_to_it_as_well() {
    for family in 0..2 {
        let fixture = two();
        let (mine, theirs, l4) = (A[family], OUTSIDE[family], l4(family));
        let syn = craft(mine, theirs).tcp(7, 443, SYN).build();
        let answer = craft(theirs, mine).tcp(443, 7, SYN | ACK).build();
        let data = craft(mine, theirs).tcp(7, 443, ACK).build();
        let back = craft(theirs, mine).tcp(443, 7, ACK).build();
        send(&fixture, word(l4, 16), &syn).passed();
        arrive(&fixture, word(l4, 16), &answer).passed();
        send(&fixture, word(l4, 16), &data).passed();
        let question = craft(mine, theirs).udp(7, 53, &[0; 64]).build();
        let reply = craft(theirs, mine).udp(53, 7, &[0; 64]).build();
        send(&fixture, word(l4, 6), &question).passed();
        arrive(&fixture, word(l4, 6), &reply).passed();
        send(&fixture, 0, &question).passed();
        assert_eq!(fixture.flows().unwrap(), (2, 0), "both are established");
        for (packet, field) in [(&data, 16), (&question, 6)] {
            for wrong in [
                word(l4, 2),
                word(l4, 0),
                word(l4 - 20, 16),
                word(l4 + 2, field),
                word(l4, 22 - field),
            ] {
                send(&fixture, wrong, packet).dropped(DropReason::BadOffload);
            }
        }
        for (packet, field) in [(&back, 16), (&reply, 6)] {
            arrive(&fixture, word(l4, field), packet).passed();
            arrive(&fixture, word(l4, 2), packet).dropped(DropReason::BadOffload);
        }
    }
}

#[test]
fn segments_are_of_the_judged_protocol() {
    let kinds = [OFFLOAD_TCP_V4, OFFLOAD_TCP_V6, OFFLOAD_UDP, OFFLOAD_SCTP, OFFLOAD_OTHER];
    for family in 0..2 {
        let (mine, theirs, l4) = (A[family], OUTSIDE[family], l4(family));
        let tcp_kind = [OFFLOAD_TCP_V4, OFFLOAD_TCP_V6][family];
        for (packet, right, field) in [
            (craft(mine, theirs).tcp(7, 443, ACK).build(), tcp_kind, 16),
            (craft(mine, theirs).udp(7, 53, &[0; 64]).build(), OFFLOAD_UDP, 6),
            (craft(mine, theirs).sctp(7, 53).build(), OFFLOAD_SCTP, 8),
            (craft(mine, theirs).echo(7, false).build(), 0, 2),
        ] {
            let fixture = two();
            for kind in kinds {
                for checksum in [0, word(l4, field)] {
                    let outcome = send(&fixture, kind | checksum, &packet);
                    if kind == right {
                        outcome.passed();
                    } else {
                        outcome.dropped(DropReason::BadOffload);
                    }
                    send(&fixture, kind | right | OFFLOAD_OTHER | checksum, &packet).dropped(DropReason::BadOffload);
                }
            }
        }
    }
}

#[test]
fn fragments_arp_discovery_and_errors_leave_nothing_to_others() {
    let fixture = two();
    let mut first = craft(A[0], OUTSIDE[0]).udp(7, 80, &[0; 64]);
    first.fragment = (9, 0x2000);
    let mut first6 = craft(A[1], OUTSIDE[1]).udp(7, 80, &[0; 64]);
    first6.extensions = vec![fragment_header(0, true, 9)];
    let quoted = craft(OUTSIDE[0], A[0]).udp(80, 7, &[0; 8]).ip();
    let error = craft(A[0], OUTSIDE[0]).icmp(3, 3, [0; 4], &quoted);
    let solicitation = craft(A[1], "ff02::1:ff00:1").hops(255).icmp(135, 0, [0; 4], &[0; 16]);
    for (packet, l4, field) in [
        (first.build(), 34, 6),
        (first6.build(), 62, 6),
        (error.build(), 34, 2),
        (solicitation.build(), 54, 2),
        (
            arp(
                1,
                [2, 0, 0, 0, 0, 1],
                "10.65.0.2".parse().unwrap(),
                [0; 6],
                "10.65.0.9".parse().unwrap(),
            ),
            14,
            2,
        ),
    ] {
        send(&fixture, word(l4, field), &packet).dropped(DropReason::BadOffload);
        send(&fixture, OFFLOAD_UDP, &packet).dropped(DropReason::BadOffload);
    }
}

#[test]
fn what_a_packet_carries_lies_behind_its_own_headers() {
    let fixture = two();
    let inner = craft("192.0.2.1", "192.0.2.2").tcp(1, 2, ACK).ip();
    for (packet, header) in [
        (craft(A[0], OUTSIDE[0]).raw(protocol::IPIP, inner.clone()).build(), 0),
        (
            craft(A[0], OUTSIDE[0])
                .raw(protocol::GRE, [&[0, 0, 8, 0][..], &inner].concat())
                .build(),
            4,
        ),
        (craft(A[0], OUTSIDE[0]).udp(7, 6081, &inner).build(), 8),
    ] {
        let carried = |start: u32| word(start, 16) | OFFLOAD_ENCAPSULATED | OFFLOAD_OTHER | OFFLOAD_TCP_V4;
        send(&fixture, carried(34 + header + 20), &packet).passed();
        for start in [0, 14, 30, 33 + header] {
            send(&fixture, carried(start), &packet).dropped(DropReason::BadOffload);
        }
        // Without what the kernel's own tunnels say, it is no tunnel.
        send(&fixture, carried(34 + header + 20) & !OFFLOAD_ENCAPSULATED, &packet).dropped(DropReason::BadOffload);
    }
    let tcp = craft(A[0], OUTSIDE[0]).tcp(7, 443, SYN).build();
    send(&fixture, word(60, 16) | OFFLOAD_ENCAPSULATED, &tcp).dropped(DropReason::BadOffload);
}

#[test]
fn lengths_are_checked_in_segments_as_well() {
    let fixture = two();
    for family in 0..2 {
        // UDP may not hide how long it is behind segmentation; only TCP is longer than its header
        // can say.
        let mut udp = craft(A[family], OUTSIDE[family]).udp(7, 53, &[0; 64]);
        udp.payload[4..6].copy_from_slice(&2000_u16.to_be_bytes());
        send(&fixture, OFFLOAD_UDP, &udp.build()).dropped(DropReason::Malformed);
    }
    let mut udp = craft(A[0], OUTSIDE[0]).udp(7, 53, &[0; 64]).build();
    udp[16..18].copy_from_slice(&[0, 0]);
    send(&fixture, OFFLOAD_UDP, &udp).dropped(DropReason::Malformed);
    let mut tcp = craft(A[0], OUTSIDE[0]).tcp(7, 53, SYN).build();
    tcp[16..18].copy_from_slice(&[0, 0]);
    assert_ne!(send(&fixture, OFFLOAD_TCP_V4, &tcp).code, DROP);
}
