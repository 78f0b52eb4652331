//! The host and the world outside: who may reach whom beside workloads themselves. Both families.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;
use std::time::Duration;

use felid_lab::packet::mac_of;
use felid_lab::records::{Endpoint, policy};
use felid_tests::packet_craft::{Craft, fragment_header};
use felid_tests::{Cluster, Namespace, Workload, sockets};

struct World {
    cluster: Cluster,
    web: Workload,
    outside: Namespace,
}

const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:2::1"];

fn world(prefix: &str, extra: &str) -> World {
    let (mut cluster, outside) = Cluster::with_uplink(prefix, None).unwrap();
    let web = cluster.host.workload("caliweb", &["10.65.0.2", "fd00:65::2"]).unwrap();
    let records = [
        Endpoint { labels: "app: web", ..Endpoint::of("web", &web) }.yaml(),
        policy(
            "default",
            "web",
            "  selector: app == 'web'\n  types: [Ingress]\n  ingress:\n    - {action: Allow, protocol: TCP, source: {selector: zone == 'out', namespaceSelector: global()}, destination: {ports: [80]}}\n    - {action: Allow, protocol: UDP, source: {selector: zone == 'out', namespaceSelector: global()}, destination: {ports: [82]}}",
        ),
        "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {name: out, labels: {zone: out}}\nspec: {nets: [192.0.2.0/25, '2001:db8:2::/64']}\n".to_owned(),
        extra.to_owned(),
    ];
    cluster.write("records.yaml", &records.concat()).unwrap();
    cluster.start().unwrap();
    for port in [80, 81] {
        sockets::serve_tcp(&web.namespace, port).unwrap();
        sockets::serve_tcp(&outside, port).unwrap();
        sockets::serve_tcp(cluster.host.namespace(), port).unwrap();
    }
    World { cluster, web, outside }
}

#[test]
fn the_world_outside_is_judged_and_answers_return() {
    let world = world("lh-out", "");
    for to in world.web.addresses.clone() {
        assert!(
            sockets::tcp(&world.outside, to, 80).unwrap(),
            "allowed by the network set: {to}"
        );
        assert!(!sockets::tcp(&world.outside, to, 81).unwrap(), "{to}");
    }
    for to in ["192.0.2.7", "2001:db8:2::7"] {
        assert!(
            sockets::tcp(&world.web.namespace, to.parse().unwrap(), 81).unwrap(),
            "outbound to {to}"
        );
    }
}

#[test]
fn the_host_reaches_its_workloads_and_not_the_other_way() {
    let world = world("lh-host", "");
    for to in world.web.addresses.clone() {
        assert!(
            sockets::tcp(world.cluster.host.namespace(), to, 81).unwrap(),
            "the host may always: {to}"
        );
        assert!(
            world.cluster.host.namespace().pings(&to.to_string()).unwrap(),
            "echo to {to}"
        );
    }
    for to in HOST {
        assert!(
            !sockets::tcp(&world.web.namespace, to.parse().unwrap(), 80).unwrap(),
            "workload to host {to}"
        );
    }
    assert!(world.cluster.dropped("endpoint_to_host").unwrap() > 0.0);
}

#[test]
fn the_record_lets_workloads_reach_the_host() {
    let world = world(
        "lh-accept",
        "---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {defaultEndpointToHostAction: Accept}\n",
    );
    for to in HOST {
        assert!(
            sockets::tcp(&world.web.namespace, to.parse().unwrap(), 80).unwrap(),
            "workload to host {to}"
        );
    }
}

#[test]
fn masquerade_by_the_host_does_not_open_anything() {
    let world = world("lh-masq", "");
    // What the host forwards for others carries the host's address now: it is judged like any
    // other.
    let host = world.cluster.host.namespace();
    host.exec(&["nft", "add table inet nat; add chain inet nat post { type nat hook postrouting priority 100; }; add rule inet nat post oifname caliweb masquerade"])
        .unwrap();
    host.ip("addr add 10.65.255.1/32 dev lo").unwrap();
    for to in world.web.addresses.clone() {
        assert!(!sockets::tcp(&world.outside, to, 81).unwrap(), "{to}");
    }
    for to in world.web.addresses.clone() {
        assert!(sockets::tcp(host, to, 81).unwrap(), "the host itself: {to}");
    }
}

#[test]
fn the_host_is_the_host_under_any_address() {
    // As service meshes show their probes to pods: netfilter gives what the host itself sends an
    // address that is nobody's.
    let world = world("lh-mesh", "");
    let host = world.cluster.host.namespace();
    host.exec(&["nft", "add table ip mesh; add chain ip mesh post { type nat hook postrouting priority 100; }; add rule ip mesh post oifname caliweb snat to 169.254.7.127; add table ip6 mesh; add chain ip6 mesh post { type nat hook postrouting priority 100; }; add rule ip6 mesh post oifname caliweb snat to fd16:9254:7127:1337:ffff:ffff:ffff:ffff"])
        .unwrap();
    sockets::serve_udp(&world.web.namespace, 83).unwrap();
    for to in world.web.addresses.clone() {
        assert!(sockets::tcp(host, to, 81).unwrap(), "the host itself: {to}");
        assert!(sockets::udp(host, to, 83, 100).unwrap(), "the host itself: {to}");
        assert!(host.pings(&to.to_string()).unwrap(), "the host itself: {to}");
        // What it forwards is others', under whatever address.
        assert!(!sockets::tcp(&world.outside, to, 81).unwrap(), "{to}");
        assert!(!sockets::udp(&world.outside, to, 83, 100).unwrap(), "{to}");
    }
}

