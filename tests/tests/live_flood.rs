//! Floods of packets with ten times as many tuples as the tables have entries, from a workload and
//! from outside: no established flow of others is lost, their new flows get through, and the agent
//! goes on.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use felid_lab::Namespace;
use felid_lab::records::{Endpoint, policy};
use felid_tests::frames::{Frame, checksum, fragment_header};
use felid_tests::netns::HOST_MAC;
use felid_tests::{Cluster, Workload, sockets};

/// Entries of each table of established flows.
const ESTABLISHED: u64 = 4096;
/// Entries of each table of half-open flows: 64 for each endpoint and direction.
const HALF_OPEN: u64 = 4096;
const TIMES: u64 = 10;
/// Connections of the bystander that were there before.
const OLD: usize = 60;
/// Connections that it makes during each flood, of TCP and of UDP.
const NEW: usize = 10;

/// What a flood consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Syn,
    SynAck,
    Udp,
    Icmp,
    Fragments,
}

struct World {
    cluster: Cluster,
    outside: Namespace,
    flooder: Workload,
    bystander: Workload,
    server: Workload,
}

/// The families: flooder, server, and an address outside where nobody answers.
const FAMILIES: [[&str; 3]; 2] = [
    ["10.65.0.2", "10.65.0.4", "198.51.100.9"],
    ["fd00:65::2", "fd00:65::4", "2001:db8:9::9"],
];

fn world() -> World {
    let (mut cluster, outside) = Cluster::with_uplink("lfl", None).unwrap();
    let host = cluster.host.namespace();
    host.ip("route add 198.51.100.0/24 via 192.0.2.7").unwrap();
    host.ip("-6 route add 2001:db8:9::/64 via 2001:db8:2::7").unwrap();
    outside.ip("route add blackhole 198.51.100.0/24").unwrap();
    outside.ip("-6 route add blackhole 2001:db8:9::/64").unwrap();
    let workload = |name: &str, last: u32| {
        let addresses = [format!("10.65.0.{last}"), format!("fd00:65::{last}")];
        let addresses = addresses.each_ref().map(String::as_str);
        cluster.host.workload(&format!("cali{name}"), &addresses).unwrap()
    };
    let (flooder, bystander, server) = (workload("flooder", 2), workload("bystander", 3), workload("server", 4));
    let record = |name, workload| Endpoint::of(name, workload).yaml();
    let records = [
        record("flooder", &flooder),
        record("bystander", &bystander),
        record("server", &server),
    ];
    cluster.write("records.yaml", &records.concat()).unwrap();
    for (setting, value) in [
        ("--conntrack-established-size", ESTABLISHED.to_string()),
        ("--conntrack-established-size-v6", ESTABLISHED.to_string()),
        ("--conntrack-half-open-size", HALF_OPEN.to_string()),
        ("--conntrack-sweep-interval", "1s".to_owned()),
    ] {
        cluster.options.extend([setting.to_owned(), value]);
    }
    cluster.start().unwrap();
    sockets::serve_tcp(&server.namespace, 80).unwrap();
    sockets::serve_udp(&server.namespace, 53).unwrap();
    World {
        cluster,
        outside,
        flooder,
        bystander,
        server,
    }
}

/// A frame of a flood, and what of it changes from packet to packet.
struct Template {
    bytes: Vec<u8>,
    kind: Kind,
    /// Where the L4 header is.
    l4: usize,
}

impl Template {
    fn new(kind: Kind, macs: ([u8; 6], [u8; 6]), from: IpAddr, to: IpAddr) -> Self {
        let mut frame = Frame::new(macs.0, macs.1, from, to);
        let v4 = from.is_ipv4();
        let mut l4 = if v4 { 34 } else { 54 };
        let bytes = match kind {
            Kind::Syn => frame.tcp(1, 80, 2),
            Kind::SynAck => frame.tcp(80, 1, 18),
            Kind::Udp => frame.udp(1, 53, b"query"),
            Kind::Icmp => frame.icmp(if v4 { 8 } else { 128 }, 0, 1),
            Kind::Fragments => {
                frame.fragment = (1, 0x2000);
                if !v4 {
                    frame.extensions = vec![fragment_header(0, true, 1)];
                    l4 += 8;
                }
                frame.udp(1, 53, &[0; 40])
            }
        };
        Self { bytes, kind, l4 }
    }

