//! Much data through 1:1 translations: segments as large as without, checksums that are right
//! wherever somebody looks, fragments.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

use felid_lab::Namespace;
use felid_tests::nat_world::{FAMILIES, NatWorld, PORT, ip};
use felid_tests::packet_craft::Craft;
use felid_tests::seen::{Capture, send_ip};
use felid_tests::sockets;
use felid_tests::transfer::{self, checksum_errors, transfer};
use nix::sys::socket::{setsockopt, sockopt};

const BULK: u16 = 5001;
const MB: u64 = 1_000_000;

/// TCP packets longer than a frame may be on the wire: the sender left the cutting to somebody
/// later.
fn large(capture: &Capture, from: &str) -> usize {
    let seen = capture.look().unwrap();
    seen.iter()
        .filter(|seen| seen.protocol == 6 && seen.length > 1500 && seen.source == ip(from))
        .count()
}

fn everybody(world: &NatWorld) -> [&Namespace; 4] {
    [
        &world.outside,
        &world.web.namespace,
        &world.client.namespace,
        world.cluster.host.namespace(),
    ]
}

fn errors(world: &NatWorld) -> u64 {
    everybody(world)
        .iter()
        .map(|namespace| checksum_errors(namespace).unwrap())
        .sum()
}

#[test]
fn large_segments_pass_whole() {
    let world = NatWorld::new("lnl-tso", "", &[]).unwrap();
    transfer::serve(&world.web.namespace, BULK).unwrap();
    for family in FAMILIES {
        let to = ip(family.external);
        for (name, asker, own, bytes) in [
            ("outside", &world.outside, family.outside, 100 * MB),
            ("a workload", &world.client.namespace, family.client, 50 * MB),
        ] {
            let (at_web, at_asker) = (Capture::of(&world.web.namespace).unwrap(), Capture::of(asker).unwrap());
            transfer(asker, to, BULK, bytes, bytes).unwrap();
            assert!(large(&at_web, own) > 10, "from {name} {own}");
            assert!(large(&at_asker, family.external) > 10, "back to {name} {own}");
        }
        transfer(&world.web.namespace, to, BULK, 20 * MB, 20 * MB).unwrap();
        transfer(world.cluster.host.namespace(), to, BULK, 20 * MB, 20 * MB).unwrap();
    }
    assert_eq!(errors(&world), 0);
}

#[test]
fn checksums_are_right_where_they_are_checked() {
    let world = NatWorld::new("lnl-sum", "", &[]).unwrap();
    transfer::serve(&world.web.namespace, BULK).unwrap();
    let set = |namespace: &Namespace, interface: &str, state: &str| {
        namespace.exec(&["ethtool", "-K", interface, "tx", state]).unwrap();
    };
    let (host, web) = (world.cluster.host.namespace(), &world.web.namespace);
    let talk = || {
        for family in FAMILIES {
            let to = ip(family.external);
            for asker in everybody(&world) {
                transfer(asker, to, BULK, 3 * MB, 3 * MB).unwrap();
                assert!(sockets::udp(asker, to, PORT, 1000).unwrap());
            }
        }
        assert_eq!(errors(&world), 0);
    };
    // Calculated by the sender: translated as they are, and checked by the receiver.
    for namespace in [&world.outside, web, &world.client.namespace] {
        set(namespace, "eth0", "off");
    }
    talk();
    // Left open by the sender: translated like that, calculated when they leave the host, and then
    // checked.
    for namespace in [&world.outside, web, &world.client.namespace] {
        set(namespace, "eth0", "on");
    }
    for interface in ["uplink", "caliweb", "caliclient"] {
        set(host, interface, "off");
    }
    talk();
}

