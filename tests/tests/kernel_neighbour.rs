//! ARP and neighbour discovery in the kernel programs: answers for the gateways, and what a
//! workload may not say.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use felid_common::{DropReason, ENDPOINT_CHECK_MAC, Event, PEER_HOST, Peer};
use felid_tests::bpf_fixture::{Fixture, words};
use felid_tests::packet_craft::{Craft, arp, checksum};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST_MAC: [u8; 6] = [0xee, 0xee, 0xee, 0xee, 0xee, 1];
const OWN: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const OWN6: &str = "fd00:65::2";
const GATEWAY6: &str = "fe80::1";

fn one() -> Fixture {
    let mut fixture = Fixture::new().unwrap();
    fixture.endpoint(1, &["10.65.0.2", OWN6]).unwrap();
    fixture.endpoint(2, &["10.65.0.3", "fd00:65::3"]).unwrap();
    let mut record = Fixture::record(1);
    record.gateway_v4 = u32::from_ne_bytes(GATEWAY.octets());
    record.gateway_v6 = words(GATEWAY6.parse().unwrap());
    fixture.set_endpoint(1, record).unwrap();
    fixture
}

#[test]
fn the_gateway_answers_arp() {
    let fixture = one();
    for sender in [OWN, Ipv4Addr::UNSPECIFIED] {
        let outcome = fixture.from_workload(1, &arp(1, MAC, sender, [0; 6], GATEWAY)).unwrap();
        outcome.redirected(11);
        let mut wanted = arp(2, HOST_MAC, GATEWAY, MAC, sender);
        wanted[..6].copy_from_slice(&MAC);
        assert_eq!(outcome.packet, wanted);
        // The answer passes the interface's other hook.
        fixture.to_workload(1, 11, &outcome.packet).unwrap().passed();
    }
    assert_eq!(fixture.events(Event::ArpAnswered).unwrap(), 2);
    // Others are the host's to answer.
    fixture
        .from_workload(1, &arp(1, MAC, OWN, [0; 6], Ipv4Addr::new(10, 65, 0, 3)))
        .unwrap()
        .passed();
    fixture
        .from_workload(1, &arp(2, MAC, OWN, HOST_MAC, GATEWAY))
        .unwrap()
        .passed();
    fixture
        .from_workload(1, &arp(1, MAC, OWN, [0; 6], OWN))
        .unwrap()
        .passed();
    fixture
        .to_workload(1, 0, &arp(1, HOST_MAC, Ipv4Addr::new(192, 0, 2, 1), [0; 6], OWN))
        .unwrap()
        .passed();
    // Without a gateway there is no answer.
    fixture
        .from_workload(
            2,
            &arp(1, [2, 0, 0, 0, 0, 2], Ipv4Addr::new(10, 65, 0, 3), [0; 6], GATEWAY),
        )
        .unwrap()
        .passed();
}

#[test]
fn arp_for_others_addresses() {
    let mut fixture = one();
    for sender in [Ipv4Addr::new(10, 65, 0, 3), GATEWAY, Ipv4Addr::new(192, 0, 2, 1)] {
        for operation in [1, 2] {
            fixture
                .from_workload(1, &arp(operation, MAC, sender, [0; 6], GATEWAY))
                .unwrap()
                .dropped(DropReason::SpoofedArp);
        }
    }
    // The MAC inside is not that of the frame.
    let mut packet = arp(1, MAC, OWN, [0; 6], GATEWAY);
    packet[22] = 6;
    fixture
        .from_workload(1, &packet)
        .unwrap()
        .dropped(DropReason::SpoofedArp);
    // Not Ethernet and IPv4, no known operation, too short.
    for (at, value) in [(15, 6), (16, 9), (18, 8), (19, 16), (21, 3)] {
        let mut packet = arp(1, MAC, OWN, [0; 6], GATEWAY);
        packet[at] = value;
        fixture
            .from_workload(1, &packet)
            .unwrap()
            .dropped(DropReason::Malformed);
    }
    fixture
        .from_workload(1, &arp(1, MAC, OWN, [0; 6], GATEWAY)[..41])
        .unwrap()
        .dropped(DropReason::Malformed);
    let mut record = Fixture::record(1);
    record.flags |= ENDPOINT_CHECK_MAC;
    fixture.set_endpoint(1, record).unwrap();
    fixture
        .from_workload(1, &arp(1, [2, 9, 9, 9, 9, 9], OWN, [0; 6], GATEWAY))
        .unwrap()
        .dropped(DropReason::SpoofedMac);
}

