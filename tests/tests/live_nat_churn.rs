//! Flows through translations that stay and through others that come, go and move: the former lose
//! nothing, the latter end at once.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use felid_lab::records::Endpoint;
use felid_tests::inventory::inventory;
use felid_tests::nat_flows::{Flow, Leaks, serve};
use felid_tests::nat_world::{FAMILIES, NatWorld, PORT, ip, nat, routed};
use felid_tests::{Namespace, Workload};

/// Flows through translations that stay.
const STEADY: usize = 100;
/// Translations that do not, each with [`FLOWS`] flows.
const MAPPINGS: usize = 20;
const FLOWS: usize = 5;
const OTHER: [&str; 2] = ["10.65.0.4", "fd00:65::4"];
/// The letters of `web` and of the other workload.
const WEB: u8 = b'w';
const OTHERS: u8 = b'o';
/// Old flows are forgotten within the test. (Not TCP's: a server that gets no acknowledgements goes
/// on for longer than that.)
const OPTIONS: [&str; 4] = [
    "--conntrack-timeouts",
    "udpTimeout=6s",
    "--conntrack-sweep-interval",
    "1s",
];

/// `FELID_SECONDS`, or a short run.
fn time() -> Duration {
    let seconds = std::env::var("FELID_SECONDS").map_or(10, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

/// A small generator; the seed is printed.
struct Rng(u64);

impl Rng {
    fn new() -> Self {
        let seed = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
        let rng = Self(seed ^ 0x9e37_79b9_7f4a_7c15);
        println!("seed {}", rng.0);
        rng
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }
}

/// Flows from both askers to the external addresses that stay, in both IP versions, some by TCP.
fn steady(world: &NatWorld) -> Vec<Flow> {
    (0..STEADY)
        .map(|n| {
            let family = FAMILIES[n / 2 % 2];
            let to = if n / 4 % 2 == 0 {
                family.external
            } else {
                family.smallest
            };
            let from = [&world.outside, &world.client.namespace][n % 2];
            Flow::open(from, ip(to), PORT, n % 10 == 9).unwrap()
        })
        .collect()
}

/// Asks by every flow in turn until it is to stop; rounds.
fn keep_asking(flows: &mut [Flow], stop: &AtomicBool) -> u64 {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        for (n, flow) in flows.iter_mut().enumerate() {
            let asked = flow.ask(WEB);
            assert!(asked.is_ok(), "untouched flow {n} in round {rounds}: {asked:?}");
        }
        rounds += 1;
    }
    rounds
}

/// Whose an external address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    Web,
    Other,
}

impl Owner {
    const ALL: [Self; 3] = [Self::Nobody, Self::Web, Self::Other];

    fn letter(self) -> Option<u8> {
        match self {
            Self::Nobody => None,
            Self::Web => Some(WEB),
            Self::Other => Some(OTHERS),
        }
    }

    fn interface(self) -> Option<String> {
        match self {
            Self::Nobody => None,
            Self::Web => Some("caliweb".into()),
            Self::Other => Some("caliother".into()),
        }
    }
}

/// The churning half.
struct Churn<'a> {
    world: &'a NatWorld,
    other: &'a Workload,
    owners: [Owner; MAPPINGS],
    /// Flows of each external address that somebody has.
    flows: &'a Mutex<BTreeMap<usize, Vec<Flow>>>,
}

fn external(n: usize) -> String {
    if n.is_multiple_of(2) {
        format!("203.0.113.{}", 100 + n)
    } else {
        format!("2001:db8:5::1{n:02x}")
    }
}

