//! Shares of the tables of flows: what one endpoint sends, or is sent, takes nobody else's room.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use felid_common::{
    DropReason, Event, FLOW_BORROWED, FLOW_CLOSING, FLOW_REVOKED, Flow, PEER_HOST, Peer, Recount, SWEEP_ESTABLISHED,
    Settings, Sweep,
    protocol::{ICMP, ICMPV6, SCTP, TCP, UDP},
};
use felid_tests::bpf_fixture::{Context, DROP, Fixture, Outcome, SETTINGS, key, run};
use felid_tests::packet_craft::{ACK, Craft, RST, SYN, fragment_header};
use zerocopy::{FromBytes as _, IntoBytes as _};

/// Three endpoints and somebody far away, in both families.
const ADDRESSES: [[&str; 4]; 2] = [
    ["10.65.0.2", "10.65.0.3", "10.65.0.4", "198.51.100.9"],
    ["fd00:65::2", "fd00:65::3", "fd00:65::4", "2001:db8:9::9"],
];
const RING: u32 = 16;

/// Settings with small shares: each endpoint has 8 flows of its own, and all together 16 more.
const SMALL: Settings = Settings {
    flow_share: [8; 2],
    flow_pool: [16; 2],
    flow_greed: 8,
    flow_ring: RING,
    fragment_ring: 16,
    ..SETTINGS
};

fn three() -> Fixture {
    let mut fixture = Fixture::new().unwrap();
    for n in 1..4 {
        let own = ADDRESSES.map(|addresses| addresses[n - 1]);
        fixture.endpoint(n as u32, &own).unwrap();
    }
    fixture.set_settings(SMALL).unwrap();
    fixture
}

fn craft(src: &str, dst: &str) -> Craft {
    Craft::new(src.parse::<IpAddr>().unwrap(), dst.parse::<IpAddr>().unwrap())
}

/// A packet that begins a flow of any protocol.
fn opening(protocol: u8, src: &str, dst: &str, port: u16) -> Vec<u8> {
    let craft = craft(src, dst);
    match protocol {
        TCP => craft.tcp(port, 80, SYN),
        UDP => craft.udp(port, 80, b"query"),
        SCTP => craft.sctp(port, 80),
        _ => craft.echo(port, false),
    }
    .build()
}

const fn icmp(family: usize) -> u8 {
    if family == 0 { ICMP } else { ICMPV6 }
}

fn is_limited(outcome: &Outcome) -> bool {
    outcome.code == DROP && outcome.reason == DropReason::FlowLimit as u32
}

/// A UDP flow from endpoint 1 to `far` that was answered; whether it was let in.
fn establish(fixture: &Fixture, n: u32, from: &str, to: &str, port: u16) -> bool {
    let outcome = fixture.from_workload(n, &opening(UDP, from, to, port)).unwrap();
    if is_limited(&outcome) {
        return false;
    }
    let answer = craft(to, from).udp(80, port, b"answer").build();
    let outcome = fixture.to_workload(n, 99, &answer).unwrap();
    outcome.passed();
    fixture.flow(UDP, from, port, to, 80).unwrap().unwrap().0
}

/// How many established flows are charged to an endpoint, by the table itself.
fn charged(fixture: &Fixture, family: usize, id: u32) -> u32 {
    let mut count = 0;
    let table = ["established_v4", "established_v6"][family];
    let visit = |_: &[u8], value: &[u8]| {
        let flow = Flow::read_from_bytes(value).unwrap();
        count += u32::from(flow.charge().id == id);
    };
    fixture.map(table).dump(visit).unwrap();
    count
}

fn assert_counts(fixture: &Fixture) {
    for family in 0..2 {
        let mut beyond = 0;
        for index in 0..4 {
            let count = fixture.flow_count(index).unwrap();
            let there = charged(fixture, family, if index == 0 { 0 } else { index + 100 });
            assert_eq!(count.established[family], there, "endpoint {index}, family {family}");
            beyond += there.saturating_sub(SMALL.flow_share[family]);
        }
        let counted = fixture.flow_count(FLOW_BORROWED).unwrap().established[family];
        assert_eq!(counted, beyond, "beyond all shares, family {family}");
    }
}

