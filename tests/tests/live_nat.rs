//! Who sees which addresses of a workload with external ones: from everywhere, by every protocol,
//! in both IP versions.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::UdpSocket;
use std::time::Duration;

use felid_lab::Namespace;
use felid_lab::records::policy;
use felid_tests::nat_world::{
    Ends, FAMILIES, Family, HOST_ACCEPTS, HostView, KINDS, Kind, NatWorld, POOLS, PORT, converse, ip,
};
use felid_tests::seen::Capture;
use felid_tests::sockets;

const EXTERNAL: [&str; 2] = ["--ip-nat-outbound", "External"];

/// What both ends must have seen: the server its own address and the asker's, the asker the one
/// that it asked.
fn ends(shown: &str, internal: &str, own: &str, asked: &str) -> Ends {
    Ends {
        server: vec![(ip(shown), ip(internal))],
        asker: vec![(ip(asked), ip(own))],
    }
}

/// Conversations with `web` by its external addresses, from everywhere.
fn inbound(world: &NatWorld) {
    let host = world.cluster.host.namespace();
    for family in FAMILIES {
        let Family { web, smallest, .. } = family;
        let view = HostView::new(host, &[web, family.external, smallest]).unwrap();
        for kind in KINDS {
            for external in [family.external, smallest] {
                let what = format!("{kind:?} to {external}");
                let (own, server) = (family.outside, &world.web.namespace);
                let seen = converse(kind, &world.outside, own, server, external).unwrap();
                assert_eq!(seen, ends(own, web, own, external), "{what} from outside");

                let own = family.client;
                let seen = converse(kind, &world.client.namespace, own, server, external).unwrap();
                assert_eq!(seen, ends(own, web, own, external), "{what} from a workload");

                let seen = converse(kind, server, web, server, external).unwrap();
                assert_eq!(seen, ends(smallest, web, web, external), "{what} from itself");

                let at_web = Capture::of(server).unwrap();
                assert!(
                    kind.ask(host, ip(family.host), ip(external)).unwrap(),
                    "{what} from the host"
                );
                let asked = at_web.wait("a question", |seen| kind.way(seen) == Some(true)).unwrap();
                assert_eq!(asked.ends(), (ip(family.host), ip(web)), "{what} from the host");
                world
                    .cluster
                    .eventually("the host sees the answer", || Ok(view.packets(kind, external)? > 0))
                    .unwrap();
                assert_eq!(
                    view.packets(kind, web).unwrap(),
                    0,
                    "{what}: the host sees the internal address"
                );
            }
        }
        host.exec(&["nft", "delete", "table", "inet", "seen"]).unwrap();
    }
    assert_eq!(world.cluster.dropped("nat_collision").unwrap(), 0.0);
    assert_eq!(world.cluster.dropped("nat_gone").unwrap(), 0.0);
}

/// Conversations that `web` begins. `shown`: what those outside see.
fn outbound(world: &NatWorld, shown: fn(Family) -> &'static str) {
    let (host, web) = (world.cluster.host.namespace(), &world.web.namespace);
    for family in FAMILIES {
        let internal = family.web;
        let view = HostView::new(host, &[internal, family.external, family.smallest]).unwrap();
        for kind in KINDS {
            let to = |server: &Namespace, address| converse(kind, web, internal, server, address).unwrap();
            let Family {
                outside, pool, client, ..
            } = family;
            let expected = ends(shown(family), outside, internal, outside);
            assert_eq!(to(&world.outside, outside), expected, "{kind:?} to outside");
            let expected = ends(internal, pool, internal, pool);
            assert_eq!(to(&world.outside, pool), expected, "{kind:?} to a pool");
            let expected = ends(internal, client, internal, client);
            assert_eq!(to(&world.client.namespace, client), expected, "{kind:?} to a workload");
            let external = family.client_external;
            let expected = ends(internal, client, internal, external);
            assert_eq!(
                to(&world.client.namespace, external),
                expected,
                "{kind:?} to another's external address"
            );
            let before = view.packets(kind, internal).unwrap();
            assert!(
                kind.ask(web, ip(internal), ip(family.host)).unwrap(),
                "{kind:?} to the host"
            );
            world
                .cluster
                .eventually("the host sees it", || Ok(view.packets(kind, internal)? > before))
                .unwrap();
            for never in [family.external, family.smallest] {
                assert_eq!(view.packets(kind, never).unwrap(), 0, "{kind:?}: the host sees {never}");
            }
        }
        host.exec(&["nft", "delete", "table", "inet", "seen"]).unwrap();
    }
}

fn with_servers_on_the_host(prefix: &str, options: &[&str]) -> NatWorld {
    let world = NatWorld::new(prefix, &[POOLS, HOST_ACCEPTS].concat(), options).unwrap();
    sockets::serve_tcp(world.cluster.host.namespace(), PORT).unwrap();
    sockets::serve_udp(world.cluster.host.namespace(), PORT).unwrap();
    world
}

