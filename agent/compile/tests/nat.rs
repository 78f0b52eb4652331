//! Translations: who gets an external address, and what searches find while the table changes.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use felid_common::{MAX_NATS, NAT_OUT, NAT_PASSED, NAT_PROBES, NAT_RUN, NAT_V6, Nat, NatSeed, nat_places, nat_probe};
use felid_compile::nat::{
    Conflict, HostAddresses, HostUse, MAX_PER_ENDPOINT, Mapping, Mappings, NatChange, NatTable, address, resolve, words,
};
use felid_compile::transaction::EndpointId;
use felid_model::resolved::LocalEndpoint;
use felid_model::{IpNat, Kind, ResourceKey};
use proptest::prelude::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(name: &str) -> ResourceKey {
    ResourceKey {
        kind: Kind::WorkloadEndpoint,
        namespace: Some("default".into()),
        name: name.into(),
    }
}

fn endpoint(name: &str, addresses: &[&str], nats: &[(&str, &str)]) -> LocalEndpoint {
    LocalEndpoint {
        key: key(name),
        interface_name: format!("cali{name}").as_str().into(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        aws_elastic_ips: Vec::new(),
        allow_spoofed_source_prefixes: Vec::new(),
        ip_nats: nats
            .iter()
            .map(|(external, internal)| IpNat {
                internal: ip(internal),
                external: ip(external),
            })
            .collect(),
        mac: None,
        ipv4_gateway: None,
        ipv6_gateway: None,
        ports: Vec::new(),
        profiles: Vec::new(),
        ingress: Arc::default(),
        egress: Arc::default(),
    }
}

fn id(n: u32) -> EndpointId {
    EndpointId { index: n, id: 100 + n }
}

/// External and internal address, number of the endpoint.
type InForce = (String, String, u32);
/// External address, name of the endpoint, why.
type Refused = (String, String, Conflict);

/// What is in force as (external, internal, number of the endpoint), and the conflicts as
/// (external, endpoint, reason).
fn decide(endpoints: &[LocalEndpoint], host: &[&str]) -> (Vec<InForce>, Vec<Refused>) {
    let own = host.iter().map(|address| ip(address)).collect();
    decide_on(
        endpoints,
        &HostAddresses {
            own,
            ..HostAddresses::default()
        },
    )
}

/// As [`decide`], with all that the host has to say.
fn decide_on(endpoints: &[LocalEndpoint], host: &HostAddresses) -> (Vec<InForce>, Vec<Refused>) {
    let numbered = endpoints.iter().zip(1..).map(|(endpoint, n)| (id(n), endpoint));
    let numbered: Vec<_> = numbered.collect();
    let resolved = resolve(numbered.iter().copied(), host);
    let reversed = resolve(numbered.iter().rev().copied(), host);
    assert_eq!(reversed, resolved, "the order of the endpoints decides nothing");
    let mappings = resolved.mappings.iter().map(|(external, mapping)| {
        (
            external.to_string(),
            mapping.internal.to_string(),
            mapping.endpoint.index,
        )
    });
    let conflicts = resolved.conflicts.iter().map(|(claim, conflict)| {
        (
            claim.external.to_string(),
            claim.endpoint.name.to_string(),
            conflict.clone(),
        )
    });
    (mappings.collect(), conflicts.collect())
}

fn triple(external: &str, internal: &str, n: u32) -> InForce {
    (external.to_owned(), internal.to_owned(), n)
}

#[test]
fn what_the_host_needs_or_the_configuration_excludes_is_not_given_to_a_workload() {
    let asked = [
        ("192.0.2.1", "10.0.0.1"),
        ("192.0.2.53", "10.0.0.1"),
        ("192.0.2.9", "10.0.0.1"),
        ("198.51.100.7", "10.0.0.1"),
        ("2001:db8::1", "fd00::1"),
    ];
    let endpoints = [endpoint("a", &["10.0.0.1", "fd00::1"], &asked)];
    let mut host = HostAddresses {
        in_use: BTreeMap::from([
            (ip("192.0.2.1"), HostUse::NextHop),
            (ip("192.0.2.53"), HostUse::Resolver),
            (ip("2001:db8::1"), HostUse::Neighbour),
        ]),
        ..HostAddresses::default()
    };
    let refused = |host: &HostAddresses| -> Vec<(String, Conflict)> {
        let (_, refused) = decide_on(&endpoints, host);
        refused.into_iter().map(|(external, _, why)| (external, why)).collect()
    };
    let in_use = [
        ("192.0.2.1".to_owned(), Conflict::InUse(HostUse::NextHop)),
        ("192.0.2.53".to_owned(), Conflict::InUse(HostUse::Resolver)),
        ("2001:db8::1".to_owned(), Conflict::InUse(HostUse::Neighbour)),
    ];
    assert_eq!(refused(&host), in_use);
    host.in_use.clear();
    host.allowed = vec!["192.0.2.0/24".parse().unwrap()];
    let outside = ["198.51.100.7", "2001:db8::1"].map(|external| (external.to_owned(), Conflict::NotAllowed));
    assert_eq!(refused(&host), outside);
}

#[test]
fn several_addresses_of_both_families() {
    let a = endpoint(
        "a",
        &["10.0.0.1", "fd00::1"],
        &[
            ("192.0.2.1", "10.0.0.1"),
            ("192.0.2.2", "10.0.0.1"),
            ("2001:db8::1", "fd00::1"),
            ("192.0.2.1", "10.0.0.1"),
        ],
    );
    let (mappings, conflicts) = decide(&[a], &["192.0.2.254"]);
    assert_eq!(
        mappings,
        [
            triple("192.0.2.1", "10.0.0.1", 1),
            triple("192.0.2.2", "10.0.0.1", 1),
            triple("2001:db8::1", "fd00::1", 1)
        ]
    );
    assert_eq!(conflicts, []);
}

#[test]
fn the_lexically_smaller_internal_address_wins() {
    // As text: "10.0.0.10" comes before "10.0.0.9".
    let a = endpoint("a", &["10.0.0.9"], &[("192.0.2.1", "10.0.0.9")]);
    let b = endpoint("b", &["10.0.0.10"], &[("192.0.2.1", "10.0.0.10")]);
    let (mappings, conflicts) = decide(&[a, b], &[]);
    assert_eq!(mappings, [triple("192.0.2.1", "10.0.0.10", 2)]);
    let reason = Conflict::Claimed {
        external: ip("192.0.2.1"),
        internal: ip("10.0.0.10"),
        endpoint: key("b"),
    };
    assert_eq!(conflicts, [("192.0.2.1".to_owned(), "a".to_owned(), reason)]);
}

#[test]
fn a_claim_that_is_refused_takes_nothing_from_others() {
    let a = endpoint("a", &["10.0.0.2"], &[("192.0.2.1", "10.0.0.1")]);
    let b = endpoint("b", &["10.0.0.9"], &[("192.0.2.1", "10.0.0.9")]);
    let (mappings, conflicts) = decide(&[a, b], &[]);
    assert_eq!(mappings, [triple("192.0.2.1", "10.0.0.9", 2)]);
    assert_eq!(conflicts, [("192.0.2.1".to_owned(), "a".to_owned(), Conflict::NotOwn)]);
}

#[test]
fn what_can_not_be_an_external_address() {
    let nats = [
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.2", "10.0.0.1"),
        ("192.0.2.254", "10.0.0.1"),
        ("127.0.0.1", "10.0.0.1"),
        ("224.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "10.0.0.1"),
        ("fe80::1", "fd00::1"),
    ];
    let a = endpoint("a", &["10.0.0.1", "fd00::1"], &nats);
    let b = endpoint("b", &["10.0.0.2"], &[]);
    let (mappings, conflicts) = decide(&[a, b], &["192.0.2.254"]);
    assert_eq!(mappings, []);
    let reason = |external: &str| {
        let found = conflicts.iter().find(|(address, ..)| address == external);
        found.map(|(.., conflict)| conflict.clone()).unwrap()
    };
    assert_eq!(reason("10.0.0.1"), Conflict::EndpointAddress(key("a")));
    assert_eq!(reason("10.0.0.2"), Conflict::EndpointAddress(key("b")));
    assert_eq!(reason("192.0.2.254"), Conflict::HostAddress);
    for special in ["127.0.0.1", "224.0.0.1", "fe80::1"] {
        assert_eq!(reason(special), Conflict::NotRoutable);
    }
    assert_eq!(reason("2001:db8::1"), Conflict::Families);
}

#[test]
fn of_two_endpoints_with_one_address_the_first_has_it() {
    let a = endpoint("a", &["10.0.0.1"], &[("192.0.2.1", "10.0.0.1")]);
    let b = endpoint("b", &["10.0.0.1"], &[("192.0.2.0", "10.0.0.1")]);
    let (mappings, conflicts) = decide(&[b, a], &[]);
    assert_eq!(mappings, [triple("192.0.2.1", "10.0.0.1", 2)]);
    assert_eq!(
        conflicts,
        [("192.0.2.0".to_owned(), "b".to_owned(), Conflict::Shared(key("a")))]
    );
}

#[test]
fn one_endpoint_does_not_fill_the_table() {
    let many: Vec<(String, String)> = (0..5000_u32)
        .map(|n| {
            (
                IpAddr::from((0xcb00_0000 + n).to_be_bytes()).to_string(),
                "10.0.0.1".to_owned(),
            )
        })
        .collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let a = endpoint("a", &["10.0.0.1"], &many);
    let (mappings, conflicts) = decide(&[a], &[]);
    assert_eq!(mappings.len(), MAX_PER_ENDPOINT);
    assert_eq!(conflicts.len(), 5000 - MAX_PER_ENDPOINT);
    assert!(conflicts.iter().all(|(.., conflict)| *conflict == Conflict::TooMany));
}

#[test]
fn all_that_find_no_room_are_found_at_once() {
    // More than there are elements, of a few addresses: what has room is in the table.
    let wanted: Mappings = (0..40_000_u32)
        .map(|n| {
            let mapping = Mapping {
                internal: IpAddr::from((0x0a00_0000 + n % 8).to_be_bytes()),
                endpoint: id(n % 8),
            };
            (IpAddr::from((0xcb00_0000 + n * 7).to_be_bytes()), mapping)
        })
        .collect();
    let change = NatTable::adopt([], SEED, 0).plan(&wanted);
    let begun = change.begun.iter().filter(|(_, nat)| nat.flags & NAT_OUT == 0).count();
    assert!(begun > 4000, "{begun}");
    assert_eq!(begun + change.no_room.len(), wanted.len());
}

/// A host's secret.
const SEED: NatSeed = NatSeed {
    words: [
        0x5851_f42d_4c95_7f2d,
        0xda94_2042_e4dd_58b5,
        0xbb67_ae85_84ca_a73b,
        0x3c6e_f372_fe94_f82b,
        0xa54f_f53a_5f1d_36f1,
    ],
};

/// The array, and the kernel's search in it.
#[derive(Clone)]
struct Kernel(Vec<Nat>);

impl Kernel {
    fn new() -> Self {
        Self(vec![Nat::default(); MAX_NATS as usize])
    }

    fn search(&self, wanted: IpAddr, out: u32) -> Option<(u32, &Nat)> {
        let words = words(wanted);
        let flags = out | if wanted.is_ipv6() { NAT_V6 } else { 0 };
        for probe in 0..NAT_PROBES {
            let index = nat_probe(nat_places(&words, &SEED), probe);
            let nat = &self.0[index as usize];
            if nat.id != 0 && nat.address == words && nat.flags & (NAT_V6 | NAT_OUT) == flags {
                return Some((index, nat));
            }
            if nat.flags & NAT_PASSED == 0 {
                return None;
            }
        }
        None
    }

    fn external(&self, external: IpAddr) -> Option<Mapping> {
        self.search(external, 0).map(|(_, nat)| Mapping {
            internal: address(nat.other, external.is_ipv6()),
            endpoint: EndpointId {
                index: nat.endpoint,
                id: nat.endpoint_id,
            },
        })
    }

    /// Under which external address an internal one is shown, if that is a translation in force.
    fn shown(&self, internal: IpAddr) -> Option<IpAddr> {
        let (_, nat) = self.search(internal, NAT_OUT)?;
        let leads = &self.0[nat.out as usize];
        assert!(
            leads.id != 0 && leads.address == nat.other && leads.flags & NAT_OUT == 0,
            "leads to a translation in force"
        );
        Some(address(nat.other, internal.is_ipv6()))
    }
}

/// Addresses that collide a lot: the first `n` of each family whose search begins in a few
/// places.
fn crowd() -> (Vec<IpAddr>, Vec<IpAddr>) {
    let near = |address: &IpAddr| {
        let [first, second] = nat_places(&words(*address), &SEED);
        first < NAT_RUN / 2 && second < MAX_NATS / 16
    };
    let v4 = |base: u32| {
        (0..1_000_000_u32)
            .map(move |n| IpAddr::from((base + n).to_be_bytes()))
            .filter(near)
    };
    let v6 = |base: u128| {
        (0..1_000_000_u128)
            .map(move |n| IpAddr::from((base + n).to_be_bytes()))
            .filter(near)
    };
    let externals = v4(0xc000_0200).take(12).chain(v6(0x2001_0db8 << 96).take(8));
    let internals = v4(0x0a00_0000).take(6).chain(v6(0xfd00_u128 << 112).take(4));
    (externals.collect(), internals.collect())
}

/// A world and a table that follows it.
struct World {
    kernel: Kernel,
    table: NatTable,
    ids: BTreeSet<u32>,
    /// Elements whose record ended since the last grace period.
    hot: BTreeSet<u32>,
}

impl World {
    fn write(&mut self, (index, nat): (u32, Nat), allowed: &dyn Fn(&Kernel)) {
        let old = self.kernel.0[index as usize];
        let content = |nat: Nat| Nat {
            id: 0,
            flags: nat.flags & !NAT_PASSED,
            ..nat
        };
        if content(old) != content(nat) {
            assert!(old.id == 0 && nat.id == 0, "contents change only while there is no id");
            assert!(!self.hot.contains(&index), "and nobody may be reading them");
        }
        if old.id != 0 && nat.id == 0 {
            self.hot.insert(index);
        }
        if nat.id != 0 && nat.id != old.id {
            assert_eq!(old.id, 0);
            assert!(self.ids.insert(nat.id), "ids are never used twice");
        }
        self.kernel.0[index as usize] = nat;
        self.table.wrote(index, nat);
        allowed(&self.kernel);
    }

    fn finish(&mut self) {
        self.hot.clear();
        self.table.finish();
    }

    /// Carries a change out, checking after each write; may stop after some.
    fn carry_out(&mut self, change: &NatChange, mut writes: usize, allowed: &dyn Fn(&Kernel)) {
        let mut next = || {
            writes = writes.saturating_sub(1);
            writes > 0
        };
        for write in &change.ended {
            if !next() {
                return;
            }
            self.write(*write, allowed);
        }
        if change.wait {
            self.finish();
        }
        self.table.stored(change.next_id);
        for write in change.filled.iter().chain(&change.begun).chain(&change.replaced) {
            if !next() {
                return;
            }
            self.write(*write, allowed);
        }
    }
}

/// What a random step asks for: for each external address the place of an internal one, or nothing;
/// what else happens.
#[derive(Clone, Debug)]
struct Step {
    wanted: Vec<Option<usize>>,
    /// Which endpoint has each internal address.
    owner: Vec<u32>,
    retire: bool,
    grace: bool,
    restart: bool,
    stop_after: Option<usize>,
}

fn step() -> impl Strategy<Value = Step> {
    (
        prop::collection::vec(prop::option::of(0..6_usize), 20),
        prop::collection::vec(1..4_u32, 10),
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.1),
        prop::option::weighted(0.1, 1..10_usize),
    )
        .prop_map(|(wanted, owner, retire, grace, restart, stop_after)| Step {
            wanted,
            owner,
            retire,
            grace,
            restart,
            stop_after,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn searches_find_what_is_wanted_and_never_anything_else(steps in prop::collection::vec(step(), 1..12)) {
        let (externals, internals) = crowd();
        let mut world = World { kernel: Kernel::new(), table: NatTable::adopt([], SEED, 0), ids: BTreeSet::new(), hot: BTreeSet::new() };
        let mut before = Mappings::new();
        for step in steps {
            let mut wanted = Mappings::new();
            for (external, place) in externals.iter().zip(&step.wanted) {
                let Some(place) = place else { continue };
                let (from, count) = if external.is_ipv4() { (0, 6) } else { (6, 4) };
                let place = from + place % count;
                wanted.insert(*external, Mapping { internal: internals[place], endpoint: id(step.owner[place]) });
            }
            if step.restart {
                let elements = world.kernel.0.iter().enumerate().map(|(index, nat)| (u32::try_from(index).unwrap(), *nat));
                let next_id = world.ids.last().map_or(0, |last| last + 1);
                world.table = NatTable::adopt(elements, SEED, next_id);
            }
            // Whatever a search finds at any moment held before or shall hold.
            let allowed = |kernel: &Kernel| {
                for external in &externals {
                    if let Some(found) = kernel.external(*external) {
                        assert!(before.get(external) == Some(&found) || wanted.get(external) == Some(&found));
                    }
                }
                for internal in &internals {
                    if let Some(external) = kernel.shown(*internal) {
                        let is = |mappings: &Mappings| mappings.get(&external).is_some_and(|mapping| mapping.internal == *internal);
                        assert!(is(&before) || is(&wanted));
                    }
                }
            };
            if step.retire {
                for write in world.table.retire(&wanted) {
                    world.write(write, &allowed);
                }
                for (external, mapping) in &before {
                    let found = world.kernel.external(*external);
                    assert_eq!(found, (wanted.get(external) == Some(mapping)).then_some(*mapping));
                }
                if step.grace {
                    world.finish();
                }
            }
            let mut change = world.table.plan(&wanted);
            let mut kept: Mappings = before
                .iter()
                .filter(|(external, mapping)| wanted.get(*external) == Some(*mapping) && !change.no_room.contains(*external))
                .map(|(external, mapping)| (*external, *mapping))
                .collect();
            let ids = |table: &NatTable| table.in_force().map(|(external, .., id)| (external, id)).collect::<BTreeMap<IpAddr, u32>>();
            let old_ids = ids(&world.table);
            let stays = |kernel: &Kernel| {
                allowed(kernel);
                for (external, mapping) in &kept {
                    assert_eq!(kernel.external(*external), Some(*mapping), "what stays is found at any moment");
                }
            };
            world.carry_out(&change, step.stop_after.unwrap_or(usize::MAX), &stays);
            if step.stop_after.is_some() {
                // A failure on the way: the next attempt finishes it. (Where the table is crowded,
                // other places may be free by then.)
                change = world.table.plan(&wanted);
                kept.retain(|external, _| !change.no_room.contains(external));
                let stays = |kernel: &Kernel| {
                    allowed(kernel);
                    for (external, mapping) in &kept {
                        assert_eq!(kernel.external(*external), Some(*mapping), "what stays is found at any moment");
                    }
                };
                world.carry_out(&change, usize::MAX, &stays);
            }
            let new_ids = ids(&world.table);
            for external in kept.keys() {
                assert_eq!(old_ids.get(external), new_ids.get(external), "what stays keeps its id");
            }
            wanted.retain(|external, _| !change.no_room.contains(external));
            for external in &externals {
                assert_eq!(world.kernel.external(*external), wanted.get(external).copied());
            }
            for internal in &internals {
                let all = wanted.iter().filter(|(_, mapping)| mapping.internal == *internal);
                let first = all.map(|(external, _)| *external).min_by_key(ToString::to_string);
                assert_eq!(world.kernel.shown(*internal), first);
            }
            assert!(world.table.plan(&wanted).is_empty(), "nothing is left to be done");
            before = wanted;
        }
    }
}

#[test]
fn a_new_smaller_external_address_leaves_no_gap() {
    let internal = ip("10.0.0.1");
    let mapping = Mapping {
        internal,
        endpoint: id(1),
    };
    let mut world = World {
        kernel: Kernel::new(),
        table: NatTable::adopt([], SEED, 0),
        ids: BTreeSet::new(),
        hot: BTreeSet::new(),
    };
    let second = Mappings::from([(ip("192.0.2.2"), mapping)]);
    let change = world.table.plan(&second);
    assert!(!change.wait, "nothing was there before");
    world.carry_out(&change, usize::MAX, &|_| ());
    let both = Mappings::from([(ip("192.0.2.1"), mapping), (ip("192.0.2.2"), mapping)]);
    let change = world.table.plan(&both);
    assert!(change.ended.is_empty() && !change.wait);
    world.carry_out(&change, usize::MAX, &|kernel| assert!(kernel.shown(internal).is_some()));
    assert_eq!(world.kernel.shown(internal), Some(ip("192.0.2.1")));
}

/// Translations of these external addresses, all of one internal one.
fn of_one_endpoint(externals: &[IpAddr]) -> Mappings {
    let mapping = Mapping {
        internal: ip("10.0.0.1"),
        endpoint: id(1),
    };
    externals.iter().map(|external| (*external, mapping)).collect()
}

/// Addresses that one search after the other begins with, whose first place is `place`.
fn that_begin_at(place: u32, seed: &NatSeed) -> impl Iterator<Item = IpAddr> {
    (0xc000_0000_u32..)
        .map(|address| IpAddr::from(address.to_be_bytes()))
        .filter(move |address| nat_places(&words(*address), seed)[0] == place)
}

#[test]
fn what_finds_no_room_is_said() {
    let all: Vec<IpAddr> = (0..MAX_NATS + 2)
        .map(|n| IpAddr::from((0xc000_0000 + n).to_be_bytes()))
        .collect();
    let change = NatTable::adopt([], SEED, 0).plan(&of_one_endpoint(&all));
    // One element is the internal address's.
    assert!(change.no_room.len() >= 3, "{}", change.no_room.len());
    assert_eq!(change.counted.len() + change.no_room.len(), all.len());
}

#[test]
fn more_than_half_of_the_table_finds_room() {
    let most: Vec<IpAddr> = (0..MAX_NATS * 3 / 5)
        .map(|n| IpAddr::from((0xc000_0000 + n).to_be_bytes()))
        .collect();
    let change = NatTable::adopt([], SEED, 0).plan(&of_one_endpoint(&most));
    assert_eq!(change.no_room, BTreeSet::new());
}

#[test]
fn even_who_knows_the_seed_does_not_keep_an_address_out() {
    let chosen: Vec<IpAddr> = that_begin_at(NAT_RUN, &SEED)
        .take(2 * NAT_PROBES as usize + 1)
        .collect();
    let (victim, crowd) = chosen.split_last().unwrap();
    let mut world = World {
        kernel: Kernel::new(),
        table: NatTable::adopt([], SEED, 0),
        ids: BTreeSet::new(),
        hot: BTreeSet::new(),
    };
    let mut wanted = of_one_endpoint(crowd);
    let change = world.table.plan(&wanted);
    world.carry_out(&change, usize::MAX, &|_| ());
    wanted.extend(of_one_endpoint(&[*victim]));
    let change = world.table.plan(&wanted);
    assert_eq!(change.no_room, BTreeSet::new());
    world.carry_out(&change, usize::MAX, &|_| ());
    assert!(chosen.iter().all(|external| world.kernel.external(*external).is_some()));
}

#[test]
fn addresses_chosen_for_one_host_mean_nothing_on_another() {
    let other = NatSeed {
        words: SEED.words.map(|word| word.rotate_left(17) ^ 0x9e37_79b9_7f4a_7c15),
    };
    let chosen: Vec<IpAddr> = that_begin_at(NAT_RUN, &other).take(64).collect();
    let places: BTreeSet<u32> = chosen.iter().map(|one| nat_places(&words(*one), &SEED)[0]).collect();
    assert!(places.len() > 56, "{}", places.len());
}

#[test]
fn records_that_another_seed_placed_are_placed_anew() {
    let wanted = of_one_endpoint(&[ip("192.0.2.1"), ip("2001:db8::1")]);
    let other = NatSeed { words: [1, 3, 5, 7, 9] };
    let mut world = World {
        kernel: Kernel::new(),
        table: NatTable::adopt([], other, 0),
        ids: BTreeSet::new(),
        hot: BTreeSet::new(),
    };
    let change = world.table.plan(&wanted);
    world.carry_out(&change, usize::MAX, &|_| ());
    let left = world.kernel.0.iter().enumerate().map(|(n, nat)| (n as u32, *nat));
    world.table = NatTable::adopt(left.collect::<Vec<_>>(), SEED, 0);
    let change = world.table.plan(&wanted);
    assert_eq!(change.begun.len(), 3);
    world.carry_out(&change, usize::MAX, &|_| ());
    assert!(wanted.keys().all(|external| world.kernel.external(*external).is_some()));
}

#[test]
fn what_is_gone_makes_no_search_longer() {
    let mut world = World {
        kernel: Kernel::new(),
        table: NatTable::adopt([], SEED, 0),
        ids: BTreeSet::new(),
        hot: BTreeSet::new(),
    };
    let crowd: Vec<IpAddr> = that_begin_at(NAT_RUN, &SEED).take(NAT_RUN as usize + 3).collect();
    for wanted in [of_one_endpoint(&crowd), Mappings::new()] {
        let change = world.table.plan(&wanted);
        world.carry_out(&change, usize::MAX, &|_| ());
    }
    assert!(
        world
            .kernel
            .0
            .iter()
            .all(|nat| nat.flags & NAT_PASSED == 0 && nat.id == 0)
    );
    assert!(world.table.plan(&Mappings::new()).is_empty());
}

#[test]
fn ids_that_are_used_up_are_not_used_again() {
    let table = NatTable::adopt([], SEED, u32::MAX);
    let wanted = Mappings::from([(
        ip("192.0.2.1"),
        Mapping {
            internal: ip("10.0.0.1"),
            endpoint: id(1),
        },
    )]);
    let change = table.plan(&wanted);
    assert!(change.is_empty());
    assert_eq!(change.no_room.len(), 1);
}

#[test]
fn neighbouring_addresses_find_room() {
    // Differing in any one byte, as pools hand them out: a workload for each of 256.
    for bits in (0..128).step_by(8) {
        let mut wanted = Mappings::new();
        for n in 0..256_u128 {
            let mapping = |internal: IpAddr| Mapping {
                internal,
                endpoint: id(u32::try_from(n).unwrap()),
            };
            let v6 = |prefix: u128| IpAddr::from((prefix ^ n << bits).to_be_bytes());
            wanted.insert(
                v6(0x2001_0db8_0005 << 80 | 0x100),
                mapping(v6(0xfd00_0065 << 96 | 0x200)),
            );
            if bits < 32 {
                let v4 = |prefix: u32| IpAddr::from((prefix ^ (n as u32) << bits).to_be_bytes());
                wanted.insert(v4(0xcb00_7105), mapping(v4(0x0a41_0002)));
            }
        }
        let change = NatTable::adopt([], SEED, 0).plan(&wanted);
        assert_eq!(change.no_room, BTreeSet::new(), "bits {bits}");
    }
}
