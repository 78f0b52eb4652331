//! Translations: the table in the kernel, its flag, its ids across restarts, and routes of external
//! addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use felid_common::{NAT_OUT, NAT_PASSED, NAT_PROBES, NAT_V6, Nat, SETTING_NATS, nat_places, nat_probe};
use felid_compile::nat::{Mapping, Mappings, words};
use felid_compile::planner::Planner;
use felid_compile::transaction::EndpointId;
use felid_dataplane::sys::{self, RawMap};
use felid_dataplane::{
    AddressTranslation as _, Dataplane, Enforcement as _, HostNetwork as _, Inspection as _, Options,
};
use felid_lab::{Host, Workload};
use zerocopy::FromBytes as _;

use crate::node::{Node, allow, config, endpoint, gone, on_host, set};

const A: &[&str] = &["10.65.0.2", "fd00:65::2"];
const B: &[&str] = &["10.65.0.3", "fd00:65::3"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mappings(list: &[(&str, &str, EndpointId)]) -> Mappings {
    let one = |(external, internal, endpoint): &(&str, &str, EndpointId)| {
        let mapping = Mapping {
            internal: ip(internal),
            endpoint: *endpoint,
        };
        (ip(external), mapping)
    };
    list.iter().map(one).collect()
}

fn open_map(host: &Host, name: &str) -> RawMap {
    let version = format!("v{}", felid_common::ABI_VERSION);
    let path = host.bpffs().join("felid").join(version).join("maps").join(name);
    RawMap::new(aya::maps::MapData::from_pin(path).unwrap(), 1).unwrap()
}

/// What a program would find in the pinned map: other address and id.
fn search(host: &Host, address: IpAddr, out: u32) -> Option<(IpAddr, u32)> {
    let map = open_map(host, "nats");
    let words = words(address);
    let places = nat_places(&words, &settings(host).nat_seed);
    for probe in 0..NAT_PROBES {
        let index = nat_probe(places, probe);
        let nat = Nat::read_from_bytes(&map.lookup(&index.to_ne_bytes()).unwrap().unwrap()).unwrap();
        let flags = out | if address.is_ipv6() { NAT_V6 } else { 0 };
        if nat.id != 0 && nat.address == words && nat.flags & (NAT_V6 | NAT_OUT) == flags {
            return Some((felid_compile::nat::address(nat.other, address.is_ipv6()), nat.id));
        }
        if nat.flags & NAT_PASSED == 0 {
            break;
        }
    }
    None
}

fn settings(host: &Host) -> felid_common::Settings {
    let value = open_map(host, "settings").lookup(&[0; 4]).unwrap().unwrap();
    felid_common::Settings::read_from_bytes(&value).unwrap()
}

fn flag(host: &Host) -> bool {
    settings(host).flags & SETTING_NATS != 0
}

fn change(node: &mut Node, wanted: &Mappings) {
    let change = node.kernel.plan_nats(wanted);
    assert!(change.no_room.is_empty());
    node.kernel.end_nats(&change).unwrap();
    if change.wait {
        sys::membarrier().unwrap();
    }
    node.kernel.begin_nats(&change).unwrap();
}

fn id(node: &Node, workload: &Workload) -> EndpointId {
    let states = node.kernel.endpoints();
    let state = states.iter().find(|state| state.ifindex == Some(workload.ifindex));
    state.unwrap().id
}

#[test]
fn records_come_and_go_with_the_flag() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        let mut node = Node::open(host);
        node.links(&[&a]);
        node.commit(&set([endpoint(&a, allow(), allow())]));
        let id = id(&node, &a);
        assert!(!flag(host));
        let wanted = mappings(&[
            ("192.0.2.10", A[0], id),
            ("192.0.2.11", A[0], id),
            ("2001:db8::10", A[1], id),
        ]);
        change(&mut node, &wanted);
        assert!(flag(host));
        assert_eq!(
            node.kernel.inventory().unwrap().nats,
            5,
            "three external, two internal addresses"
        );
        let ids: BTreeMap<IpAddr, u32> = wanted
            .iter()
            .map(|(external, mapping)| {
                let (internal, id) = search(host, *external, 0).unwrap();
                assert_eq!(internal, mapping.internal);
                (*external, id)
            })
            .collect();
        assert_eq!(ids.values().collect::<BTreeSet<_>>().len(), 3);
        assert_eq!(search(host, ip(A[0]), NAT_OUT).unwrap().0, ip("192.0.2.10"));
        assert_eq!(node.kernel.nats_of(id).len(), 3);
        let counted = node.kernel.nat_flows().unwrap();
        assert!(counted.values().all(|nat| nat.flows == 0) && counted.len() == 3);

        // A restarted agent knows them, and goes on with other ids.
        drop(node);
        let mut node = Node::open(host);
        node.links(&[&a]);
        assert!(flag(host));
        node.kernel.retire_nats(&wanted).unwrap();
        node.commit(&set([endpoint(&a, allow(), allow())]));
        change(&mut node, &wanted);
        for (external, id) in &ids {
            assert_eq!(
                search(host, *external, 0).unwrap().1,
                *id,
                "flows that began with it go on"
            );
        }
        change(&mut node, &Mappings::new());
        assert!(!flag(host));
        assert_eq!(node.kernel.inventory().unwrap().nats, 0);
        assert_eq!(search(host, ip("192.0.2.10"), 0), None);
        drop(node);
        let mut node = Node::open(host);
        node.links(&[&a]);
        node.commit(&set([endpoint(&a, allow(), allow())]));
        change(&mut node, &wanted);
        let new = search(host, ip("192.0.2.10"), 0).unwrap().1;
        assert!(ids.values().all(|old| new > *old), "no id is used twice");
    });
}