#[test]
fn a_flood_of_new_flows_replaces_the_floods_own() {
    let fixture = three();
    for (family, [a, b, _, far]) in ADDRESSES.into_iter().enumerate() {
        // The other endpoint waits for its answers.
        for port in 1..=4 {
            fixture.from_workload(2, &opening(TCP, b, far, port)).unwrap().passed();
        }
        for protocol in [TCP, UDP, SCTP, icmp(family)] {
            for port in 0..200 {
                fixture
                    .from_workload(1, &opening(protocol, a, far, 1000 + port))
                    .unwrap()
                    .passed();
            }
            let there = |port| {
                fixture
                    .flow(
                        protocol,
                        a,
                        1000 + port,
                        far,
                        if protocol == icmp(family) { 1000 + port } else { 80 },
                    )
                    .unwrap()
            };
            assert!(there(199).is_some(), "the newest is there");
            assert!(
                there(200 - RING as u16).is_some() && there(199 - RING as u16).is_none(),
                "the oldest went first"
            );
        }
        for port in 1..=4 {
            assert!(
                fixture.flow(TCP, b, port, far, 80).unwrap().is_some(),
                "the other's stay"
            );
        }
        assert_eq!(flows(&fixture, family), (0, RING as usize + 4));
        let replaced = fixture.flow_count(1).unwrap().replaced;
        assert_eq!(replaced, (800 - u64::from(RING)) * (family as u64 + 1));
        assert_eq!(fixture.events(Event::Replaced).unwrap(), replaced);
        assert_eq!(fixture.flow_count(2).unwrap().replaced, 0);
    }
}

#[test]
fn a_flood_from_outside_takes_the_room_of_what_others_begin_only() {
    let fixture = three();
    for (family, [a, b, _, far]) in ADDRESSES.into_iter().enumerate() {
        fixture.from_workload(1, &opening(TCP, a, far, 7)).unwrap().passed();
        fixture.to_workload(2, 99, &opening(TCP, far, b, 7)).unwrap().passed();
        for port in 0..200 {
            fixture
                .to_workload(1, 99, &opening(TCP, far, a, 1000 + port))
                .unwrap()
                .passed();
        }
        assert_eq!(flows(&fixture, family), (0, RING as usize + 2));
        assert!(fixture.flow(TCP, a, 7, far, 80).unwrap().is_some(), "its own");
        assert!(
            fixture.flow(TCP, far, 7, b, 80).unwrap().is_some(),
            "another endpoint's"
        );
        // Between local endpoints it is the originator's.
        for port in 0..200 {
            fixture
                .from_workload(2, &opening(TCP, b, a, 2000 + port))
                .unwrap()
                .redirected(11);
        }
        assert!(fixture.flow(TCP, a, 7, far, 80).unwrap().is_some());
        assert_eq!(flows(&fixture, family), (0, 2 * RING as usize + 2));
    }
}

