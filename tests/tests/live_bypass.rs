//! Packets that the kernel was made to take past the programs at their interface are dropped.
//!
//! Whoever has rights over a workload's network can send its packets through a device such as
//! `ifb`, which marks them so that the next TCX hook passes them by; the mark outlives the way into
//! the host's namespace.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use felid_lab::records::{Endpoint, policy};
use felid_tests::{Cluster, Namespace, sockets};

/// The host, and a namespace beyond it.
const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:2::1"];
const OUTSIDE: [&str; 2] = ["192.0.2.7", "2001:db8:2::7"];

/// A socket that counts what reaches it.
fn listen(namespace: &Namespace, address: &str, port: u16) -> UdpSocket {
    let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
    let socket = namespace.run(|| UdpSocket::bind(address)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}

fn received(socket: &UdpSocket) -> usize {
    std::iter::from_fn(|| socket.recv_from(&mut [0; 64]).ok()).count()
}

#[test]
fn what_passes_by_the_programs_goes_nowhere() {
    let (mut cluster, outside) = Cluster::with_uplink("lb", None).unwrap();
    let client = cluster
        .host
        .workload("caliclient", &["10.65.0.2", "fd00:65::2"])
        .unwrap();
    let records = [
        Endpoint {
            labels: "app: client",
            ..Endpoint::of("client", &client)
        }
        .yaml(),
        policy(
            "default",
            "client",
            "  selector: app == 'client'\n  types: [Egress]\n  egress:\n    - {action: Allow, protocol: UDP, destination: {ports: [80]}}\n",
        ),
    ];
    cluster.write("records.yaml", &records.concat()).unwrap();
    cluster.start().unwrap();
    let host = cluster.host.namespace();
    let listeners: Vec<(&str, UdpSocket)> = HOST
        .iter()
        .map(|address| (*address, listen(host, address, 81)))
        .chain(OUTSIDE.iter().map(|address| (*address, listen(&outside, address, 81))))
        .collect();
    for to in OUTSIDE {
        sockets::serve_udp_at(&outside, SocketAddr::new(to.parse().unwrap(), 80)).unwrap();
    }

    // Every second packet, by chance, goes through the device and not through the filter again.
    let inside = &client.namespace;
    if inside.ip("link add ifb9 type ifb").is_err() {
        eprintln!("this kernel has no ifb: nothing to try");
        return;
    }
    inside.ip("link set ifb9 up").unwrap();
    let tc = |what: &str, extra: &[&str]| {
        let words = std::iter::once("tc")
            .chain(what.split(' '))
            .chain(extra.iter().copied());
        inside.exec(&words.collect::<Vec<_>>()).unwrap();
    };
    tc("qdisc add dev eth0 clsact", &[]);
    // Classic BPF: a random number, of which the lowest bit decides.
    let coin = "4,32 0 0 4294963256,69 0 1 1,6 0 0 4294967295,6 0 0 0";
    let send = [
        "bytecode", coin, "action", "mirred", "egress", "redirect", "dev", "ifb9",
    ];
    tc("filter add dev eth0 egress protocol all bpf", &send);

    for (to, socket) in &listeners {
        let target = SocketAddr::new(to.parse().unwrap(), 81);
        inside
            .run(|| {
                let any: SocketAddr = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
                let sender = UdpSocket::bind(any).unwrap();
                for _ in 0..60 {
                    let _ = sender.send_to(b"denied", target);
                    std::thread::sleep(Duration::from_millis(1));
                }
            })
            .unwrap();
        assert_eq!(received(socket), 0, "to {to}");
    }
    // So the way past the programs was found, and closed.
    assert!(cluster.dropped("unjudged").unwrap() > 10.0);
    // What is allowed, and what the host says, goes on.
    tc("qdisc del dev eth0 clsact", &[]);
    for to in OUTSIDE {
        assert!(sockets::udp(inside, to.parse().unwrap(), 80, 100).unwrap(), "to {to}");
    }
    for to in client.addresses.clone() {
        assert!(host.pings(&to.to_string()).unwrap(), "{to}");
    }
}