#[test]
fn an_endpoint_that_goes_takes_its_translations_along() {
    on_host(|host| {
        let (a, b) = (host.workload("cali-a", A).unwrap(), host.workload("cali-b", B).unwrap());
        let mut node = Node::open(host);
        node.links(&[&a, &b]);
        node.commit(&set([endpoint(&a, allow(), allow()), endpoint(&b, allow(), allow())]));
        let (id_a, id_b) = (id(&node, &a), id(&node, &b));
        change(
            &mut node,
            &mappings(&[("192.0.2.10", A[0], id_a), ("192.0.2.11", B[0], id_b)]),
        );
        let (_, kept) = search(host, ip("192.0.2.11"), 0).unwrap();
        let after = mappings(&[("192.0.2.11", B[0], id_b)]);
        node.kernel.retire_nats(&after).unwrap();
        assert_eq!(search(host, ip("192.0.2.10"), 0), None);
        assert_eq!(search(host, ip(A[0]), NAT_OUT), None);
        node.commit(&gone(&a));
        // The grace period of the transaction was enough: the freed elements are written at once.
        let moved = mappings(&[("192.0.2.10", B[0], id_b), ("192.0.2.11", B[0], id_b)]);
        assert!(!node.kernel.plan_nats(&moved).wait);
        change(&mut node, &moved);
        assert_eq!(search(host, ip("192.0.2.10"), 0).unwrap().0, ip(B[0]));
        assert_eq!(search(host, ip("192.0.2.11"), 0), Some((ip(B[0]), kept)));
    });
}

#[test]
fn networks_of_the_cluster() {
    on_host(|host| {
        let mut node = Node::open(host);
        let count = |name| {
            let mut count = 0;
            open_map(host, name).dump(|_, _| count += 1).unwrap();
            count
        };
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        node.kernel
            .set_cluster(&nets(&["10.0.0.0/8", "10.1.0.0/16", "fd00::/8", "192.168.0.0/16"]))
            .unwrap();
        assert_eq!(
            (count("cluster_v4"), count("cluster_v6")),
            (2, 1),
            "what others cover is left out"
        );
        node.kernel.set_cluster(&nets(&["10.1.0.0/16"])).unwrap();
        assert_eq!((count("cluster_v4"), count("cluster_v6")), (1, 0));
        // Too many: the last ones stay.
        let many = (0..2000_u32).map(|n| format!("10.{}.{}.0/25", n / 200, n % 200).parse().unwrap());
        assert!(node.kernel.set_cluster(&many.collect()).is_err());
        assert_eq!((count("cluster_v4"), count("cluster_v6")), (1, 0));
        node.kernel.set_cluster(&nets(&["10.2.0.0/16"])).unwrap();
        assert_eq!(
            (count("cluster_v4"), count("cluster_v6")),
            (1, 0),
            "what did not fit is forgotten"
        );
    });
}

/// felid's routes to single addresses that lead by way of others.
fn routes(host: &Host) -> BTreeSet<String> {
    let mut routes = BTreeSet::new();
    for family in ["-4", "-6"] {
        let out = host
            .namespace()
            .exec(&["ip", family, "route", "show", "proto", "3"])
            .unwrap();
        let lines = out.lines().filter(|line| line.contains(" via "));
        routes.extend(lines.map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after = |name: &str| words.iter().skip_while(|word| **word != name).nth(1).unwrap();
            assert!(line.contains("onlink"), "{line}");
            format!("{} via {} dev {}", words[0], after("via"), after("dev"))
        }));
    }
    routes
}

