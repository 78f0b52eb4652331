//! The planner against a model of the kernel that carries its transactions out write by write: at
//! every moment each packet is judged by the old records or by the new ones, never by a mix.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod build;
mod cases;
mod kernel;
mod limits;
mod scenario;
mod speed;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use felid_compile::Direction;
use felid_compile::planner::{Planner, PlannerOptions, identity};
use felid_compile::testing::Rng;
use felid_compile::transaction::{EndpointChange, EndpointId, Transaction};
use felid_model::ResourceKey;
use felid_model::resolved::{Delta, ResolvedAction};

use kernel::Kernel;
use scenario::{DIRECTIONS, Picky, Records, Truth, difference};

/// A planner, a kernel, and what must be true of them.
struct Trial {
    rng: Rng,
    options: PlannerOptions,
    planner: Planner<Picky>,
    kernel: Kernel,
    records: Records,
    /// What the planner was told.
    told: Delta,
    /// What is in force in the active bank.
    truth: Truth,
    /// The planner does not know what was in force before.
    restarted: bool,
    refused: usize,
    left_out: usize,
    done: usize,
}

impl Trial {
    fn new(seed: u64, options: PlannerOptions) -> Self {
        let mut rng = Rng::new(seed);
        let records = Records::random(&mut rng);
        let truth = Truth::after(&records, None, &BTreeMap::new());
        Self {
            rng,
            options,
            planner: Planner::with_compiler(options, Default::default(), Picky),
            kernel: Kernel::default(),
            records,
            told: Delta::default(),
            truth,
            restarted: false,
            refused: 0,
            left_out: 0,
            done: 0,
        }
    }

    fn change(&mut self, most: usize) {
        for _ in 0..self.rng.between(1, most) {
            self.records.change(&mut self.rng);
        }
        self.tell();
    }

    fn tell(&mut self) {
        let now = self.records.calculated();
        self.planner.update(&difference(&self.told, &now));
        self.planner.set_host_addresses(self.records.hosts.clone());
        self.told = now;
    }

    fn place(&self, truth: &Truth, key: &ResourceKey) -> EndpointId {
        let identity = identity(key, &truth.records.endpoints[key].interface_name);
        self.kernel
            .endpoints
            .values()
            .find(|(_, known)| *known == identity)
            .expect("a record")
            .0
    }

    /// Judges some packets in a bank.
    fn check(&mut self, truth: &Truth, bank: usize, packets: usize) {
        let keys: Vec<_> = truth.records.endpoints.keys().cloned().collect();
        for _ in 0..packets {
            let Some(key) = self.rng.pick(&keys) else { return };
            let direction = *self.rng.pick(&DIRECTIONS).unwrap();
            let packet = truth.packet(&mut self.rng, key, direction);
            let expected = truth.allows(key, direction, &packet);
            let (allowed, counter) = self
                .kernel
                .judge(bank, self.place(truth, key).index, direction, &packet);
            assert_eq!(allowed, expected, "{key} {direction:?} {packet:?}");
            // Programs of a previous run count under names that nobody knows any more.
            if !self.restarted
                && let Some(name) = self.kernel.counters.get(&counter)
            {
                assert_eq!(
                    name.action == ResolvedAction::Allow && !name.staged,
                    allowed,
                    "counter {counter} counts the wrong thing"
                );
            }
        }
    }

    /// Policies that do not fit into the tables, as the planner says, and whether all is denied
    /// instead.
    fn unfit(&self) -> BTreeMap<(ResourceKey, Direction), bool> {
        let unfit = self
            .planner
            .problems()
            .filter(|problem| problem.reason.contains("too small"));
        unfit
            .map(|problem| ((problem.endpoint.clone(), problem.direction), problem.closed))
            .collect()
    }

    /// One round: plans, carries out (perhaps only in part), checks throughout.
    fn round(&mut self) {
        let records = self.records.clone();
        let transaction = match self.planner.plan() {
            Ok(Some(transaction)) => transaction,
            Ok(None) => {
                let old = (!self.restarted).then_some(&self.truth);
                self.truth = Truth::after(&records, old, &self.unfit());
                return;
            }
            Err(_) => {
                self.refused += 1;
                let truth = self.truth.clone();
                assert!(self.planner.plan().is_err());
                return self.check(&truth, self.kernel.bank, 3);
            }
        };
        if self.rng.percent(10) {
            self.planner.aborted(&BTreeMap::new());
            if self.rng.percent(60) {
                self.change(4);
            }
            return self.round();
        }
        self.left_out += self.unfit().len();
        let old = self.truth.clone();
        let new = Truth::after(&records, (!self.restarted).then_some(&old), &self.unfit());
        self.check_revocation(&transaction, &old, &new);
        let crash = self.rng.percent(8).then(|| self.rng.below(60));
        if self.carry_out(&transaction, &old, &new, crash) {
            self.planner.committed();
            self.restarted = false;
            self.done += 1;
            self.check_complete(&new);
        } else {
            self.restart();
        }
    }

