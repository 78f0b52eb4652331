//! Between real namespaces, with the real agent: what policy allows works in both directions, what
//! it denies does not reach the destination's interface. Both families.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;
use std::time::Duration;

use felid_lab::records::{Endpoint, policy};
use felid_tests::frames::{Frame, ports};
use felid_tests::netns::HOST_MAC;
use felid_tests::{Cluster, Workload, sockets};

/// Allows TCP 80, UDP 53, ICMP and SCTP 9000 from clients.
const WEB: &str = "  selector: app == 'web'
  types: [Ingress]
  ingress:
    - {action: Allow, protocol: TCP, source: {selector: app == 'client'}, destination: {ports: [http]}}
    - {action: Allow, protocol: UDP, source: {selector: app == 'client'}, destination: {ports: [53]}}
    - {action: Allow, protocol: SCTP, source: {selector: app == 'client'}, destination: {ports: ['9000:9001']}}
    - {action: Allow, protocol: ICMP, source: {selector: app == 'client'}}
    - {action: Allow, protocol: ICMPv6, source: {selector: app == 'client'}}";

struct World {
    cluster: Cluster,
    web: Workload,
    client: Workload,
    stranger: Workload,
}

fn world(prefix: &str) -> World {
    let mut cluster = Cluster::new(prefix).unwrap();
    cluster.host.namespace().ip("addr add 10.65.255.1/32 dev lo").unwrap();
    cluster
        .host
        .namespace()
        .ip("addr add fd00:65:ff::1/128 dev lo")
        .unwrap();
    let web = cluster.host.workload("caliweb", &["10.65.0.2", "fd00:65::2"]).unwrap();
    let client = cluster
        .host
        .workload("caliclient", &["10.65.0.3", "fd00:65::3"])
        .unwrap();
    let stranger = cluster
        .host
        .workload("calistranger", &["10.65.0.4", "fd00:65::4"])
        .unwrap();
    let ports = [("http", "TCP", 80)];
    let records = [
        Endpoint {
            labels: "app: web",
            ports: &ports,
            ..Endpoint::of("web", &web)
        }
        .yaml(),
        Endpoint {
            labels: "app: client",
            ..Endpoint::of("client", &client)
        }
        .yaml(),
        Endpoint {
            labels: "app: stranger",
            ..Endpoint::of("stranger", &stranger)
        }
        .yaml(),
        policy("default", "web", WEB),
    ];
    cluster.write("records.yaml", &records.concat()).unwrap();
    cluster.start().unwrap();
    World {
        cluster,
        web,
        client,
        stranger,
    }
}

impl World {
    fn frame(&self, from: &Workload, to: IpAddr) -> Frame {
        let source = from
            .addresses
            .iter()
            .copied()
            .find(|a| a.is_ipv4() == to.is_ipv4())
            .unwrap();
        Frame::new(from.mac, HOST_MAC, source, to)
    }

    /// Sends a frame from a workload and says whether a packet with that protocol and destination
    /// port reaches `to`'s interface.
    fn arrives(&self, from: &Workload, to: &Workload, frame: &[u8], protocol: u8, port: u16) -> bool {
        let incoming = to.namespace.packets("eth0").unwrap();
        from.namespace.packets("eth0").unwrap().send(frame).unwrap();
        let seen = incoming.receive(Duration::from_millis(400), |frame| {
            ports(frame, protocol).is_some_and(|p| p.1 == port)
        });
        seen.unwrap().is_some()
    }
}

#[test]
fn tcp_udp_and_icmp_follow_the_policy_in_both_families() {
    let world = world("lp-basic");
    for port in [80, 81] {
        sockets::serve_tcp(&world.web.namespace, port).unwrap();
    }
    for port in [53, 54] {
        sockets::serve_udp(&world.web.namespace, port).unwrap();
    }
    for address in world.web.addresses.clone() {
        for (from, allowed) in [(&world.client, true), (&world.stranger, false)] {
            assert_eq!(
                sockets::tcp(&from.namespace, address, 80).unwrap(),
                allowed,
                "TCP 80 to {address}"
            );
            assert_eq!(
                sockets::udp(&from.namespace, address, 53, 100).unwrap(),
                allowed,
                "UDP 53 to {address}"
            );
            assert_eq!(
                from.namespace.pings(&address.to_string()).unwrap(),
                allowed,
                "echo to {address}"
            );
            assert!(
                !sockets::tcp(&from.namespace, address, 81).unwrap(),
                "TCP 81 to {address}"
            );
            assert!(
                !sockets::udp(&from.namespace, address, 54, 100).unwrap(),
                "UDP 54 to {address}"
            );
        }
    }
    // What was denied never reached the interface, and was counted.
    assert!(world.cluster.dropped("ingress_policy").unwrap() > 0.0);
    for to in world.web.addresses.clone() {
        let syn = world.frame(&world.client, to);
        assert!(
            world.arrives(&world.client, &world.web, &syn.tcp(40_000, 80, 2), 6, 80),
            "SYN to {to}"
        );
        assert!(
            !world.arrives(&world.client, &world.web, &syn.tcp(40_001, 81, 2), 6, 81),
            "SYN to {to}"
        );
        assert!(
            !world.arrives(&world.client, &world.web, &syn.udp(40_001, 54, b"x"), 17, 54),
            "UDP to {to}"
        );
    }
}

