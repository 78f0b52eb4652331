//! What the kernel programs read out of packets, and what they refuse: options, extension headers,
//! tunnels, lengths.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use felid_common::{DropReason, EGRESS, INGRESS, SETTING_ALLOW_IPIP, SETTING_ALLOW_VXLAN, protocol};
use felid_tests::bpf_fixture::{Context, Fixture, Policy, SETTINGS, run};
use felid_tests::packet_craft::{ACK, Craft, SYN};

const A: &str = "10.65.0.2";
const B: &str = "10.65.0.3";
const A6: &str = "fd00:65::2";
const B6: &str = "fd00:65::3";

fn two() -> Fixture {
    let mut fixture = Fixture::new().unwrap();
    fixture.endpoint(1, &[A, A6]).unwrap();
    fixture.endpoint(2, &[B, B6]).unwrap();
    // Whatever reaches port 80 was read right.
    fixture.policy(INGRESS, 2, Policy::Port(80)).unwrap();
    fixture
}

fn craft(src: &str, dst: &str) -> Craft {
    Craft::new(src.parse::<IpAddr>().unwrap(), dst.parse::<IpAddr>().unwrap())
}

fn tuple(fixture: &Fixture) -> (u8, u16, u16) {
    let scratch = fixture.scratch().unwrap();
    (scratch.protocol, scratch.src_port, scratch.dst_port)
}

#[test]
fn ports_of_every_protocol_that_has_them() {
    let fixture = two();
    for (src, dst) in [(A, B), (A6, B6)] {
        let lite = |port: u16, coverage: u16| {
            let mut bytes = vec![0x9c, 0x40];
            bytes.extend(port.to_be_bytes());
            bytes.extend(coverage.to_be_bytes());
            bytes.extend([0; 6]);
            craft(src, dst).raw(protocol::UDPLITE, bytes).build()
        };
        for (packet, number) in [
            (craft(src, dst).tcp(40000, 80, SYN).build(), protocol::TCP),
            (craft(src, dst).udp(40000, 80, b"data").build(), protocol::UDP),
            (craft(src, dst).sctp(40000, 80).build(), protocol::SCTP),
            (lite(80, 0), protocol::UDPLITE),
        ] {
            let outcome = fixture.from_workload(1, &packet).unwrap();
            outcome.redirected(12);
            assert_eq!(tuple(&fixture), (number, 40000, 80));
            assert_eq!(outcome.packet[if src == A { 22 } else { 21 }], 63);
        }
        for packet in [
            craft(src, dst).tcp(40000, 81, SYN).build(),
            craft(src, dst).udp(40000, 81, b"").build(),
            craft(src, dst).sctp(40000, 81).build(),
            lite(81, 8),
            craft(src, dst).raw(47, vec![0; 20]).build(),
            craft(src, dst).raw(50, vec![0; 20]).build(),
        ] {
            fixture
                .from_workload(1, &packet)
                .unwrap()
                .dropped(DropReason::IngressPolicy);
        }
        lite(80, 9);
        fixture
            .from_workload(1, &lite(80, 7))
            .unwrap()
            .dropped(DropReason::Malformed);
        fixture
            .from_workload(1, &lite(80, 13))
            .unwrap()
            .dropped(DropReason::Malformed);
    }
}

#[test]
fn ipv4_options_do_not_shift_the_ports() {
    let fixture = two();
    let mut packet = craft(A, B).tcp(40000, 80, SYN);
    packet.options = vec![148, 4, 0, 0, 1, 1, 1, 0];
    let outcome = fixture.from_workload(1, &packet.build()).unwrap();
    outcome.redirected(12);
    assert_eq!(tuple(&fixture), (protocol::TCP, 40000, 80));
    // The longest header there is.
    packet.options = vec![1; 40];
    fixture.from_workload(1, &packet.build()).unwrap().redirected(12);
    // Bytes that look like port 80 where a parser that ignores options would read them.
    let mut packet = craft(A, B).tcp(40000, 81, SYN);
    packet.options = vec![0x44, 4, 0, 80];
    fixture
        .from_workload(1, &packet.build())
        .unwrap()
        .dropped(DropReason::IngressPolicy);
}

