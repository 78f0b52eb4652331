//! 1:1 translation in the kernel programs: which name a flow goes by, and how long.
#![expect(clippy::unwrap_used, reason = "tests")]

use felid_common::{
    DropReason, EGRESS, ENDPOINT_REDIRECTABLE, INGRESS, Nat, SETTING_HOST_REACHABLE, SETTING_NAT_OUTBOUND,
    SETTING_NATS, protocol,
};
use felid_tests::bpf_fixture::{Fixture, Policy, words};
use felid_tests::packet_craft::{ACK, FIN};
use felid_tests::translation::{
    CLIENT_IF, FAMILIES, Family, KINDS, Kind, SERVER_IF, UPLINK, craft, error, passed_as, redirected_as, world,
};

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
    assert_eq!(
        (flow.originator.nat_index.into(), flow.responder.nat_index.into()),
        (smallest, index)
    );
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
    record.flags &= !ENDPOINT_REDIRECTABLE;
    fixture.set_endpoint(2, record).unwrap();
    fixture
        .from_workload(2, &Kind::Sctp.ask(family.server, second).build())
        .unwrap()
        .dropped(DropReason::NatHairpin);
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
        // Not to the host, to another workload, to the cluster, and not from who has no external
        // address.
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
            .dropped(DropReason::NatCollision);
        // By the internal one first.
        fixture
            .from_workload(1, &Kind::Udp.ask(client, server).build())
            .unwrap()
            .redirected(SERVER_IF);
        fixture
            .from_workload(1, &Kind::Udp.ask(client, external).build())
            .unwrap()
            .dropped(DropReason::NatCollision);
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
            .dropped(DropReason::NatCollision);
    }
}

#[test]
fn both_ends_may_have_names_on_the_way_through_the_stack() {
    let mut fixture = world();
    let family = FAMILIES[0];
    let (shown, external) = ("203.0.113.20", family.external);
    fixture.nat(1, 20, shown, family.client).unwrap();
    for kind in [Kind::Tcp, Kind::Udp] {
        // What left for a virtual address that the host translated.
        let outcome = fixture
            .to_workload(2, CLIENT_IF, &kind.ask(shown, external).build())
            .unwrap();
        passed_as(&outcome, &kind.ask(shown, family.server));
        for _ in 0..2 {
            let outcome = fixture
                .from_workload(2, &kind.answer(family.server, shown).build())
                .unwrap();
            passed_as(&outcome, &kind.answer(external, shown));
        }
    }
}

#[test]
fn another_name_does_not_touch_the_flow() {
    let fixture = world();
    let Family {
        client,
        server,
        external,
        ..
    } = FAMILIES[0];
    fixture
        .from_workload(1, &Kind::Tcp.ask(client, external).build())
        .unwrap();
    fixture
        .from_workload(2, &Kind::Tcp.answer(server, client).build())
        .unwrap();
    fixture
        .from_workload(1, &Kind::Tcp.more(client, external, true).build())
        .unwrap();
    fixture
        .from_workload(
            1,
            &craft(client, server).tcp_with(40000, 80, FIN | ACK, 1001, 5001).build(),
        )
        .unwrap()
        .dropped(DropReason::NatCollision);
    let (established, flow) = fixture.flow(protocol::TCP, client, 40000, server, 80).unwrap().unwrap();
    assert!(established && (flow.tcp_original | flow.tcp_reply) & FIN == 0);
}

#[test]
fn oneself_from_an_address_without_a_name() {
    let mut fixture = world();
    fixture.endpoint(3, &["10.65.0.4", "10.65.0.5"]).unwrap();
    fixture.nat(3, 30, "203.0.113.30", "10.65.0.5").unwrap();
    fixture
        .from_workload(3, &Kind::Udp.ask("10.65.0.4", "203.0.113.30").build())
        .unwrap()
        .dropped(DropReason::NatHairpin);
    fixture
        .from_workload(3, &Kind::Udp.ask("10.65.0.5", "203.0.113.30").build())
        .unwrap()
        .redirected(13);
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
            .dropped(DropReason::EgressPolicy);
        fixture.policy(EGRESS, 1, Policy::Allow).unwrap();
        fixture.policy(INGRESS, 2, Policy::Deny).unwrap();
        fixture
            .from_workload(1, &Kind::Tcp.ask(family.client, family.external).build())
            .unwrap()
            .dropped(DropReason::IngressPolicy);
        fixture
            .to_workload(2, UPLINK, &Kind::Tcp.ask(family.outside, family.external).build())
            .unwrap()
            .dropped(DropReason::IngressPolicy);
        let judged = fixture.scratch().unwrap();
        assert_eq!(judged.dst, words(family.server.parse().unwrap()));
        fixture.policy(INGRESS, 2, Policy::Allow).unwrap();
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
                        .dropped(DropReason::NatGone);
                }
            }
            let more = Kind::Tcp.more(outside, external, true).build();
            let reason = if id == 0 {
                DropReason::ForeignDestination
            } else {
                DropReason::NatGone
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
    fixture.nat_at(flow.responder.nat_index.into()).unwrap()
}