#[test]
fn what_was_answered_is_not_replaced_and_new_flows_are_refused() {
    let fixture = three();
    for (family, [a, b, _, far]) in ADDRESSES.into_iter().enumerate() {
        for port in 0..RING as u16 {
            fixture.from_workload(1, &opening(TCP, a, far, port)).unwrap().passed();
            let answer = craft(far, a).tcp_with(80, port, SYN | ACK, 5000, 1001).build();
            fixture.to_workload(1, 99, &answer).unwrap().passed();
        }
        let refused_before = fixture.flow_count(1).unwrap().refused;
        for (n, port) in (100..110).enumerate() {
            let outcome = fixture.from_workload(1, &opening(TCP, a, far, port)).unwrap();
            outcome.dropped(DropReason::FlowLimit);
            let refused = fixture.flow_count(1).unwrap().refused - refused_before;
            assert_eq!(refused, n as u64 + 1);
        }
        assert_eq!(flows(&fixture, family), (0, RING as usize));
        fixture.from_workload(2, &opening(TCP, b, far, 1)).unwrap().passed();
        assert_eq!(fixture.flow_count(2).unwrap().refused, 0);
        // One that was reset makes room again; one that policy has revoked does not.
        let reset = craft(far, a).tcp_with(80, 3, RST, 5001, 0).build();
        fixture.to_workload(1, 99, &reset).unwrap().passed();
        fixture
            .edit_flow(TCP, a, 4, far, 80, |flow| flow.flags |= FLOW_REVOKED)
            .unwrap();
        let admitted = (200..220).filter(|port| {
            let outcome = fixture.from_workload(1, &opening(TCP, a, far, *port)).unwrap();
            !is_limited(&outcome)
        });
        assert!(admitted.count() >= 1, "the place of the one that was reset");
        assert!(fixture.flow(TCP, a, 4, far, 80).unwrap().is_some());
        assert!(fixture.flow(TCP, a, 5, far, 80).unwrap().is_some());
    }
}

#[test]
fn established_flows_stay_within_share_and_pool() {
    let fixture = three();
    for (family, [a, b, c, far]) in ADDRESSES.into_iter().enumerate() {
        let before = fixture.drops(DropReason::FlowLimit).unwrap();
        let refused = fixture.flow_count(1).unwrap().refused;
        let admitted = |n, from, ports: std::ops::Range<u16>| {
            ports.filter(|port| establish(&fixture, n, from, far, *port)).count()
        };
        // 8 of its own, and of the pool as long as 8 times as much is left: x < 8 * (16 - x).
        assert_eq!(admitted(1, a, 0..100), 8 + 15);
        assert_eq!(fixture.flow_count(1).unwrap().refused - refused, 100 - 23);
        assert_eq!(admitted(2, b, 0..100), 8 + 1, "one of the pool is left");
        assert_eq!(admitted(3, c, 0..100), 8, "its own share, whatever the others do");
        let drops = fixture.drops(DropReason::FlowLimit).unwrap() - before;
        assert_eq!(drops, 300 - 23 - 9 - 8);
        assert_counts(&fixture);
        let count = fixture.flow_count(1).unwrap();
        let other = if family == 0 { 0 } else { 23 };
        assert_eq!(
            count.established[1 - family],
            other,
            "the other family is another table"
        );
        // From outside likewise: charged to who is asked.
        let outcome = fixture.to_workload(1, 99, &opening(UDP, far, a, 5)).unwrap();
        outcome.dropped(DropReason::FlowLimit);
        // What is established goes on.
        for port in 0..23 {
            fixture.from_workload(1, &opening(UDP, a, far, port)).unwrap().passed();
        }
    }
}

#[test]
fn a_limit_holds_for_each_endpoint() {
    let mut fixture = three();
    let limited = Settings {
        flow_limit: 5,
        flow_greed: i32::MAX as u32,
        ..SMALL
    };
    fixture.set_settings(limited).unwrap();
    let [a, b, _, far] = ADDRESSES[0];
    let count = |n, from| (0..50).filter(|port| establish(&fixture, n, from, far, *port)).count();
    assert_eq!((count(1, a), count(2, b)), (5, 5));
    // A limit beyond the share: what the pool has.
    fixture
        .set_settings(Settings {
            flow_limit: 1000,
            ..limited
        })
        .unwrap();
    let count = |n, from| (50..99).filter(|port| establish(&fixture, n, from, far, *port)).count();
    assert_eq!(count(1, a) + 5, 8 + 16);
    assert_eq!(count(2, b) + 5, 8);
}

