//! What each endpoint has of the conntrack tables: counted by the kernel, counted again by sweeps.

use std::time::Duration;

use aya::maps::MapData;
use felid_common::{ABI_VERSION, FlowCount};
use felid_dataplane::kernel::{FlowUsage, Settings};
use felid_dataplane::sys::RawMap;
use felid_lab::netns::HOST_MAC;
use felid_lab::{Host, Workload};
use felid_tests::frames::Frame;
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::node::{Node, allow, endpoint, on_host, set};

const A: &[&str] = &["10.65.0.2", "fd00:65::2"];
const B: &[&str] = &["10.65.0.3", "fd00:65::3"];

fn usage(node: &Node, of: usize) -> FlowUsage {
    let id = node.kernel.endpoints()[of].id.id;
    let all = node.kernel.conntrack().usage().unwrap();
    all.into_iter().find(|usage| usage.id == id).unwrap_or_default()
}

/// Answered flows from one to the other, which are charged to the first.
fn talk(a: &Workload, b: &Workload, ports: std::ops::Range<u16>) {
    let (from, to) = (
        a.namespace.packets("eth0").unwrap(),
        b.namespace.packets("eth0").unwrap(),
    );
    for (source, target) in a.addresses.iter().zip(&b.addresses) {
        let question = Frame::new(a.mac, HOST_MAC, *source, *target);
        let answer = Frame::new(b.mac, HOST_MAC, *target, *source);
        for port in ports.clone() {
            from.send(&question.udp(port, 53, b"?")).unwrap();
            to.send(&answer.udp(53, port, b"!")).unwrap();
        }
    }
}

/// Makes the count of an endpoint wrong.
fn spoil(host: &Host, index: u32, by: u32) {
    let pin = host.bpffs().join(format!("felid/v{ABI_VERSION}/maps/flow_counts"));
    let map = RawMap::new(MapData::from_pin(pin).unwrap(), 1).unwrap();
    let mut count = FlowCount::read_from_bytes(&map.lookup(index.as_bytes()).unwrap().unwrap()).unwrap();
    count.established = count.established.map(|flows| flows.wrapping_add(by));
    map.update(index.as_bytes(), count.as_bytes()).unwrap();
}

#[test]
fn counts_survive_a_restart_and_are_counted_again() {
    on_host(|host| {
        let (a, b) = (host.workload("cali-a", A).unwrap(), host.workload("cali-b", B).unwrap());
        for workload in [&a, &b] {
            host.wire(workload).unwrap();
        }
        let delta = set([endpoint(&a, allow(), allow()), endpoint(&b, allow(), allow())]);
        let mut node = Node::open(host);
        node.links(&[&a, &b]);
        node.commit(&delta);
        talk(&a, &b, 20_000..20_100);
        assert_eq!(usage(&node, 0).established, [100, 100]);
        assert_eq!(usage(&node, 1).established, [0, 0]);
        // Half of the tables in three shares, and eight ninths of the rest.
        let allowed = usage(&node, 0).allowed;
        assert!(allowed.iter().all(|flows| (2400..2600).contains(flows)), "{allowed:?}");
        drop(node);

        let mut node = Node::open(host);
        node.links(&[&a, &b]);
        node.commit(&delta);
        let index = node.kernel.endpoints()[0].id.index;
        assert_eq!(usage(&node, 0).established, [100, 100]);
        for wrong in [7, 5_u32.wrapping_neg()] {
            spoil(host, index, wrong);
            let swept = node.kernel.conntrack().sweep().unwrap();
            assert_eq!(swept.corrected, 2, "one of each IP version");
            assert_eq!(usage(&node, 0).established, [100, 100]);
        }
        assert_eq!(node.kernel.conntrack().sweep().unwrap().corrected, 0);
        // Swept flows are subtracted once.
        let settings = Settings {
            udp_answered: Duration::from_millis(1),
            ..Settings::default()
        };
        node.kernel.set_settings(settings).unwrap();
        std::thread::sleep(Duration::from_millis(1100));
        let swept = node.kernel.conntrack().sweep().unwrap();
        assert_eq!((swept.expired, swept.corrected), (200, 0), "{swept:?}");
        assert_eq!(usage(&node, 0).established, [0, 0]);
        // All forgotten at once.
        talk(&a, &b, 30_000..30_010);
        assert_eq!(usage(&node, 0).established, [10, 10]);
        node.kernel.conntrack().clear().unwrap();
        assert_eq!(usage(&node, 0).established, [0, 0]);
    });
}
