//! Checksums and segmentation that a workload leaves to the host's kernel, as a virtual machine
//! would: they must not change what policy judged. A link of a smaller MTU makes the host finish
//! every checksum itself.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;
use std::time::Duration;

use felid_lab::netns::HOST_MAC;
use felid_lab::packet::Offload;
use felid_lab::records::{Endpoint, policy};
use felid_tests::packet_craft::{Craft, SYN};
use felid_tests::seen::{Capture, Seen};
use felid_tests::{Cluster, Namespace, PacketSocket, Workload, sockets};

struct World {
    cluster: Cluster,
    client: Workload,
    outside: Namespace,
}

const OUTSIDE: [&str; 2] = ["192.0.2.7", "2001:db8:2::7"];
/// Where L4 begins in a frame.
const L4: [u16; 2] = [34, 54];

fn world(prefix: &str) -> World {
    let (mut cluster, outside) = Cluster::with_uplink(prefix, Some(1300)).unwrap();
    let client = cluster
        .host
        .workload("caliclient", &["10.65.0.2", "fd00:65::2"])
        .unwrap();
    let records = [
        Endpoint {
            labels: "app: client",
            ..Endpoint::of("client", &client)
        }
        .yaml(),
        policy(
            "default",
            "client",
            "  selector: app == 'client'\n  types: [Egress]\n  egress:\n    - {action: Allow, protocol: TCP, destination: {ports: [80]}}\n    - {action: Allow, protocol: UDP, destination: {ports: [80]}}\n",
        ),
    ];
    cluster.write("records.yaml", &records.concat()).unwrap();
    cluster.start().unwrap();
    World {
        cluster,
        client,
        outside,
    }
}

/// A frame of the client to the world outside, and its socket.
fn frame(world: &World, family: usize, build: impl FnOnce(Craft) -> Craft) -> Vec<u8> {
    let mut craft = Craft::new(
        world.client.addresses[family],
        OUTSIDE[family].parse::<IpAddr>().unwrap(),
    );
    (craft.from, craft.to) = (world.client.mac, HOST_MAC);
    build(craft).build()
}

/// Changes two bytes at `free` so that the checksum over everything from `start` on comes out as
/// `wanted`.
fn aim(frame: &mut [u8], start: usize, free: usize, wanted: u16) {
    frame[free..free + 2].fill(0);
    let mut sum: u32 = frame[start..]
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // What is stored is the complement of the sum.
    let mut missing = u32::from(!wanted) + u32::from(!(sum as u16));
    missing = (missing & 0xffff) + (missing >> 16);
    frame[free..free + 2].copy_from_slice(&(missing as u16).to_be_bytes());
}

fn attack(world: &World, socket: &PacketSocket, capture: &Capture, offload: Offload, frame: &[u8]) -> Vec<Seen> {
    let before = world.cluster.dropped("bad_offload").unwrap();
    // What the sender's own kernel refuses does not count.
    if socket.send_with_offload(offload, frame).is_err() {
        return Vec::new();
    }
    std::thread::sleep(Duration::from_millis(60));
    let mut seen = capture.look().unwrap();
    seen.retain(|seen| matches!(seen.protocol, 6 | 17));
    let dropped = world.cluster.dropped("bad_offload").unwrap() - before;
    // The sender's own kernel may have done everything that was left to be done, and then nothing
    // is wrong any more.
    assert!(dropped >= 1.0 || !seen.is_empty(), "{offload:?} was not counted");
    seen
}