#[test]
fn a_new_address_of_the_host_is_the_hosts_at_once() {
    let world = world("lh-new", "");
    let host = world.cluster.host.namespace();
    sockets::serve_udp(&world.web.namespace, 84).unwrap();
    for (n, to) in world.web.addresses.clone().into_iter().enumerate() {
        for round in 0..5 {
            let (address, length) = if n == 0 {
                (format!("198.51.100.{}", round + 1), 32)
            } else {
                (format!("2001:db8:51::{}", round + 1), 128)
            };
            host.ip(&format!("addr add {address}/{length} dev lo nodad")).unwrap();
            let connected = host
                .run(|| {
                    let socket = std::net::UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 0))?;
                    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
                    socket.send_to(b"1", (to, 84))?;
                    socket.recv_from(&mut [0; 64])
                })
                .unwrap();
            assert!(connected.is_ok(), "{address} to {to}: {connected:?}");
        }
    }
}

#[test]
fn fragments_that_the_host_cut_up_again_are_not_the_hosts_own() {
    let world = world("lh-cut", "");
    let host = world.cluster.host.namespace();
    // Connection tracking puts datagrams together and cuts them up again, forgetting where they
    // came in.
    host.exec(&["nft", "add table inet t; add chain inet t f { type filter hook forward priority 0; }; add rule inet t f ct state invalid counter"])
        .unwrap();
    let to: IpAddr = "fd00:65::2".parse().unwrap();
    let data: Vec<u8> = vec![0x5a; 1000 + 1448 - 8];
    let outside = world.outside.packets("eth0").unwrap();
    let inside = world.web.namespace.packets("eth0").unwrap();
    let macs = (
        host.run(|| mac_of("uplink")).unwrap().unwrap(),
        world.outside.run(|| mac_of("eth0")).unwrap().unwrap(),
    );
    for (source, arrives) in [(HOST[1], false), ("2001:db8:2::7", true)] {
        let mut whole = Craft::new(source.parse::<IpAddr>().unwrap(), to).udp(7, if arrives { 82 } else { 81 }, &data);
        (whole.to, whole.from) = macs;
        // The kernel copies the parts instead of reusing them if the second is longer than there is
        // room behind the headers of the first.
        let mut first = whole.clone();
        first.extensions = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0]), fragment_header(0, true, 77)];
        first.payload.truncate(1000);
        let mut second = whole.clone();
        second.extensions = vec![fragment_header(1000, false, 77)];
        second.payload.drain(..1000);
        outside.send(&first.build()).unwrap();
        outside.send(&second.build()).unwrap();
        let seen = inside
            .receive(Duration::from_millis(500), |frame| {
                frame.len() > 60 && frame[12..14] == [0x86, 0xdd] && frame.windows(64).any(|bytes| bytes == [0x5a; 64])
            })
            .unwrap();
        assert_eq!(seen.is_some(), arrives, "from {source}");
    }
    // What the host itself cuts up is its own.
    let large: Vec<u8> = vec![0x5b; 3000];
    host.run(|| {
        let socket = std::net::UdpSocket::bind((HOST[1].parse::<IpAddr>().unwrap(), 0)).unwrap();
        socket.send_to(&large, (to, 81)).unwrap();
    })
    .unwrap();
    let seen = inside
        .receive(Duration::from_millis(500), |frame| {
            frame.windows(64).any(|bytes| bytes == [0x5b; 64])
        })
        .unwrap();
    assert!(seen.is_some(), "the host's own fragments");
}

#[test]
fn an_interface_without_a_record_is_closed() {
    let world = world("lh-closed", "");
    let unknown = world
        .cluster
        .host
        .workload("caliunknown", &["10.65.0.9", "fd00:65::9"])
        .unwrap();
    world.cluster.host.wire(&unknown).unwrap();
    world
        .cluster
        .eventually("the interface is closed", || {
            unknown.namespace.pings("192.0.2.1")?;
            Ok(world.cluster.dropped("unknown_interface")? > 0.0)
        })
        .unwrap();
    for to in ["192.0.2.7", "2001:db8:2::7"] {
        assert!(!sockets::tcp(&unknown.namespace, to.parse().unwrap(), 80).unwrap());
    }
    let to: IpAddr = "10.65.0.9".parse().unwrap();
    sockets::serve_tcp(&unknown.namespace, 80).unwrap();
    assert!(!sockets::tcp(world.cluster.host.namespace(), to, 80).unwrap());
    // Its record opens it.
    let record = Endpoint {
        labels: "app: late",
        ..Endpoint::of("late", &unknown)
    }
    .yaml();
    world.cluster.write("late.yaml", &record).unwrap();
    world
        .cluster
        .eventually("the endpoint is open", || {
            sockets::tcp(&unknown.namespace, "192.0.2.7".parse()?, 80)
        })
        .unwrap();
    // And without the record it is closed again, its routes gone.
    world.cluster.remove("late.yaml").unwrap();
    world
        .cluster
        .eventually("the endpoint is closed", || {
            Ok(!sockets::tcp(&unknown.namespace, "192.0.2.7".parse()?, 80)?)
        })
        .unwrap();
}