#[test]
fn everybody_sees_what_they_should() {
    let world = with_servers_on_the_host("ln-none", &[]);
    inbound(&world);
    outbound(&world, |family| family.web);
}

#[test]
fn outbound_external_shows_itself_outside_only() {
    let world = with_servers_on_the_host("ln-ext", &EXTERNAL);
    inbound(&world);
    outbound(&world, |family| family.smallest);
}

#[test]
fn through_the_stack_it_is_the_same() {
    let world = NatWorld::new("ln-slow", "", &[]).unwrap();
    // With a queue in the way of `web` packets are not redirected to it.
    let queue = ["tc", "qdisc", "add", "dev", "caliweb", "root", "pfifo"];
    world.cluster.host.namespace().exec(&queue).unwrap();
    world
        .cluster
        .eventually("the queue is seen", || {
            let endpoints = world.cluster.felid(&["endpoints", "-o", "json"])?;
            let endpoints = String::from_utf8_lossy(&endpoints.stdout).replace(' ', "");
            Ok(endpoints.contains("\"redirectable\":false"))
        })
        .unwrap();
    for family in FAMILIES {
        let Family { web, client, .. } = family;
        for kind in KINDS {
            for external in [family.external, family.smallest] {
                let server = &world.web.namespace;
                let seen = converse(kind, &world.client.namespace, client, server, external).unwrap();
                assert_eq!(seen, ends(client, web, client, external), "{kind:?} to {external}");
            }
        }
    }
}

/// A socket with a port that tells who is asked under it, and whether there are answers.
fn asks(socket: &UdpSocket, to: &str, what: &[u8]) -> bool {
    let mut buffer = [0; 100];
    if socket.send_to(what, (ip(to), PORT)).is_err() {
        return false;
    }
    matches!(socket.recv_from(&mut buffer), Ok((length, from)) if from.ip() == ip(to) && &buffer[..length] == what)
}

fn socket(namespace: &Namespace, port: u16, v6: bool) -> UdpSocket {
    let any = ip(if v6 { "::" } else { "0.0.0.0" });
    let socket = namespace.run(|| UdpSocket::bind((any, port))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    socket
}

#[test]
fn names_live_side_by_side_and_the_second_of_one_flow_is_refused() {
    let world = NatWorld::new("ln-two", "", &[]).unwrap();
    for family in FAMILIES {
        let v6 = family.web.contains(':');
        let outside = socket(&world.outside, 7001, v6);
        let client = socket(&world.client.namespace, 7001, v6);
        // One by the external address, the other by the internal one, from the same port, in turns.
        for _ in 0..5 {
            assert!(asks(&outside, family.external, b"outside"));
            assert!(asks(&client, family.web, b"client"));
        }
        let before = world.cluster.dropped("nat_collision").unwrap();
        assert!(!asks(&outside, family.web, b"second"), "by another name");
        assert!(!asks(&outside, family.smallest, b"third"), "by another external one");
        assert!(!asks(&client, family.external, b"second"), "the other way round");
        assert!(world.cluster.dropped("nat_collision").unwrap() >= before + 3.0);
        for _ in 0..5 {
            assert!(asks(&outside, family.external, b"outside"), "the first keeps working");
            assert!(asks(&client, family.web, b"client"), "the first keeps working");
        }
        // From another port it is another flow.
        assert!(asks(&socket(&world.outside, 7002, v6), family.smallest, b"another"));
        assert!(asks(
            &socket(&world.client.namespace, 7002, v6),
            family.external,
            b"another"
        ));
    }
}

#[test]
fn a_policy_that_denies_does_so_by_any_name() {
    let deny =
        |net: &str| format!("    - {{action: Deny, protocol: TCP, destination: {{nets: ['{net}'], ports: [80]}}}}\n");
    let deny = [deny("10.65.0.2/32"), deny("fd00:65::2/128")].concat();
    let rules = format!("  selector: app == 'web'\n  types: [Ingress]\n  ingress:\n{deny}    - {{action: Allow}}");
    let world = NatWorld::new("ln-deny", &policy("default", "web", &rules), &[]).unwrap();
    sockets::serve_tcp(&world.web.namespace, 81).unwrap();
    for family in FAMILIES {
        for to in [family.web, family.external] {
            for from in [&world.outside, &world.client.namespace] {
                assert!(!sockets::tcp(from, ip(to), PORT).unwrap(), "{to} from {}", from.name());
                assert!(sockets::tcp(from, ip(to), 81).unwrap(), "{to} from {}", from.name());
                assert!(
                    Kind::Udp.ask(from, ip("::"), ip(to)).unwrap(),
                    "{to} from {}",
                    from.name()
                );
            }
        }
        let (web, to) = (&world.web.namespace, family.external);
        assert!(!sockets::tcp(web, ip(to), PORT).unwrap(), "{to} from itself");
        assert!(sockets::tcp(web, ip(to), 81).unwrap(), "{to} from itself");
    }
}
