//! Policies of 100,000 rules: they work, or are refused with the numbers, and then concern their
//! own endpoint only.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use felid_compile::stub::Hook;
use felid_dataplane::Config;
use felid_model::resolved::{
    Delta, ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedRules, ResolvedSide, ResolvedTier, SetId,
};
use felid_model::{Kind, Protocol, ResourceKey};
use felid_tests::frames::Frame;
use felid_tests::probe::PacketOutcome;
use felid_tests::{Host, Workload};

use crate::node::{Node, allow, endpoint, on_host, set};

const RULES: usize = 100_000;
/// Selectors of the list that fits.
const SETS: usize = 1_000;
const TCP: u8 = 6;
const SYN: u8 = 2;

fn selector(number: usize) -> SetId {
    SetId(format!("s:{number}").into())
}

/// The only peer of a rule, and its port. Each rule of the list has another pair.
fn peer(number: usize) -> (Ipv4Addr, u16) {
    (
        Ipv4Addr::from(0x0a80_0000 + number as u32),
        1 + (number % 60_000) as u16,
    )
}

/// What the rules of a list say of their peers, besides a port for each.
#[derive(Clone, Copy)]
enum By {
    Networks,
    /// So many selectors, in turn.
    Selectors(usize),
}

/// Allows each of the peers its port.
fn policy(by: By) -> ResolvedPolicy {
    let rule = |number: usize| {
        let (address, port) = peer(number);
        let mut source = ResolvedSide::default();
        match by {
            By::Networks => source.nets.push(IpAddr::V4(address).into()),
            By::Selectors(count) => source.sets.push(selector(number % count)),
        }
        ResolvedRule {
            protocol: Some(Protocol(TCP)),
            source,
            destination: ResolvedSide {
                ports: vec![(port, port)],
                ..ResolvedSide::default()
            },
            ..ResolvedRule::new(number as u32, ResolvedAction::Allow)
        }
    };
    let rules = ResolvedRules {
        staged: false,
        key: ResourceKey::new(Kind::NetworkPolicy, Some("default"), "long"),
        rules: Arc::new((0..RULES).map(rule).collect()),
    };
    let tier = ResolvedTier {
        name: "default".into(),
        end_pass: false,
        policies: vec![rules],
    };
    ResolvedPolicy {
        tiers: vec![tier],
        ..ResolvedPolicy::default()
    }
}

/// Everything at its full size.
fn node(host: &Host) -> Node {
    Node::with(&Config {
        bpffs: host.bpffs().to_owned(),
        ..Config::default()
    })
}

/// Whether a connection from the peer of one rule to the port of another is let through to the
/// workload.
fn passes(node: &Node, workload: &Workload, from: usize, port_of: usize) -> bool {
    let key = ResourceKey::new(Kind::WorkloadEndpoint, Some("default"), &workload.interface);
    let id = node.planner.endpoint(&key).unwrap().id;
    let mut frame = Frame::new([2; 6], [2; 6], peer(from).0.into(), workload.addresses[0]);
    frame.ttl = 64;
    let packet = frame.tcp(40_000, peer(port_of).1, SYN);
    let probe = node.kernel.probe(Hook::ToWorkload, id).unwrap();
    match probe.run(&packet, workload.ifindex, workload.ifindex).unwrap().outcome {
        PacketOutcome::Drop(Some(felid_common::DropReason::IngressPolicy)) => false,
        PacketOutcome::Next => true,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hundred_thousand_rules_judge_as_they_say() {
    on_host(|host| {
        let mut node = node(host);
        let [a, b] = [("cali-a", "10.65.0.2"), ("cali-b", "10.65.0.3")]
            .map(|(name, address)| host.workload(name, &[address]).unwrap());
        node.links(&[&a, &b]);
        let mut delta: Delta = set([
            endpoint(&a, allow(), policy(By::Networks)),
            endpoint(&b, allow(), policy(By::Selectors(SETS))),
        ]);
        let checked = [0, 1, RULES / 2, RULES - 2, RULES - 1];
        for number in checked {
            let sets = Arc::new([selector(number % SETS)].into());
            delta.members.insert(IpAddr::V4(peer(number).0).into(), Some(sets));
        }
        node.commit(&delta);
        let problems: Vec<_> = node.planner.problems().collect();
        assert!(problems.is_empty(), "{problems:?}");
        for workload in [&a, &b] {
            for number in checked {
                assert!(passes(&node, workload, number, number), "rule {number}");
                assert!(!passes(&node, workload, number, (number + 7) % RULES), "rule {number}");
            }
        }
        // Its network is named, and it is a member of nothing.
        assert!(passes(&node, &a, 77, 77));
        assert!(!passes(&node, &b, 77, 77));
    });
}

#[test]
fn selectors_without_room_close_their_endpoint_only() {
    on_host(|host| {
        let mut node = node(host);
        let [a, b] = [("cali-a", "10.65.0.2"), ("cali-b", "10.65.0.3")]
            .map(|(name, address)| host.workload(name, &[address]).unwrap());
        node.links(&[&a, &b]);
        let mut delta: Delta = set([
            endpoint(&a, allow(), policy(By::Selectors(RULES))),
            endpoint(&b, allow(), allow()),
        ]);
        let member = Arc::new([selector(0)].into());
        delta.members.insert(IpAddr::V4(peer(0).0).into(), Some(member));
        node.commit(&delta);
        let problems: Vec<String> = node.planner.problems().map(ToString::to_string).collect();
        let room = node.kernel.capacities().class_bits;
        let numbers = format!("it tests {RULES} sets, and there is room for {room} (maxSets)");
        assert!(problems.len() == 1 && problems[0].contains(&numbers), "{problems:?}");
        assert!(!passes(&node, &a, 0, 0));
        assert!(passes(&node, &b, 0, 0));
    });
}