#[test]
fn routes_lead_to_external_addresses() {
    on_host(|host| {
        let (a, b) = (host.workload("cali-a", A).unwrap(), host.workload("cali-b", B).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let options = Options {
            kernel: config(host),
            route_protocol: 3,
        };
        runtime.block_on(async {
            let (mut plane, adopted) = Dataplane::open(&options).await.unwrap();
            let mut planner = Planner::new(plane.kernel().planner_options(), adopted);
            planner.update(&set([&a, &b].map(|workload| endpoint(workload, allow(), allow()))));
            let transaction = planner.plan().unwrap().unwrap();
            let errors = plane.apply(&transaction).await.unwrap().errors;
            assert!(errors.is_empty(), "{errors:?}");
            plane.complete(&transaction).unwrap();
            planner.committed();
            let id = |workload: &Workload| {
                let all = planner.endpoints();
                let mut named = all.filter(|status| *status.endpoint.interface_name == workload.interface);
                named.next().unwrap().id
            };
            let (id_a, id_b) = (id(&a), id(&b));
            let set_nats = async |plane: &mut Dataplane, wanted: &Mappings| {
                let (no_room, errors) = plane.set_nats(wanted).await.unwrap();
                assert!(no_room.is_empty() && errors.is_empty(), "{errors:?}");
            };
            let wanted = mappings(&[
                ("192.0.2.10", A[0], id_a),
                ("2001:db8::10", A[1], id_a),
                ("192.0.2.11", B[0], id_b),
            ]);
            set_nats(&mut plane, &wanted).await;
            let expected = |list: &[&str]| {
                list.iter()
                    .map(|route| (*route).to_owned())
                    .collect::<BTreeSet<String>>()
            };
            let all = expected(&[
                "192.0.2.10 via 10.65.0.2 dev cali-a",
                "192.0.2.11 via 10.65.0.3 dev cali-b",
                "2001:db8::10 via fd00:65::2 dev cali-a",
            ]);
            assert_eq!(routes(host), all);
            // What somebody deletes or bends comes back.
            host.namespace().ip("route del 192.0.2.10").unwrap();
            host.namespace()
                .ip("route replace 192.0.2.11 dev cali-b proto 3")
                .unwrap();
            let handled = plane.refresh().await;
            assert!(handled.errors.is_empty());
            while let Ok(Some(event)) = tokio::time::timeout(std::time::Duration::from_millis(200), plane.event()).await
            {
                plane.handle(event).await;
            }
            assert_eq!(routes(host), all);
            // A restart leaves them alone.
            drop(plane);
            let (mut plane, adopted) = Dataplane::open(&options).await.unwrap();
            assert_eq!(routes(host), all);
            let mut planner = Planner::new(plane.kernel().planner_options(), adopted);
            planner.update(&set([&a, &b].map(|workload| endpoint(workload, allow(), allow()))));
            let transaction = planner.plan().unwrap().unwrap();
            plane.retire_nats(&wanted).unwrap();
            let errors = plane.apply(&transaction).await.unwrap().errors;
            assert!(errors.is_empty(), "{errors:?}");
            assert_eq!(routes(host), all);
            plane.complete(&transaction).unwrap();
            planner.committed();
            // Moved, and gone.
            set_nats(
                &mut plane,
                &mappings(&[("192.0.2.10", B[0], id_b), ("2001:db8::10", B[1], id_b)]),
            )
            .await;
            assert_eq!(
                routes(host),
                expected(&[
                    "192.0.2.10 via 10.65.0.3 dev cali-b",
                    "2001:db8::10 via fd00:65::3 dev cali-b"
                ])
            );
            // With its endpoint.
            planner.update(&gone(&b));
            let transaction = planner.plan().unwrap().unwrap();
            plane.retire_nats(&Mappings::new()).unwrap();
            let errors = plane.apply(&transaction).await.unwrap().errors;
            assert!(errors.is_empty(), "{errors:?}");
            plane.complete(&transaction).unwrap();
            assert_eq!(routes(host), BTreeSet::new());
        });
    });
}

#[test]
fn the_host_answers_for_external_addresses_where_they_belong() {
    on_host(|host| {
        let a = host.workload("cali-a", A).unwrap();
        let outside = felid_lab::netns::Namespace::new("dpk-o").unwrap();
        let here = host.namespace();
        for namespace in [here, &outside] {
            namespace.sysctl("net/ipv6/conf/default/accept_dad", "0").unwrap();
        }
        here.ip(&format!(
            "link add up0 type veth peer name eth0 netns {}",
            outside.name()
        ))
        .unwrap();
        here.ip("link add other type veth peer name nothing").unwrap();
        for (namespace, command) in [
            (here, "addr add 192.0.2.1/24 dev up0"),
            (here, "addr add 2001:db8:2::1/64 dev up0 nodad"),
            (here, "addr add 198.51.100.1/24 dev other"),
            (here, "link set up0 up"),
            (here, "link set other up"),
            (&outside, "addr add 192.0.2.2/24 dev eth0"),
            (&outside, "addr add 2001:db8:2::2/64 dev eth0 nodad"),
            (&outside, "link set eth0 up"),
            // Somebody else's entry, which stays.
            (here, "neigh add proxy 192.0.2.99 dev up0"),
        ] {
            namespace.ip(command).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let options = Options {
            kernel: config(host),
            route_protocol: 3,
        };
        let entries = || -> BTreeSet<String> {
            let all = ["-4", "-6"].map(|family| here.ip(&format!("{family} neigh show proxy")).unwrap());
            all.iter()
                .flat_map(|text| text.lines())
                .map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
                .collect()
        };
        let expected = |list: &[&str]| {
            list.iter()
                .map(|entry| (*entry).to_owned())
                .collect::<BTreeSet<String>>()
        };
        runtime.block_on(async {
            let (mut plane, adopted) = Dataplane::open(&options).await.unwrap();
            let mut planner = Planner::new(plane.kernel().planner_options(), adopted);
            planner.set_host_addresses(plane.host_addresses().clone());
            planner.update(&set([endpoint(&a, allow(), allow())]));
            let transaction = planner.plan().unwrap().unwrap();
            let errors = plane.apply(&transaction).await.unwrap().errors;
            assert!(errors.is_empty(), "{errors:?}");
            plane.complete(&transaction).unwrap();
            planner.committed();
            let id = planner.endpoints().next().unwrap().id;
            let wanted = mappings(&[
                ("192.0.2.10", A[0], id),
                ("2001:db8:2::10", A[1], id),
                ("203.0.113.10", A[0], id),
            ]);
            let set_nats = async |plane: &mut Dataplane, wanted: &Mappings| {
                let (_, errors) = plane.set_nats(wanted).await.unwrap();
                assert!(errors.is_empty(), "{errors:?}");
            };
            set_nats(&mut plane, &wanted).await;
            assert_eq!(entries(), expected(&["192.0.2.99 dev up0"]), "not unless it is wanted");
            plane.set_announcement(true);
            set_nats(&mut plane, &wanted).await;
            let ours = ["192.0.2.10 dev up0", "192.0.2.99 dev up0", "2001:db8:2::10 dev up0"];
            assert_eq!(entries(), expected(&ours));
            for address in ["192.0.2.10", "2001:db8:2::10"] {
                assert!((0..10).any(|_| outside.pings(address).unwrap()), "{address} answers");
            }
            // The host gets an address in another network: what belongs there is answered there.
            here.ip("addr add 203.0.113.1/24 dev other").unwrap();
            while let Ok(Some(event)) = tokio::time::timeout(std::time::Duration::from_millis(200), plane.event()).await
            {
                plane.handle(event).await;
            }
            let mut more = ours.to_vec();
            more.push("203.0.113.10 dev other");
            assert_eq!(entries(), expected(&more));
            // An agent that no longer wants it removes what an earlier one made.
            drop(plane);
            let (mut plane, adopted) = Dataplane::open(&options).await.unwrap();
            let mut planner = Planner::new(plane.kernel().planner_options(), adopted);
            planner.update(&set([endpoint(&a, allow(), allow())]));
            let transaction = planner.plan().unwrap().unwrap();
            let errors = plane.apply(&transaction).await.unwrap().errors;
            assert!(errors.is_empty(), "{errors:?}");
            plane.complete(&transaction).unwrap();
            assert_eq!(entries(), expected(&more), "not before it knows what there is to do");
            set_nats(&mut plane, &wanted).await;
            assert_eq!(entries(), expected(&["192.0.2.99 dev up0"]));
            plane.set_announcement(true);
            set_nats(&mut plane, &mappings(&[("192.0.2.10", A[0], id)])).await;
            assert_eq!(entries(), expected(&["192.0.2.10 dev up0", "192.0.2.99 dev up0"]));
            drop(plane);
            let errors = felid_dataplane::cleanup(host.bpffs(), &["cali".to_owned()], 3, &mut |_| {})
                .await
                .unwrap();
            assert!(errors.is_empty(), "{errors:?}");
            assert_eq!(entries(), expected(&["192.0.2.99 dev up0"]));
            assert_eq!(routes(host), BTreeSet::new());
        });
    });
}