#[test]
fn a_checksum_does_not_change_ports_or_addresses_after_the_verdict() {
    let world = world("lo-sum");
    sockets::serve_tcp(&world.outside, 80).unwrap();
    for to in OUTSIDE {
        let to: IpAddr = to.parse().unwrap();
        assert!(
            sockets::tcp(&world.client.namespace, to, 80).unwrap(),
            "own checksums pass: {to}"
        );
        assert!(
            !sockets::tcp(&world.client.namespace, to, 81).unwrap(),
            "policy holds: {to}"
        );
    }
    let socket = world
        .client
        .namespace
        .run(|| PacketSocket::open_with_offload("eth0"))
        .unwrap()
        .unwrap();
    let capture = Capture::of(&world.outside).unwrap();
    for (family, l4) in L4.into_iter().enumerate() {
        let l4 = usize::from(l4);
        // Longer than the uplink's MTU (IPv4: the host cuts it up and finishes the checksum first),
        // and short.
        for length in [1350, 100] {
            let mut udp = frame(&world, family, |craft| craft.udp(5000, 80, &vec![0; length]));
            // The destination port, the source port, the length; and the last half of the
            // destination address.
            for (start, offset, wanted) in [
                (l4, 2, 4242),
                (l4, 2, 4789),
                (l4, 0, 53),
                (l4 - 2, 0, 9),
                (l4 + 8, 40, 1),
            ] {
                aim(&mut udp, start, l4 + 20, wanted);
                let checksum = Some((start as u16, offset));
                for seen in attack(
                    &world,
                    &socket,
                    &capture,
                    Offload {
                        checksum,
                        ..Offload::default()
                    },
                    &udp,
                ) {
                    assert!(seen.later || seen.ports.1 == 80, "judged as port 80, left as {seen:?}");
                }
            }
        }
        let mut syn = frame(&world, family, |craft| craft.tcp(5001, 80, SYN));
        syn.extend([0; 40]);
        let end = syn.len();
        syn[16..18].copy_from_slice(&u16::try_from(end - 14).unwrap().to_be_bytes());
        for (start, offset) in [(l4, 2), (l4 - 4, 2), (l4, 4), (l4 + 20, 2)] {
            let checksum = Some((start as u16, offset));
            let seen = attack(
                &world,
                &socket,
                &capture,
                Offload {
                    checksum,
                    ..Offload::default()
                },
                &syn,
            );
            assert!(seen.iter().all(|seen| seen.ports.1 == 80), "{seen:?}");
        }
    }
}

#[test]
fn segmentation_of_another_kind_goes_nowhere() {
    let world = world("lo-gso");
    let socket = world
        .client
        .namespace
        .run(|| PacketSocket::open_with_offload("eth0"))
        .unwrap()
        .unwrap();
    let capture = Capture::of(&world.outside).unwrap();
    // The kernel of the sender may refuse some of these at the socket; the others are felid's to
    // drop. Either way nothing comes out with another port.
    const TCP_V4: u8 = 1;
    const UDP: u8 = 3;
    const TCP_V6: u8 = 4;
    const UDP_L4: u8 = 5;
    for (family, l4) in L4.into_iter().enumerate() {
        let udp = frame(&world, family, |craft| craft.udp(5000, 80, &vec![7; 1200]));
        let headers = l4 + 20;
        for (kind, offset) in [(TCP_V4, 16), (TCP_V6, 16), (UDP_L4, 6), (UDP, 6)] {
            // As its own where the kinds agree; every other kind over UDP; checksums of every kind
            // elsewhere; and none that is left to others.
            for start in [Some(l4), Some(l4 + 8), Some(l4 - 8), None] {
                let own = matches!(kind, UDP | UDP_L4);
                if own && start == Some(l4) {
                    continue;
                }
                let offload = Offload {
                    checksum: start.map(|start| (start, offset)),
                    segments: Some((kind, 400)),
                    headers,
                };
                let seen = attack(&world, &socket, &capture, offload, &udp);
                assert!(seen.iter().all(|seen| seen.ports.1 == 80 || seen.later), "{seen:?}");
            }
        }
    }
}

#[test]
fn a_priority_tag_is_no_network() {
    let world = world("lo-tag");
    let socket = world.client.namespace.packets("eth0").unwrap();
    let capture = Capture::of(&world.outside).unwrap();
    for family in 0..2 {
        for (tag, passes) in [
            ([0x81, 0, 0, 0], true),
            ([0x81, 0, 0xa0, 0], true),
            ([0x81, 0, 0, 7], false),
        ] {
            for port in [80, 81] {
                let plain = frame(&world, family, |craft| craft.udp(6000, port, b"tagged"));
                let tagged = [&plain[..12], &tag, &plain[12..]].concat();
                socket.send(&tagged).unwrap();
                std::thread::sleep(Duration::from_millis(60));
                let seen = capture.look().unwrap();
                let there = seen.iter().any(|seen| seen.ports == (6000, port));
                assert_eq!(there, passes && port == 80, "tag {tag:?}, port {port}: {seen:?}");
            }
        }
    }
}
