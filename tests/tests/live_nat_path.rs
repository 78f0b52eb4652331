//! ICMP errors through 1:1 translations: paths with a smaller MTU, traceroute, closed ports.
//! Whoever gets an error reads the addresses that they themselves sent to and from.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use felid_lab::Namespace;
use felid_tests::nat_world::{FAMILIES, Family, NatWorld, address, ip, join, route};
use felid_tests::packet_craft::Craft;
use felid_tests::seen::{Capture, Seen, send_ip};
use felid_tests::transfer::{self, transfer};

const BULK: u16 = 5001;
const EXTERNAL: [&str; 2] = ["--ip-nat-outbound", "External"];
/// MTU between the routers; everywhere else it is 1500.
const NARROW: u32 = 1400;

/// Addresses of the way from the host to somebody far away: host, second router | second, first |
/// first, far.
struct Way {
    uplink: [&'static str; 2],
    narrow: [&'static str; 2],
    last: [&'static str; 2],
    /// What the host and the routers lead to.
    far_net: &'static str,
    external_net: &'static str,
    web_net: &'static str,
}

const WAYS: [Way; 2] = [
    Way {
        uplink: ["192.0.2.1", "192.0.2.9"],
        narrow: ["198.18.1.2", "198.18.1.1"],
        last: ["198.18.2.1", "198.18.2.7"],
        far_net: "198.18.0.0/15",
        external_net: "203.0.113.0/24",
        web_net: "10.65.0.0/24",
    },
    Way {
        uplink: ["2001:db8:2::1", "2001:db8:2::9"],
        narrow: ["2001:db8:a1::2", "2001:db8:a1::1"],
        last: ["2001:db8:a2::1", "2001:db8:a2::7"],
        far_net: "2001:db8:a0::/44",
        external_net: "2001:db8:5::/64",
        web_net: "fd00:65::/64",
    },
];

struct World {
    nat: NatWorld,
    second: Namespace,
    first: Namespace,
    far: Namespace,
}

/// host - second router - (narrow) - first router - far. The namespace `outside` of the other tests
/// becomes a bystander.
fn world(prefix: &str, options: &[&str]) -> World {
    let nat = NatWorld::new(prefix, "", options).unwrap();
    let host = nat.cluster.host.namespace();
    let router = |name: &str| {
        let namespace = Namespace::new(&format!("{prefix}-{name}")).unwrap();
        namespace.sysctl("net/ipv4/ip_forward", "1").unwrap();
        namespace.sysctl("net/ipv6/conf/all/forwarding", "1").unwrap();
        // Every error is wanted, however many there are.
        namespace.sysctl("net/ipv4/icmp_ratelimit", "0").unwrap();
        namespace.sysctl("net/ipv6/icmp/ratelimit", "0").unwrap();
        namespace
    };
    let (second, first) = (router("second"), router("first"));
    let far = Namespace::new(&format!("{prefix}-far")).unwrap();
    for namespace in [host, &far, &nat.web.namespace] {
        namespace.sysctl("net/ipv4/icmp_ratelimit", "0").unwrap();
        namespace.sysctl("net/ipv6/icmp/ratelimit", "0").unwrap();
    }
    // The uplink of `outside` goes to the second router now.
    nat.outside.ip("link del eth0").unwrap();
    join(host, "uplink", &second, "upper").unwrap();
    join(&second, "lower", &first, "upper").unwrap();
    join(&first, "lower", &far, "eth0").unwrap();
    second.ip(&format!("link set lower mtu {NARROW}")).unwrap();
    first.ip(&format!("link set upper mtu {NARROW}")).unwrap();
    for way in &WAYS {
        for (namespace, interface, own) in [
            (host, "uplink", way.uplink[0]),
            (&second, "upper", way.uplink[1]),
            (&second, "lower", way.narrow[0]),
            (&first, "upper", way.narrow[1]),
            (&first, "lower", way.last[0]),
            (&far, "eth0", way.last[1]),
        ] {
            address(namespace, interface, own).unwrap();
        }
        route(host, way.far_net, way.uplink[1]).unwrap();
        for net in [way.external_net, way.web_net] {
            route(&second, net, way.uplink[0]).unwrap();
            route(&first, net, way.narrow[0]).unwrap();
        }
        // The narrow link itself is part of what is far.
        route(&second, &last_net(way), way.narrow[1]).unwrap();
        route(&far, "default", way.last[0]).unwrap();
    }
    World {
        nat,
        second,
        first,
        far,
    }
}

fn last_net(way: &Way) -> String {
    if way.last[0].contains(':') {
        "2001:db8:a2::/64".into()
    } else {
        "198.18.2.0/24".into()
    }
}

/// "Packet too big" in the IP version.
fn too_big(seen: &Seen) -> bool {
    matches!((seen.protocol, seen.ports), (1, (3, 4)) | (58, (2, 0)))
}

fn time_exceeded(seen: &Seen) -> bool {
    matches!((seen.protocol, seen.ports), (1, (11, 0)) | (58, (3, 0)))
}

fn port_unreachable(seen: &Seen) -> bool {
    matches!((seen.protocol, seen.ports), (1, (3, 3)) | (58, (1, 4)))
}

/// Errors that arrived, each with the MTU that it names, must be about packets between these two;
/// there must be some.
fn learned(capture: &Capture, own: &str, peer: &str) {
    let errors: Vec<Seen> = capture.look().unwrap().into_iter().filter(too_big).collect();
    assert!(!errors.is_empty(), "{own} was told nothing");
    for error in errors {
        let about = error.about.as_ref().expect("an error quotes");
        assert_eq!(error.destination, ip(own));
        assert_eq!(about.ends(), (ip(own), ip(peer)), "{error:?}");
        assert_eq!(error.rest & 0xffff, NARROW);
    }
}

#[test]
fn both_ends_learn_the_mtu_of_the_path() {
    let world = world("lnp-mtu", &[]);
    let web = &world.nat.web.namespace;
    transfer::serve(web, BULK).unwrap();
    for (family, way) in FAMILIES.iter().zip(&WAYS) {
        let far = way.last[1];
        let (at_far, at_web) = (Capture::of(&world.far).unwrap(), Capture::of(web).unwrap());
        transfer(&world.far, ip(family.external), BULK, 100_000_000, 100_000_000).unwrap();
        learned(&at_far, far, family.external);
        learned(&at_web, family.web, far);
    }
}

#[test]
fn a_workload_that_shows_an_external_address_learns_it_too() {
    let world = world("lnp-out", &EXTERNAL);
    let web = &world.nat.web.namespace;
    transfer::serve(&world.far, BULK).unwrap();
    for (family, way) in FAMILIES.iter().zip(&WAYS) {
        let far = way.last[1];
        let (at_far, at_web) = (Capture::of(&world.far).unwrap(), Capture::of(web).unwrap());
        transfer(web, ip(far), BULK, 20_000_000, 20_000_000).unwrap();
        learned(&at_web, family.web, far);
        learned(&at_far, far, family.smallest);
    }
}

/// A UDP probe as traceroute sends it, and the error that comes back.
fn probe(from: &Namespace, own: &str, to: &str, hops: u8, wanted: fn(&Seen) -> bool) -> Seen {
    let capture = Capture::of(from).unwrap();
    let port = 33_434 + u16::from(hops);
    let probe = Craft::new(ip(own), ip(to)).hops(hops).udp(40_000, port, b"probe").ip();
    from.run(|| send_ip(&probe, ip(to))).unwrap().unwrap();
    let what = format!("an error about {hops} hops from {own} to {to}");
    let error = capture
        .wait(&what, |seen| {
            wanted(seen) && seen.about.as_ref().is_some_and(|about| about.ports == (40_000, port))
        })
        .unwrap();
    assert_eq!(error.destination, ip(own), "{what}");
    assert_eq!(error.about.as_ref().unwrap().ends(), (ip(own), ip(to)), "{what}");
    error
}

/// Probes with one hop more each time: who answers, the last one with "port unreachable".
fn trace(from: &Namespace, own: &str, to: &str, routers: &[Option<&str>]) {
    for (n, router) in routers.iter().enumerate() {
        let error = probe(from, own, to, n as u8 + 1, time_exceeded);
        if let Some(router) = router {
            assert_eq!(error.source, ip(router), "hop {} from {own} to {to}", n + 1);
        }
    }
    let error = probe(from, own, to, routers.len() as u8 + 1, port_unreachable);
    assert_eq!(error.source, ip(to), "the end, from {own} to {to}");
}

/// From and to everybody. The workload's probes are about its own address whatever others see.
fn traces(world: &World) {
    let web = &world.nat.web.namespace;
    // The host has no address on that interface; any of its own will do.
    const HOST: Option<&str> = None;
    for (family, way) in FAMILIES.iter().zip(&WAYS) {
        let Family {
            web: internal,
            external,
            client,
            ..
        } = *family;
        let far = way.last[1];
        let there = [Some(way.last[0]), Some(way.narrow[0]), Some(way.uplink[0])];
        trace(&world.far, far, external, &there);
        let back = [HOST, Some(way.uplink[1]), Some(way.narrow[1])];
        trace(web, internal, far, &back);
        trace(&world.nat.client.namespace, client, external, &[HOST]);
        trace(web, internal, external, &[HOST]);
    }
}

#[test]
fn traceroute_shows_each_the_addresses_they_know() {
    let world = world("lnp-trace", &[]);
    traces(&world);
    // What the far end sees of the workload is its own address.
    let _ = (&world.first, &world.second);
}

#[test]
fn traceroute_of_a_workload_that_shows_an_external_address() {
    traces(&world("lnp-tracx", &EXTERNAL));
}

/// What a socket gets that sends to a port where nobody listens.
fn refused(from: &Namespace, to: IpAddr) -> bool {
    let any = ip(if to.is_ipv4() { "0.0.0.0" } else { "::" });
    let socket = from.run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.connect((to, 9)).unwrap();
    socket.send(b"anybody?").unwrap();
    let error = socket.recv(&mut [0]).unwrap_err();
    error.kind() == std::io::ErrorKind::ConnectionRefused
}

#[test]
fn a_closed_port_is_refused() {
    let world = NatWorld::new("lnp-closed", "", &[]).unwrap();
    for family in FAMILIES {
        for from in [
            &world.outside,
            &world.client.namespace,
            &world.web.namespace,
            world.cluster.host.namespace(),
        ] {
            for external in [family.external, family.smallest] {
                assert!(refused(from, ip(external)), "{external} from {}", from.name());
            }
        }
    }
}
