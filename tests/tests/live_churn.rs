//! A minute of endpoints that come and go with their interfaces, in any order: nothing unpermitted
//! ever passes, and nothing stays.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use felid_lab::records::{Endpoint, policy};
use felid_tests::frames::{Frame, ports};
use felid_tests::inventory::inventory;
use felid_tests::netns::HOST_MAC;
use felid_tests::{Cluster, Namespace, PacketSocket, sockets};

const ENDPOINTS: usize = 100;
const NAMESPACES: usize = 10;
const TIME: Duration = Duration::from_secs(60);
/// What friends may send to the witness.
const ALLOWED: u16 = 7000;
/// What nobody may.
const DENIED: u16 = 7001;

/// A small generator; the seed is printed.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }
}

fn interface(n: usize) -> String {
    format!("calichurn{n}")
}

fn addresses(n: usize) -> [String; 2] {
    [format!("10.66.0.{}", n + 1), format!("fd00:66::{:x}", n + 1)]
}

fn mac(n: usize) -> [u8; 6] {
    [2, 0x66, 0, 0, 0, u8::try_from(n).unwrap()]
}

fn friend(n: usize) -> bool {
    n.is_multiple_of(2)
}

/// Interfaces of the churn: created and deleted in a namespace of the pool; senders for those that
/// are there.
struct Pool {
    namespaces: Vec<Namespace>,
    sockets: Mutex<BTreeMap<usize, PacketSocket>>,
}

impl Pool {
    fn namespace(&self, n: usize) -> &Namespace {
        &self.namespaces[n % NAMESPACES]
    }

    fn create(&self, host: &Namespace, n: usize) {
        let (name, peer) = (interface(n), self.namespace(n).name());
        let [a, b, c, d, e, f] = mac(n);
        host.ip(&format!("link add {name} type veth peer name p{n} address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} netns {peer}"))
            .unwrap();
        host.ip(&format!("link set {name} up")).unwrap();
        self.namespace(n).ip(&format!("link set p{n} up")).unwrap();
        self.sockets
            .lock()
            .unwrap()
            .insert(n, self.namespace(n).packets(&format!("p{n}")).unwrap());
    }

    fn delete(&self, host: &Namespace, n: usize) {
        self.sockets.lock().unwrap().remove(&n);
        host.ip(&format!("link del {}", interface(n))).unwrap();
    }

    /// Every interface sends, to the witness: what its endpoint may (if it is a friend), what it
    /// may not, and what only a friend may with a friend's address. The payload says who and what.
    fn send(&self, witness: &[IpAddr], port: u16) {
        for (&n, socket) in &*self.sockets.lock().unwrap() {
            for (family, to) in witness.iter().enumerate() {
                let own: IpAddr = addresses(n)[family].parse().unwrap();
                let friends: IpAddr = addresses((n + 1) & !1)[family].parse().unwrap();
                let frame = Frame::new(mac(n), HOST_MAC, own, *to);
                let who = [u8::try_from(n).unwrap()];
                // The interface may be down or gone by now.
                let _ = socket.send(&frame.udp(port, ALLOWED, &who));
                let _ = socket.send(&frame.udp(port, DENIED, &who));
                if !friend(n) {
                    let _ = socket.send(
                        &Frame {
                            source: friends,
                            ..frame
                        }
                        .udp(port, ALLOWED, &who),
                    );
                }
            }
        }
    }
}