#[test]
fn source_routes_and_broken_options() {
    let fixture = two();
    for option in [131, 137] {
        let mut packet = craft(A, B).tcp(40000, 80, SYN);
        packet.options = vec![1, option, 7, 4, 10, 0, 0, 1];
        fixture
            .from_workload(1, &packet.build())
            .unwrap()
            .dropped(DropReason::SourceRoute);
    }
    for options in [vec![7, 1, 0, 0], vec![7, 0, 0, 0], vec![7, 9, 0, 0], vec![1, 1, 1, 7]] {
        let mut packet = craft(A, B).tcp(40000, 80, SYN);
        packet.options = options;
        fixture
            .from_workload(1, &packet.build())
            .unwrap()
            .dropped(DropReason::Malformed);
    }
    // After the end of the list anything may stand.
    let mut packet = craft(A, B).tcp(40000, 80, SYN);
    packet.options = vec![0, 131, 7, 9];
    fixture.from_workload(1, &packet.build()).unwrap().redirected(12);
}

#[test]
fn extension_headers_are_followed() {
    let fixture = two();
    let hop = (0, vec![0, 0, 1, 4, 0, 0, 0, 0]);
    let long = (60, [vec![0, 2], vec![0; 22]].concat());
    let routed = (43, vec![0, 0, 4, 0, 0, 0, 0, 0]);
    let authentication = (51, [vec![0, 4], vec![0; 22]].concat());
    for extensions in [
        vec![hop.clone()],
        vec![long.clone()],
        vec![hop.clone(), long.clone(), routed.clone()],
        vec![routed.clone(), authentication.clone(), long.clone()],
        vec![long.clone(); 8],
    ] {
        let mut packet = craft(A6, B6).udp(40000, 80, b"data");
        packet.extensions = extensions.clone();
        fixture.from_workload(1, &packet.build()).unwrap().redirected(12);
        assert_eq!(tuple(&fixture), (protocol::UDP, 40000, 80));
        let mut packet = craft(A6, B6).udp(40000, 81, b"data");
        packet.extensions = extensions;
        fixture
            .from_workload(1, &packet.build())
            .unwrap()
            .dropped(DropReason::IngressPolicy);
    }
    let mut packet = craft(A6, B6).udp(40000, 80, b"data");
    packet.extensions = vec![long.clone(); 9];
    fixture
        .from_workload(1, &packet.build())
        .unwrap()
        .dropped(DropReason::TooManyHeaders);
    // Hop-by-hop options stand first or not at all.
    packet.extensions = vec![long.clone(), hop];
    fixture
        .from_workload(1, &packet.build())
        .unwrap()
        .dropped(DropReason::Malformed);
    // A routing header that has somewhere left to go.
    packet.extensions = vec![(43, [vec![0, 2, 0, 1], vec![0; 20]].concat())];
    fixture
        .from_workload(1, &packet.build())
        .unwrap()
        .dropped(DropReason::SourceRoute);
    // A header longer than the packet.
    packet.extensions = vec![(60, vec![0, 200, 0, 0, 0, 0, 0, 0])];
    fixture
        .from_workload(1, &packet.build())
        .unwrap()
        .dropped(DropReason::Malformed);
}

