//! Apply, complete, roll back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use felid_compile::program::Insn;
use felid_compile::transaction::{Change, EndpointChange, EndpointId, PeerEntry, Transaction};
use felid_dataplane::kernel::cleanup;
use felid_dataplane::{Kernel, KernelError};

use crate::node::{Node, allow, allow_from, config, deny, endpoint, gone, members, on_host, set};

const A: &[&str] = &["10.65.0.2", "fd00:65::2"];
const B: &[&str] = &["10.65.0.3", "fd00:65::3"];

#[test]
fn policy_is_enforced_and_leaves_no_trace_behind() {
    on_host(|host| {
        let (a, b) = (host.workload("cali-a", A).unwrap(), host.workload("cali-b", B).unwrap());
        for workload in [&a, &b] {
            host.wire(workload).unwrap();
        }
        let mut node = Node::open(host);
        let empty = node.kernel.inventory().unwrap();
        node.links(&[&a, &b]);
        node.commit(&set([endpoint(&a, allow(), allow()), endpoint(&b, allow(), allow())]));
        for target in B {
            assert!(a.namespace.pings(target).unwrap(), "{target}");
        }
        let held = node.kernel.inventory().unwrap();
        assert_eq!(
            (held.links, held.endpoints, held.policies, held.unequal),
            (4, 2, [4, 4], 0)
        );
        assert_eq!((held.peers_v4, held.peers_v6), (2, 2));
        assert!(node.kernel.endpoints().iter().all(|endpoint| endpoint.redirectable));

        node.commit(&set([endpoint(&b, allow(), deny())]));
        for target in B {
            assert!(!a.namespace.pings(target).unwrap(), "{target}");
        }
        assert!(node.dropped(felid_common::DropReason::IngressPolicy) >= 2);
        assert!(!node.kernel.counters().unwrap().is_empty());

        let mut both = gone(&a);
        both.endpoints.extend(gone(&b).endpoints);
        node.commit(&both);
        node.links(&[]);
        let held = node.kernel.inventory().unwrap();
        assert_eq!(held, empty, "the kernel holds exactly what the records say");
        drop(node);
        cleanup(host.bpffs()).unwrap();
        assert!(!host.bpffs().join("felid").exists());
        cleanup(host.bpffs()).unwrap();
    });
}

#[test]
fn rules_and_members_switch_together() {
    on_host(|host| {
        let (a, b) = (host.workload("cali-a", A).unwrap(), host.workload("cali-b", B).unwrap());
        for workload in [&a, &b] {
            host.wire(workload).unwrap();
        }
        let mut node = Node::open(host);
        node.links(&[&a, &b]);
        node.commit(&set([
            endpoint(&a, allow(), allow()),
            endpoint(&b, allow(), allow_from("s:x")),
        ]));
        assert!(!a.namespace.pings(B[0]).unwrap());
        let addresses: Vec<IpAddr> = A.iter().map(|address| address.parse().unwrap()).collect();
        node.commit(&members("s:x", &addresses));
        for target in B {
            assert!(a.namespace.pings(target).unwrap(), "{target}");
        }
        let mut out = members("s:x", &addresses);
        out.members.values_mut().for_each(|sets| *sets = None);
        node.commit(&out);
        assert!(
            !a.namespace.pings(B[0]).unwrap(),
            "the flow that was allowed is judged again"
        );
        assert_eq!(node.kernel.inventory().unwrap().unequal, 0);
    });
}

#[test]
fn a_refused_program_changes_nothing() {
    on_host(|host| {
        let (a, b) = (host.workload("cali-a", A).unwrap(), host.workload("cali-b", B).unwrap());
        for workload in [&a, &b] {
            host.wire(workload).unwrap();
        }
        let mut node = Node::open(host);
        node.links(&[&a, &b]);
        node.commit(&set([endpoint(&a, allow(), allow()), endpoint(&b, allow(), allow())]));
        let before = (node.kernel.inventory().unwrap(), node.kernel.adopt());
        let mut bad = node.plan(&set([endpoint(&b, allow(), deny())]));
        for program in bad.new_programs.values_mut() {
            // A return without a value in r0.
            let chunk = &mut Arc::make_mut(program).chunks[0];
            chunk.maps.clear();
            chunk.insns.truncate(1);
            chunk.insns[0] = Insn {
                code: 0x95,
                dst: 0,
                src: 0,
                off: 0,
                imm: 0,
            };
        }
        let error = node.kernel.apply(&bad).unwrap_err();
        let KernelError::Programs(refused) = &error else {
            panic!("{error}")
        };
        assert!(!refused[0].log.is_empty(), "{error}");
        node.planner.aborted(
            &refused
                .iter()
                .map(|refusal| (refusal.id, refusal.to_string()))
                .collect(),
        );
        assert_eq!((node.kernel.inventory().unwrap(), node.kernel.adopt()), before);
        assert!(a.namespace.pings(B[0]).unwrap(), "the old program stays");
    });
}