impl Churn<'_> {
    fn write(&self, owner: Owner) {
        let (mut record, internal, file) = if owner == Owner::Web {
            (self.world.web_record(), FAMILIES.map(|family| family.web), "web.yaml")
        } else {
            (Endpoint::of("other", self.other), OTHER, "other.yaml")
        };
        let mine = (0..MAPPINGS).filter(|n| self.owners[*n] == owner);
        record.nats.extend(mine.map(|n| nat(internal[n % 2], &external(n))));
        self.world.cluster.write(file, &record.yaml()).unwrap();
    }

    fn asker(&self, n: usize) -> &Namespace {
        [&self.world.outside, &self.world.client.namespace][n % 2]
    }

    /// Gives some external addresses to others, waits until the agent has done it, and looks at
    /// their flows.
    fn change(&mut self, changes: &BTreeMap<usize, Owner>, rng: &mut Rng) {
        for (n, owner) in changes {
            self.owners[*n] = *owner;
        }
        // In either order: both may claim an address for a moment, or nobody.
        let first = rng.below(2);
        for turn in 0..2 {
            self.write([Owner::Web, Owner::Other][(first + turn) % 2]);
        }
        let host = self.world.cluster.host.namespace();
        for (n, owner) in changes {
            let what = format!("{} leads to {owner:?}", external(*n));
            let done = || Ok(routed(host, &external(*n))? == owner.interface());
            self.world.cluster.eventually(&what, done).unwrap();
        }
        let mut flows = self.flows.lock().unwrap();
        for (n, owner) in changes {
            for flow in flows.get_mut(n).into_iter().flatten() {
                flow.send();
                let _ = owner;
            }
        }
        std::thread::sleep(Duration::from_millis(50));
        for (n, owner) in changes {
            for (k, flow) in flows.remove(n).into_iter().flatten().enumerate() {
                let mut flow = flow;
                let answered = flow.answer(Duration::from_millis(1)).unwrap();
                // To the new owner a datagram is a new flow; a connection does not move.
                let allowed = answered.is_none() || answered == owner.letter() && !is_tcp(k);
                assert!(
                    allowed,
                    "{}: {answered:?} still answers flow {k}, now {owner:?}",
                    external(*n)
                );
            }
        }
        for (n, owner) in changes {
            let Some(letter) = owner.letter() else { continue };
            let opened = (0..FLOWS).map(|k| {
                let mut flow = Flow::open(self.asker(k), ip(&external(*n)), PORT, is_tcp(k)).unwrap();
                let asked = flow.ask(letter);
                assert!(asked.is_ok(), "new flow to {}: {asked:?}", external(*n));
                flow
            });
            flows.insert(*n, opened.collect());
        }
    }
}

/// One flow of each external address.
fn is_tcp(flow: usize) -> bool {
    flow == FLOWS - 1
}