#[test]
fn sctp_is_judged_and_answered() {
    let world = world("lp-sctp");
    for to in world.web.addresses.clone() {
        let init = world.frame(&world.client, to);
        assert!(
            world.arrives(&world.client, &world.web, &init.sctp(5000, 9000, 1), 132, 9000),
            "INIT to {to}"
        );
        assert!(
            !world.arrives(&world.client, &world.web, &init.sctp(5000, 9002, 1), 132, 9002),
            "INIT to {to}"
        );
        // The answer belongs to the flow although the client has no policy for it, and the client
        // is told nothing else.
        let back = world
            .client
            .addresses
            .iter()
            .copied()
            .find(|a| a.is_ipv4() == to.is_ipv4())
            .unwrap();
        let answer = Frame::new(world.web.mac, HOST_MAC, to, back);
        assert!(
            world.arrives(&world.web, &world.client, &answer.sctp(9000, 5000, 2), 132, 5000),
            "INIT ACK from {to}"
        );
    }
}

#[test]
fn spoofed_addresses_and_macs_are_dropped_and_counted() {
    let world = world("lp-spoof");
    for to in world.web.addresses.clone() {
        let family = |addresses: &[IpAddr]| addresses.iter().copied().find(|a| a.is_ipv4() == to.is_ipv4()).unwrap();
        let host: IpAddr = if to.is_ipv4() { "10.65.255.1" } else { "fd00:65:ff::1" }
            .parse()
            .unwrap();
        let elsewhere: IpAddr = if to.is_ipv4() { "198.51.100.7" } else { "2001:db8::7" }
            .parse()
            .unwrap();
        // The neighbour whom policy allows, the host, and somebody far away.
        for source in [family(&world.client.addresses), host, elsewhere] {
            let before = world.cluster.dropped("spoofed_address").unwrap();
            let frame = Frame::new(world.stranger.mac, HOST_MAC, source, to).udp(1234, 53, b"x");
            assert!(
                !world.arrives(&world.stranger, &world.web, &frame, 17, 53),
                "{source} -> {to}"
            );
            world
                .cluster
                .eventually("the drop is counted", || {
                    Ok(world.cluster.dropped("spoofed_address")? > before)
                })
                .unwrap();
        }
        let before = world.cluster.dropped("spoofed_mac").unwrap();
        let mut frame = world.frame(&world.client, to);
        frame.source_mac = [2, 0, 0, 0, 0, 99];
        assert!(
            !world.arrives(&world.client, &world.web, &frame.udp(1234, 53, b"x"), 17, 53),
            "MAC, to {to}"
        );
        world
            .cluster
            .eventually("the drop is counted", || {
                Ok(world.cluster.dropped("spoofed_mac")? > before)
            })
            .unwrap();
        // The same with an established flow: a hit does not excuse another MAC.
        let mut honest = world.frame(&world.client, to);
        assert!(world.arrives(&world.client, &world.web, &honest.udp(1235, 53, b"x"), 17, 53));
        honest.source_mac = [2, 0, 0, 0, 0, 99];
        assert!(!world.arrives(&world.client, &world.web, &honest.udp(1235, 53, b"y"), 17, 53));
    }
}

