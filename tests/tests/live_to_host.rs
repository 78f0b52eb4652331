//! What ends at the host and what only seems to: `defaultEndpointToHostAction` concerns packets
//! that arrive at the host itself, behind every translation of addresses and every route.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use felid_lab::records::{Endpoint, policy};
use felid_tests::{Cluster, Namespace, Workload, sockets};

struct World {
    cluster: Cluster,
    client: Workload,
    web: Workload,
    outside: Namespace,
}

const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:2::1"];
const ACCEPT: &str = "---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {defaultEndpointToHostAction: Accept}\n";

/// A client and a server on a host whose uplink leads to one namespace; the host has no default
/// route.
fn world(prefix: &str) -> World {
    let (mut cluster, outside) = Cluster::with_uplink(prefix, None).unwrap();
    let client = cluster
        .host
        .workload("caliclient", &["10.65.0.2", "fd00:65::2"])
        .unwrap();
    let web = cluster.host.workload("caliweb", &["10.65.0.3", "fd00:65::3"]).unwrap();
    let records = [
        Endpoint {
            labels: "app: client",
            ..Endpoint::of("client", &client)
        }
        .yaml(),
        Endpoint {
            labels: "app: web",
            ..Endpoint::of("web", &web)
        }
        .yaml(),
        policy(
            "default",
            "web",
            "  selector: app == 'web'\n  types: [Ingress]\n  ingress:\n    - {action: Allow, source: {selector: app == 'client'}, protocol: TCP, destination: {ports: [80]}}\n    - {action: Allow, source: {selector: app == 'client'}, protocol: UDP, destination: {ports: [80]}}\n",
        ),
    ];
    cluster.write("records.yaml", &records.concat()).unwrap();
    cluster.start().unwrap();
    for port in [80, 81] {
        for namespace in [&web.namespace, &outside, cluster.host.namespace()] {
            sockets::serve_tcp(namespace, port).unwrap();
            sockets::serve_udp(namespace, port).unwrap();
        }
    }
    World {
        cluster,
        client,
        web,
        outside,
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl World {
    fn reaches(&self, to: &str, port: u16) -> [bool; 2] {
        [
            sockets::tcp(&self.client.namespace, address(to), port).unwrap(),
            sockets::udp(&self.client.namespace, address(to), port, 100).unwrap(),
        ]
    }

    /// Nothing of the client's arrives at the host's own sockets, and what does not is counted.
    fn host_is_closed(&self, why: &str) {
        for to in HOST {
            let before = self.cluster.dropped("endpoint_to_host").unwrap();
            assert_eq!(self.reaches(to, 80), [false; 2], "{why}: {to}");
            assert!(
                self.cluster.dropped("endpoint_to_host").unwrap() > before,
                "{why}: {to} is not counted"
            );
        }
    }
}

const NODE_PORTS: &str = "add table inet svc; add chain inet svc pre { type nat hook prerouting priority -100; };
add rule inet svc pre ip daddr 192.0.2.1 meta l4proto { tcp, udp } th dport 30080 dnat ip to 10.65.0.3:80;
add rule inet svc pre ip6 daddr 2001:db8:2::1 meta l4proto { tcp, udp } th dport 30080 dnat ip6 to [fd00:65::3]:80;
add rule inet svc pre ip daddr 192.0.2.1 meta l4proto { tcp, udp } th dport 30081 dnat ip to 10.65.0.3:81;
add rule inet svc pre ip daddr 10.96.0.1 meta l4proto { tcp, udp } th dport 80 dnat ip to 10.65.0.3:80;
add rule inet svc pre ip6 daddr fd00:96::1 meta l4proto { tcp, udp } th dport 80 dnat ip6 to [fd00:65::3]:80;
add rule inet svc pre ip daddr 10.96.0.2 meta l4proto { tcp, udp } th dport 80 dnat ip to 192.0.2.7:80;
add rule inet svc pre ip daddr 10.96.0.9 meta l4proto { tcp, udp } th dport 80 dnat ip to 192.0.2.1:80;
add rule inet svc pre ip6 daddr fd00:96::9 meta l4proto { tcp, udp } th dport 80 dnat ip6 to [2001:db8:2::1]:80;
add rule inet svc pre meta l4proto { tcp, udp } th dport 30099 redirect to :80";

#[test]
fn services_are_judged_by_where_they_lead() {
    let world = world("lt-svc");
    let host = world.cluster.host.namespace();
    host.exec(&["nft", NODE_PORTS]).unwrap();
    // Node ports of the own node, services without a route, a service that leads off the node.
    for (to, port) in [
        (HOST[0], 30080),
        (HOST[1], 30080),
        ("10.96.0.1", 80),
        ("fd00:96::1", 80),
        ("10.96.0.2", 80),
    ] {
        assert_eq!(world.reaches(to, port), [true; 2], "{to} port {port}");
    }
    // Policy is asked about the server's port.
    assert_eq!(world.reaches(HOST[0], 30081), [false; 2]);
    // What the host answers itself, by whatever name.
    for (to, port) in [
        ("10.96.0.9", 80),
        ("fd00:96::9", 80),
        (HOST[0], 30099),
        (HOST[1], 30099),
        ("10.1.2.3", 30099),
    ] {
        assert_eq!(world.reaches(to, port), [false; 2], "{to} port {port} ends at the host");
    }
    world.host_is_closed("beside services");
}

#[test]
fn marks_and_tables_of_routes_hold() {
    let world = world("lt-mark");
    let host = world.cluster.host.namespace();
    world.outside.ip("addr add 198.51.100.9/32 dev lo").unwrap();
    world.outside.ip("addr add 2001:db8:9::9/128 dev lo nodad").unwrap();
    for to in ["198.51.100.9", "2001:db8:9::9"] {
        assert!(!world.reaches(to, 80)[0], "no route leads to {to}");
    }
    host.exec(&["nft", "add table inet m; add chain inet m pre { type filter hook prerouting priority -150; }; add rule inet m pre iifname caliclient meta mark set 7"])
        .unwrap();
    for (family, gateway) in [("-4", "192.0.2.7"), ("-6", "2001:db8:2::7")] {
        host.ip(&format!("{family} rule add fwmark 7 table 77")).unwrap();
        host.ip(&format!("{family} route add default via {gateway} table 77"))
            .unwrap();
    }
    for to in ["198.51.100.9", "2001:db8:9::9"] {
        assert!(world.reaches(to, 80)[0], "the marked route leads to {to}");
    }
    world.host_is_closed("with marks");
}

#[test]
fn the_host_stays_closed_whatever_happens() {
    let mut world = world("lt-closed");
    let host = world.cluster.host.namespace();
    world.host_is_closed("at first");
    // More of the same flow, and in pieces.
    for to in HOST {
        let to = SocketAddr::new(address(to), 81);
        world
            .client
            .namespace
            .run(|| {
                let socket = UdpSocket::bind((if to.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).unwrap();
                socket.connect(to).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                for size in [10, 10, 4000, 10, 4000] {
                    let _ = socket.send(&vec![7; size]);
                    assert!(socket.recv(&mut [0; 5000]).is_err(), "{to} answers");
                }
            })
            .unwrap();
    }
    // The host's own flows are answered.
    for to in world.client.addresses.clone() {
        sockets::serve_tcp(&world.client.namespace, if to.is_ipv4() { 90 } else { 91 }).unwrap();
        sockets::serve_udp(&world.client.namespace, if to.is_ipv4() { 90 } else { 91 }).unwrap();
        let port = if to.is_ipv4() { 90 } else { 91 };
        assert!(sockets::tcp(host, to, port).unwrap(), "{to}");
        assert!(sockets::udp(host, to, port, 100).unwrap(), "{to}");
        assert!(host.pings(&to.to_string()).unwrap(), "{to}");
    }
    // Other people's firewalls come and go.
    host.exec(&["nft", "flush ruleset"]).unwrap();
    world.host_is_closed("after a flush of all rules");
    world.cluster.kill();
    for to in HOST {
        assert_eq!(world.reaches(to, 80), [false; 2], "without the agent: {to}");
    }
    world.cluster.start().unwrap();
    world.host_is_closed("after a restart");
}

#[test]
fn a_workloads_attempt_does_not_stand_in_the_hosts_way() {
    let world = world("lt-turn");
    for (to, own) in HOST.iter().zip(&world.client.addresses) {
        let host_address = SocketAddr::new(address(to), 500);
        let own_address = SocketAddr::new(*own, 500);
        let inside = world
            .client
            .namespace
            .run(|| UdpSocket::bind(own_address).unwrap())
            .unwrap();
        let host = world
            .cluster
            .host
            .namespace()
            .run(|| UdpSocket::bind(host_address).unwrap())
            .unwrap();
        for socket in [&inside, &host] {
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        }
        let mut buffer = [0; 16];
        inside.send_to(b"hello", host_address).unwrap();
        assert!(host.recv(&mut buffer).is_err(), "{to} was reached");
        // The same two ports, but now the host begins.
        host.send_to(b"question", own_address).unwrap();
        assert_eq!(inside.recv(&mut buffer).unwrap(), 8);
        inside.send_to(b"answer", host_address).unwrap();
        assert_eq!(host.recv(&mut buffer).unwrap(), 6, "{to}");
    }
}

#[test]
fn the_setting_opens_and_closes_at_once() {
    let world = world("lt-set");
    world.host_is_closed("by default");
    world.cluster.write("felix.yaml", ACCEPT).unwrap();
    for to in HOST {
        world
            .cluster
            .eventually("the host is open", || Ok(world.reaches(to, 80) == [true; 2]))
            .unwrap();
    }
    let mut streams: Vec<_> = HOST
        .iter()
        .map(|to| sockets::tcp_open(&world.client.namespace, address(to), 81).unwrap())
        .collect();
    world.cluster.remove("felix.yaml").unwrap();
    for (to, stream) in HOST.iter().zip(&mut streams) {
        world
            .cluster
            .eventually("the host is closed", || Ok(world.reaches(to, 80) == [false; 2]))
            .unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        assert!(sockets::echo(stream).is_err(), "an open connection to {to} goes on");
    }
    drop(world.web);
}