    /// Another tuple. (Nobody looks at the checksums of L4.)
    fn change(&mut self, number: u64) {
        let (bytes, l4) = (&mut self.bytes, self.l4);
        let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let words = random.to_be_bytes();
        match self.kind {
            Kind::Icmp => bytes[l4 + 4..l4 + 6].copy_from_slice(&words[4..6]),
            Kind::Fragments if l4 == 62 => bytes[58..62].copy_from_slice(&words[4..8]),
            Kind::Fragments => {
                bytes[18..20].copy_from_slice(&words[4..6]);
                bytes[24..26].copy_from_slice(&[0; 2]);
                let sum = checksum(&bytes[14..34]);
                bytes[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            _ => bytes[l4..l4 + 4].copy_from_slice(&words[4..8]),
        }
    }
}

/// A flood that goes on until it is ended, and for at least so many packets.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<anyhow::Result<()>>,
    began: Instant,
}

impl Flood {
    fn start(namespace: &Namespace, mut template: Template, least: u64) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let socket = namespace.packets("eth0").unwrap();
        let thread = thread::spawn(move || {
            let mut number = 0;
            while number < least || !stopped.load(Ordering::Relaxed) {
                template.change(number);
                // What the queue has no room for is no matter.
                let _ = socket.send(&template.bytes);
                number += 1;
                counted.store(number, Ordering::Relaxed);
            }
            Ok(())
        });
        Self {
            stop,
            sent,
            thread,
            began: Instant::now(),
        }
    }

    fn end(self, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap();
        let (sent, seconds) = (self.sent.load(Ordering::Relaxed), self.began.elapsed().as_secs_f64());
        println!("{what}: {sent} packets, {:.0} a second", sent as f64 / seconds);
    }
}

impl World {
    fn connections(&self) -> Vec<TcpStream> {
        let mut connections = Vec::new();
        for n in 0..OLD {
            let to: IpAddr = FAMILIES[n % 2][1].parse().unwrap();
            connections.push(sockets::tcp_open(&self.bystander.namespace, to, 80).unwrap());
        }
        connections
    }

    /// Ports of the bystander's established flows.
    fn established(&self) -> BTreeSet<u64> {
        let flows = self
            .cluster
            .felid_json(&["flows", "--limit", "100000", "-o", "json"])
            .unwrap();
        let flows = flows["flows"].as_array().unwrap().clone();
        let mine = |flow: &&serde_json::Value| {
            let address = flow["source"]["address"].as_str().unwrap_or_default();
            (address == "10.65.0.3" || address == "fd00:65::3") && flow["state"] == "established"
        };
        flows
            .iter()
            .filter(mine)
            .filter_map(|flow| flow["source"]["port"].as_u64())
            .collect()
    }

    /// How many new connections of the bystander work, of `2 * NEW`; large datagrams in fragments.
    fn new_connections(&self) -> usize {
        let mut working = 0;
        for n in 0..NEW {
            let to: IpAddr = FAMILIES[n % 2][1].parse().unwrap();
            working += usize::from(sockets::tcp(&self.bystander.namespace, to, 80).unwrap());
            working += usize::from(sockets::udp(&self.bystander.namespace, to, 53, 100 + 300 * n).unwrap());
        }
        working
    }

    fn macs(&self, from_outside: bool) -> ([u8; 6], [u8; 6]) {
        if !from_outside {
            return (self.flooder.mac, HOST_MAC);
        }
        let mac = |namespace: &Namespace, interface: &'static str| {
            namespace.run(|| felid_lab::packet::mac_of(interface)).unwrap().unwrap()
        };
        (mac(&self.outside, "eth0"), mac(self.cluster.host.namespace(), "uplink"))
    }
}