#[test]
fn translations_come_go_and_move_under_traffic() {
    let mut world = NatWorld::without_agent("lnc", "", &OPTIONS).unwrap();
    let other = world.cluster.host.workload("caliother", &OTHER).unwrap();
    world
        .cluster
        .write("other.yaml", &Endpoint::of("other", &other).yaml())
        .unwrap();
    world.cluster.start().unwrap();
    world.in_force().unwrap();
    serve(&world.web.namespace, PORT, WEB).unwrap();
    serve(&other.namespace, PORT, OTHERS).unwrap();
    let world = &world;
    let before = inventory(&world.cluster).unwrap();
    let internal: Vec<&str> = FAMILIES.iter().map(|family| family.web).chain(OTHER).collect();
    let leaks = [&world.outside, &world.client.namespace].map(|asker| Leaks::watch(asker, &internal, PORT).unwrap());

    let (stop, failed) = (AtomicBool::new(false), AtomicBool::new(false));
    let (flows, rounds) = (Mutex::new(BTreeMap::new()), AtomicU64::new(0));
    let mut changes = 0;
    std::thread::scope(|scope| {
        let untouched = scope.spawn(|| {
            let mut flows = steady(world);
            let _fails = OnPanic(&failed);
            rounds.store(keep_asking(&mut flows, &stop), Ordering::Relaxed);
        });
        // The others are busy, too, whatever happens to them.
        let busy = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for flow in flows.lock().unwrap().values_mut().flatten() {
                    let flow: &mut Flow = flow;
                    flow.send();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let stops = Stop(&stop);
        let mut rng = Rng::new();
        let mut churn = Churn {
            world,
            other: &other,
            owners: [Owner::Nobody; MAPPINGS],
            flows: &flows,
        };
        let all: BTreeMap<_, _> = (0..MAPPINGS).map(|n| (n, Owner::ALL[1 + n % 2])).collect();
        churn.change(&all, &mut rng);
        let end = Instant::now() + time();
        while Instant::now() < end && !failed.load(Ordering::Relaxed) {
            let mut some = BTreeMap::new();
            for _ in 0..=rng.below(4) {
                let n = rng.below(MAPPINGS);
                let mut owner = Owner::ALL[rng.below(3)];
                if owner == churn.owners[n] {
                    owner = Owner::ALL[(rng.below(2) + 1 + Owner::ALL.iter().position(|o| *o == owner).unwrap()) % 3];
                }
                some.insert(n, owner);
            }
            changes += some.len();
            churn.change(&some, &mut rng);
        }
        let nobody = (0..MAPPINGS).filter(|n| churn.owners[*n] != Owner::Nobody);
        let nobody = nobody.map(|n| (n, Owner::Nobody)).collect();
        churn.change(&nobody, &mut rng);
        drop(stops);
        untouched.join().unwrap();
        busy.join().unwrap();
    });
    for leak in leaks {
        assert_eq!(leak.found().unwrap(), [""; 0], "answers under an internal address");
    }
    let rounds = rounds.into_inner();
    println!("{changes} changes, {rounds} rounds of {STEADY} untouched flows");
    assert!(changes > 5 && rounds > 5, "what would the test show?");
    assert_eq!(world.cluster.dropped("nat_collision").unwrap(), 0.0);
    let mut after = BTreeMap::new();
    let same = world.cluster.eventually("the kernel holds what it held before", || {
        after = inventory(&world.cluster)?;
        Ok(after == before)
    });
    assert!(same.is_ok(), "left over:\nbefore {before:#?}\nafter {after:#?}");
    // An agent that is not optimised takes seconds to load the sweeper, and a sweep is followed by
    // a pause twenty times as long.
    let end = Instant::now() + Duration::from_secs(180);
    loop {
        let flows = world.cluster.felid_json(&["flows", "-o", "json"]).unwrap();
        let mut left = flows["flows"].as_array().cloned().unwrap();
        left.retain(|flow| flow["protocol"] != "TCP");
        let Some(first) = left.first() else { break };
        assert!(
            Instant::now() < end,
            "{} remembered beyond their time: {first:#?}",
            left.len()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Tells the others when its thread panics.
struct OnPanic<'a>(&'a AtomicBool);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        self.0.store(std::thread::panicking(), Ordering::Relaxed);
    }
}

/// Ends the other threads, also when this one panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn translated_flows_survive_the_agent() {
    let mut world = NatWorld::without_agent("lnr", "", &[]).unwrap();
    world.cluster.start().unwrap();
    world.in_force().unwrap();
    serve(&world.web.namespace, PORT, WEB).unwrap();
    let mut flows = steady(&world);
    let stop = AtomicBool::new(false);
    let cluster = &mut world.cluster;
    std::thread::scope(|scope| {
        let untouched = scope.spawn(|| keep_asking(&mut flows, &stop));
        let stops = Stop(&stop);
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(300));
            cluster.kill();
            std::thread::sleep(Duration::from_millis(300));
            cluster.start().unwrap();
        }
        drop(stops);
        let rounds = untouched.join().unwrap();
        println!("{rounds} rounds of {STEADY} flows");
        assert!(rounds > 5, "what would the test show?");
    });
    // New ones as before; and the same translations as ever.
    world.in_force().unwrap();
    for mut flow in steady(&world) {
        flow.ask(WEB).unwrap();
    }
    assert_eq!(world.cluster.dropped("nat_gone").unwrap(), 0.0);
}
