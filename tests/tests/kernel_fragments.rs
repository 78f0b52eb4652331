//! Fragments in the kernel programs: later ones are judged by the ports of the first, and nothing
//! hides in them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use felid_common::{DropReason, EGRESS, ENDPOINT_CHECK_MAC, FragmentPlaceV4, INGRESS, PEER_HOST, Peer, protocol};
use felid_tests::bpf_fixture::{Fixture, Policy, SETTINGS};
use felid_tests::packet_craft::{Craft, SYN, fragment_header};
use zerocopy::{FromBytes as _, IntoBytes as _};

const PAIRS: [(&str, &str); 2] = [("10.65.0.2", "10.65.0.3"), ("fd00:65::2", "fd00:65::3")];

fn two() -> Fixture {
    let mut fixture = Fixture::new().unwrap();
    fixture.endpoint(1, &["10.65.0.2", "fd00:65::2"]).unwrap();
    fixture.endpoint(2, &["10.65.0.3", "fd00:65::3"]).unwrap();
    fixture.policy(INGRESS, 2, Policy::Port(80)).unwrap();
    fixture
}

/// One fragment: `payload` is its part of the datagram.
fn fragment(pair: (&str, &str), identification: u16, offset: u16, more: bool, number: u8, payload: Vec<u8>) -> Vec<u8> {
    let mut craft =
        Craft::new(pair.0.parse::<IpAddr>().unwrap(), pair.1.parse::<IpAddr>().unwrap()).raw(number, payload);
    if pair.0.contains(':') {
        craft.extensions = vec![fragment_header(offset, more, identification.into())];
    } else {
        craft.fragment = (identification, (offset / 8) | if more { 0x2000 } else { 0 });
    }
    craft.build()
}

fn udp_head(port: u16, total: u16) -> Vec<u8> {
    let mut bytes = vec![0x9c, 0x40];
    bytes.extend(port.to_be_bytes());
    bytes.extend(total.to_be_bytes());
    bytes.extend([0; 18]);
    bytes
}

#[test]
fn later_fragments_follow_the_first() {
    let fixture = two();
    for pair in PAIRS {
        fixture
            .from_workload(1, &fragment(pair, 7, 24, false, 17, vec![1; 10]))
            .unwrap()
            .dropped(DropReason::UnknownFragment);
        let first = fixture
            .from_workload(1, &fragment(pair, 7, 0, true, 17, udp_head(80, 34)))
            .unwrap();
        first.redirected(12);
        assert_eq!(fixture.scratch().unwrap().dst_port, 80);
        fixture
            .from_workload(1, &fragment(pair, 7, 24, true, 17, vec![1; 8]))
            .unwrap()
            .redirected(12);
        fixture
            .from_workload(1, &fragment(pair, 7, 32, false, 17, vec![1; 2]))
            .unwrap()
            .redirected(12);
        // Another datagram, another protocol, another endpoint's, the other hook's: not the same.
        fixture
            .from_workload(1, &fragment(pair, 8, 24, false, 17, vec![1; 2]))
            .unwrap()
            .dropped(DropReason::UnknownFragment);
        fixture
            .from_workload(1, &fragment(pair, 7, 24, false, 6, vec![1; 2]))
            .unwrap()
            .dropped(DropReason::UnknownFragment);
        fixture
            .to_workload(2, 11, &fragment(pair, 7, 24, false, 17, vec![1; 2]))
            .unwrap()
            .dropped(DropReason::UnknownFragment);
        fixture
            .from_workload(2, &fragment(pair, 7, 24, false, 17, vec![1; 2]))
            .unwrap()
            .dropped(DropReason::UnknownFragment);
    }
}

#[test]
fn a_denied_first_fragment_denies_the_rest() {
    let fixture = two();
    for pair in PAIRS {
        fixture
            .from_workload(1, &fragment(pair, 9, 0, true, 17, udp_head(81, 34)))
            .unwrap()
            .dropped(DropReason::IngressPolicy);
        fixture
            .from_workload(1, &fragment(pair, 9, 24, false, 17, vec![1; 10]))
            .unwrap()
            .dropped(DropReason::UnknownFragment);
    }
}