    /// Whether it was carried out to the end.
    fn carry_out(&mut self, transaction: &Transaction, old: &Truth, new: &Truth, crash: Option<usize>) -> bool {
        let mut writes = 0;
        let dead = |writes: &mut usize| {
            *writes += 1;
            crash.is_some_and(|crash| *writes > crash)
        };
        self.kernel.prepare(transaction);
        let bank = self.kernel.bank;
        for step in Kernel::steps(transaction, &mut self.rng) {
            self.kernel.write_idle(&step);
            self.check(old, bank, 1);
            // What arrives meanwhile waits.
            if self.rng.percent(3) {
                self.change(2);
                assert_eq!(self.planner.plan(), Ok(None));
            }
            if dead(&mut writes) {
                return false;
            }
        }
        self.check(new, 1 - bank, 6);
        self.kernel.flip();
        self.truth = new.clone();
        self.check(new, 1 - bank, 3);
        self.check(old, bank, 3);
        for step in Kernel::steps(transaction, &mut self.rng) {
            self.kernel.repair(&step);
            self.check(new, 1 - bank, 1);
            if dead(&mut writes) {
                return false;
            }
        }
        self.kernel.finish(transaction);
        for bank in [0, 1] {
            self.check(new, bank, 6);
        }
        true
    }

    fn restart(&mut self) {
        self.planner = Planner::with_compiler(self.options, self.kernel.adopt(), Picky);
        self.told = Delta::default();
        self.restarted = true;
        self.tell();
    }

    /// A flow that was allowed and is not any more must be judged again.
    fn check_revocation(&mut self, transaction: &Transaction, old: &Truth, new: &Truth) {
        for (key, now) in &new.records.endpoints {
            let Some(before) = old.records.endpoints.get(key) else {
                continue;
            };
            if before.interface_name != now.interface_name || !old.policies.contains_key(&(key.clone(), DIRECTIONS[0]))
            {
                continue;
            }
            let flags = match transaction.endpoints.get(&self.place(old, key)) {
                Some(EndpointChange::Set(plan)) => [plan.revoke_egress, plan.revoke_ingress],
                Some(EndpointChange::Gone { .. }) => panic!("{key} is gone"),
                None => [false; 2],
            };
            let lost_address = before.addresses.iter().any(|address| !now.addresses.contains(address));
            assert!(
                !(lost_address || self.restarted) || flags == [true; 2],
                "{key} must be judged again"
            );
            for (direction, revoked) in DIRECTIONS.into_iter().zip(flags).filter(|(_, revoked)| !revoked) {
                for truth in [old, new] {
                    for _ in 0..10 {
                        let packet = truth.packet(&mut self.rng, key, direction);
                        let lost = old.allows(key, direction, &packet) && !new.allows(key, direction, &packet);
                        assert!(!lost || revoked, "{key} {direction:?}: {packet:?} stays allowed");
                    }
                }
            }
        }
    }

