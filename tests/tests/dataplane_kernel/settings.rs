//! Settings that forbid what was allowed end the flows that they concern, across restarts too;
//! others end none.

use std::net::IpAddr;

use felid_common::DropReason;
use felid_compile::stub::Hook;
use felid_compile::transaction::EndpointId;
use felid_dataplane::kernel::Settings;
use felid_lab::netns::HOST_MAC;
use felid_lab::{Host, Workload};
use felid_tests::frames::Frame;
use felid_tests::probe::PacketOutcome;

use crate::node::{Node, allow, config, endpoint, on_host, set};

const A: &[&str] = &["10.65.0.2", "fd00:65::2"];
const B: &[&str] = &["10.65.0.3", "fd00:65::3"];
const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:2::1"];

fn node(host: &Host, workloads: &[&Workload], settings: Settings) -> Node {
    let mut config = config(host);
    config.settings = settings;
    let mut node = Node::with(&config);
    node.links(workloads);
    node.planner
        .set_host_addresses(HOST.iter().map(|address| address.parse().unwrap()).collect());
    node
}

fn id(node: &Node, workload: &Workload) -> EndpointId {
    let states = node.kernel.endpoints();
    states
        .iter()
        .find(|state| state.ifindex == Some(workload.ifindex))
        .unwrap()
        .id
}

/// What becomes of a packet of a UDP flow that a workload sends: why it is dropped, or `None`.
fn dropped(node: &Node, (from, id): (&Workload, EndpointId), to: &str, ports: (u16, u16)) -> Option<DropReason> {
    let to: IpAddr = to.parse().unwrap();
    let own = from.addresses.iter().find(|own| own.is_ipv4() == to.is_ipv4()).unwrap();
    let frame = Frame::new(from.mac, HOST_MAC, *own, to).udp(ports.0, ports.1, b"?");
    let probe = node.kernel.probe(Hook::FromWorkload, id).unwrap();
    match probe.run(&frame, from.ifindex, from.ifindex).unwrap().outcome {
        PacketOutcome::Drop(reason) => Some(reason.unwrap()),
        _ => None,
    }
}

#[test]
fn settings_that_concern_no_flow_at_interfaces_end_none() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        host.wire(&a).unwrap();
        let mut node = node(host, &[&a], Settings::default());
        node.commit(&set([endpoint(&a, allow(), allow())]));
        let to_host = |node: &Node| HOST.map(|to| dropped(node, (&a, id(node, &a)), to, (5000, 53)));
        assert_eq!(to_host(&node), [None; 2], "what ends at the host is decided there");
        let mut settings = Settings::default();
        for change in [
            (|settings| settings.udp *= 2) as fn(&mut Settings),
            |settings| settings.allow_vxlan = true,
            |settings| settings.host_reachable = true,
            |settings| settings.host_reachable = false,
        ] {
            change(&mut settings);
            node.kernel.set_settings(settings.clone()).unwrap();
            assert_eq!(node.kernel.endpoints()[0].generations, [1, 1]);
        }
    });
}

#[test]
fn flows_to_a_port_that_becomes_vxlans_end() {
    on_host(|host| {
        let (a, b) = (host.workload("cali-a", A).unwrap(), host.workload("cali-b", B).unwrap());
        for workload in [&a, &b] {
            host.wire(workload).unwrap();
        }
        let mut node = node(host, &[&a, &b], Settings::default());
        node.commit(&set([endpoint(&a, allow(), allow()), endpoint(&b, allow(), allow())]));
        // The originator and the responder send to the port.
        let flows = [
            (&a, B, (5000, 8472)),
            (&b, A, (8472, 5000)),
            (&b, A, (8472, 5001)),
            (&a, B, (5001, 8472)),
        ];
        for (from, to, ports) in flows {
            assert!(
                to.iter()
                    .all(|to| dropped(&node, (from, id(&node, from)), to, ports).is_none())
            );
        }
        let settings = Settings {
            vxlan_port: 8472,
            ..Settings::default()
        };
        node.kernel.set_settings(settings).unwrap();
        for (from, to, ports) in flows {
            // Answers to a peer that asked from the port are no tunnel.
            let expected = (ports == (5000, 8472)).then_some(DropReason::Tunnel);
            for to in to {
                assert_eq!(
                    dropped(&node, (from, id(&node, from)), to, ports),
                    expected,
                    "{ports:?}"
                );
            }
        }
    });
}
