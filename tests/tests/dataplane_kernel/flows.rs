//! Listing flows, counting them, ending those that have expired.

use std::time::Duration;

use felid_common::protocol;
use felid_dataplane::kernel::{FlowState, FlowTable, Settings};
use felid_lab::netns::HOST_MAC;
use felid_tests::frames::Frame;

use crate::node::{Node, allow, endpoint, on_host, set};

const A: &[&str] = &["10.65.0.2", "fd00:65::2"];
const B: &[&str] = &["10.65.0.3", "fd00:65::3"];

#[test]
fn flows_are_listed_and_end() {
    on_host(|host| {
        let (a, b) = (host.workload("cali-a", A).unwrap(), host.workload("cali-b", B).unwrap());
        for workload in [&a, &b] {
            host.wire(workload).unwrap();
        }
        let mut node = Node::open(host);
        node.links(&[&a, &b]);
        node.commit(&set([endpoint(&a, allow(), allow()), endpoint(&b, allow(), allow())]));
        let ids: Vec<u32> = node.kernel.endpoints().iter().map(|state| state.id.id).collect();
        let socket = a.namespace.packets("eth0").unwrap();
        for (source, target) in a.addresses.iter().zip(&b.addresses) {
            // More than one run of the sweeper takes.
            for port in 0..250 {
                let frame = Frame::new(a.mac, HOST_MAC, *source, *target);
                socket.send(&frame.udp(20_000 + port, 53, b"?")).unwrap();
            }
        }
        assert!(a.namespace.pings(B[0]).unwrap());

        let conntrack = node.kernel.conntrack();
        let mut flows = Vec::new();
        conntrack.flows(|flow| flows.push(flow)).unwrap();
        let udp: Vec<_> = flows.iter().filter(|flow| flow.protocol == protocol::UDP).collect();
        assert_eq!(udp.len(), 500);
        for flow in udp {
            assert!(
                a.addresses.contains(&flow.source) && b.addresses.contains(&flow.destination),
                "{flow:?}"
            );
            assert_eq!(
                (flow.destination_port, flow.table, flow.state),
                (53, FlowTable::HalfOpen, FlowState::New)
            );
            assert!((20_000..20_250).contains(&flow.source_port));
            assert!(flow.age < Duration::from_secs(60) && flow.idle <= flow.age, "{flow:?}");
            assert_eq!(flow.timeout.as_secs(), 60);
            assert!(ids.contains(&flow.egress.endpoint) && flow.redirect, "{flow:?}");
        }
        let ping = flows.iter().find(|flow| flow.protocol == protocol::ICMP).unwrap();
        assert_eq!((ping.icmp, ping.state), (Some((8, 0)), FlowState::Established));
        let counts = conntrack.counts().unwrap();
        assert_eq!(
            counts.get(&(FlowTable::HalfOpen, 6, FlowState::New)),
            Some(&250),
            "{counts:?}"
        );

        let early = conntrack.sweep().unwrap();
        assert_eq!((early.candidates, early.expired), (0, 0), "nothing is old enough");
        node.kernel
            .set_settings(Settings {
                udp: Duration::from_millis(1),
                ..Settings::default()
            })
            .unwrap();
        // The time of the last packet is exact to a second.
        std::thread::sleep(Duration::from_millis(1100));
        let swept = conntrack.sweep().unwrap();
        assert_eq!((swept.candidates, swept.expired), (500, 500), "{swept:?}");
        assert!(swept.checked >= 500);
        let left = conntrack.counts().unwrap();
        assert_eq!(left.get(&(FlowTable::HalfOpen, 4, FlowState::New)), None, "{left:?}");
    });
}
