//! Random packets through the translation and back: nothing is left of it, and every checksum is
//! right on the way.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use felid_common::protocol;
use felid_compile::testing::Rng;
use felid_tests::bpf_fixture::Fixture;
use felid_tests::packet_craft::{Craft, fragment_header};
use felid_tests::sums;

/// Packets of each run; more with `FELID_PACKETS`.
const PACKETS: u32 = 4_000;

#[derive(Clone, Copy)]
struct Ends {
    outside: IpAddr,
    external: IpAddr,
    server: IpAddr,
}

fn ends(v6: bool, rng: &mut Rng) -> Ends {
    let (outside, external, server) = if v6 {
        ("2001:db8:7::7", "2001:db8:5::5", "fd00:65::3")
    } else {
        ("198.51.100.7", "203.0.113.5", "10.65.0.3")
    };
    let mut outside: IpAddr = outside.parse().unwrap();
    match &mut outside {
        IpAddr::V4(address) => *address = ((u32::from(*address) & 0xffff_ff00) | rng.between(1, 254) as u32).into(),
        IpAddr::V6(address) => *address = ((u128::from(*address) & !0xffff) | rng.between(1, 0xfffe) as u128).into(),
    }
    Ends {
        outside,
        external: external.parse().unwrap(),
        server: server.parse().unwrap(),
    }
}

fn bytes(rng: &mut Rng, most: usize) -> Vec<u8> {
    let length = rng.below(most);
    (0..length).map(|_| rng.bits() as u8).collect()
}

/// L4 of a random kind, in either direction of one flow.
#[derive(Clone, Debug)]
struct Body {
    kind: usize,
    ports: (u16, u16),
    flags: u8,
    data: Vec<u8>,
}

impl Body {
    fn random(rng: &mut Rng) -> Self {
        Self {
            kind: rng.below(8),
            // Beyond the port of VXLAN, which workloads may not send.
            ports: (rng.between(5_000, 59_999) as u16, rng.between(5_000, 59_999) as u16),
            flags: [2, 18, 16, 17, 24, 4, 20][rng.below(7)],
            data: bytes(rng, 200),
        }
    }

    fn on(&self, craft: Craft, reply: bool) -> Craft {
        let (src, dst) = if reply {
            (self.ports.1, self.ports.0)
        } else {
            self.ports
        };
        match self.kind {
            0 | 1 => craft.tcp(src, dst, self.flags),
            2 => craft.udp(src, dst, &self.data),
            3 => {
                let mut craft = craft.udp(src, dst, &self.data);
                craft.payload[6..8].copy_from_slice(&[0, 0]);
                craft
            }
            4 => craft.sctp(src, dst),
            5 => {
                // Another protocol number in the pseudo-header: the difference goes into the data.
                let mut craft = craft.udp(src, dst, &self.data);
                craft.protocol = protocol::UDPLITE;
                let sum = u16::from_be_bytes([craft.payload[6], craft.payload[7]]);
                let new = !felid_tests::packet_craft::checksum(
                    &[
                        (!sum).to_be_bytes(),
                        u16::from(protocol::UDPLITE).to_be_bytes(),
                        (!17_u16).to_be_bytes(),
                    ]
                    .concat(),
                );
                // UDP-Lite has no packets without a checksum: one that comes to zero is sent as
                // all ones (RFC 3828, 3.1).
                let sum = if new == 0xffff { new } else { !new };
                craft.payload[6..8].copy_from_slice(&sum.to_be_bytes());
                craft
            }
            6 => craft.echo(self.ports.0, reply),
            _ => craft.raw(200, self.data.clone()),
        }
    }
}

/// What stands around L4.
#[derive(Clone, Debug, Default)]
struct Shape {
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    /// First fragment, then a later one.
    cut: Option<(usize, u16)>,
    hops: u8,
}

impl Shape {
    fn random(v6: bool, rng: &mut Rng) -> Self {
        let mut shape = Shape {
            hops: rng.between(1, 255) as u8,
            ..Shape::default()
        };
        if v6 {
            for _ in 0..rng.below(4) {
                let units = rng.between(1, 3);
                let mut header = vec![0; units * 8];
                header[1] = units as u8 - 1;
                shape.extensions.push((60, header));
            }
            if rng.percent(25) {
                shape.extensions.insert(0, (0, vec![0, 0, 1, 4, 0, 0, 0, 0]));
            }
        } else {
            shape.options = vec![1; rng.below(11) * 4];
        }
        if rng.percent(25) {
            shape.cut = Some((rng.between(3, 5) * 8, rng.bits() as u16));
        }
        shape
    }