#[test]
fn lengths_that_contradict_each_other() {
    let fixture = two();
    for (src, dst, length_at, header) in [(A, B, 16, 20_u16), (A6, B6, 18, 0)] {
        let good = craft(src, dst).tcp(40000, 80, SYN).build();
        let with_length = |length: u16| {
            let mut packet = good.clone();
            packet[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
            packet
        };
        fixture
            .from_workload(1, &with_length(header + 21))
            .unwrap()
            .dropped(DropReason::Malformed);
        fixture
            .from_workload(1, &with_length(header + 19))
            .unwrap()
            .dropped(DropReason::Malformed);
        fixture
            .from_workload(1, &with_length(0))
            .unwrap()
            .dropped(DropReason::Malformed);
        fixture
            .from_workload(1, &with_length(u16::MAX))
            .unwrap()
            .dropped(DropReason::Malformed);
        // Padding behind the packet is Ethernet's.
        let mut padded = good.clone();
        padded.extend([0; 6]);
        fixture.from_workload(1, &padded).unwrap().redirected(12);
        for end in [good.len() - 1, good.len() - 15] {
            fixture
                .from_workload(1, &good[..end])
                .unwrap()
                .dropped(DropReason::Malformed);
        }
        // A TCP header shorter than TCP's, or longer than the packet.
        let tcp = good.len() - 20;
        for offset in [4 << 4, 6 << 4] {
            let mut packet = good.clone();
            packet[tcp + 12] = offset;
            fixture
                .from_workload(1, &packet)
                .unwrap()
                .dropped(DropReason::Malformed);
        }
        let udp = craft(src, dst).udp(40000, 80, b"data").build();
        let at = udp.len() - 8;
        for length in [7_u16, 13, 0] {
            let mut packet = udp.clone();
            packet[at..at + 2].copy_from_slice(&length.to_be_bytes());
            fixture
                .from_workload(1, &packet)
                .unwrap()
                .dropped(DropReason::Malformed);
        }
        let mut packet = good.clone();
        packet[14] = 0x54;
        fixture
            .from_workload(1, &packet)
            .unwrap()
            .dropped(DropReason::Malformed);
    }
    let mut packet = craft(A, B).tcp(40000, 80, SYN).build();
    packet[14] = 0x44;
    fixture
        .from_workload(1, &packet)
        .unwrap()
        .dropped(DropReason::Malformed);
}

#[test]
fn the_fast_program_leaves_what_contradicts_itself() {
    let fixture = two();
    for (src, dst, length_at, header) in [(A, B, 16, 20_u16), (A6, B6, 18, 0)] {
        fixture
            .from_workload(1, &craft(src, dst).tcp_with(40000, 80, SYN, 100, 0).build())
            .unwrap()
            .redirected(12);
        fixture
            .from_workload(2, &craft(dst, src).tcp_with(80, 40000, SYN | ACK, 500, 101).build())
            .unwrap()
            .redirected(11);
        fixture
            .from_workload(1, &craft(src, dst).tcp_with(40000, 80, ACK, 101, 501).build())
            .unwrap()
            .redirected(12);
        let good = craft(src, dst).tcp(40000, 80, ACK).build();
        fixture.from_workload(1, &good).unwrap().redirected(12);
        for length in [header + 19, header + 21, 0, u16::MAX] {
            let mut packet = good.clone();
            packet[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
            fixture
                .from_workload(1, &packet)
                .unwrap()
                .dropped(DropReason::Malformed);
        }
        let tcp = good.len() - 20;
        for offset in [0, 4 << 4, 6 << 4, 15 << 4] {
            let mut packet = good.clone();
            packet[tcp + 12] = offset;
            fixture
                .from_workload(1, &packet)
                .unwrap()
                .dropped(DropReason::Malformed);
        }
        // Without ACK and with nothing else it is not the middle of a connection, but still the
        // flow's.
        let mut packet = good.clone();
        packet[tcp + 13] = 0;
        fixture.from_workload(1, &packet).unwrap().redirected(12);
    }
}

#[test]
fn tags_and_other_ethertypes() {
    let fixture = two();
    for kind in [[0x81, 0x00], [0x88, 0xa8], [0x88, 0xcc], [0x00, 0x2e], [0x88, 0x47]] {
        let mut packet = craft(A, B).tcp(40000, 80, SYN).build();
        packet[12..14].copy_from_slice(&kind);
        fixture
            .from_workload(1, &packet)
            .unwrap()
            .dropped(DropReason::UnknownEthertype);
        fixture
            .to_workload(2, 11, &packet)
            .unwrap()
            .dropped(DropReason::UnknownEthertype);
    }
    let mut tagged = craft(A, B).tcp(40000, 80, SYN).build();
    tagged.splice(12..12, [0x81, 0x00, 0, 5]);
    fixture
        .from_workload(1, &tagged)
        .unwrap()
        .dropped(DropReason::UnknownEthertype);
}

#[test]
fn tunnels() {
    for (src, dst) in [(A, B), (A6, B6)] {
        let mut fixture = two();
        fixture.policy(INGRESS, 2, Policy::Allow).unwrap();
        let inner = craft(A, B).tcp(1, 2, SYN).ip();
        let packets = [
            craft(src, dst).raw(protocol::IPIP, inner.clone()).build(),
            craft(src, dst).raw(protocol::IPV6, inner).build(),
            craft(src, dst).udp(40000, 4789, b"\x08\0\0\0\0\0\x01\0").build(),
        ];
        for packet in &packets {
            fixture.from_workload(1, packet).unwrap().dropped(DropReason::Tunnel);
        }
        assert_eq!(fixture.drops(DropReason::Tunnel).unwrap(), 3);
        let mut settings = SETTINGS;
        settings.flags = SETTING_ALLOW_IPIP | SETTING_ALLOW_VXLAN;
        fixture.set_settings(settings).unwrap();
        for packet in &packets {
            fixture.from_workload(1, packet).unwrap().redirected(12);
            // What comes towards a workload is its policy's business.
            fixture.to_workload(2, 11, packet).unwrap().passed();
        }
    }
}

#[test]
fn answers_to_the_tunnel_port_are_looked_at_one_by_one() {
    for (src, dst) in [(A, B), (A6, B6)] {
        let fixture = two();
        fixture
            .from_workload(2, &craft(dst, src).udp(4789, 53, b"q").build())
            .unwrap()
            .redirected(11);
        for _ in 0..3 {
            fixture
                .from_workload(1, &craft(src, dst).udp(53, 4789, b"a").build())
                .unwrap()
                .redirected(12);
        }
        assert!(
            !fixture.flow(protocol::UDP, src, 53, dst, 4789).unwrap().unwrap().0,
            "never by the fast programs"
        );
    }
}

#[test]
fn segmentation_offload_packets_are_read_like_others() {
    let fixture = two();
    for (src, dst) in [(A, B), (A6, B6)] {
        let mut big = craft(src, dst).tcp(40000, 80, ACK);
        big.payload.extend([0; 3000]);
        let outcome = run(
            fixture.stub(1, EGRESS),
            &big.build(),
            &Context::new(11, 11).segments(1000, 3),
            1,
        )
        .unwrap();
        outcome.redirected(12);
        assert_eq!(tuple(&fixture), (protocol::TCP, 40000, 80));
    }
}

#[test]
fn without_a_stub_nothing_passes() {
    let fixture = two();
    let packet = craft(A, B).tcp(40000, 80, ACK).build();
    for name in [
        "from_workload",
        "to_workload",
        "from_workload_slow",
        "to_workload_slow",
        "related",
        "neighbour",
        "closed",
    ] {
        let outcome = run(fixture.program(name), &packet, &Context::new(11, 11), 1).unwrap();
        outcome.dropped(DropReason::UnknownInterface);
    }
}

#[test]
fn answers_of_a_flow_from_the_tunnel_port_are_no_tunnel() {
    for (own, far) in [(A, "192.0.2.9"), (A6, "2001:db8::9")] {
        let mut fixture = two();
        let mut settings = SETTINGS;
        settings.flags = felid_common::SETTING_HOST_REACHABLE;
        fixture.set_settings(settings).unwrap();
        let answer = craft(own, far).udp(53, 4789, b"answer").build();
        fixture.from_workload(1, &answer).unwrap().dropped(DropReason::Tunnel);
        let question = craft(far, own).udp(4789, 53, b"question").build();
        fixture.to_workload(1, 2, &question).unwrap().passed();
        fixture.from_workload(1, &answer).unwrap().passed();
        // From another port it is what it looks like; so it is against a flow that the workload
        // began.
        let other = craft(own, far).udp(54, 4789, b"answer").build();
        fixture.from_workload(1, &other).unwrap().dropped(DropReason::Tunnel);
        let begun = craft(own, far).udp(4789, 4788, b"question").build();
        fixture.from_workload(1, &begun).unwrap().passed();
        let back = craft(far, own).udp(4788, 4789, b"answer").build();
        fixture.to_workload(1, 2, &back).unwrap().passed();
    }
}