#[test]
fn headers_are_whole_and_stay_untouched() {
    let fixture = two();
    for pair in PAIRS {
        let tcp = Craft::new(pair.0.parse::<IpAddr>().unwrap(), pair.1.parse::<IpAddr>().unwrap())
            .tcp(40000, 80, SYN)
            .payload;
        // A first fragment that is too short for its header, with and without all of TCP's options.
        fixture
            .from_workload(1, &fragment(pair, 1, 0, true, 6, tcp[..16].to_vec()))
            .unwrap()
            .dropped(DropReason::BadFragment);
        fixture
            .from_workload(1, &fragment(pair, 1, 0, true, 17, vec![]))
            .unwrap()
            .dropped(DropReason::BadFragment);
        let mut long = tcp.clone();
        long[12] = 15 << 4;
        long.extend([1; 4]);
        fixture
            .from_workload(1, &fragment(pair, 1, 0, true, 6, long))
            .unwrap()
            .dropped(DropReason::BadFragment);
        let mut padded = tcp.clone();
        padded.extend([0; 4]);
        fixture
            .from_workload(1, &fragment(pair, 2, 0, true, 6, padded))
            .unwrap()
            .redirected(12);
        // One that begins inside what the first one carried could replace its header.
        for offset in [8, 16] {
            fixture
                .from_workload(1, &fragment(pair, 2, offset, false, 6, vec![0; 8]))
                .unwrap()
                .dropped(DropReason::BadFragment);
        }
        fixture
            .from_workload(1, &fragment(pair, 2, 24, false, 6, vec![0; 8]))
            .unwrap()
            .redirected(12);
        // More than a datagram can hold; a length that only a last fragment may have.
        fixture
            .from_workload(1, &fragment(pair, 2, 65528, false, 6, vec![0; 100]))
            .unwrap()
            .dropped(DropReason::Malformed);
        fixture
            .from_workload(1, &fragment(pair, 2, 24, true, 6, vec![0; 7]))
            .unwrap()
            .dropped(DropReason::Malformed);
        // A first fragment is judged by its own ports each time.
        let mut denied = tcp.clone();
        denied[3] = 81;
        denied.extend([0; 4]);
        fixture
            .from_workload(1, &fragment(pair, 2, 0, true, 6, denied))
            .unwrap()
            .dropped(DropReason::IngressPolicy);
    }
}

#[test]
fn atomic_fragments_are_whole_packets() {
    let fixture = two();
    fixture
        .from_workload(1, &fragment(PAIRS[1], 3, 0, false, 17, udp_head(80, 24)))
        .unwrap()
        .redirected(12);
    assert_eq!(noted(&fixture), 0);
    fixture
        .from_workload(1, &fragment(PAIRS[1], 3, 24, false, 17, vec![0; 8]))
        .unwrap()
        .dropped(DropReason::UnknownFragment);
}

#[test]
fn extension_headers_behind_the_fragment_header() {
    let fixture = two();
    let (src, dst) = (
        PAIRS[1].0.parse::<IpAddr>().unwrap(),
        PAIRS[1].1.parse::<IpAddr>().unwrap(),
    );
    let mut first = Craft::new(src, dst).raw(17, udp_head(80, 40));
    first.extensions = vec![fragment_header(0, true, 99), (60, vec![0; 8])];
    fixture.from_workload(1, &first.build()).unwrap().redirected(12);
    assert_eq!(fixture.scratch().unwrap().protocol, protocol::UDP);
    // The later ones name the options header as theirs (RFC 8200), and are UDP's all the same.
    let mut later = Craft::new(src, dst).raw(60, vec![0; 8]);
    later.extensions = vec![fragment_header(32, false, 99)];
    fixture.from_workload(1, &later.build()).unwrap().redirected(12);
    later.extensions = vec![fragment_header(24, false, 99)];
    fixture
        .from_workload(1, &later.build())
        .unwrap()
        .dropped(DropReason::BadFragment);
    // Twice is once too often.
    first.extensions = vec![fragment_header(0, true, 99), fragment_header(0, true, 99)];
    fixture
        .from_workload(1, &first.build())
        .unwrap()
        .dropped(DropReason::Malformed);
}

