//! An agent that dies and comes back: nothing is let through, nothing is cut.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use felid_dataplane::Config;
use felid_dataplane::kernel::Role;
use felid_dataplane::sys;
use felid_lab::{Host, Workload};
use felid_tests::frames::Frame;

use crate::node::{Node, allow, allow_from, allow_from_any, config, endpoint, gone, members, on_host, set};

const A: &[&str] = &["10.65.0.2", "fd00:65::2"];
const B: &[&str] = &["10.65.0.3", "fd00:65::3"];
const C: &[&str] = &["10.65.0.4", "fd00:65::4"];
const PORT: u16 = 7000;

/// One numbered datagram every half millisecond, each a flow of its own, until told to stop;
/// returns how many.
fn flood(from: &Workload, to: &str, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let frame = Frame::new(
        from.mac,
        felid_lab::netns::HOST_MAC,
        from.addresses[0],
        to.parse().unwrap(),
    );
    let socket = from.namespace.packets("eth0").unwrap();
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut number = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            let port = 10_000 + (number % 50_000) as u16;
            socket.send(&frame.udp(port, PORT, &number.to_be_bytes())).unwrap();
            number += 1;
            std::thread::sleep(Duration::from_micros(500));
        }
        number
    })
}

/// Sources whose datagrams arrive, with the numbers in them.
fn arrivals(at: &Workload, stop: &Arc<AtomicBool>) -> JoinHandle<BTreeSet<([u8; 4], u64)>> {
    let socket = at.namespace.packets("eth0").unwrap();
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut seen = BTreeSet::new();
        let is_ours = |frame: &[u8]| frame.get(23) == Some(&17) && frame.get(36..38) == Some(&PORT.to_be_bytes()[..]);
        while !stop.load(Ordering::Relaxed) {
            while let Some(frame) = socket.receive(Duration::from_millis(20), is_ours).unwrap() {
                let source = frame[26..30].try_into().unwrap();
                seen.insert((source, u64::from_be_bytes(frame[42..50].try_into().unwrap())));
            }
        }
        seen
    })
}

/// What may reach the third of three workloads, from the first, and what may not, from the second,
/// while programs and tables change hands.
struct Floods {
    stop: Arc<AtomicBool>,
    quiet: Arc<AtomicBool>,
    sent: [JoinHandle<u64>; 2],
    seen: JoinHandle<BTreeSet<([u8; 4], u64)>>,
}

impl Floods {
    fn begin([a, b, c]: &[Workload; 3]) -> Self {
        let (stop, quiet) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let seen = arrivals(c, &quiet);
        let sent = [flood(a, C[0], &stop), flood(b, C[0], &stop)];
        Self {
            stop,
            quiet,
            sent,
            seen,
        }
    }

    /// Every allowed packet has arrived, and no other.
    #[track_caller]
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let [allowed, denied] = self.sent.map(|flood| flood.join().unwrap());
        std::thread::sleep(Duration::from_millis(50));
        self.quiet.store(true, Ordering::Relaxed);
        let seen = self.seen.join().unwrap();
        let from = |address: [u8; 4]| seen.iter().filter(|(source, _)| *source == address).count() as u64;
        assert!(allowed > 200 && denied > 200, "{allowed} {denied}");
        assert_eq!(from([10, 65, 0, 3]), 0, "of {denied} forbidden packets");
        assert_eq!(from([10, 65, 0, 2]), allowed, "no allowed packet is lost");
    }
}

fn three(host: &Host) -> [Workload; 3] {
    [("cali-a", A), ("cali-b", B), ("cali-c", C)].map(|(name, addresses)| {
        let workload = host.workload(name, addresses).unwrap();
        host.wire(&workload).unwrap();
        workload
    })
}