#[test]
fn a_failure_half_way_is_undone() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        let mut node = Node::open(host);
        node.links(&[&a]);
        node.commit(&set([endpoint(&a, allow(), allow())]));
        let before = (node.kernel.inventory().unwrap(), node.kernel.adopt());
        // The entries and the record are written before the missing program is noticed.
        let good = node.plan(&set([endpoint(&a, allow(), deny())]));
        let mut bad = good.clone();
        bad.new_programs.clear();
        let own = |address: &str| -> IpAddr { address.parse().unwrap() };
        let entry = |class| PeerEntry {
            class,
            ..PeerEntry::default()
        };
        bad.peers.insert(
            own(A[0]),
            Change {
                before: entry(0),
                after: entry(7),
                keep: true,
            },
        );
        bad.peers.insert(
            own("10.99.0.1"),
            Change {
                before: entry(0),
                after: entry(3),
                keep: true,
            },
        );
        bad.nets.insert(
            "10.98.0.0/16".parse().unwrap(),
            Change {
                before: 0,
                after: 3,
                keep: true,
            },
        );
        bad.endpoints.extend(
            bad.endpoints
                .clone()
                .into_values()
                .map(|change| (EndpointId { index: 77, id: 770 }, change)),
        );
        assert!(matches!(node.kernel.apply(&bad), Err(KernelError::Inconsistent(_))));
        assert_eq!((node.kernel.inventory().unwrap(), node.kernel.adopt()), before);
        // The same change without the fault goes through.
        let flip = node.kernel.apply(&good).unwrap();
        assert!(flip.link_errors.is_empty());
        assert!(matches!(
            node.kernel.apply(&Transaction::default()),
            Err(KernelError::Unfinished)
        ));
        node.kernel.complete(&good).unwrap();
        assert!(
            good.endpoints
                .values()
                .all(|change| matches!(change, EndpointChange::Set(_)))
        );
    });
}

#[test]
fn too_much_is_refused_before_anything_is_written() {
    on_host(|host| {
        let mut node = Node::open(host);
        let before = node.kernel.inventory().unwrap();
        let entry = PeerEntry {
            class: 1,
            ..PeerEntry::default()
        };
        let change = Change {
            before: PeerEntry::default(),
            after: entry,
            keep: true,
        };
        let peers: BTreeMap<IpAddr, _> = (0..1025_u32).map(|n| (IpAddr::from(n.to_be_bytes()), change)).collect();
        let words = node.kernel.capacities().class_bits.div_ceil(64) as usize;
        let classes = vec![(1, Arc::from(vec![1_u64; words]))];
        let mut transaction = Transaction {
            peers,
            classes,
            ..Transaction::default()
        };
        let error = node.kernel.apply(&transaction).unwrap_err();
        assert!(
            matches!(
                error,
                KernelError::Full {
                    table: "peers_v4",
                    wanted: 1025,
                    capacity: 1024
                }
            ),
            "{error}"
        );
        assert_eq!(node.kernel.inventory().unwrap(), before);
        transaction.peers.pop_first();
        drop(node.kernel.apply(&transaction).unwrap());
        node.kernel.complete(&transaction).unwrap();
        assert_eq!(node.kernel.inventory().unwrap().peers_v4, 1024);
    });
}

#[test]
fn one_agent_at_a_time() {
    on_host(|host| {
        let node = Node::open(host);
        assert!(matches!(Kernel::open(&config(host)), Err(KernelError::InUse(_))));
        assert!(matches!(cleanup(host.bpffs()), Err(KernelError::InUse(_))));
        drop(node);
        drop(Node::open(host));
    });
}