#[test]
fn floods_take_no_room_of_others() {
    let world = world();
    let mut connections = world.connections();
    let old: BTreeSet<u64> = connections
        .iter()
        .map(|stream| stream.local_addr().unwrap().port().into())
        .collect();
    let (mut tried, mut working) = (0, 0);
    for [flooder, _, nobody] in FAMILIES {
        let (flooder, nobody): (IpAddr, IpAddr) = (flooder.parse().unwrap(), nobody.parse().unwrap());
        for from_outside in [false, true] {
            for kind in [Kind::Syn, Kind::SynAck, Kind::Udp, Kind::Icmp, Kind::Fragments] {
                let (from, to) = if from_outside {
                    (nobody, flooder)
                } else {
                    (flooder, nobody)
                };
                let template = Template::new(kind, world.macs(from_outside), from, to);
                let namespace = if from_outside {
                    &world.outside
                } else {
                    &world.flooder.namespace
                };
                let flood = Flood::start(namespace, template, TIMES * HALF_OPEN);
                tried += 2 * NEW;
                working += world.new_connections();
                flood.end(&format!("{kind:?} from {from}"));
                let there = world.established();
                let lost: Vec<&u64> = old.difference(&there).collect();
                assert!(lost.is_empty(), "{kind:?} from {from}: lost {lost:?}");
            }
        }
    }
    for connection in &mut connections {
        sockets::echo(connection).unwrap();
    }
    println!("{working} of {tried} new connections worked");
    assert!(working * 100 >= tried * 95, "{working} of {tried}");
    assert_eq!(world.cluster.dropped("conntrack_full").unwrap(), 0.0);
}

#[test]
fn whoever_has_its_share_is_refused_more_and_named() {
    let world = world();
    let mut connections = world.connections();
    let old: BTreeSet<u64> = connections
        .iter()
        .map(|stream| stream.local_addr().unwrap().port().into())
        .collect();
    assert!(sockets::udp(&world.bystander.namespace, FAMILIES[0][1].parse().unwrap(), 53, 10).unwrap());
    // An accomplice outside answers every datagram.
    let (flooder, nobody): (IpAddr, IpAddr) = (FAMILIES[0][0].parse().unwrap(), FAMILIES[0][2].parse().unwrap());
    let mut question = Template::new(Kind::Udp, world.macs(false), flooder, nobody);
    let mut answer = Template::new(Kind::Udp, world.macs(true), nobody, flooder);
    let inside = world.flooder.namespace.packets("eth0").unwrap();
    let outside = world.outside.packets("eth0").unwrap();
    for number in 0..TIMES * ESTABLISHED {
        question.change(number);
        let ports: Vec<u8> = question.bytes[34..38].to_vec();
        answer.bytes[34..36].copy_from_slice(&ports[2..4]);
        answer.bytes[36..38].copy_from_slice(&ports[..2]);
        let _ = inside.send(&question.bytes);
        let _ = outside.send(&answer.bytes);
    }
    assert!(world.cluster.dropped("flow_limit").unwrap() > 0.0);
    // Refused ones go on being told for as long as it tries.
    let said = |args: &[&str], what: &str| {
        let output = world.cluster.felid(args).unwrap();
        String::from_utf8_lossy(&output.stdout).contains(what)
    };
    world
        .cluster
        .eventually("the status names the flooder", || {
            for number in 0..100 {
                question.change(1_000_000 + number);
                let _ = inside.send(&question.bytes);
            }
            Ok(said(&["status"], "new flows are refused") && said(&["status"], "flooder"))
        })
        .unwrap();
    let endpoints = world.cluster.felid_json(&["endpoints", "-o", "json"]).unwrap();
    let flows = |name: &str| {
        let list = endpoints["endpoints"].as_array().or(endpoints.as_array()).unwrap();
        let found = list
            .iter()
            .find(|endpoint| endpoint["name"].as_str().unwrap().contains(name));
        found.unwrap()["flows"].clone()
    };
    let taken = flows("flooder");
    assert!(taken["refused"].as_u64().unwrap() > 0, "{taken}");
    let count = taken["establishedV4"].as_u64().unwrap();
    assert!(count > ESTABLISHED / 3 && count < ESTABLISHED * 6 / 10, "{taken}");
    assert_eq!(flows("bystander")["refused"], 0);
    // Others are as before, and an edit takes effect.
    assert_eq!(world.new_connections(), 2 * NEW);
    assert!(old.is_subset(&world.established()));
    for connection in &mut connections {
        sockets::echo(connection).unwrap();
    }
    let denies = policy(
        "default",
        "no-dns",
        "  selector: all()\n  types: [Egress]\n  egress:\n    - {action: Deny, protocol: UDP, destination: {ports: [53]}}\n    - {action: Allow}",
    );
    world.cluster.write("edit.yaml", &denies).unwrap();
    world
        .cluster
        .eventually("the edit is in force", || {
            sockets::udp(&world.bystander.namespace, FAMILIES[0][1].parse().unwrap(), 53, 10).map(|works| !works)
        })
        .unwrap();
    drop(world.server);
}