    /// Exactly what the records ask for is there, the same in both banks.
    fn check_complete(&mut self, truth: &Truth) {
        let kernel = &self.kernel;
        assert!(kernel.peers.values().all(|value| value.class[0] == value.class[1]));
        assert!(
            kernel
                .nets
                .values()
                .chain(kernel.named_ports.values())
                .all(|class| class[0] == class[1])
        );
        assert_eq!(
            kernel.policies[0].keys().collect::<Vec<_>>(),
            kernel.policies[1].keys().collect::<Vec<_>>()
        );
        assert_eq!(kernel.endpoints.len(), truth.records.endpoints.len());
        for endpoint in truth.records.endpoints.values() {
            let id = self.place(truth, &endpoint.key);
            for address in &endpoint.addresses {
                assert_eq!(
                    kernel.peers.get(address).and_then(|value| value.endpoint),
                    Some(id),
                    "{address}"
                );
            }
            assert_eq!(self.planner.endpoint(&endpoint.key).map(|status| status.id), Some(id));
        }
        let owned: usize = truth
            .records
            .endpoints
            .values()
            .map(|endpoint| endpoint.addresses.len())
            .sum();
        assert_eq!(
            kernel.peers.values().filter(|value| value.endpoint.is_some()).count(),
            owned
        );
        let hosts: BTreeSet<_> = kernel
            .peers
            .iter()
            .filter(|(_, value)| value.host)
            .map(|(key, _)| *key)
            .collect();
        assert_eq!(hosts, truth.records.hosts);
        let useless = kernel
            .peers
            .values()
            .filter(|value| value.class[0] == 0 && value.endpoint.is_none() && !value.host);
        assert_eq!(useless.count(), 0);
        assert!(
            kernel
                .nets
                .values()
                .chain(kernel.named_ports.values())
                .all(|class| class[0] != 0)
        );
        let stats = self.planner.stats();
        let classes: BTreeSet<u32> = kernel
            .peers
            .values()
            .map(|value| value.class[0])
            .chain(
                kernel
                    .nets
                    .values()
                    .chain(kernel.named_ports.values())
                    .map(|class| class[0]),
            )
            .filter(|&class| class != 0)
            .collect();
        assert_eq!(stats.classes, classes.len());
        let rows: BTreeSet<_> = classes.iter().map(|class| &kernel.classes[class]).collect();
        assert_eq!(rows.len(), classes.len(), "two classes are equal");
        assert_eq!(stats.programs, kernel.programs.len());
        assert_eq!(
            (stats.peers_v4 + stats.peers_v6, stats.nets_v4 + stats.nets_v6),
            (kernel.peers.len(), kernel.nets.len())
        );
        assert_eq!(stats.named_ports, kernel.named_ports.len());
        assert_eq!(
            self.planner
                .counters()
                .map(|(i, n)| (i, n.clone()))
                .collect::<BTreeMap<_, _>>(),
            kernel.counters
        );
        let tested: BTreeSet<_> = kernel
            .programs
            .values()
            .flat_map(|program| program.sets.iter().chain(&program.named_port_sets))
            .collect();
        assert_eq!(stats.slots, tested.len());
    }
}

fn history(seed: u64, options: PlannerOptions, rounds: usize) -> Trial {
    let mut trial = Trial::new(seed, options);
    for _ in 0..rounds {
        trial.change(4);
        trial.round();
        if trial.rng.percent(4) {
            trial.restart();
        }
    }
    trial
}

/// How many histories each test tries; more with `FELID_HISTORIES`.
fn histories() -> u64 {
    std::env::var("FELID_HISTORIES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(10)
}

#[test]
fn every_packet_is_judged_by_the_old_or_the_new_records() {
    let mut done = 0;
    for seed in 0..histories() {
        done += history(
            seed,
            PlannerOptions {
                max_slots: 64,
                ..PlannerOptions::default()
            },
            25,
        )
        .done;
    }
    assert!(done as u64 > 12 * histories(), "{done} transactions");
}

#[test]
fn so_it_is_where_room_is_short() {
    let (mut done, mut left_out) = (0, 0);
    for seed in 0..histories() {
        let options = PlannerOptions {
            // As many as there are sets: a policy that alone needs more is a matter of `limits`.
            max_slots: 9,
            max_classes: 24,
            max_endpoints: 64,
            max_counters: 12,
            peers_v4: 12,
            peers_v6: 12,
            nets_v4: 5,
            nets_v6: 5,
            named_ports: 9,
        };
        let trial = history(1_000_000 + seed, options, 25);
        done += trial.done;
        left_out += trial.left_out;
    }
    assert!(
        done as u64 > 5 * histories() && left_out as u64 > histories(),
        "{done} transactions, {left_out} policies left out"
    );
}

/// The same records, told in another order and with detours, end with the same numbers of
/// everything.
#[test]
fn the_way_does_not_matter() {
    for seed in 0..histories() {
        let options = PlannerOptions {
            max_slots: 64,
            ..PlannerOptions::default()
        };
        let mut trial = history(2_000_000 + seed, options, 15);
        while trial.planner.busy() || trial.planner.plan().is_ok_and(|transaction| transaction.is_some()) {
            trial.planner.committed();
        }
        // What could not be compiled depends on what was there before.
        if trial.planner.problems().next().is_some() {
            continue;
        }
        let mut straight = Planner::with_compiler(options, Default::default(), Picky);
        straight.update(&trial.records.calculated());
        straight.set_host_addresses(trial.records.hosts.clone());
        straight.plan().unwrap();
        straight.committed();
        assert_eq!(straight.stats(), trial.planner.stats(), "seed {seed}");
    }
}
