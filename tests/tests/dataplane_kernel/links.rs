//! Interfaces that come late, vanish, change their names, or come back as others.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use felid_compile::program::Insn;
use felid_dataplane::kernel::Role;
use felid_dataplane::{LinkState, sys};

use crate::node::{Node, allow, endpoint, gone, on_host, set, state};

const A: &[&str] = &["10.65.0.2", "fd00:65::2"];
const B: &[&str] = &["10.65.0.3", "fd00:65::3"];

fn is_stub(role: Option<Role>) -> bool {
    matches!(role, Some(Role::Stub(_)))
}

#[test]
fn unknown_interfaces_are_closed_until_their_endpoint_comes() {
    on_host(|host| {
        let (a, b) = (host.workload("cali-a", A).unwrap(), host.workload("cali-b", B).unwrap());
        for workload in [&a, &b] {
            host.wire(workload).unwrap();
        }
        let mut node = Node::open(host);
        node.links(&[&a, &b]);
        assert_eq!(node.role(a.ifindex), Some(Role::Closed));
        assert!(!a.namespace.pings(B[0]).unwrap());
        assert!(node.dropped(felid_common::DropReason::UnknownInterface) > 0);
        node.commit(&set([endpoint(&a, allow(), allow()), endpoint(&b, allow(), allow())]));
        assert!(is_stub(node.role(a.ifindex)));
        // The workload's kernel asks for its gateway's MAC address once a second.
        assert!((0..10).any(|_| a.namespace.pings(B[0]).unwrap()));
        node.commit(&gone(&a));
        assert_eq!(node.role(a.ifindex), Some(Role::Closed));
        assert!(!a.namespace.pings(B[0]).unwrap());
    });
}

#[test]
fn other_interfaces_are_left_alone() {
    on_host(|host| {
        let other = host.workload("veth-x", A).unwrap();
        let mut node = Node::open(host);
        node.links(&[&other]);
        assert_eq!(node.kernel.roles().len(), 0);
        // A record may name any interface.
        node.commit(&set([endpoint(&other, allow(), allow())]));
        assert!(is_stub(node.role(other.ifindex)));
        node.commit(&gone(&other));
        assert_eq!(node.kernel.roles().len(), 0);
        until_gone(other.ifindex, |_| true);
    });
}

#[test]
fn an_interface_may_come_late_vanish_and_come_back() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        host.wire(&a).unwrap();
        let mut node = Node::open(host);
        node.links(&[&a]);
        let mut later = endpoint(&a, allow(), allow());
        later.key.name = "later".into();
        later.interface_name = "cali-b".into();
        later.addresses = B.iter().map(|address| address.parse().unwrap()).collect();
        node.commit(&set([endpoint(&a, allow(), allow()), later]));
        let waiting = |node: &Node| {
            node.kernel
                .endpoints()
                .into_iter()
                .find(|state| &*state.key.name == "later")
                .unwrap()
        };
        assert_eq!(waiting(&node).ifindex, None);
        for _ in 0..2 {
            let b = host.workload("cali-b", B).unwrap();
            host.wire(&b).unwrap();
            assert!(node.kernel.set_link(state(&b)).is_empty());
            assert_eq!(waiting(&node).ifindex, Some(b.ifindex));
            assert!(a.namespace.pings(B[0]).unwrap());
            assert!(a.namespace.pings(B[1]).unwrap());
            assert_eq!(node.kernel.inventory().unwrap().links, 4);
            let ifindex = b.ifindex;
            drop(b);
            host.namespace().ip("link del cali-b").unwrap_or_default();
            assert!(node.kernel.link_gone(ifindex).is_empty());
            assert_eq!(waiting(&node).ifindex, None);
            assert_eq!(
                node.kernel.inventory().unwrap().links,
                2,
                "the pins went with the interface"
            );
        }
    });
}

#[test]
fn a_link_that_is_no_longer_attached_is_found_out() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        let mut node = Node::open(host);
        node.links(&[&a]);
        // The same name and the same index, but another interface, and nobody said so.
        host.namespace().ip("link del cali-a").unwrap();
        let index = a.ifindex;
        host.namespace()
            .ip(&format!("link add cali-a index {index} type veth peer name other"))
            .unwrap();
        for hook in sys::Hook::ALL {
            assert_eq!(sys::attached(index, hook).unwrap(), []);
        }
        node.links(&[&a]);
        for hook in sys::Hook::ALL {
            assert_eq!(sys::attached(index, hook).unwrap().len(), 1);
        }
    });
}

