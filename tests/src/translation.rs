//! What the kernel tests of address translation share: two endpoints of which one has external
//! addresses, and flows of every kind.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use felid_common::{PEER_HOST, Peer};

use crate::bpf_fixture::{Fixture, Outcome};
use crate::packet_craft::{ACK, Craft, SYN};

/// The addresses of a family: two endpoints, the second one's external address, somebody outside,
/// the host.
#[derive(Clone, Copy)]
pub struct Family {
    /// The first endpoint's.
    pub client: &'static str,
    /// The second endpoint's.
    pub server: &'static str,
    /// The second endpoint's external one.
    pub external: &'static str,
    /// Somebody outside.
    pub outside: &'static str,
    /// The host.
    pub host: &'static str,
}

/// Both families.
pub const FAMILIES: [Family; 2] = [
    Family {
        client: "10.65.0.2",
        server: "10.65.0.3",
        external: "203.0.113.5",
        outside: "198.51.100.7",
        host: "192.0.2.1",
    },
    Family {
        client: "fd00:65::2",
        server: "fd00:65::3",
        external: "2001:db8:5::5",
        outside: "2001:db8:7::7",
        host: "2001:db8::1",
    },
];
/// An interface that is no endpoint's.
pub const UPLINK: u32 = 1;
/// The first endpoint's interface.
pub const CLIENT_IF: u32 = 11;
/// The second endpoint's interface.
pub const SERVER_IF: u32 = 12;

/// Two endpoints, the second with an external address of each family; the host.
pub fn world() -> Fixture {
    let mut fixture = Fixture::new().unwrap();
    fixture.endpoint(1, &["10.65.0.2", "fd00:65::2"]).unwrap();
    fixture.endpoint(2, &["10.65.0.3", "fd00:65::3"]).unwrap();
    for (n, family) in FAMILIES.iter().enumerate() {
        fixture.nat(2, n as u32 + 1, family.external, family.server).unwrap();
        let host = Peer {
            flags: PEER_HOST,
            ..Peer::default()
        };
        fixture.peer(family.host, host).unwrap();
    }
    fixture
}

/// An empty packet.
pub fn craft(src: &str, dst: &str) -> Craft {
    Craft::new(src.parse::<IpAddr>().unwrap(), dst.parse::<IpAddr>().unwrap())
}

/// What a flow is made of, in both directions.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo.
    Echo,
    /// SCTP.
    Sctp,
    /// A protocol that nothing is known of.
    Other,
}

/// All of them.
pub const KINDS: [Kind; 5] = [Kind::Tcp, Kind::Udp, Kind::Echo, Kind::Sctp, Kind::Other];

impl Kind {
    /// What opens it.
    pub fn ask(self, src: &str, dst: &str) -> Craft {
        let craft = craft(src, dst);
        match self {
            Kind::Tcp => craft.tcp_with(40000, 80, SYN, 1000, 0),
            Kind::Udp => craft.udp(40000, 80, b"question"),
            Kind::Echo => craft.echo(77, false),
            Kind::Sctp => craft.sctp(40000, 80),
            Kind::Other => craft.raw(47, vec![7; 20]),
        }
    }

    /// What answers that.
    pub fn answer(self, src: &str, dst: &str) -> Craft {
        let craft = craft(src, dst);
        match self {
            Kind::Tcp => craft.tcp_with(80, 40000, SYN | ACK, 5000, 1001),
            Kind::Udp => craft.udp(80, 40000, b"answer"),
            Kind::Echo => craft.echo(77, true),
            Kind::Sctp => craft.sctp(80, 40000),
            Kind::Other => craft.raw(47, vec![8; 20]),
        }
    }

    /// What follows once both have spoken.
    pub fn more(self, src: &str, dst: &str, original: bool) -> Craft {
        match (self, original) {
            (Kind::Tcp, true) => craft(src, dst).tcp_with(40000, 80, ACK, 1001, 5001),
            (Kind::Tcp, false) => craft(src, dst).tcp_with(80, 40000, ACK, 5001, 1001),
            (_, true) => self.ask(src, dst),
            (_, false) => self.answer(src, dst),
        }
    }
}

/// Asserts that a packet goes on as this one.
#[track_caller]
pub fn passed_as(outcome: &Outcome, expected: &Craft) {
    outcome.passed();
    assert_eq!(outcome.packet[14..], expected.ip());
}

/// Asserts that a packet is delivered as this one, a hop later.
#[track_caller]
pub fn redirected_as(outcome: &Outcome, target: u32, expected: Craft) {
    outcome.redirected(target);
    assert_eq!(outcome.packet[14..], expected.hops(63).ip());
}

/// "Port unreachable" in the family of the addresses, about a packet.
pub fn error(src: &str, dst: &str, about: &Craft) -> Craft {
    let v6 = src.contains(':');
    craft(src, dst).icmp(if v6 { 1 } else { 3 }, if v6 { 4 } else { 3 }, [0; 4], &about.ip())
}
