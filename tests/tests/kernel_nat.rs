//! 1:1 translation in the kernel programs: who sees which addresses, in every direction and every shape of packet.
//!
//! What a packet must look like afterwards is built anew with the other addresses, so that every checksum is compared with one that was
//! calculated from scratch.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use felid_common::{
    Drop, EGRESS, ENDPOINT_FAST, Nat, PEER_HOST, Peer, SETTING_HOST_REACHABLE, SETTING_NAT_OUTBOUND, SETTING_NATS,
    protocol,
};
use felid_tests::bpf_fixture::{Fixture, Outcome, Policy};
use felid_tests::packet_craft::{ACK, Craft, SYN, fragment_header};

/// The addresses of a family: two endpoints, the second one's external address, somebody outside, the host.
#[derive(Clone, Copy)]
struct Family {
    client: &'static str,
    server: &'static str,
    external: &'static str,
    outside: &'static str,
    host: &'static str,
}

const FAMILIES: [Family; 2] = [
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
const UPLINK: u32 = 1;
const CLIENT_IF: u32 = 11;
const SERVER_IF: u32 = 12;

fn world() -> Fixture {
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

fn craft(src: &str, dst: &str) -> Craft {
    Craft::new(src.parse::<IpAddr>().unwrap(), dst.parse::<IpAddr>().unwrap())
}

/// What a flow is made of, in both directions.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Tcp,
    Udp,
    Echo,
    Sctp,
    Other,
}

const KINDS: [Kind; 5] = [Kind::Tcp, Kind::Udp, Kind::Echo, Kind::Sctp, Kind::Other];

impl Kind {
    fn ask(self, src: &str, dst: &str) -> Craft {
        let craft = craft(src, dst);
        match self {
            Kind::Tcp => craft.tcp_with(40000, 80, SYN, 1000, 0),
            Kind::Udp => craft.udp(40000, 80, b"question"),
            Kind::Echo => craft.echo(77, false),
            Kind::Sctp => craft.sctp(40000, 80),
            Kind::Other => craft.raw(47, vec![7; 20]),
        }
    }

    fn answer(self, src: &str, dst: &str) -> Craft {
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
    fn more(self, src: &str, dst: &str, original: bool) -> Craft {
        match (self, original) {
            (Kind::Tcp, true) => craft(src, dst).tcp_with(40000, 80, ACK, 1001, 5001),
            (Kind::Tcp, false) => craft(src, dst).tcp_with(80, 40000, ACK, 5001, 1001),
            (_, true) => self.ask(src, dst),
            (_, false) => self.answer(src, dst),
        }
    }
}

#[track_caller]
fn passed_as(outcome: &Outcome, expected: &Craft) {
    outcome.passed();
    assert_eq!(outcome.packet[14..], expected.ip());
}

#[track_caller]
fn redirected_as(outcome: &Outcome, target: u32, expected: Craft) {
    outcome.redirected(target);
    assert_eq!(outcome.packet[14..], expected.hops(63).ip());
}

#[test]
fn from_outside_and_back() {
    let fixture = world();
    for family in FAMILIES {
        let Family {
            server,
            external,
            outside,
            ..
        } = family;
        for kind in KINDS {
            let ask = kind.ask(outside, external).build();
            let outcome = fixture.to_workload(2, UPLINK, &ask).unwrap();
            passed_as(&outcome, &kind.ask(outside, server));
            let answer = kind.answer(server, outside).mac([2, 0, 0, 0, 0, 2]).build();
            let outcome = fixture.from_workload(2, &answer).unwrap();
            passed_as(&outcome, &kind.answer(external, outside));
            for _ in 0..2 {
                let more = kind.more(outside, external, true).build();
                let outcome = fixture.to_workload(2, UPLINK, &more).unwrap();
                passed_as(&outcome, &kind.more(outside, server, true));
                let more = kind.more(server, outside, false).build();
                let outcome = fixture.from_workload(2, &more).unwrap();
                passed_as(&outcome, &kind.more(external, outside, false));
            }
        }
        assert_eq!(
            fixture
                .flow(protocol::TCP, outside, 40000, server, 80)
                .unwrap()
                .unwrap()
                .0,
            true
        );
        let index = fixture
            .flow(protocol::TCP, outside, 40000, server, 80)
            .unwrap()
            .unwrap()
            .1
            .reply_nat
            .index;
        assert_eq!(
            fixture.nat_flows(index).unwrap(),
            KINDS.len() as u64,
            "each flow is counted once"
        );
        // The external address is nobody else's.
        fixture
            .to_workload(1, UPLINK, &Kind::Udp.ask(outside, external).build())
            .unwrap()
            .dropped(Drop::ForeignDestination);
    }
}

#[test]
fn from_the_host_and_back() {
    let fixture = world();
    for family in FAMILIES {
        for kind in KINDS {
            let ask = kind.ask(family.host, family.external).build();
            let outcome = fixture.to_workload(2, 0, &ask).unwrap();
            passed_as(&outcome, &kind.ask(family.host, family.server));
            let answer = kind.answer(family.server, family.host).build();
            let outcome = fixture.from_workload(2, &answer).unwrap();
            passed_as(&outcome, &kind.answer(family.external, family.host));
        }
    }
}

#[test]
fn from_another_workload_and_back() {
    let fixture = world();
    for family in FAMILIES {
        let Family {
            client,
            server,
            external,
            ..
        } = family;
        for kind in KINDS {
            let outcome = fixture.from_workload(1, &kind.ask(client, external).build()).unwrap();
            redirected_as(&outcome, SERVER_IF, kind.ask(client, server));
            let outcome = fixture.from_workload(2, &kind.answer(server, client).build()).unwrap();
            redirected_as(&outcome, CLIENT_IF, kind.answer(external, client));
            for _ in 0..2 {
                let outcome = fixture
                    .from_workload(1, &kind.more(client, external, true).build())
                    .unwrap();
                redirected_as(&outcome, SERVER_IF, kind.more(client, server, true));
                let outcome = fixture
                    .from_workload(2, &kind.more(server, client, false).build())
                    .unwrap();
                redirected_as(&outcome, CLIENT_IF, kind.more(external, client, false));
            }
        }
    }
}

#[test]
fn from_another_workload_through_the_stack() {
    let mut fixture = world();
    let mut record = Fixture::record(2);
    record.flags &= !ENDPOINT_FAST;
    fixture.set_endpoint(2, record).unwrap();
    for family in FAMILIES {
        let Family {
            client,
            server,
            external,
            ..
        } = family;
        for kind in KINDS {
            // On the host both ends have their external addresses.
            let outcome = fixture.from_workload(1, &kind.ask(client, external).build()).unwrap();
            passed_as(&outcome, &kind.ask(client, external));
            let outcome = fixture
                .to_workload(2, CLIENT_IF, &kind.ask(client, external).build())
                .unwrap();
            passed_as(&outcome, &kind.ask(client, server));
            let outcome = fixture.from_workload(2, &kind.answer(server, client).build()).unwrap();
            passed_as(&outcome, &kind.answer(external, client));
            let outcome = fixture
                .to_workload(1, SERVER_IF, &kind.answer(external, client).build())
                .unwrap();
            passed_as(&outcome, &kind.answer(external, client));
            for _ in 0..2 {
                let outcome = fixture
                    .from_workload(1, &kind.more(client, external, true).build())
                    .unwrap();
                passed_as(&outcome, &kind.more(client, external, true));
                let outcome = fixture
                    .to_workload(2, CLIENT_IF, &kind.more(client, external, true).build())
                    .unwrap();
                passed_as(&outcome, &kind.more(client, server, true));
                let outcome = fixture
                    .to_workload(1, SERVER_IF, &kind.more(external, client, false).build())
                    .unwrap();
                passed_as(&outcome, &kind.more(external, client, false));
            }
        }
        // From elsewhere it is not the server's to say.
        fixture
            .to_workload(1, UPLINK, &Kind::Udp.more(external, client, false).build())
            .unwrap()
            .dropped(Drop::SpoofedAddress);
    }
}

#[test]
fn from_oneself() {
    let fixture = world();
    for family in FAMILIES {
        let (server, external) = (family.server, family.external);
        for kind in KINDS {
            let outcome = fixture.from_workload(2, &kind.ask(server, external).build()).unwrap();
            redirected_as(&outcome, SERVER_IF, kind.ask(external, server));
            for _ in 0..2 {
                let outcome = fixture
                    .from_workload(2, &kind.answer(server, external).build())
                    .unwrap();
                redirected_as(&outcome, SERVER_IF, kind.answer(external, server));
                let outcome = fixture
                    .from_workload(2, &kind.more(server, external, true).build())
                    .unwrap();
                redirected_as(&outcome, SERVER_IF, kind.more(external, server, true));
            }
        }
        assert!(
            fixture
                .flow(protocol::TCP, server, 40000, server, 80)
                .unwrap()
                .is_some()
        );
    }
    assert_eq!(fixture.drops(Drop::NatCollision).unwrap(), 0);
}

#[test]
fn oneself_by_another_external_address() {
    let mut fixture = world();
    let family = FAMILIES[0];
    // Shown under the one that its own address leads to, whichever it was asked by.
    let second = "203.0.113.9";
    let index = fixture.nat(2, 9, second, family.server).unwrap();
    let smallest = fixture.nat(2, 1, family.external, family.server).unwrap();
    let outcome = fixture
        .from_workload(2, &Kind::Tcp.ask(family.server, second).build())
        .unwrap();
    redirected_as(&outcome, SERVER_IF, Kind::Tcp.ask(family.external, family.server));
    let outcome = fixture
        .from_workload(2, &Kind::Tcp.answer(family.server, family.external).build())
        .unwrap();
    redirected_as(&outcome, SERVER_IF, Kind::Tcp.answer(second, family.server));
    let (_, flow) = fixture
        .flow(protocol::TCP, family.server, 40000, family.server, 80)
        .unwrap()
        .unwrap();
    assert_eq!((flow.original_nat.index, flow.reply_nat.index), (smallest, index));
    // And it can complain to itself.
    let got = Kind::Udp.ask(family.external, family.server);
    fixture
        .from_workload(2, &Kind::Udp.ask(family.server, second).build())
        .unwrap();
    let outcome = fixture
        .from_workload(2, &error(family.server, family.external, &got).build())
        .unwrap();
    let sent = Kind::Udp.ask(family.server, second);
    redirected_as(&outcome, SERVER_IF, error(second, family.server, &sent));
    // Where it cannot be redirected to, that is refused.
    let mut record = Fixture::record(2);
    record.flags &= !ENDPOINT_FAST;
    fixture.set_endpoint(2, record).unwrap();
    fixture
        .from_workload(2, &Kind::Sctp.ask(family.server, second).build())
        .unwrap()
        .dropped(Drop::NatHairpin);
}

#[test]
fn outbound_keeps_the_internal_address_unless_told_otherwise() {
    let mut fixture = world();
    for family in FAMILIES {
        let Family {
            client,
            server,
            external,
            outside,
            host,
        } = family;
        // (There are no routes here, so whatever is outside counts as the host's.)
        fixture.set_nat_flags(SETTING_NATS | SETTING_HOST_REACHABLE).unwrap();
        let ask = Kind::Udp.ask(server, outside);
        passed_as(&fixture.from_workload(2, &ask.build()).unwrap(), &ask);
        passed_as(
            &fixture
                .to_workload(2, UPLINK, &Kind::Udp.answer(outside, server).build())
                .unwrap(),
            &Kind::Udp.answer(outside, server),
        );
        fixture
            .set_nat_flags(SETTING_NATS | SETTING_HOST_REACHABLE | SETTING_NAT_OUTBOUND)
            .unwrap();
        // What was there before stays as it is.
        passed_as(&fixture.from_workload(2, &ask.build()).unwrap(), &ask);
        for kind in [Kind::Tcp, Kind::Echo, Kind::Sctp, Kind::Other] {
            let outcome = fixture.from_workload(2, &kind.ask(server, outside).build()).unwrap();
            passed_as(&outcome, &kind.ask(external, outside));
            let outcome = fixture
                .to_workload(2, UPLINK, &kind.answer(outside, external).build())
                .unwrap();
            passed_as(&outcome, &kind.answer(outside, server));
            for _ in 0..2 {
                let outcome = fixture
                    .from_workload(2, &kind.more(server, outside, true).build())
                    .unwrap();
                passed_as(&outcome, &kind.more(external, outside, true));
                let outcome = fixture
                    .to_workload(2, UPLINK, &kind.more(outside, external, false).build())
                    .unwrap();
                passed_as(&outcome, &kind.more(outside, server, false));
            }
        }
        // Not to the host, to another workload, to the cluster, and not from who has no external address.
        let other = if outside.contains(':') {
            "2001:db8:c::1"
        } else {
            "172.16.0.9"
        };
        fixture
            .cluster(other, if outside.contains(':') { 64 } else { 16 })
            .unwrap();
        for dst in [host, other] {
            let ask = Kind::Tcp.ask(server, dst);
            passed_as(&fixture.from_workload(2, &ask.build()).unwrap(), &ask);
        }
        let outcome = fixture
            .from_workload(2, &Kind::Tcp.ask(server, client).build())
            .unwrap();
        redirected_as(&outcome, CLIENT_IF, Kind::Tcp.ask(server, client));
        let ask = Kind::Tcp.ask(client, outside);
        passed_as(&fixture.from_workload(1, &ask.build()).unwrap(), &ask);
    }
}

#[test]
fn the_first_of_two_names_keeps_the_flow() {
    let fixture = world();
    for family in FAMILIES {
        let Family {
            client,
            server,
            external,
            outside,
            ..
        } = family;
        // By the external address first.
        fixture
            .to_workload(2, UPLINK, &Kind::Udp.ask(outside, external).build())
            .unwrap()
            .passed();
        fixture
            .to_workload(2, UPLINK, &Kind::Udp.ask(outside, server).build())
            .unwrap()
            .dropped(Drop::NatCollision);
        // By the internal one first.
        fixture
            .from_workload(1, &Kind::Udp.ask(client, server).build())
            .unwrap()
            .redirected(SERVER_IF);
        fixture
            .from_workload(1, &Kind::Udp.ask(client, external).build())
            .unwrap()
            .dropped(Drop::NatCollision);
        let outcome = fixture
            .from_workload(2, &Kind::Udp.answer(server, client).build())
            .unwrap();
        redirected_as(&outcome, CLIENT_IF, Kind::Udp.answer(server, client));
        // Another port is another flow, at the same time.
        let outcome = fixture
            .from_workload(1, &craft(client, external).udp(40001, 80, b"x").build())
            .unwrap();
        redirected_as(&outcome, SERVER_IF, craft(client, server).udp(40001, 80, b"x"));
        // Established, too: the fast programs see it.
        let other = craft(client, external).udp(40001, 80, b"x");
        fixture
            .from_workload(2, &craft(server, client).udp(80, 40001, b"y").build())
            .unwrap();
        redirected_as(
            &fixture.from_workload(1, &other.build()).unwrap(),
            SERVER_IF,
            craft(client, server).udp(40001, 80, b"x"),
        );
        fixture
            .from_workload(1, &craft(client, server).udp(40001, 80, b"x").build())
            .unwrap()
            .dropped(Drop::NatCollision);
    }
}

#[test]
fn what_an_address_did_for_another_endpoint_is_no_collision() {
    let mut fixture = world();
    let family = FAMILIES[0];
    let plain = Kind::Udp.ask(family.outside, family.server);
    passed_as(&fixture.to_workload(2, UPLINK, &plain.build()).unwrap(), &plain);
    fixture.endpoint(3, &[family.server]).unwrap();
    fixture.nat(3, 8, family.external, family.server).unwrap();
    let outcome = fixture
        .to_workload(3, UPLINK, &Kind::Udp.ask(family.outside, family.external).build())
        .unwrap();
    passed_as(&outcome, &plain);
}

#[test]
fn policy_sees_the_internal_address_and_both_sides() {
    let mut fixture = world();
    for family in FAMILIES {
        fixture.policy(EGRESS, 1, Policy::Deny).unwrap();
        fixture
            .from_workload(1, &Kind::Tcp.ask(family.client, family.external).build())
            .unwrap()
            .dropped(Drop::EgressPolicy);
        fixture.policy(EGRESS, 1, Policy::Allow).unwrap();
        fixture.policy(felid_common::INGRESS, 2, Policy::Deny).unwrap();
        for came_by in [(1, CLIENT_IF)] {
            let ask = Kind::Tcp.ask(family.client, family.external).build();
            fixture
                .from_workload(came_by.0, &ask)
                .unwrap()
                .dropped(Drop::IngressPolicy);
        }
        fixture
            .to_workload(2, UPLINK, &Kind::Tcp.ask(family.outside, family.external).build())
            .unwrap()
            .dropped(Drop::IngressPolicy);
        let judged = fixture.scratch().unwrap();
        assert_eq!(
            judged.dst,
            felid_tests::bpf_fixture::words(family.server.parse().unwrap())
        );
        fixture.policy(felid_common::INGRESS, 2, Policy::Allow).unwrap();
    }
}

#[test]
fn a_flow_ends_with_its_translation() {
    for id in [0, 77] {
        let mut fixture = world();
        for family in FAMILIES {
            let Family {
                client,
                server,
                external,
                outside,
                ..
            } = family;
            for kind in KINDS {
                fixture
                    .to_workload(2, UPLINK, &kind.ask(outside, external).build())
                    .unwrap()
                    .passed();
                fixture
                    .from_workload(2, &kind.answer(server, outside).build())
                    .unwrap()
                    .passed();
                fixture
                    .to_workload(2, UPLINK, &kind.more(outside, external, true).build())
                    .unwrap()
                    .passed();
                fixture
                    .from_workload(1, &kind.ask(client, external).build())
                    .unwrap()
                    .redirected(SERVER_IF);
                fixture
                    .from_workload(2, &kind.answer(server, client).build())
                    .unwrap()
                    .redirected(CLIENT_IF);
                fixture
                    .from_workload(1, &kind.more(client, external, true).build())
                    .unwrap()
                    .redirected(SERVER_IF);
            }
            // Gone, or gone and there again.
            let index = fixture.put_nat(record(&fixture, family)).unwrap();
            fixture
                .put_nat(Nat {
                    id,
                    ..fixture.nat_at(index).unwrap()
                })
                .unwrap();
            for kind in KINDS {
                for peer in [outside, client] {
                    fixture
                        .from_workload(2, &kind.more(server, peer, false).build())
                        .unwrap()
                        .dropped(Drop::NatGone);
                }
            }
            let more = Kind::Tcp.more(outside, external, true).build();
            let reason = if id == 0 {
                Drop::ForeignDestination
            } else {
                Drop::NatGone
            };
            fixture.to_workload(2, UPLINK, &more).unwrap().dropped(reason);
            if id != 0 {
                let outcome = fixture
                    .to_workload(2, UPLINK, &Kind::Tcp.ask(outside, external).build())
                    .unwrap();
                passed_as(&outcome, &Kind::Tcp.ask(outside, server));
                let outcome = fixture
                    .to_workload(2, UPLINK, &Kind::Udp.ask(outside, external).build())
                    .unwrap();
                passed_as(&outcome, &Kind::Udp.ask(outside, server));
            }
            // By the internal address, the same ports are free again.
            let ask = craft(client, server).udp(40000, 80, b"question");
            redirected_as(&fixture.from_workload(1, &ask.build()).unwrap(), SERVER_IF, ask);
        }
    }
}

fn record(fixture: &Fixture, family: Family) -> Nat {
    let (_, flow) = fixture
        .flow(protocol::TCP, family.outside, 40000, family.server, 80)
        .unwrap()
        .unwrap();
    fixture.nat_at(flow.reply_nat.index).unwrap()
}

/// "Port unreachable" in the family of the addresses, about a packet.
fn error(src: &str, dst: &str, about: &Craft) -> Craft {
    let v6 = src.contains(':');
    craft(src, dst).icmp(if v6 { 1 } else { 3 }, if v6 { 4 } else { 3 }, [0; 4], &about.ip())
}

#[test]
fn errors_name_what_their_readers_know() {
    let fixture = world();
    for family in FAMILIES {
        let Family {
            client,
            server,
            external,
            outside,
            host,
        } = family;
        let router = if outside.contains(':') {
            "2001:db8:9::9"
        } else {
            "192.0.2.9"
        };
        for kind in KINDS {
            // From outside: the server complains about what it got ...
            fixture
                .to_workload(2, UPLINK, &kind.ask(outside, external).build())
                .unwrap()
                .passed();
            let got = kind.ask(outside, server);
            let outcome = fixture.from_workload(2, &error(server, outside, &got).build()).unwrap();
            passed_as(&outcome, &error(external, outside, &kind.ask(outside, external)));
            // ... and a router, the peer and the host about what it sent.
            fixture
                .from_workload(2, &kind.answer(server, outside).build())
                .unwrap()
                .passed();
            for (sender, came_by) in [(router, UPLINK), (outside, UPLINK), (host, 0)] {
                let seen = kind.answer(external, outside).hops(3);
                let outcome = fixture
                    .to_workload(2, came_by, &error(sender, external, &seen).build())
                    .unwrap();
                passed_as(&outcome, &error(sender, server, &kind.answer(server, outside).hops(3)));
                // Under a wrong name it is about nothing that is known.
                if came_by != 0 {
                    let other = kind.answer(server, outside);
                    fixture
                        .to_workload(2, came_by, &error(sender, server, &other).build())
                        .unwrap()
                        .dropped(Drop::UnrelatedError);
                }
            }
            // From another workload.
            fixture
                .from_workload(1, &kind.ask(client, external).build())
                .unwrap()
                .redirected(SERVER_IF);
            let outcome = fixture
                .from_workload(2, &error(server, client, &kind.ask(client, server)).build())
                .unwrap();
            redirected_as(
                &outcome,
                CLIENT_IF,
                error(external, client, &kind.ask(client, external)),
            );
            fixture
                .from_workload(2, &kind.answer(server, client).build())
                .unwrap()
                .redirected(CLIENT_IF);
            let outcome = fixture
                .from_workload(1, &error(client, external, &kind.answer(external, client)).build())
                .unwrap();
            redirected_as(&outcome, SERVER_IF, error(client, server, &kind.answer(server, client)));
            // The host about the client's packet, which it saw as it was sent.
            let outcome = fixture
                .to_workload(1, UPLINK, &error(router, client, &kind.ask(client, external)).build())
                .unwrap();
            passed_as(&outcome, &error(router, client, &kind.ask(client, external)));
        }
    }
}

#[test]
fn every_shape_of_packet() {
    let fixture = world();
    let Family {
        server,
        external,
        outside,
        ..
    } = FAMILIES[0];
    let both = |change: &dyn Fn(Craft) -> Craft| {
        let outcome = fixture
            .to_workload(2, UPLINK, &change(craft(outside, external)).build())
            .unwrap();
        passed_as(&outcome, &change(craft(outside, server)));
    };
    both(&|craft| Craft {
        options: vec![1; 12],
        ..craft.tcp(1, 2, SYN)
    });
    // No checksum at all stays none.
    let none = |craft: Craft| {
        let mut craft = craft.udp(3, 4, b"without");
        craft.payload[6..8].copy_from_slice(&[0, 0]);
        craft
    };
    both(&none);
    let lite = |craft: Craft| {
        let mut craft = craft.udp(3, 4, b"partly covered");
        craft.protocol = protocol::UDPLITE;
        craft
    };
    // (The pseudo-header names another protocol, so the checksum is compared with its own difference.)
    let before = lite(craft(outside, external));
    let outcome = fixture.to_workload(2, UPLINK, &before.build()).unwrap();
    outcome.passed();
    assert_eq!(outcome.packet[30..34], lite(craft(outside, server)).ip()[16..20]);
    assert_eq!(outcome.packet[40..42], lite(craft(outside, server)).ip()[26..28]);
    // Fragments: the first has the checksum, later ones only addresses.
    let whole = |craft: Craft| craft.udp(5, 6, &[9; 64]);
    let first = |craft: Craft| {
        let mut craft = whole(craft);
        craft.payload.truncate(32);
        craft.fragment = (7, 0x2000);
        craft
    };
    let later = |craft: Craft| {
        let mut craft = whole(craft);
        craft.payload.drain(..32);
        craft.fragment = (7, 4);
        craft
    };
    both(&first);
    both(&later);
    // The same back.
    let back = |change: &dyn Fn(Craft) -> Craft| {
        let outcome = fixture
            .from_workload(2, &change(craft(server, outside)).build())
            .unwrap();
        passed_as(&outcome, &change(craft(external, outside)));
    };
    let turned = |craft: Craft| {
        let mut craft = craft.udp(6, 5, &[9; 64]);
        craft.payload.truncate(32);
        craft.fragment = (8, 0x2000);
        craft
    };
    back(&turned);
    back(&|craft| {
        let mut craft = craft.udp(6, 5, &[9; 64]);
        craft.payload.drain(..32);
        craft.fragment = (8, 4);
        craft
    });

    let Family {
        external,
        outside,
        server,
        ..
    } = FAMILIES[1];
    let both = |change: &dyn Fn(Craft) -> Craft| {
        let outcome = fixture
            .to_workload(2, UPLINK, &change(craft(outside, external)).build())
            .unwrap();
        passed_as(&outcome, &change(craft(outside, server)));
    };
    both(&|craft| Craft {
        extensions: vec![(0, vec![0, 0, 1, 4, 0, 0, 0, 0]), (60, vec![0; 8])],
        ..craft.tcp(1, 2, SYN)
    });
    both(&none);
    let part = |offset: u16, more: bool| {
        move |craft: Craft| {
            let mut craft = craft.udp(5, 6, &[9; 64]);
            if offset == 0 {
                craft.payload.truncate(32);
            } else {
                craft.payload.drain(..32);
            }
            craft.extensions = vec![fragment_header(offset, more, 7)];
            craft
        }
    };
    both(&part(0, true));
    both(&part(32, false));
}
