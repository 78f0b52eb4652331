//! What lives on the link between a workload and its host: addresses of its own making, DHCP, the
//! host's own multicast.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use felid_lab::netns::HOST_MAC;
use felid_lab::records::Endpoint;
use felid_tests::frames::Frame;
use felid_tests::packet_craft::Craft;
use felid_tests::{Cluster, Workload, sockets};

const SPOOFING: &str = "---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {workloadSourceSpoofing: Any}\n";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Whether a UDP question from one address of the workload's is answered.
fn asks(from: &Workload, own: &str, to: &str) -> bool {
    let (own, to) = (address(own), SocketAddr::new(address(to), 80));
    from.namespace
        .run(|| {
            let socket = UdpSocket::bind((own, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            (0..3).any(|_| socket.send_to(b"question", to).is_ok() && socket.recv(&mut [0; 16]).is_ok())
        })
        .unwrap()
}

#[test]
fn addresses_of_allowed_prefixes_stand_on_the_workload() {
    let (mut cluster, outside) = Cluster::with_uplink("ll-own", None).unwrap();
    let workload = cluster.host.workload("caliw", &["10.65.0.2", "fd00:65::2"]).unwrap();
    let record = Endpoint::of("w", &workload).yaml().trim_end().to_owned()
        + "\n  allowSpoofedSourcePrefixes: ['203.0.113.0/28', '2001:db8:ee::/96']\n";
    cluster.write("records.yaml", &(record + SPOOFING)).unwrap();
    let own = ["203.0.113.9", "2001:db8:ee::9"];
    let foreign = ["203.0.113.99", "2001:db8:ee:0:0:1::9"];
    let addresses = || own.iter().chain(&foreign).zip(["-4", "-6"].into_iter().cycle());
    for (address, family) in addresses() {
        let length = if family == "-4" { 32 } else { 128 };
        workload
            .namespace
            .ip(&format!("addr add {address}/{length} dev eth0"))
            .unwrap();
    }
    std::thread::sleep(Duration::from_secs(2));
    // Answers of an address that is not the endpoint's own count as what a workload says to its
    // host.
    cluster.options = ["--default-endpoint-to-host-action", "Accept"]
        .map(str::to_owned)
        .to_vec();
    cluster.start().unwrap();
    // Nobody but the workload says where the address is. The routes stand in a table of their own,
    // since the agent keeps none but its own at the interface in the main one.
    for (address, family) in addresses() {
        let host = cluster.host.namespace();
        host.ip(&format!("{family} route add {address} dev caliw table 100"))
            .unwrap();
    }
    for family in ["-4", "-6"] {
        let host = cluster.host.namespace();
        host.ip(&format!("{family} rule add priority 100 lookup 100")).unwrap();
    }
    for port in [80, 81] {
        sockets::serve_udp(&outside, port).unwrap();
    }
    for (own, to) in own.into_iter().zip(["192.0.2.7", "2001:db8:2::7"]) {
        assert!(asks(&workload, own, to), "from {own}");
        assert!(cluster.host.namespace().pings(own).unwrap(), "the host finds {own}");
    }
    for (foreign, to) in foreign.into_iter().zip(["192.0.2.7", "2001:db8:2::7"]) {
        assert!(!asks(&workload, foreign, to), "from {foreign}");
        assert!(
            !cluster.host.namespace().pings(foreign).unwrap(),
            "the host must not find {foreign}"
        );
    }
    assert!(cluster.dropped("spoofed_arp").unwrap() > 0.0);
    assert!(cluster.dropped("spoofed_neighbour").unwrap() > 0.0);
    // Not without bounds: the host's table is for all.
    let socket = workload.namespace.packets("eth0").unwrap();
    for last in 0..16_u8 {
        let sender = Ipv4Addr::new(203, 0, 113, last);
        let mut frame = felid_tests::packet_craft::arp(1, workload.mac, sender, [0; 6], Ipv4Addr::new(192, 0, 2, 1));
        frame[..6].copy_from_slice(&HOST_MAC);
        socket.send(&frame).unwrap();
    }
    for last in 0..64_u16 {
        let sender: IpAddr = format!("2001:db8:ee::1:{last:x}").parse().unwrap();
        let host = address(felid_lab::netns::HOST_LINK_LOCAL);
        let IpAddr::V6(target) = host else { unreachable!() };
        let mut data = target.octets().to_vec();
        data.extend([1, 1]);
        data.extend(workload.mac);
        let mut craft = Craft::new(sender, host).hops(255).icmp(135, 0, [0; 4], &data);
        (craft.from, craft.to) = (workload.mac, HOST_MAC);
        socket.send(&craft.build()).unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    let neighbours = cluster.host.namespace().ip("neigh show dev caliw").unwrap();
    let learned = neighbours
        .lines()
        .filter(|line| line.contains("203.0.113.") || line.contains("2001:db8:ee:"))
        .count();
    let places = felid_common::LEARNED_PLACES - felid_common::LEARNED_LINK_LOCAL;
    // (Two more that the host itself has looked for in vain.)
    assert!(learned <= places + 2, "{learned}: {neighbours}");
}

#[test]
fn dhcp_reaches_a_server_on_the_host() {
    let mut cluster = Cluster::new("ll-dhcp").unwrap();
    let machine = cluster.host.workload("tapvm", &["10.65.0.2", "fd00:65::2"]).unwrap();
    let closed = felid_lab::records::policy("", "closed", "  selector: all()\n  types: [Ingress, Egress]\n");
    cluster
        .write("records.yaml", &(Endpoint::of("vm", &machine).yaml() + &closed))
        .unwrap();
    cluster.options = ["--interface-prefix", "tap"].map(str::to_owned).to_vec();
    cluster.start().unwrap();
    let host = cluster.host.namespace();
    let server = host
        .run(|| {
            let socket = UdpSocket::bind(("0.0.0.0", 67)).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            socket
        })
        .unwrap();
    let server6 = host
        .run(|| {
            let socket = UdpSocket::bind(("::", 547)).unwrap();
            let group = "ff02::1:2".parse().unwrap();
            socket
                .join_multicast_v6(&group, nix::net::if_::if_nametoindex("tapvm").unwrap())
                .unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            socket
        })
        .unwrap();
    let wire = machine.namespace.packets("eth0").unwrap();
    let mac = machine.mac;
    let link_local: IpAddr = format!(
        "fe80::{:02x}{:02x}:{:02x}ff:fe{:02x}:{:02x}{:02x}",
        mac[0] ^ 2,
        mac[1],
        mac[2],
        mac[3],
        mac[4],
        mac[5]
    )
    .parse()
    .unwrap();
    let frame = |src: IpAddr, dst: &str, ports: (u16, u16)| {
        Frame::new(mac, HOST_MAC, src, address(dst)).udp(ports.0, ports.1, b"dhcp")
    };
    let mut buffer = [0; 64];
    let mut discover = frame(address("0.0.0.0"), "255.255.255.255", (68, 67));
    discover[..6].fill(0xff);
    wire.send(&discover).unwrap();
    assert_eq!(server.recv(&mut buffer).unwrap(), 4, "DHCPv4");
    let mut solicit = frame(link_local, "ff02::1:2", (546, 547));
    solicit[..6].copy_from_slice(&[0x33, 0x33, 0, 1, 0, 2]);
    wire.send(&solicit).unwrap();
    let (_, from) = server6.recv_from(&mut buffer).unwrap();
    assert_eq!(from.ip(), link_local, "DHCPv6");
    // The answers arrive, though policy denies everything.
    server6.send_to(b"advertise", from).unwrap();
    let seen = wire
        .receive(Duration::from_secs(1), |frame| frame.ends_with(b"advertise"))
        .unwrap();
    assert!(seen.is_some(), "DHCPv6 answer");
    // Nothing else may come from there.
    for (src, dst, ports) in [
        ("0.0.0.0", "255.255.255.255", (68, 68)),
        ("0.0.0.0", "255.255.255.255", (67, 67)),
        ("10.65.0.77", "255.255.255.255", (68, 67)),
        ("10.65.0.2", "255.255.255.255", (7, 67)),
    ] {
        let mut other = frame(address(src), dst, ports);
        other[..6].fill(0xff);
        wire.send(&other).unwrap();
        assert!(server.recv(&mut buffer).is_err(), "{src} {ports:?}");
    }
}

#[test]
fn the_hosts_own_multicast_is_no_workloads() {
    let mut cluster = Cluster::new("ll-mc").unwrap();
    let workload = cluster.host.workload("caliw", &["10.65.0.2", "fd00:65::2"]).unwrap();
    cluster
        .write("records.yaml", &Endpoint::of("w", &workload).yaml())
        .unwrap();
    cluster.host.namespace().ip("addr add 10.65.255.1/32 dev lo").unwrap();
    cluster.start().unwrap();
    let dropped = || -> f64 {
        let metrics = cluster.metrics().unwrap();
        let drops = metrics
            .iter()
            .filter(|(name, _)| name.starts_with("felid_dropped_packets_total"));
        drops.map(|(_, count)| count).sum()
    };
    let before = dropped();
    let host = cluster.host.namespace();
    host.ip("route add 224.0.0.0/4 dev caliw").unwrap();
    host.run(|| {
        // With an address of the host, and back to the host's own listeners; groups joined and
        // left.
        let group = Ipv4Addr::new(224, 1, 2, 3);
        let listener = UdpSocket::bind((group, 5000)).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        listener
            .join_multicast_v4(&group, &Ipv4Addr::new(10, 65, 255, 1))
            .unwrap();
        let interface = nix::net::if_::if_nametoindex("caliw").unwrap();
        let listener6 = UdpSocket::bind(("::", 5001)).unwrap();
        listener6.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let group6 = "ff02::1234".parse().unwrap();
        listener6.join_multicast_v6(&group6, interface).unwrap();
        let sender6 = UdpSocket::bind(("::", 0)).unwrap();
        let to: SocketAddr = std::net::SocketAddrV6::new(group6, 5001, 0, interface).into();
        sender6.send_to(b"six", to).unwrap();
        assert_eq!(listener6.recv(&mut [0; 16]).unwrap(), 3, "its own multicast comes back");
        let sender = UdpSocket::bind(("10.65.255.1", 0)).unwrap();
        sender.set_broadcast(true).unwrap();
        sender.send_to(b"four", (group, 5000)).unwrap();
    })
    .unwrap();
    host.exec(&["ip", "maddr", "add", "33:33:00:00:12:34", "dev", "caliw"])
        .unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(dropped(), before, "{:?}", cluster.metrics().unwrap());
}