#[test]
fn icmp_echo_in_fragments_but_no_errors_and_no_discovery() {
    let mut fixture = two();
    fixture.policy(INGRESS, 2, Policy::Allow).unwrap();
    for (pair, number, echo, error) in [(PAIRS[0], 1, 8, 3), (PAIRS[1], 58, 128, 1)] {
        fixture
            .from_workload(
                1,
                &fragment(
                    pair,
                    4,
                    0,
                    true,
                    number,
                    vec![echo, 0, 0, 0, 0, 9, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
                ),
            )
            .unwrap()
            .redirected(12);
        fixture
            .from_workload(1, &fragment(pair, 4, 16, false, number, vec![0; 4]))
            .unwrap()
            .redirected(12);
        assert_eq!(
            fixture.flows().unwrap().1,
            if number == 1 { 1 } else { 2 },
            "one flow for both"
        );
        fixture
            .from_workload(1, &fragment(pair, 5, 0, true, number, vec![error; 64]))
            .unwrap()
            .dropped(DropReason::BadFragment);
    }
    fixture
        .from_workload(1, &fragment(PAIRS[1], 6, 0, true, 58, vec![135; 32]))
        .unwrap()
        .dropped(DropReason::BadFragment);
}

#[test]
fn the_first_fragment_is_forgotten_after_a_minute() {
    let fixture = two();
    fixture
        .from_workload(1, &fragment(PAIRS[0], 7, 0, true, 17, udp_head(80, 34)))
        .unwrap()
        .redirected(12);
    let map = fixture.map("fragments_v4");
    let mut found = Vec::new();
    map.dump(|index, value| {
        let place = FragmentPlaceV4::read_from_bytes(value).unwrap();
        if place.key.endpoint != 0 {
            found.push((index.to_vec(), place));
        }
    })
    .unwrap();
    let (index, mut place) = found.pop().unwrap();
    place.first.seen = place.first.seen.wrapping_sub(61 * SETTINGS.hz);
    map.update(&index, place.as_bytes()).unwrap();
    fixture
        .from_workload(1, &fragment(PAIRS[0], 7, 24, false, 17, vec![1; 10]))
        .unwrap()
        .dropped(DropReason::UnknownFragment);
}

#[test]
fn the_other_versions_icmp_keeps_its_type() {
    let mut fixture = two();
    fixture.policy(INGRESS, 2, Policy::IcmpType(13)).unwrap();
    for (pair, number) in PAIRS.into_iter().zip([protocol::ICMPV6, protocol::ICMP]) {
        let mut head = vec![13, 0];
        head.resize(16, 0);
        for (offset, more, payload) in [(0, true, head), (16, false, vec![0; 8])] {
            let part = fragment(pair, 5, offset, more, number, payload);
            fixture.from_workload(1, &part).unwrap().redirected(12);
        }
    }
}

/// How many datagrams' first fragments are noted.
fn noted(fixture: &Fixture) -> usize {
    ["fragments_v4", "fragments_v6"]
        .map(|name| {
            let mut count = 0;
            let noted = |value: &[u8]| value.iter().any(|byte| *byte != 0);
            fixture
                .map(name)
                .dump(|_, value| count += usize::from(noted(value)))
                .unwrap();
            count
        })
        .into_iter()
        .sum()
}

#[test]
fn what_is_denied_is_not_noted() {
    for pair in PAIRS {
        let mut fixture = two();
        let first = fragment(pair, 7, 0, true, 17, udp_head(80, 34));
        // The other end's policy, one's own, a foreign address, a foreign MAC address.
        let other_port = fragment(pair, 7, 0, true, 17, udp_head(81, 34));
        let outcome = fixture.from_workload(1, &other_port).unwrap();
        outcome.dropped(DropReason::IngressPolicy);
        fixture.policy(EGRESS, 1, Policy::Deny).unwrap();
        let outcome = fixture.from_workload(1, &first).unwrap();
        outcome.dropped(DropReason::EgressPolicy);
        let foreign = if pair.0.contains(':') {
            "fd00:65::9"
        } else {
            "10.65.0.9"
        };
        let spoofed = fragment((foreign, pair.1), 7, 0, true, 17, udp_head(80, 34));
        let outcome = fixture.from_workload(1, &spoofed).unwrap();
        outcome.dropped(DropReason::SpoofedAddress);
        fixture.policy(EGRESS, 1, Policy::Allow).unwrap();
        let mut record = Fixture::record(1);
        record.flags |= ENDPOINT_CHECK_MAC;
        record.mac = [2, 0, 0, 0, 0, 77];
        fixture.set_endpoint(1, record).unwrap();
        let outcome = fixture.from_workload(1, &first).unwrap();
        outcome.dropped(DropReason::SpoofedMac);
        // Towards a workload as well.
        let outcome = fixture.to_workload(2, 99, &first).unwrap();
        outcome.dropped(DropReason::SpoofedAddress);
        assert_eq!(noted(&fixture), 0);
        fixture.set_endpoint(1, Fixture::record(1)).unwrap();
        fixture.from_workload(1, &first).unwrap().redirected(12);
        // A flow that is known notes each datagram.
        let second = fragment(pair, 8, 0, true, 17, udp_head(80, 34));
        fixture.from_workload(1, &second).unwrap().redirected(12);
        assert_eq!(noted(&fixture), 2);
        let later = fragment(pair, 8, 24, false, 17, vec![1; 10]);
        fixture.from_workload(1, &later).unwrap().redirected(12);
    }
}

#[test]
fn the_host_s_own_fragments_come_in_any_order() {
    for (pair, host) in [(PAIRS[0], "192.0.2.1"), (PAIRS[1], "2001:db8::1")] {
        let mut fixture = two();
        fixture.policy(INGRESS, 2, Policy::Deny).unwrap();
        let peer = Peer {
            flags: PEER_HOST,
            ..Peer::default()
        };
        fixture.peer(host, peer).unwrap();
        let later = fragment((host, pair.1), 7, 24, false, 17, vec![1; 10]);
        fixture.to_workload(2, 0, &later).unwrap().passed();
        // What it forwards is not its own, and what others send is not either.
        let outcome = fixture.to_workload(2, 3, &later).unwrap();
        outcome.dropped(DropReason::UnknownFragment);
        let outcome = fixture
            .to_workload(2, 0, &fragment(pair, 7, 24, false, 17, vec![1; 10]))
            .unwrap();
        outcome.dropped(DropReason::UnknownFragment);
        let outcome = fixture
            .to_workload(2, 0, &fragment((host, pair.0), 7, 24, false, 17, vec![1; 10]))
            .unwrap();
        assert!(outcome.code != felid_tests::bpf_fixture::NEXT, "another's address");
    }
}