#[test]
fn iperf3_finds_nothing_wrong() {
    let world = NatWorld::new("lnl-iperf", "", &[]).unwrap();
    let mut server = world
        .web
        .namespace
        .start("iperf3", |command| {
            command.args(["--server", "--port", "5201"]).stdout(Stdio::null());
        })
        .unwrap();
    world
        .cluster
        .eventually("iperf3 listens", || {
            let listening = world.web.namespace.exec(&["ss", "-Hlnt", "sport = :5201"])?;
            Ok(!listening.is_empty())
        })
        .unwrap();
    for family in FAMILIES {
        for direction in ["--forward", "--reverse"] {
            let mut args = vec![
                "iperf3",
                "--client",
                family.external,
                "--port",
                "5201",
                "--bytes",
                "130M",
                "--json",
            ];
            if direction == "--reverse" {
                args.push(direction);
            }
            let report = world.outside.exec(&args).unwrap();
            let report: serde_json::Value = serde_json::from_str(&report).unwrap();
            let received = report["end"]["sum_received"]["bytes"].as_u64().unwrap();
            // What is still under way when the sender is done is not counted.
            assert!(received >= 100 * MB, "{direction}: {received}");
        }
    }
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(errors(&world), 0);
}

#[test]
fn fragments_pass_both_ways() {
    let world = NatWorld::new("lnl-frag", "", &[]).unwrap();
    for family in FAMILIES {
        for asker in everybody(&world) {
            let capture = Capture::of(&world.web.namespace).unwrap();
            let answered = sockets::udp(asker, ip(family.external), PORT, 4000).unwrap();
            assert!(answered, "{} from {}", family.external, asker.name());
            let seen = capture.look().unwrap();
            assert!(
                seen.iter().any(|seen| seen.later && seen.destination == ip(family.web)),
                "no fragments"
            );
        }
    }
    assert_eq!(errors(&world), 0);
}

#[test]
fn datagrams_without_checksum_stay_so() {
    let world = NatWorld::new("lnl-zero", "", &[]).unwrap();
    let family = FAMILIES[0];
    let craft = |source: &str, destination: &str, ports: (u16, u16)| {
        let mut craft = Craft::new(ip(source), ip(destination)).udp(ports.0, ports.1, b"without");
        craft.payload[6..8].copy_from_slice(&[0, 0]);
        craft.ip()
    };
    let sum = |receiver: &Namespace, sender: &Namespace, packet: &[u8], to: &str, shown: (&str, &str)| {
        let socket = receiver.packets("eth0").unwrap();
        sender.run(|| send_ip(packet, ip(to))).unwrap().unwrap();
        let ends: Vec<u8> = [shown.0, shown.1]
            .iter()
            .flat_map(|address| match ip(address) {
                IpAddr::V4(address) => address.octets(),
                IpAddr::V6(_) => [0; 4],
            })
            .collect();
        let frame = socket
            .receive(Duration::from_secs(5), |frame| {
                frame.get(26..34) == Some(&ends) && frame.ends_with(b"without")
            })
            .unwrap();
        let frame = frame.expect("it arrives with the right addresses");
        (frame[40], frame[41])
    };
    let (outside, web) = (&world.outside, &world.web.namespace);
    let ask = craft(family.outside, family.external, (4000, 4001));
    assert_eq!(
        sum(web, outside, &ask, family.external, (family.outside, family.web)),
        (0, 0)
    );
    let answer = craft(family.web, family.outside, (4001, 4000));
    assert_eq!(
        sum(outside, web, &answer, family.outside, (family.external, family.outside)),
        (0, 0)
    );
}

#[test]
fn datagrams_that_are_cut_late_arrive_whole() {
    let world = NatWorld::new("lnl-gso", "", &[]).unwrap();
    for family in FAMILIES {
        for asker in [&world.outside, &world.client.namespace, &world.web.namespace] {
            let any = ip(if family.web.contains(':') { "::" } else { "0.0.0.0" });
            let socket = asker.run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.connect((ip(family.external), PORT)).unwrap();
            setsockopt(&socket, sockopt::UdpGsoSegment, &1400).unwrap();
            let data: Vec<u8> = (0..14_000_u32).map(|n| (n / 1400) as u8).collect();
            socket.send(&data).unwrap();
            let mut buffer = [0; 2000];
            let mut seen = Vec::new();
            for _ in 0..10 {
                let length = socket.recv(&mut buffer).unwrap();
                assert_eq!(length, 1400);
                assert!(buffer[..length].iter().all(|byte| *byte == buffer[0]));
                seen.push(buffer[0]);
            }
            seen.sort_unstable();
            assert_eq!(seen, (0..10).collect::<Vec<u8>>());
        }
    }
    assert_eq!(errors(&world), 0);
}