#[test]
fn the_host_reaches_a_workload_whose_share_is_used_up() {
    let mut fixture = three();
    for (family, [a, b, _, far]) in ADDRESSES.into_iter().enumerate() {
        let host = ["192.0.2.1", "2001:db8::1"][family];
        let known = Peer {
            flags: PEER_HOST,
            ..Peer::default()
        };
        fixture.peer(host, known).unwrap();
        for port in 0..100 {
            establish(&fixture, 1, a, far, port);
            fixture.to_workload(1, 99, &opening(TCP, far, a, 5000 + port)).unwrap();
        }
        fixture
            .to_workload(1, 99, &opening(TCP, far, a, 9))
            .unwrap()
            .dropped(DropReason::FlowLimit);
        for port in 0..6 {
            fixture
                .to_workload(1, 0, &opening(UDP, host, a, port))
                .unwrap()
                .passed();
            let answer = craft(a, host).udp(80, port, b"alive").build();
            fixture.from_workload(1, &answer).unwrap().passed();
            assert!(fixture.flow(UDP, host, port, a, 80).unwrap().unwrap().0);
        }
        assert_eq!(fixture.flow_count(0).unwrap().established[family], 6);
        assert_counts(&fixture);
        // The host's own flood is the host's alone.
        for port in 100..200 {
            fixture
                .to_workload(1, 0, &opening(TCP, host, a, port))
                .unwrap()
                .passed();
        }
        fixture.from_workload(2, &opening(TCP, b, far, 1)).unwrap().passed();
    }
}

fn sweep(fixture: &Fixture, family: usize, keys: &[Vec<u8>]) -> u32 {
    sweep_closed(fixture, family, keys, 0)
}

fn sweep_closed(fixture: &Fixture, family: usize, keys: &[Vec<u8>], closed: u32) -> u32 {
    let header = Sweep {
        table: SWEEP_ESTABLISHED,
        closed,
        count: keys.len() as u32,
        ..Sweep::default()
    };
    let data = [header.as_bytes(), &keys.concat()].concat();
    let outcome = run(
        fixture.program(["sweep_v4", "sweep_v6"][family]),
        &data,
        &Context::new(0, 0),
        1,
    )
    .unwrap();
    Sweep::read_from_bytes(&outcome.packet[..16]).unwrap().deleted
}

/// How many flows of one family there are: established and half-open.
fn flows(fixture: &Fixture, family: usize) -> (usize, usize) {
    let count = |table: [&str; 2]| {
        let mut count = 0;
        fixture.map(table[family]).dump(|_, _| count += 1).unwrap();
        count
    };
    (
        count(["established_v4", "established_v6"]),
        count(["half_open_v4", "half_open_v6"]),
    )
}

fn expire(fixture: &Fixture, from: &str, to: &str, port: u16) {
    let old = |flow: &mut Flow| flow.last_seen = flow.last_seen.wrapping_sub(SETTINGS.udp + 1000);
    fixture.edit_flow(UDP, from, port, to, 80, old).unwrap();
}

#[test]
fn counts_follow_every_way_that_a_flow_ends() {
    for (family, [a, b, c, far]) in ADDRESSES.into_iter().enumerate() {
        let mut fixture = three();
        for port in 0..20 {
            assert!(establish(&fixture, 1, a, far, port));
        }
        assert_counts(&fixture);
        // Swept, twice: the second finds nothing.
        for port in 0..4 {
            expire(&fixture, a, far, port);
        }
        let far_address: IpAddr = far.parse().unwrap();
        let keys: Vec<Vec<u8>> = (0..20)
            .map(|port| key("established", UDP, a.parse().unwrap(), port, far_address, 80).1)
            .collect();
        assert_eq!((sweep(&fixture, family, &keys), sweep(&fixture, family, &keys)), (4, 0));
        assert_counts(&fixture);
        // Expired, and begun anew by the next packet.
        for port in 4..8 {
            expire(&fixture, a, far, port);
            fixture.from_workload(1, &opening(UDP, a, far, port)).unwrap().passed();
            assert!(!fixture.flow(UDP, a, port, far, 80).unwrap().unwrap().0);
        }
        assert_eq!(fixture.flow_count(1).unwrap().established[family], 12);
        assert_counts(&fixture);
        // A redirected flow whose other end's address became another endpoint's.
        fixture.from_workload(2, &opening(UDP, b, c, 9)).unwrap().redirected(13);
        fixture
            .from_workload(3, &craft(c, b).udp(80, 9, b"answer").build())
            .unwrap()
            .redirected(12);
        assert_counts(&fixture);
        let mine = Peer {
            endpoint: 1,
            id: 101,
            ..Peer::default()
        };
        fixture.peer(c, mine).unwrap();
        let mut record = Fixture::record(2);
        record.egress_generation = 2;
        fixture.set_endpoint(2, record).unwrap();
        fixture
            .from_workload(2, &opening(UDP, b, c, 9))
            .unwrap()
            .dropped(DropReason::ForeignDestination);
        assert_eq!(fixture.flow_count(2).unwrap().established[family], 0);
        assert_counts(&fixture);
    }
}