    /// The packet, or its parts.
    fn on(&self, mut craft: Craft) -> Vec<Craft> {
        craft.options.clone_from(&self.options);
        craft.extensions.clone_from(&self.extensions);
        craft.hops = self.hops;
        let Some((at, identification)) = self.cut.filter(|(at, _)| *at < craft.payload.len()) else {
            return vec![craft];
        };
        let (mut first, mut later) = (craft.clone(), craft);
        first.payload.truncate(at);
        later.payload.drain(..at);
        // What follows the fragment header is part of the datagram: it stands last.
        for (part, offset, more) in [(&mut first, 0, true), (&mut later, at as u16, false)] {
            if part.src.is_ipv4() {
                part.fragment = (identification, (offset / 8) | (u16::from(more) << 13));
            } else {
                part.extensions
                    .push(fragment_header(offset, more, u32::from(identification)));
            }
        }
        vec![first, later]
    }
}

/// Equal but for the two zeros of one's complement in checksums.
#[track_caller]
fn same(got: &[u8], expected: &Craft, what: &dyn std::fmt::Debug) {
    let expected = expected.build();
    assert_eq!(got.len(), expected.len());
    for (at, (got, expected)) in got.chunks(2).zip(expected.chunks(2)).enumerate().skip(7) {
        let zeros = [[0, 0], [0xff, 0xff]];
        let zero = |pair: &[u8]| zeros.iter().any(|zero| pair == zero);
        assert!(
            got == expected || (zero(got) && zero(expected)),
            "{what:?}: at byte {}: {got:?}, not {expected:?}",
            at * 2
        );
    }
}

#[track_caller]
fn sound(frame: &[u8], what: &dyn std::fmt::Debug) {
    assert_eq!(sums::faults(frame), Vec::<String>::new(), "{what:?}");
}

#[test]
fn translating_there_and_back_is_the_identity() {
    let packets = std::env::var("FELID_PACKETS")
        .ok()
        .map_or(PACKETS, |count| count.parse().unwrap());
    let seed = std::env::var("FELID_SEED")
        .ok()
        .map_or_else(|| std::process::id().into(), |seed| seed.parse().unwrap());
    println!("FELID_SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut fixture = Fixture::with_sizes(&[("half_open_v4", 65_536), ("half_open_v6", 65_536)]).unwrap();
    fixture.endpoint(2, &["10.65.0.3", "fd00:65::3"]).unwrap();
    fixture.nat(2, 1, "203.0.113.5", "10.65.0.3").unwrap();
    fixture.nat(2, 2, "2001:db8:5::5", "fd00:65::3").unwrap();
    let (mut errors, mut parts) = (0, 0);
    for n in 0..packets {
        let v6 = rng.percent(50);
        let Ends {
            outside,
            external,
            server,
        } = ends(v6, &mut rng);
        let body = Body::random(&mut rng);
        let shape = Shape::random(v6, &mut rng);
        let what = (seed, n, &body, &shape, outside);
        let there = |dst: IpAddr| shape.on(body.on(Craft::new(outside, dst), false));
        let back = |src: IpAddr| shape.on(body.on(Craft::new(src, outside), true));
        for (sent, expected) in there(external).iter().zip(there(server)) {
            sound(&sent.build(), &what);
            let outcome = fixture.to_workload(2, 1, &sent.build()).unwrap();
            outcome.passed();
            sound(&outcome.packet, &what);
            same(&outcome.packet, &expected, &what);
            parts += 1;
        }
        for (sent, expected) in back(server).iter().zip(back(external)) {
            let outcome = fixture.from_workload(2, &sent.build()).unwrap();
            outcome.passed();
            sound(&outcome.packet, &what);
            same(&outcome.packet, &expected, &what);
            parts += 1;
        }
        if shape.cut.is_some() {
            continue;
        }
        // Errors about both, quoting as much as it happens to be.
        // (Half a checksum is left alone.)
        let most = 2 * rng.between(4, 60);
        let quote = |about: &Craft| {
            let mut quoted = about.ip();
            let header = quoted.len() - about.payload.len();
            quoted.truncate(header + most);
            quoted
        };
        let (kind, code) = match (v6, rng.below(3)) {
            (false, 0) => (3, 4),
            (false, 1) => (11, 0),
            (false, _) => (3, 3),
            (true, 0) => (2, 0),
            (true, 1) => (3, 0),
            (true, _) => (1, 4),
        };
        let rest = [0, 0, 5, 0xdc];
        let error =
            |src: IpAddr, dst: IpAddr, about: &Craft| Craft::new(src, dst).icmp(kind, code, rest, &quote(about));
        if there(external)[0].payload.len() < 8 {
            // Too short to be told apart from what is cut off.
            continue;
        }
        let sent = error(server, outside, &there(server)[0]);
        let outcome = fixture.from_workload(2, &sent.build()).unwrap();
        outcome.passed();
        sound(&outcome.packet, &what);
        same(&outcome.packet, &error(external, outside, &there(external)[0]), &what);
        let sent = error(outside, external, &back(external)[0]);
        let outcome = fixture.to_workload(2, 1, &sent.build()).unwrap();
        outcome.passed();
        sound(&outcome.packet, &what);
        same(&outcome.packet, &error(outside, server, &back(server)[0]), &what);
        errors += 2;
    }
    println!("{parts} packets and {errors} errors");
    assert!(errors > packets / 2);
}