#[test]
fn a_minute_of_coming_and_going() {
    let mut cluster = Cluster::new("lchurn").unwrap();
    let witness = cluster
        .host
        .workload("caliwitness", &["10.65.0.2", "fd00:65::2"])
        .unwrap();
    let steady = cluster
        .host
        .workload("calisteady", &["10.65.0.3", "fd00:65::3"])
        .unwrap();
    let rules = format!(
        "  selector: app == 'witness'\n  types: [Ingress]\n  ingress:\n    - {{action: Allow, protocol: UDP, source: {{selector: role == 'friend'}}, destination: {{ports: [{ALLOWED}]}}}}\n    \
         - {{action: Allow, protocol: TCP, source: {{selector: role == 'steady'}}}}"
    );
    let records = [
        Endpoint {
            labels: "app: witness",
            ..Endpoint::of("witness", &witness)
        }
        .yaml(),
        Endpoint {
            labels: "role: steady",
            ..Endpoint::of("steady", &steady)
        }
        .yaml(),
        policy("default", "witness", &rules),
    ];
    cluster.write("records.yaml", &records.concat()).unwrap();
    cluster.start().unwrap();
    sockets::serve_tcp(&witness.namespace, 80).unwrap();
    let before = inventory(&cluster).unwrap();

    let pool = Pool {
        namespaces: (0..NAMESPACES).map(|_| Namespace::new("lchurn-p").unwrap()).collect(),
        sockets: Mutex::default(),
    };
    let seed = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
    let mut rng = Rng(seed | 0x9e37_79b9_7f4a_7c15);
    println!("seed {}", rng.0);
    let stop = AtomicBool::new(false);
    let (permitted, unpermitted, changes) = (AtomicU64::new(0), Mutex::new(Vec::new()), AtomicU64::new(0));
    let incoming = witness.namespace.packets("eth0").unwrap();
    let mut stream = sockets::tcp_open(&steady.namespace, witness.addresses[0], 80).unwrap();

    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut port = 1024_u16;
            while !stop.load(Ordering::Relaxed) {
                port = port.checked_add(1).unwrap_or(1024);
                pool.send(&witness.addresses, port);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let frame = incoming
                    .receive(Duration::from_millis(100), |frame| ports(frame, 17).is_some())
                    .unwrap();
                let Some(frame) = frame else { continue };
                let who = usize::from(*frame.last().unwrap());
                if ports(&frame, 17).unwrap().1 == ALLOWED && friend(who) {
                    permitted.fetch_add(1, Ordering::Relaxed);
                } else {
                    unpermitted.lock().unwrap().push((who, ports(&frame, 17)));
                }
            }
        });
        let host = cluster.host.namespace();
        let (mut links, mut recorded) = ([false; ENDPOINTS], [false; ENDPOINTS]);
        let end = Instant::now() + TIME;
        while Instant::now() < end {
            let n = rng.below(ENDPOINTS);
            if rng.below(2) == 0 {
                if links[n] {
                    pool.delete(host, n)
                } else {
                    pool.create(host, n)
                }
                links[n] = !links[n];
            } else {
                let file = format!("churn{n}.yaml");
                if recorded[n] {
                    cluster.remove(&file).unwrap();
                } else {
                    let record = Endpoint {
                        pod: &format!("churn{n}"),
                        interface: &interface(n),
                        addresses: addresses(n).to_vec(),
                        labels: if friend(n) { "role: friend" } else { "role: foe" },
                        mac: Some(mac(n)),
                        ..Endpoint::default()
                    };
                    cluster.write(&file, &record.yaml()).unwrap();
                }
                recorded[n] = !recorded[n];
            }
            changes.fetch_add(1, Ordering::Relaxed);
            // Flows of others lose nothing.
            sockets::echo(&mut stream).unwrap();
        }
        for n in 0..ENDPOINTS {
            if links[n] {
                pool.delete(host, n);
            }
            if recorded[n] {
                cluster.remove(&format!("churn{n}.yaml")).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });

    println!(
        "{} changes, {} permitted packets",
        changes.into_inner(),
        permitted.load(Ordering::Relaxed)
    );
    assert_eq!(unpermitted.into_inner().unwrap(), [], "(endpoint, ports) that passed");
    assert!(
        permitted.into_inner() > 100,
        "friends were hardly ever heard: what would the test show?"
    );
    let mut after = BTreeMap::new();
    let same = cluster.eventually("the kernel holds what it held before", || {
        after = inventory(&cluster)?;
        Ok(after == before)
    });
    assert!(same.is_ok(), "left over:\nbefore {before:#?}\nafter {after:#?}");
}
