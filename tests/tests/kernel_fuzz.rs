//! Random damage to packets: whatever the programs let through or show to a policy is what an
//! independent parser reads, too.
//!
//! The independent parser is etherparse for the headers, and a few lines here for what felid adds
//! (fragments, lengths). It need not refuse all that felid refuses: only what felid accepts is
//! compared.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use felid_common::{DropReason, EGRESS, INGRESS, Scratch};
use felid_tests::bpf_fixture::{DROP, Fixture, NEXT, REDIRECT, words};
use felid_tests::packet_craft::{ACK, Craft, SYN, arp, fragment_header};
use zerocopy::IntoBytes as _;

/// SplitMix64: the run is the same each time, and its seed is printed when it fails.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

const A: [&str; 2] = ["10.65.0.2", "fd00:65::2"];
const B: [&str; 2] = ["10.65.0.3", "fd00:65::3"];

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (a, b) in A.into_iter().zip(B) {
        let craft = || Craft::new(a.parse::<IpAddr>().unwrap(), b.parse::<IpAddr>().unwrap());
        seeds.push(craft().tcp(40000, 80, SYN).build());
        seeds.push(craft().tcp(40000, 80, ACK).build());
        seeds.push(craft().udp(40000, 53, b"some bytes of data").build());
        seeds.push(craft().sctp(40000, 80).build());
        seeds.push(craft().echo(7, false).build());
        let inner = craft().udp(1, 2, b"abcdefgh").ip();
        seeds.push(
            craft()
                .icmp(if a.contains(':') { 1 } else { 3 }, 1, [0; 4], &inner)
                .build(),
        );
        seeds.push(craft().raw(47, vec![0; 30]).build());
    }
    let (a, b): (IpAddr, IpAddr) = (A[1].parse().unwrap(), B[1].parse().unwrap());
    let mut chained = Craft::new(a, b).udp(40000, 53, b"data");
    chained.extensions = vec![
        (0, vec![0, 0, 1, 4, 0, 0, 0, 0]),
        (60, vec![0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (43, vec![0, 0, 4, 0, 0, 0, 0, 0]),
        fragment_header(0, false, 5),
    ];
    seeds.push(chained.build());
    chained.extensions[3] = fragment_header(0, true, 5);
    chained.payload.extend([0; 4]);
    seeds.push(chained.build());
    let (a, b): (IpAddr, IpAddr) = (A[0].parse().unwrap(), B[0].parse().unwrap());
    let mut optioned = Craft::new(a, b).tcp(40000, 80, SYN);
    optioned.options = vec![7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0];
    seeds.push(optioned.build());
    optioned.fragment = (9, 0x2000);
    optioned.payload.extend([0; 4]);
    seeds.push(optioned.build());
    seeds.push(arp(
        1,
        [2, 0, 0, 0, 0, 1],
        "10.65.0.2".parse().unwrap(),
        [0; 6],
        "169.254.1.1".parse().unwrap(),
    ));
    seeds
}

fn damage(random: &mut Random, packet: &mut Vec<u8>) {
    for _ in 0..1 + random.below(3) {
        if packet.len() <= 14 {
            return;
        }
        match random.below(6) {
            // Bits and bytes, in the headers more than elsewhere.
            0 | 1 => {
                let at = random.below(packet.len().min(80));
                packet[at] ^= 1 << random.below(8);
            }
            2 => {
                let at = 12 + random.below(packet.len().min(90) - 12);
                packet[at] = [0, 1, 4, 6, 17, 43, 44, 58, 60, 0x45, 0x46, 0x4f, 0x60, 0xff][random.below(14)];
            }
            // Cut off, and with the length in the header put right.
            3 => packet.truncate(14 + random.below(packet.len() - 13)),
            4 => {
                packet.truncate(14 + random.below(packet.len() - 13));
                if packet.len() >= 20 {
                    let v4 = packet[12] == 8;
                    let length = (packet.len() - if v4 { 14 } else { packet.len().min(54) }) as u16;
                    let at = if v4 { 16 } else { 18 };
                    packet[at..at + 2].copy_from_slice(&length.to_be_bytes());
                }
            }
            _ => packet.extend(std::iter::repeat_n(random.next() as u8, random.below(20))),
        }
    }
}

/// Source, destination, protocol, source port, destination port, version.
type Tuple = ([u32; 4], [u32; 4], u8, u16, u16, u8);

/// The tuple as etherparse reads it.
fn independent(packet: &[u8]) -> Option<Tuple> {
    let sliced = SlicedPacket::from_ethernet(packet).ok()?;
    let (src, dst, version): (IpAddr, IpAddr, u8) = match sliced.net? {
        NetSlice::Ipv4(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
            4,
        ),
        NetSlice::Ipv6(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
            6,
        ),
        _ => return None,
    };
    let (protocol, src_port, dst_port) = match sliced.transport? {
        TransportSlice::Tcp(tcp) => (6, tcp.source_port(), tcp.destination_port()),
        TransportSlice::Udp(udp) => (17, udp.source_port(), udp.destination_port()),
        TransportSlice::Icmpv4(_) => (1, 0, 0),
        TransportSlice::Icmpv6(_) => (58, 0, 0),
        TransportSlice::Igmp(_) => (2, 0, 0),
    };
    Some((words(src), words(dst), protocol, src_port, dst_port, version))
}

/// Whether the packet claims to be a part of a datagram, by its own reading of the two headers.
fn may_be_fragment(packet: &[u8]) -> bool {
    match packet.get(12..14) {
        Some([8, 0]) => packet.len() < 34 || u16::from_be_bytes([packet[20], packet[21]]) & 0x3fff != 0,
        // A fragment header could stand anywhere in the chain.
        Some([0x86, 0xdd]) => packet.get(20..).is_none_or(|rest| rest.contains(&44)),
        _ => false,
    }
}

#[test]
fn what_passes_was_read_right() {
    let mut fixture = Fixture::new().unwrap();
    fixture.endpoint(1, &A).unwrap();
    fixture.endpoint(2, &B).unwrap();
    let seed = std::env::var("FELID_FUZZ_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let rounds = std::env::var("FELID_FUZZ_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20_000);
    let (mut random, seeds) = (Random(seed), seeds());
    let (mut passed, mut compared) = (0, 0);
    let cpus = fixture.map("scratch").value_size() / size_of::<Scratch>();
    let nothing = vec![
        Scratch {
            protocol: 0xfe,
            ..Scratch::default()
        };
        cpus
    ];
    for round in 0..rounds {
        let mut packet = seeds[random.below(seeds.len())].clone();
        if round % 50 != 0 {
            damage(&mut random, &mut packet);
        }
        let hook = random.below(2);
        fixture
            .map("scratch")
            .update(&0_u32.to_ne_bytes(), nothing.as_bytes())
            .unwrap();
        let judged = fixture.counter(EGRESS, 1).unwrap() + fixture.counter(INGRESS, 2).unwrap();
        let outcome = if hook == 0 {
            fixture.from_workload(1, &packet)
        } else {
            fixture.to_workload(2, 11, &packet)
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            // The kernel does not make test packets that are shorter than their IP header.
            Err(_) if packet.len() < 54 => continue,
            Err(error) => panic!("{error:#} (round {round}, {} bytes)", packet.len()),
        };
        let context = || format!("seed {seed}, round {round}, hook {hook}, packet {packet:02x?}, outcome {outcome:?}");
        assert!([DROP, NEXT, REDIRECT].contains(&outcome.code), "{}", context());
        if outcome.code == DROP {
            assert!((outcome.reason as usize) < DropReason::ALL.len(), "{}", context());
            assert_ne!(outcome.reason, DropReason::Internal as u32, "{}", context());
            continue;
        }
        passed += 1;
        // So that the next packet is judged, too.
        for table in ["established_v4", "established_v6", "half_open_v4", "half_open_v6"] {
            let mut keys = Vec::new();
            fixture.map(table).dump(|key, _| keys.push(key.to_vec())).unwrap();
            for key in keys {
                fixture.map(table).delete(&key).unwrap();
            }
        }
        let scratch = fixture.scratch().unwrap();
        // Neighbours and errors are not judged; hits on established flows leave no tuple.
        let was_judged = fixture.counter(EGRESS, 1).unwrap() + fixture.counter(INGRESS, 2).unwrap() != judged;
        if outcome.code == REDIRECT && packet[12..14] != [8, 6] {
            // The source is the workload's own, whatever else the packet says.
            let source: &[u8] = if packet[12] == 8 {
                &packet[26..30]
            } else {
                &packet[22..38]
            };
            let own: IpAddr = A[usize::from(packet[12] != 8)].parse().unwrap();
            match own {
                IpAddr::V4(own) => assert_eq!(source, own.octets(), "{}", context()),
                IpAddr::V6(own) => assert_eq!(source, own.octets(), "{}", context()),
            }
        }
        if !was_judged || may_be_fragment(&packet) {
            continue;
        }
        if let Some(read) = independent(&packet) {
            let seen = (
                scratch.src,
                scratch.dst,
                scratch.protocol,
                scratch.src_port,
                scratch.dst_port,
                scratch.ip_version,
            );
            assert_eq!(seen, read, "{}", context());
            compared += 1;
        }
    }
    println!("{rounds} packets, {passed} passed, {compared} compared");
    assert!(
        passed > rounds / 20 && compared > rounds / 50,
        "{passed} passed, {compared} compared: the damage is too great to mean anything"
    );
}