fn nd(src: &str, dst: &str, kind: u8, target: &str, hops: u8) -> Craft {
    let target: Ipv6Addr = target.parse().unwrap();
    let mut data = target.octets().to_vec();
    data.extend([1, 1]);
    data.extend(MAC);
    Craft::new(src.parse::<IpAddr>().unwrap(), dst.parse::<IpAddr>().unwrap())
        .hops(hops)
        .icmp(kind, 0, [0; 4], &data)
}

/// A correct neighbour advertisement: checks everything in it.
fn check_advertisement(packet: &[u8], to_mac: [u8; 6], to: &str, flags: u8) {
    assert_eq!(packet.len(), 86);
    assert_eq!(packet[..6], to_mac);
    assert_eq!(packet[6..12], HOST_MAC);
    assert_eq!(packet[12..22], [0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
    let gateway = GATEWAY6.parse::<Ipv6Addr>().unwrap().octets();
    assert_eq!(packet[22..38], gateway);
    assert_eq!(packet[38..54], to.parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!(packet[54..56], [136, 0]);
    assert_eq!(packet[58..62], [flags, 0, 0, 0]);
    assert_eq!(packet[62..78], gateway);
    assert_eq!(packet[78..80], [2, 1]);
    assert_eq!(packet[80..86], HOST_MAC);
    let mut sum = packet[22..54].to_vec();
    sum.extend([0, 0, 0, 32, 0, 0, 0, 58]);
    sum.extend(&packet[54..]);
    assert_eq!(checksum(&sum), 0, "ICMPv6 checksum");
}

#[test]
fn the_gateway_answers_solicitations() {
    let fixture = one();
    for (src, dst) in [
        (OWN6, "ff02::1:ff00:1"),
        (OWN6, GATEWAY6),
        ("fe80::5", "ff02::1:ff00:1"),
    ] {
        let outcome = fixture
            .from_workload(1, &nd(src, dst, 135, GATEWAY6, 255).build())
            .unwrap();
        outcome.redirected(11);
        check_advertisement(&outcome.packet, MAC, src, 0xe0);
        fixture.to_workload(1, 11, &outcome.packet).unwrap().passed();
        // Nobody else may send it there.
        fixture
            .to_workload(1, 12, &outcome.packet)
            .unwrap()
            .dropped(DropReason::SpoofedNeighbour);
    }
    // Duplicate address detection for the gateway's own address, without an option: shorter than
    // the answer.
    let mut probe = nd("::", "ff02::1:ff00:1", 135, GATEWAY6, 255);
    probe.payload.truncate(24);
    let outcome = fixture.from_workload(1, &probe.build()).unwrap();
    outcome.redirected(11);
    check_advertisement(&outcome.packet, [0x33, 0x33, 0, 0, 0, 1], "ff02::1", 0xa0);
    assert_eq!(fixture.events(Event::NeighbourAnswered).unwrap(), 4);
}

#[test]
fn a_global_gateway_is_answered_to_its_own_address_too() {
    let mut fixture = one();
    let mut record = Fixture::record(1);
    record.gateway_v6 = words("fd00:65::1".parse().unwrap());
    fixture.set_endpoint(1, record).unwrap();
    for dst in ["ff02::1:ff00:1", "fd00:65::1"] {
        fixture
            .from_workload(1, &nd(OWN6, dst, 135, "fd00:65::1", 255).build())
            .unwrap()
            .redirected(11);
    }
}

#[test]
fn discovery_that_is_allowed() {
    let mut fixture = one();
    fixture
        .peer(
            "2001:db8::1",
            Peer {
                flags: PEER_HOST,
                ..Peer::default()
            },
        )
        .unwrap();
    for packet in [
        // Duplicate address detection for its own addresses.
        nd("::", "ff02::1:ff00:2", 135, OWN6, 255),
        nd("::", "ff02::1:ff00:5", 135, "fe80::5", 255),
        // Looking for the host, answering it.
        nd(OWN6, "ff02::1:ff00:9", 135, "fe80::9", 255),
        nd("fe80::5", "fe80::9", 135, "fe80::9", 255),
        nd(OWN6, "2001:db8::1", 136, OWN6, 255),
        nd("fe80::5", "ff02::1", 136, OWN6, 255),
        nd("fe80::5", "ff02::1", 136, "fe80::5", 255),
        nd("::", "ff02::2", 133, "::", 255),
        nd("fe80::5", "ff02::2", 133, "::", 255),
        // Multicast listener discovery, both versions.
        nd("::", "ff02::16", 143, "ff02::1:ff00:2", 1),
        nd("fe80::5", "ff02::fb", 131, "ff02::fb", 1),
    ] {
        fixture.from_workload(1, &packet.build()).unwrap().passed();
    }
    let mut report = nd("fe80::5", "ff02::16", 143, "ff02::fb", 1);
    report.extensions = vec![(0, vec![0, 0, 5, 2, 0, 0, 1, 0])];
    fixture.from_workload(1, &report.build()).unwrap().passed();
    assert_eq!(fixture.flows().unwrap(), (0, 0), "no conntrack for any of it");
    // The host's.
    for packet in [
        nd("fe80::9", "ff02::1:ff00:2", 135, OWN6, 255),
        nd("fe80::9", OWN6, 136, "fe80::9", 255),
        nd("fe80::9", "ff02::1", 134, "::", 255),
        nd("fe80::9", "ff02::1", 130, "::", 1),
    ] {
        fixture.to_workload(1, 0, &packet.build()).unwrap().passed();
        fixture
            .to_workload(1, 12, &packet.build())
            .unwrap()
            .dropped(DropReason::SpoofedNeighbour);
    }
}

#[test]
fn discovery_that_is_not() {
    let fixture = one();
    for packet in [
        // Router advertisements and redirects.
        nd("fe80::5", "ff02::1", 134, "::", 255),
        nd("fe80::5", "fe80::9", 137, OWN6, 255),
        // From afar.
        nd(OWN6, "ff02::1:ff00:1", 135, GATEWAY6, 254),
        nd("fe80::5", "ff02::2", 133, "::", 64),
        nd(OWN6, "ff02::16", 143, "ff02::fb", 255),
        // In another's name.
        nd("fd00:65::3", "ff02::1:ff00:1", 135, GATEWAY6, 255),
        nd("fd00:65::3", "fe80::9", 136, "fd00:65::3", 255),
        nd(OWN6, "fe80::9", 136, "fd00:65::3", 255),
        nd("fe80::5", "fe80::9", 136, "fd00:65::9", 255),
        nd("fd00:65::3", "ff02::16", 143, "ff02::fb", 1),
        nd("fd00:65::3", "ff02::2", 133, "::", 255),
        nd("::", "fe80::9", 136, "fe80::5", 255),
        // Detecting duplicates of what it will not use; anywhere but to the group.
        nd("::", "ff02::1:ff00:3", 135, "fd00:65::3", 255),
        nd("::", "fe80::9", 135, OWN6, 255),
        // Leaving the link: it would pass no policy.
        nd(OWN6, "fd00:65::3", 135, "fd00:65::3", 255),
        nd(OWN6, "fd00:65::3", 136, OWN6, 255),
        nd("fe80::5", "fd00:65::3", 133, "::", 255),
        nd(OWN6, "fd00:65::3", 143, "ff02::fb", 1),
        // A group cannot be looked for.
        nd(OWN6, "ff02::1:ff00:1", 135, "ff02::1", 255),
    ] {
        fixture
            .from_workload(1, &packet.build())
            .unwrap()
            .dropped(DropReason::SpoofedNeighbour);
    }
    let mut short = nd(OWN6, "ff02::1:ff00:1", 135, GATEWAY6, 255);
    short.payload.truncate(23);
    fixture
        .from_workload(1, &short.build())
        .unwrap()
        .dropped(DropReason::Malformed);
}

#[test]
fn the_host_learns_a_few_link_local_addresses_and_no_more() {
    let fixture = one();
    let solicit = |n: u32| nd(&format!("fe80::9:{n:x}"), "ff02::1:ff00:9", 135, "fe80::9", 255).build();
    let places = u32::try_from(felid_common::LEARNED_LINK_LOCAL).unwrap();
    for n in 1..=places {
        fixture.from_workload(1, &solicit(n)).unwrap().passed();
    }
    for n in places + 1..500 {
        fixture
            .from_workload(1, &solicit(n))
            .unwrap()
            .dropped(DropReason::SpoofedNeighbour);
    }
    // Those that have their places keep them, and the one of the MAC address needs none.
    fixture.from_workload(1, &solicit(1)).unwrap().passed();
    fixture
        .from_workload(1, &nd("fe80::ff:fe00:1", "ff02::1:ff00:9", 135, "fe80::9", 255).build())
        .unwrap()
        .passed();
    // Every kind of message that makes the host keep something.
    for packet in [
        nd("fe80::9:1f4", "ff02::2", 133, "::", 255),
        nd("fe80::9:1f4", "ff02::1", 136, OWN6, 255),
        nd("fe80::9:1", "ff02::1", 136, "fe80::9:1f4", 255),
        nd("fe80::9:1f4", "ff02::16", 143, "ff02::fb", 1),
        nd("fe80::9:1f4", "ff02::1:ff00:1", 135, GATEWAY6, 255),
        // Not of the one prefix that link-local addresses have.
        nd("fe80:0:0:1::9", "ff02::1:ff00:9", 135, "fe80::9", 255),
        nd("febf::9", "ff02::1:ff00:9", 135, "fe80::9", 255),
    ] {
        fixture
            .from_workload(1, &packet.build())
            .unwrap()
            .dropped(DropReason::SpoofedNeighbour);
    }
    // Another endpoint has places of its own, and so has the next one that gets this one's index.
    fixture
        .from_workload(2, &nd("fe80::9:1f4", "ff02::1:ff00:9", 135, "fe80::9", 255).build())
        .unwrap()
        .passed();
    let learned = fixture.map("learned").lookup(&1_u32.to_ne_bytes()).unwrap().unwrap();
    assert_eq!(learned[..4], 101_u32.to_ne_bytes());
    // A place is free again when its address was silent for long.
    let mut old = learned.clone();
    old[20..24].copy_from_slice(&1_u32.to_ne_bytes());
    fixture.map("learned").update(&1_u32.to_ne_bytes(), &old).unwrap();
    fixture.from_workload(1, &solicit(400)).unwrap().passed();
    fixture
        .from_workload(1, &solicit(401))
        .unwrap()
        .dropped(DropReason::SpoofedNeighbour);
    fixture
        .from_workload(1, &solicit(1))
        .unwrap()
        .dropped(DropReason::SpoofedNeighbour);
    let mut other = learned;
    other[..4].copy_from_slice(&7_u32.to_ne_bytes());
    fixture.map("learned").update(&1_u32.to_ne_bytes(), &other).unwrap();
    fixture.from_workload(1, &solicit(402)).unwrap().passed();
}

fn dhcp(src: &str, dst: &str) -> Craft {
    let v4 = src.contains('.');
    let (client, server) = if v4 { (68, 67) } else { (546, 547) };
    Craft::new(src.parse::<IpAddr>().unwrap(), dst.parse::<IpAddr>().unwrap()).udp(client, server, &[1; 240])
}

#[test]
fn virtual_machines_ask_the_host_for_an_address() {
    let mut fixture = one();
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
        .policy(felid_common::EGRESS, 1, felid_tests::bpf_fixture::Policy::Deny)
        .unwrap();
    let discover = dhcp("0.0.0.0", "255.255.255.255");
    let solicit = dhcp("fe80::ff:fe00:1", "ff02::1:2");
    // Pods have no business with it.
    fixture
        .from_workload(1, &discover.build())
        .unwrap()
        .dropped(DropReason::Martian);
    fixture
        .from_workload(1, &solicit.build())
        .unwrap()
        .dropped(DropReason::SpoofedAddress);
    let mut record = Fixture::record(1);
    record.flags |= felid_common::ENDPOINT_DHCP | ENDPOINT_CHECK_MAC;
    fixture.set_endpoint(1, record).unwrap();
    for message in [
        &discover,
        &solicit,
        // It has an address and asks again: everybody, or the server that it knows.
        &dhcp("10.65.0.2", "255.255.255.255"),
        &dhcp("10.65.0.2", "192.0.2.1"),
        &dhcp(OWN6, "ff02::1:2"),
        &dhcp("fe80::77", "ff02::1:2"),
    ] {
        fixture.from_workload(1, &message.build()).unwrap().passed();
    }
    assert_eq!(fixture.events(Event::DhcpPassed).unwrap(), 6);
    assert_eq!(fixture.flows().unwrap(), (0, 0));
    for (message, reason) in [
        (dhcp("10.65.0.3", "255.255.255.255"), DropReason::SpoofedAddress),
        (dhcp("fd00:65::3", "ff02::1:2"), DropReason::SpoofedAddress),
        // Beyond the host it is policy's business.
        (dhcp("0.0.0.0", "192.0.2.1"), DropReason::Martian),
        (dhcp("0.0.0.0", "10.65.0.3"), DropReason::Martian),
        (dhcp("10.65.0.2", "10.65.0.3"), DropReason::EgressPolicy),
        (dhcp(OWN6, "fd00:65::3"), DropReason::EgressPolicy),
        (discover.clone().mac([2, 9, 9, 9, 9, 9]), DropReason::SpoofedMac),
        // Ports of the other side, and other ports.
        (
            Craft::new([0, 0, 0, 0], [255; 4]).udp(67, 68, &[1; 240]),
            DropReason::Martian,
        ),
        (
            Craft::new([0, 0, 0, 0], [255; 4]).udp(68, 69, &[1; 240]),
            DropReason::Martian,
        ),
    ] {
        fixture.from_workload(1, &message.build()).unwrap().dropped(reason);
    }
}