#[test]
fn a_restart_lets_nothing_through_and_cuts_nothing() {
    on_host(|host| {
        let workloads = three(host);
        let [a, b, c] = &workloads;
        let all: Vec<&Workload> = workloads.iter().collect();
        let records = || {
            let mut delta = set([
                endpoint(a, allow(), allow()),
                endpoint(b, allow(), allow()),
                endpoint(c, allow(), allow_from("s:friends")),
            ]);
            delta.members = members("s:friends", &a.addresses).members;
            delta
        };
        let mut node = Node::open(host);
        node.links(&all);
        node.commit(&records());
        let first = node.kernel.inventory().unwrap();
        let ids: Vec<_> = node
            .kernel
            .endpoints()
            .into_iter()
            .map(|state| (state.key, state.id))
            .collect();

        let floods = Floods::begin(&workloads);
        for round in 0..3 {
            std::thread::sleep(Duration::from_millis(50));
            // As if killed: nothing is told to the kernel.
            drop(node);
            std::thread::sleep(Duration::from_millis(50));
            node = Node::with(&config(host));
            std::thread::sleep(Duration::from_millis(20));
            node.links(&all);
            assert_eq!(node.role(a.ifindex), Some(Role::Inherited));
            std::thread::sleep(Duration::from_millis(20));
            node.commit(&records());
            assert_eq!(node.kernel.inventory().unwrap(), first, "round {round}");
        }
        std::thread::sleep(Duration::from_millis(50));
        floods.end();
        let after: Vec<_> = node
            .kernel
            .endpoints()
            .into_iter()
            .map(|state| (state.key, state.id))
            .collect();
        assert_eq!(ids, after, "endpoints keep their ids");
    });
}

/// Room for this many addresses, prefixes and named ports.
fn small(host: &Host, room: u32) -> Config {
    let mut config = config(host);
    (config.capacities.peers, config.capacities.nets) = (room, room);
    config.capacities.named_ports = room;
    config
}

#[test]
fn tables_become_larger_at_a_restart_without_a_gap() {
    on_host(|host| {
        let workloads = three(host);
        let [a, b, c] = &workloads;
        let all: Vec<&Workload> = workloads.iter().collect();
        // Addresses, and networks of which one is that of a sender.
        let records = |many: u8| {
            let mut delta = set([
                endpoint(a, allow(), allow()),
                endpoint(b, allow(), allow()),
                endpoint(c, allow(), allow_from("s:friends")),
            ]);
            let others = (0..many).map(|n| IpAddr::from([192, 0, 2, n]));
            let friends: Vec<IpAddr> = a.addresses.iter().copied().chain(others).collect();
            delta.members = members("s:friends", &friends).members;
            let friends = delta.members.values().next().cloned().unwrap();
            for n in 0..many {
                delta
                    .members
                    .insert(format!("10.66.{n}.0/24").parse().unwrap(), friends.clone());
                delta
                    .members
                    .insert(format!("fd00:66:{n}::/48").parse().unwrap(), friends.clone());
            }
            delta
        };
        let mut node = Node::with(&small(host, 16));
        node.links(&all);
        node.commit(&records(5));
        let before = node.kernel.adopt();

        let floods = Floods::begin(&workloads);
        for (room, many) in [(32, 20), (256, 200), (300, 200)] {
            std::thread::sleep(Duration::from_millis(50));
            drop(node);
            node = Node::with(&small(host, room));
            assert_eq!(node.kernel.capacities().peers, room);
            assert_eq!(node.kernel.capacities().nets, room);
            assert_eq!(node.kernel.capacities().named_ports, room);
            if room == 32 {
                let copied = node.kernel.adopt();
                assert_eq!(
                    (&copied.peers, &copied.nets),
                    (&before.peers, &before.nets),
                    "nothing was lost"
                );
            }
            std::thread::sleep(Duration::from_millis(50));
            node.links(&all);
            node.commit(&records(many));
            assert!(node.planner.problems().next().is_none());
        }
        // A smaller size changes nothing.
        drop(node);
        node = Node::with(&small(host, 16));
        assert_eq!(node.kernel.capacities().peers, 300);
        node.links(&all);
        node.commit(&records(200));
        std::thread::sleep(Duration::from_millis(50));
        floods.end();
    });
}

#[test]
fn what_happened_meanwhile_is_caught_up_with() {
    on_host(|host| {
        let [a, b, c] = three(host);
        let mut node = Node::open(host);
        node.links(&[&a, &b, &c]);
        node.commit(&set([&a, &b, &c].map(|workload| endpoint(workload, allow(), allow()))));
        let next = node.kernel.adopt().next_endpoint_id;
        drop(node);
        // One interface goes, one record goes, one interface comes.
        let ifindex = a.ifindex;
        drop(a);
        host.namespace().ip("link del cali-a").unwrap_or_default();
        let d = host.workload("cali-d", &["10.65.0.5"]).unwrap();
        let mut node = Node::open(host);
        node.links(&[&b, &c, &d]);
        assert_eq!(
            node.role(d.ifindex),
            Some(Role::Closed),
            "unknown interfaces are closed before anything else"
        );
        assert_eq!(node.kernel.roles().get(&ifindex), None);
        node.commit(&set([&b, &d].map(|workload| endpoint(workload, allow(), allow()))));
        assert_eq!(node.role(c.ifindex), Some(Role::Closed));
        let held = node.kernel.inventory().unwrap();
        assert_eq!((held.endpoints, held.links, held.policies), (2, 6, [4, 4]));
        assert_eq!((held.peers_v4, held.peers_v6, held.unequal), (2, 1, 0));
        assert!(
            node.kernel.endpoints().iter().any(|state| state.id.id >= next),
            "ids are never used again"
        );
    });
}