#[test]
fn closed_flows_go_early_where_room_is_wanted() {
    let fixture = three();
    for (family, [a, _, _, far]) in ADDRESSES.into_iter().enumerate() {
        for port in 0..4 {
            assert!(establish(&fixture, 1, a, far, port));
        }
        // Closed and silent; closed a moment ago; closed and revoked; open and silent.
        for (port, flags, seconds) in [
            (0, FLOW_CLOSING, 2),
            (1, FLOW_CLOSING, 0),
            (2, FLOW_CLOSING | FLOW_REVOKED, 2),
            (3, 0, 2),
        ] {
            let change = |flow: &mut Flow| {
                flow.flags |= flags;
                flow.last_seen = flow.last_seen.wrapping_sub(seconds * SETTINGS.hz);
            };
            fixture.edit_flow(UDP, a, port, far, 80, change).unwrap();
        }
        let far_address: IpAddr = far.parse().unwrap();
        let keys: Vec<Vec<u8>> = (0..4)
            .map(|port| key("established", UDP, a.parse().unwrap(), port, far_address, 80).1)
            .collect();
        assert_eq!(sweep(&fixture, family, &keys), 0, "not yet");
        assert_eq!(sweep_closed(&fixture, family, &keys, 1), 1);
        assert!(fixture.flow(UDP, a, 0, far, 80).unwrap().is_none());
        assert_counts(&fixture);
    }
}

#[test]
fn counts_of_an_endpoint_that_is_gone_are_nobodys() {
    let [a, _, _, far] = ADDRESSES[0];
    let mut fixture = three();
    for port in 0..10 {
        assert!(establish(&fixture, 1, a, far, port));
    }
    // Another endpoint gets the index.
    let record = felid_common::Endpoint {
        id: 777,
        ..Fixture::record(1)
    };
    fixture.set_endpoint(1, record).unwrap();
    let taken = Peer {
        endpoint: 1,
        id: 777,
        ..Peer::default()
    };
    fixture.peer(a, taken).unwrap();
    fixture
        .to_workload(2, 99, &opening(UDP, far, ADDRESSES[0][1], 1))
        .unwrap()
        .passed();
    let far_address: IpAddr = far.parse().unwrap();
    let keys: Vec<Vec<u8>> = (0..10)
        .map(|port| key("established", UDP, a.parse().unwrap(), port, far_address, 80).1)
        .collect();
    (0..5).for_each(|port| expire(&fixture, a, far, port));
    assert_eq!(sweep(&fixture, 0, &keys), 5);
    assert_eq!(
        fixture.flow_count(1).unwrap().established,
        [5, 0],
        "still the old one's"
    );
    let new = Recount {
        index: 1,
        id: 777,
        difference: 3,
        ..Recount::default()
    };
    let outcome = run(fixture.program("recount"), new.as_bytes(), &Context::new(0, 0), 1).unwrap();
    assert_eq!(
        Recount::read_from_prefix(&outcome.packet).unwrap().0.done,
        0,
        "no such endpoint yet"
    );
    let old = Recount {
        id: 101,
        difference: 1_u32.wrapping_neg(),
        ..new
    };
    run(fixture.program("recount"), old.as_bytes(), &Context::new(0, 0), 1).unwrap();
    assert_eq!(fixture.flow_count(1).unwrap().established, [4, 0]);
}

