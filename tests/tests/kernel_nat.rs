//! 1:1 translation in the kernel programs: who sees which addresses, in every direction and every
//! shape of packet.
//!
//! What a packet must look like afterwards is built anew with the other addresses, so that every
//! checksum is compared with one that was calculated from scratch.
#![expect(clippy::unwrap_used, reason = "tests")]

use felid_common::{DropReason, ENDPOINT_REDIRECTABLE, protocol};
use felid_tests::bpf_fixture::Fixture;
use felid_tests::packet_craft::{Craft, SYN, fragment_header};
use felid_tests::translation::{
    CLIENT_IF, FAMILIES, Family, KINDS, Kind, SERVER_IF, UPLINK, craft, error, passed_as, redirected_as, world,
};

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
        assert!(
            fixture
                .flow(protocol::TCP, outside, 40000, server, 80)
                .unwrap()
                .unwrap()
                .0
        );
        let index = fixture
            .flow(protocol::TCP, outside, 40000, server, 80)
            .unwrap()
            .unwrap()
            .1
            .responder
            .nat_index;
        assert_eq!(
            fixture.nat_flows(index.into()).unwrap(),
            KINDS.len() as u64,
            "each flow is counted once"
        );
        // The external address is nobody else's.
        fixture
            .to_workload(1, UPLINK, &Kind::Udp.ask(outside, external).build())
            .unwrap()
            .dropped(DropReason::ForeignDestination);
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
    record.flags &= !ENDPOINT_REDIRECTABLE;
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
            .dropped(DropReason::SpoofedAddress);
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
    assert_eq!(fixture.drops(DropReason::NatCollision).unwrap(), 0);
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
                        .dropped(DropReason::UnrelatedError);
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
    // (The pseudo-header names another protocol, so the checksum is compared with its own
    // difference.)
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