#[test]
fn ids_do_not_go_back_when_everything_is_gone() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        let mut node = Node::open(host);
        node.commit(&set([endpoint(&a, allow(), allow())]));
        node.commit(&gone(&a));
        let next = node.kernel.adopt().next_endpoint_id;
        assert!(next >= 2);
        drop(node);
        let mut node = Node::open(host);
        assert_eq!(node.kernel.adopt().next_endpoint_id, next);
        node.commit(&set([endpoint(&a, allow(), allow())]));
        assert_eq!(node.kernel.endpoints()[0].id.id, next);
    });
}

#[test]
fn an_agent_may_die_between_the_two_halves() {
    on_host(|host| {
        let [a, b, c] = three(host);
        let mut node = Node::open(host);
        node.links(&[&a, &b, &c]);
        node.commit(&set([&a, &b, &c].map(|workload| endpoint(workload, allow(), allow()))));
        let transaction = node.plan(&set([endpoint(&c, allow(), allow_from("s:none"))]));
        drop(node.kernel.apply(&transaction).unwrap());
        assert!(!a.namespace.pings(C[0]).unwrap(), "in force after the first half");
        drop(node);
        let mut node = Node::open(host);
        node.links(&[&a, &b, &c]);
        assert!(!a.namespace.pings(C[0]).unwrap());
        node.commit(&set([
            endpoint(&a, allow(), allow()),
            endpoint(&b, allow(), allow()),
            endpoint(&c, allow(), allow()),
        ]));
        assert!(a.namespace.pings(C[0]).unwrap());
        assert_eq!(node.kernel.inventory().unwrap().unequal, 0);
    });
}

#[test]
fn a_link_that_cannot_be_looked_at_is_not_taken_for_gone() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        let mut node = Node::open(host);
        node.links(&[&a]);
        drop(node);
        // Something that is no link stands where one should.
        let version = std::fs::read_dir(host.bpffs().join("felid"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let program = sys::open_pin(&version.join("maps/epoch")).unwrap();
        let pin = version.join(format!("links/{}_from_workload", a.ifindex + 1));
        sys::pin(program.as_fd(), &pin).unwrap();
        let error = felid_dataplane::Kernel::open(&config(host)).err().unwrap().to_string();
        assert!(error.contains(&pin.display().to_string()), "{error}");
        assert!(pin.exists());
        for hook in sys::Hook::ALL {
            assert_eq!(sys::attached(a.ifindex, hook).unwrap().len(), 1);
        }
    });
}

#[test]
fn the_class_table_may_change_its_shape() {
    on_host(|host| {
        let [a, b, c] = three(host);
        let mut large = config(host);
        large.capacities.classes = 64;
        large.capacities.class_bits = 128;
        let mut node = Node::with(&large);
        node.links(&[&a, &b, &c]);
        // Many classes: every address is in another set.
        let sets: Vec<String> = (0..40).map(|n| format!("s:{n}")).collect();
        let names: Vec<&str> = sets.iter().map(String::as_str).collect();
        let mut records = set([
            endpoint(&a, allow(), allow()),
            endpoint(&b, allow(), allow()),
            endpoint(&c, allow(), allow_from_any(&names)),
        ]);
        for (n, name) in names.iter().enumerate() {
            let address = format!("10.66.0.{n}").parse().unwrap();
            records.members.extend(members(name, &[address]).members);
        }
        records.members.extend(members("s:0", &a.addresses).members);
        node.commit(&records);
        drop(node);
        // More than half of the rows are in use; fewer rows, other widths.
        for (classes, bits) in [(64, 128), (48, 128), (45, 64), (48, 256)] {
            large.capacities.classes = classes;
            large.capacities.class_bits = bits;
            let mut node = Node::with(&large);
            assert_eq!(node.kernel.capacities().classes, classes);
            node.links(&[&a, &b, &c]);
            node.commit(&records);
            assert!((0..10).any(|_| a.namespace.pings(C[0]).unwrap()));
            assert!(!b.namespace.pings(C[0]).unwrap());
        }
    });
}
