//! A node of 250 endpoints and 10,000 remote addresses. Prints how long the steps take; the limit
//! only catches what hangs, since the build is not optimised and the machine may be busy.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use felid_dataplane::{Config, LinkState};
use felid_model::resolved::Delta;

use crate::node::{Node, allow, allow_from, endpoint, members, on_host, set};

const ENDPOINTS: u32 = 250;

#[test]
fn a_full_node_starts_and_restarts() {
    on_host(|host| {
        let template = host.workload("cali-t", &[]).unwrap();
        let mut links = Vec::new();
        let mut records = Vec::new();
        for number in 0..ENDPOINTS {
            let name = format!("cali{number}");
            host.namespace()
                .ip(&format!("link add {name} type veth peer name p{number}"))
                .unwrap();
            let ifindex = host.namespace().ifindex(&name).unwrap();
            links.push(LinkState {
                ifindex,
                name: name.as_str().into(),
                mac: None,
                mtu: 1500,
                is_ethernet: true,
                filters: Arc::default(),
                peer: None,
            });
            let mut record = endpoint(&template, allow(), allow_from("s:x"));
            record.key.name = name.as_str().into();
            record.interface_name = name.as_str().into();
            record.addresses = vec![Ipv4Addr::from(0x0a41_0100 + number).into()];
            records.push(record);
        }
        let addresses: Vec<IpAddr> = (0..10_000_u32)
            .map(|n| Ipv4Addr::from(0x0a80_0000 + n).into())
            .collect();
        let mut delta: Delta = set(records);
        delta.members = members("s:x", &addresses).members;

        let config = Config {
            bpffs: host.bpffs().to_owned(),
            ..Config::default()
        };
        for round in ["first start", "restart"] {
            let start = Instant::now();
            let mut node = Node::with(&config);
            let opened = start.elapsed();
            println!("maps take {} MiB of kernel memory", map_memory() >> 20);
            let errors = node.kernel.set_links(links.clone());
            assert!(errors.is_empty(), "{errors:?}");
            let closed = start.elapsed();
            let transaction = node.plan(&delta);
            let planned = start.elapsed();
            let flip = node.kernel.apply(&transaction).unwrap();
            assert!(flip.link_errors.is_empty());
            let applied = start.elapsed();
            felid_dataplane::sys::membarrier().unwrap();
            let waited = start.elapsed();
            node.kernel.complete(&transaction).unwrap();
            node.planner.committed();
            let completed = start.elapsed();
            println!(
                "{round}: open {opened:?}, links {:?}, plan {:?}, apply {:?}, grace {:?}, complete {:?}; {completed:?} in all",
                closed - opened,
                planned - closed,
                applied - planned,
                waited - applied,
                completed - waited
            );
            let again = Instant::now();
            let errors = node.kernel.set_links(links.clone());
            assert!(errors.is_empty());
            println!("links again: {:?}", again.elapsed());
            let mut one: Delta = members("s:y", &addresses[..1]);
            one.endpoints
                .insert(delta.endpoints.keys().next().unwrap().clone(), None);
            let transaction = node.plan(&one);
            let small = Instant::now();
            let flip = node.kernel.apply(&transaction).unwrap();
            println!("one endpoint less: {:?}", small.elapsed());
            drop(flip);
            let held = node.kernel.inventory().unwrap();
            assert!(
                held.links == 2 * ENDPOINTS as usize && held.peers_v4 >= 10_000,
                "{held:?}"
            );
            drop(Arc::clone(&node.kernel.conntrack()));
            assert!(completed < Duration::from_secs(60), "{completed:?}");
        }
    });
}

/// What the kernel says its maps take that this process has open.
fn map_memory() -> u64 {
    let entries = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    let infos = entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
    let maps: std::collections::BTreeMap<String, u64> = infos
        .filter_map(|info| {
            let field = |name: &str| {
                info.lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(|value| value.trim().to_owned())
            };
            Some((field("map_id:")?, field("memlock:")?.parse().ok()?))
        })
        .collect();
    maps.values().sum()
}

/// What the kernel says a map takes, in bytes.
fn memory(pin: &std::path::Path) -> u64 {
    let map = felid_dataplane::sys::open_pin(pin).unwrap();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd())).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn the_tables_take_the_memory_that_the_docs_say() {
    on_host(|host| {
        let default = Config {
            bpffs: host.bpffs().to_owned(),
            bpffs_private: true,
            ..Config::default()
        };
        let _kernel = felid_dataplane::Kernel::open(&default).unwrap();
        let maps = host.bpffs().join(format!("felid/v{}/maps", felid_common::ABI_VERSION));
        let pins = std::fs::read_dir(maps).unwrap().map(|pin| pin.unwrap().path());
        let mut sizes: Vec<(u64, String)> = pins
            .map(|pin| (memory(&pin), pin.file_name().unwrap().to_string_lossy().into_owned()))
            .collect();
        sizes.sort();
        let total: u64 = sizes.iter().map(|(size, _)| size).sum();
        let docs = include_str!("../../../docs/configuration.md");
        let (_, rest) = docs.split_once("the kernel's tables take about ").unwrap();
        let told: u64 = rest.split(' ').next().unwrap().parse().unwrap();
        let measured = total >> 20;
        assert!(
            measured.abs_diff(told) <= told / 10,
            "{measured} MiB, and the docs say {told}: {sizes:?}"
        );
    });
}