#[test]
fn renamed_interfaces_change_hands() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        let mut node = Node::open(host);
        node.links(&[&a]);
        let mut other = endpoint(&a, allow(), allow());
        other.key.name = "other".into();
        other.interface_name = "cali-z".into();
        other.addresses = B.iter().map(|address| address.parse().unwrap()).collect();
        node.commit(&set([endpoint(&a, allow(), allow()), other]));
        let Some(Role::Stub(first)) = node.role(a.ifindex) else {
            panic!("not attached")
        };
        host.namespace().ip("link set cali-a down").unwrap();
        host.namespace().ip("link set cali-a name cali-z").unwrap();
        assert!(
            node.kernel
                .set_link(LinkState {
                    name: "cali-z".into(),
                    ..state(&a)
                })
                .is_empty()
        );
        let Some(Role::Stub(second)) = node.role(a.ifindex) else {
            panic!("not attached")
        };
        assert_ne!(first, second);
        let at: Vec<_> = node
            .kernel
            .endpoints()
            .into_iter()
            .map(|state| (state.id, state.ifindex))
            .collect();
        assert!(
            at.contains(&(first, None)) && at.contains(&(second, Some(a.ifindex))),
            "{at:?}"
        );
        // To a name that is nobody's: closed. To one that is none of felid's business: let go.
        assert!(
            node.kernel
                .set_link(LinkState {
                    name: "cali-y".into(),
                    ..state(&a)
                })
                .is_empty()
        );
        assert_eq!(node.role(a.ifindex), Some(Role::Closed));
        assert!(
            node.kernel
                .set_link(LinkState {
                    name: "uplink".into(),
                    ..state(&a)
                })
                .is_empty()
        );
        assert_eq!(node.kernel.roles().len(), 0);
    });
}

#[test]
fn foreign_programs_are_reported_and_end_the_fast_path() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        let mut node = Node::open(host);
        node.links(&[&a]);
        node.commit(&set([endpoint(&a, allow(), allow())]));
        assert!(node.kernel.endpoints()[0].redirectable);
        // A program of somebody else's, put before ours.
        let program = foreign();
        let link = sys::attach_first(program.as_fd(), a.ifindex, sys::Hook::ToWorkload).unwrap();
        node.links(&[&a]);
        let seen = &node.kernel.endpoints()[0];
        assert_eq!(
            (seen.redirectable, seen.foreign.before.len(), seen.foreign.after.len()),
            (false, 1, 0)
        );
        detach(vec![link], a.ifindex);
        node.links(&[&a]);
        assert!(node.kernel.endpoints()[0].redirectable);
    });
}

/// Lets go of links and waits for their end.
fn detach(links: Vec<OwnedFd>, ifindex: u32) {
    let gone: Vec<u32> = links
        .iter()
        .map(|link| sys::link_info(link.as_fd()).unwrap().id)
        .collect();
    drop(links);
    until_gone(ifindex, |link| gone.contains(&link));
}

/// Waits until none of these links is at an interface. A link ends some time after its last pin and
/// descriptor, and a process that another test is just starting has copies of all descriptors until
/// it runs its program.
fn until_gone(ifindex: u32, which: impl Fn(u32) -> bool) {
    let there = |hook| {
        let attached = sys::attached(ifindex, hook).unwrap();
        attached.iter().any(|(_, link)| which(*link))
    };
    while sys::Hook::ALL.into_iter().any(there) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program that passes everything on.
pub(crate) fn foreign() -> OwnedFd {
    let insn = |code, imm| Insn {
        code,
        dst: 0,
        src: 0,
        off: 0,
        imm,
    };
    sys::load_classifier(&[insn(0xb7, -1), insn(0x95, 0)], "foreign").unwrap()
}

#[test]
fn an_interface_with_one_free_hook_ends_closed() {
    on_host(|host| {
        let (a, b) = (host.workload("cali-a", A).unwrap(), host.workload("veth-b", B).unwrap());
        for workload in [&a, &b] {
            host.wire(workload).unwrap();
        }
        let mut node = Node::open(host);
        node.links(&[&a, &b]);
        // As many programs as a hook takes.
        let full: Vec<OwnedFd> = (0..64)
            .map_while(|_| sys::attach_first(foreign().as_fd(), b.ifindex, sys::Hook::ToWorkload).ok())
            .collect();
        assert!(full.len() > 32);
        let transaction = node.plan(&set([endpoint(&a, allow(), allow()), endpoint(&b, allow(), allow())]));
        let flip = node.kernel.apply(&transaction).unwrap();
        let errors: Vec<String> = flip.link_errors.iter().map(ToString::to_string).collect();
        assert!(errors.len() == 1 && errors[0].contains("not guarded"), "{errors:?}");
        sys::membarrier().unwrap();
        node.kernel.complete(&transaction).unwrap();
        node.planner.committed();
        let seen = |node: &Node| {
            node.kernel
                .endpoints()
                .into_iter()
                .find(|state| &*state.key.name == "veth-b")
                .unwrap()
        };
        assert!(!seen(&node).attached && !seen(&node).redirectable);
        let before = node.dropped(felid_common::DropReason::UnknownInterface);
        assert!(!b.namespace.pings(A[0]).unwrap(), "its packets go nowhere");
        assert!(node.dropped(felid_common::DropReason::UnknownInterface) > before);
        // The next look at everything mends it, once there is room.
        detach(full, b.ifindex);
        node.links(&[&a, &b]);
        assert!(seen(&node).attached && seen(&node).redirectable);
        let answered = (0..10).any(|_| b.namespace.pings(A[0]).unwrap());
        assert!(answered, "{:?}", node.kernel.drops().unwrap());
    });
}