#[test]
fn options_extension_headers_and_fragments_do_not_hide_the_port() {
    let world = world("lp-shapes");
    let v4 = world.web.addresses.iter().copied().find(IpAddr::is_ipv4).unwrap();
    let v6 = world.web.addresses.iter().copied().find(IpAddr::is_ipv6).unwrap();
    let send = |frame: &[u8], port| world.arrives(&world.client, &world.web, frame, 17, port);

    let mut frame = world.frame(&world.client, v4);
    // Where a fixed offset would look for the ports, an option that nobody knows spells 53.
    frame.options = vec![0x94, 4, 0, 53];
    assert!(send(&frame.udp(2000, 53, b"x"), 53));
    assert!(!send(&frame.udp(2000, 54, b"x"), 54));
    // A source route is dropped whatever the port.
    frame.options = vec![131, 7, 4, 10, 65, 0, 2, 0];
    assert!(!send(&frame.udp(2001, 53, b"x"), 53));
    assert!(world.cluster.dropped("source_route").unwrap() > 0.0);

    let mut frame = world.frame(&world.client, v6);
    // Hop-by-hop and destination options, padded.
    frame.extensions = vec![
        (0, vec![0, 0, 1, 4, 0, 0, 0, 0]),
        (60, vec![0, 1, 1, 12, 0, 53, 0, 53, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    assert!(send(&frame.udp(2000, 53, b"x"), 53));
    assert!(!send(&frame.udp(2000, 54, b"x"), 54));

    // Datagrams that need fragments, by the kernel's own hand.
    for port in [53, 54] {
        sockets::serve_udp(&world.web.namespace, port).unwrap();
    }
    for to in [v4, v6] {
        assert!(
            sockets::udp(&world.client.namespace, to, 53, 5000).unwrap(),
            "fragments to {to}"
        );
        assert!(
            !sockets::udp(&world.client.namespace, to, 54, 5000).unwrap(),
            "fragments to {to}"
        );
    }
    // A later fragment whose first one nobody saw.
    let before = world.cluster.dropped("unknown_fragment").unwrap();
    let mut frame = world.frame(&world.client, v4);
    frame.fragment = (777, 64 / 8);
    assert!(!world.arrives(
        &world.client,
        &world.web,
        &frame.ip(17, &[0, 53, 0, 53, 0, 16, 0, 0]),
        17,
        53
    ));
    world
        .cluster
        .eventually("the drop is counted", || {
            Ok(world.cluster.dropped("unknown_fragment")? > before)
        })
        .unwrap();
}

#[test]
fn large_segments_pass_whole() {
    use std::io::{Read as _, Write as _};
    let world = world("lp-tso");
    sockets::serve_tcp(&world.web.namespace, 80).unwrap();
    for to in world.web.addresses.clone() {
        let incoming = world.web.namespace.packets("eth0").unwrap();
        let mut stream = sockets::tcp_open(&world.client.namespace, to, 80).unwrap();
        let mut reader = stream.try_clone().unwrap();
        let sent: Vec<u8> = (0..8 << 20).map(|n: u32| (n ^ n >> 8) as u8).collect();
        let expected = sent.clone();
        let back = std::thread::spawn(move || {
            let mut received = vec![0; expected.len()];
            reader.read_exact(&mut received).unwrap();
            received == expected
        });
        stream.write_all(&sent).unwrap();
        assert!(back.join().unwrap(), "what came back from {to} is not what was sent");
        let jumbo = incoming
            .receive(Duration::from_secs(2), |frame| frame.len() > 1514)
            .unwrap();
        assert!(jumbo.is_some(), "segments to {to} were cut on the way");
    }
}

#[test]
fn ttl_counts_down_by_one_and_ends() {
    let world = world("lp-ttl");
    for to in world.web.addresses.clone() {
        let mut frame = world.frame(&world.client, to);
        let incoming = world.web.namespace.packets("eth0").unwrap();
        let outgoing = world.client.namespace.packets("eth0").unwrap();
        outgoing.send(&frame.udp(3000, 53, b"x")).unwrap();
        let seen = incoming
            .receive(Duration::from_secs(2), |frame| {
                ports(frame, 17).is_some_and(|p| p == (3000, 53))
            })
            .unwrap()
            .unwrap();
        assert_eq!(seen[if to.is_ipv4() { 22 } else { 21 }], 63);
        // The last hop is the host: it says so.
        frame.ttl = 1;
        outgoing.send(&frame.udp(3000, 53, b"y")).unwrap();
        let exceeded = outgoing.receive(Duration::from_secs(2), |frame| match to {
            IpAddr::V4(_) => frame.get(23) == Some(&1) && frame.get(34) == Some(&11),
            IpAddr::V6(_) => frame.get(20) == Some(&58) && frame.get(54) == Some(&3),
        });
        assert!(exceeded.unwrap().is_some(), "no time exceeded from the host for {to}");
        let passed = incoming
            .receive(Duration::from_millis(300), |frame| frame.ends_with(b"y"))
            .unwrap();
        assert!(passed.is_none());
    }
}