/// One first fragment and a later one.
fn fragments(src: &str, dst: &str, id: u16) -> [Vec<u8>; 2] {
    let part = |offset: u16, more: bool, payload: Vec<u8>| {
        let mut craft = craft(src, dst).raw(UDP, payload);
        if src.contains(':') {
            craft.extensions = vec![fragment_header(offset, more, id.into())];
        } else {
            craft.fragment = (id, (offset / 8) | if more { 0x2000 } else { 0 });
        }
        craft.build()
    };
    let mut head = vec![0x9c, 0x40, 0, 80, 0, 34, 0, 0];
    head.extend([0; 16]);
    [part(0, true, head), part(24, false, vec![1; 10])]
}

#[test]
fn fragments_take_the_places_of_their_own_endpoint_alone() {
    let fixture = three();
    for [a, b, _, far] in ADDRESSES {
        let [first, later] = fragments(a, far, 7);
        fixture.from_workload(1, &first).unwrap().passed();
        let [outside_first, outside_later] = fragments(far, a, 7);
        fixture.to_workload(1, 99, &outside_first).unwrap().passed();
        // Others flood, from inside and from outside.
        for id in 0..2000 {
            fixture.from_workload(2, &fragments(b, far, id)[0]).unwrap().passed();
            fixture.to_workload(2, 99, &fragments(far, b, id)[0]).unwrap().passed();
        }
        fixture.from_workload(1, &later).unwrap().passed();
        fixture.to_workload(1, 99, &outside_later).unwrap().passed();
        // Datagrams that are sent one after another have places of their own.
        for id in 100..116 {
            fixture.from_workload(1, &fragments(a, far, id)[0]).unwrap().passed();
        }
        for id in 100..116 {
            fixture.from_workload(1, &fragments(a, far, id)[1]).unwrap().passed();
        }
        // Its own oldest went.
        fixture
            .from_workload(1, &later)
            .unwrap()
            .dropped(DropReason::UnknownFragment);
    }
}

/// Whatever happens, the counts are what the tables hold, and no endpoint has more than it may.
#[test]
fn counts_are_exact_after_anything() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let fixture = three();
    for step in 0..6000 {
        let family = random(2) as usize;
        let n = random(3) as u32 + 1;
        let own = ADDRESSES[family][n as usize - 1];
        let other = ADDRESSES[family][(random(4)) as usize];
        if other == own {
            continue;
        }
        let far = ADDRESSES[family][3];
        let port = random(40) as u16;
        match random(6) {
            0 => drop(fixture.from_workload(n, &opening(UDP, own, other, port)).unwrap()),
            1 => drop(fixture.to_workload(n, 99, &opening(UDP, far, own, port)).unwrap()),
            2 => drop(
                fixture
                    .from_workload(n, &craft(own, other).udp(80, port, b"answer").build())
                    .unwrap(),
            ),
            3 => drop(
                fixture
                    .to_workload(n, 99, &craft(far, own).udp(80, port, b"answer").build())
                    .unwrap(),
            ),
            4 => {
                if fixture.flow(UDP, own, port, other, 80).unwrap().is_some() {
                    expire(&fixture, own, other, port);
                }
            }
            _ => {
                let (own, other): (IpAddr, IpAddr) = (own.parse().unwrap(), other.parse().unwrap());
                sweep(&fixture, family, &[key("established", UDP, own, port, other, 80).1]);
            }
        }
        if step % 50 == 0 {
            assert_counts(&fixture);
        }
    }
    assert_counts(&fixture);
    for n in 1..4 {
        let count = fixture.flow_count(n).unwrap();
        assert!(
            count.established.iter().all(|flows| *flows > 0 && *flows <= 8 + 15),
            "{count:?}"
        );
    }
    assert!(fixture.events(Event::Promoted).unwrap() > 100);
    // Half-open ones never exceed the rings.
    assert!(fixture.flows().unwrap().1 <= 2 * 3 * 2 * RING as usize);
}
