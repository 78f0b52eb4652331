//! Between real namespaces, with the real agent: sources of `allowSpoofedSourcePrefixes`, Log
//! rules, staged policies.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;
use std::time::Duration;

use felid_lab::records::{Endpoint, policy};
use felid_tests::frames::{Frame, ports};
use felid_tests::netns::HOST_MAC;
use felid_tests::{Cluster, Workload};

/// Allows DNS from two networks, and logs it.
const WEB: &str = "  selector: app == 'web'
  types: [Ingress]
  ingress:
    - {action: Log, protocol: UDP}
    - {action: Allow, protocol: UDP, source: {nets: [198.51.100.0/25]}, destination: {ports: [53]}}
    - {action: Allow, protocol: UDP, source: {nets: ['2001:db8:0:1::/64']}, destination: {ports: [53]}}";

/// Would deny what is allowed.
const STAGED: &str = "---
apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: rehearsal}
spec:
  selector: app == 'web'
  order: 1
  types: [Ingress]
  ingress: [{action: Deny, protocol: UDP}]
";

const SPOOFING: &str = "
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {workloadSourceSpoofing: Any}
";

struct World {
    cluster: Cluster,
    web: Workload,
    router: Workload,
}

fn world(prefix: &str) -> World {
    let mut cluster = Cluster::new(prefix).unwrap();
    let web = cluster.host.workload("caliweb", &["10.65.0.2", "fd00:65::2"]).unwrap();
    let router = cluster
        .host
        .workload("calirouter", &["10.65.0.3", "fd00:65::3"])
        .unwrap();
    let web_record = Endpoint {
        labels: "app: web",
        ..Endpoint::of("web", &web)
    };
    let router_record =
        Endpoint::of("router", &router).yaml() + "  allowSpoofedSourcePrefixes: ['198.51.100.0/24', '2001:db8::/32']\n";
    let records = [
        web_record.yaml(),
        router_record,
        policy("default", "web", WEB),
        STAGED.to_owned(),
    ];
    cluster.write("records.yaml", &records.concat()).unwrap();
    cluster.write("felix.yaml", SPOOFING).unwrap();
    cluster.start().unwrap();
    // Answers to such addresses find their way by the host's routes, which are not felid's.
    let host = cluster.host.namespace();
    host.ip("route add 198.51.100.0/24 dev calirouter").unwrap();
    host.ip("-6 route add 2001:db8::/32 dev calirouter").unwrap();
    for (address, mac) in [("198.51.100.7", &router.mac), ("2001:db8:0:1::7", &router.mac)] {
        let mac = felid_lab::netns::mac_text(*mac);
        host.ip(&format!("neigh replace {address} lladdr {mac} dev calirouter"))
            .unwrap();
    }
    World { cluster, web, router }
}

impl World {
    /// Whether a datagram with these ports arrives.
    fn arrives(&self, from: &Workload, to: &Workload, src: (IpAddr, u16), dst: (IpAddr, u16)) -> bool {
        let incoming = to.namespace.packets("eth0").unwrap();
        let frame = Frame::new(from.mac, HOST_MAC, src.0, dst.0).udp(src.1, dst.1, b"x");
        from.namespace.packets("eth0").unwrap().send(&frame).unwrap();
        let seen = incoming.receive(Duration::from_millis(400), |frame| {
            ports(frame, 17) == Some((src.1, dst.1))
        });
        seen.unwrap().is_some()
    }

    fn sum(&self, name: &str, label: &str) -> f64 {
        let metrics = self.cluster.metrics().unwrap();
        let found = metrics
            .iter()
            .filter(|(key, _)| key.starts_with(name) && key.contains(label));
        found.map(|(_, value)| value).sum()
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn sources_that_are_allowed_beside_the_own_ones() {
    let world = world("ll-spoof");
    for (web, near, far, beyond) in [
        ("10.65.0.2", "198.51.100.7", "198.51.100.200", "203.0.113.1"),
        ("fd00:65::2", "2001:db8:0:1::7", "2001:db8:0:2::7", "2001:db9::7"),
    ] {
        let web = address(web);
        let to_web = |from: &str, port: u16| world.arrives(&world.router, &world.web, (address(from), port), (web, 53));
        // Judged as that address: the policy knows one half of the prefix.
        assert!(to_web(near, 2000), "{near}");
        assert!(!to_web(far, 2000), "{far}");
        assert!(world.cluster.dropped("ingress_policy").unwrap() > 0.0);
        let before = world.cluster.dropped("spoofed_address").unwrap();
        assert!(!to_web(beyond, 2000), "{beyond}");
        assert!(world.cluster.dropped("spoofed_address").unwrap() > before);
        // The answer passes, and so does the next packet; nothing new comes in that way.
        let back = |port: u16| world.arrives(&world.web, &world.router, (web, 53), (address(near), port));
        assert!(back(2000), "answer to {near}");
        assert!(to_web(near, 2000), "{near} again");
        assert!(back(2000), "another answer to {near}");
        assert!(!back(2001), "a flow of its own to {near}");
    }
}

#[test]
fn such_sources_are_allowed_only_while_the_setting_says_any() {
    let world = world("ll-any");
    let (cluster, router) = (&world.cluster, &world.router);
    let arrives = |from: &str, to: &str, port: u16| {
        let (from, to) = (address(from), address(to));
        world.arrives(router, &world.web, (from, port), (to, 53))
    };
    let pairs = [("198.51.100.7", "10.65.0.2"), ("2001:db8:0:1::7", "fd00:65::2")];
    let all = |wanted: bool, port: u16| pairs.iter().all(|(from, to)| arrives(from, to, port) == wanted);
    assert!(all(true, 4000), "allowed by the record");
    cluster.remove("felix.yaml").unwrap();
    cluster
        .eventually("Disabled is the default", || Ok(all(false, 4001)))
        .unwrap();
    // An established flow from such a source ends as well.
    assert!(all(false, 4000), "its established flow");
    assert!(cluster.dropped("spoofed_address").unwrap() > 0.0);
    let status = cluster.felid(&["status", "-o", "wide"]).unwrap();
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(text.contains("workloadSourceSpoofing is Disabled"), "{text}");
    assert!(
        cluster.felid_json(&["status", "-o", "json"]).unwrap()["ready"]
            .as_bool()
            .unwrap_or_default(),
        "ready all the same"
    );
    cluster.write("felix.yaml", SPOOFING).unwrap();
    cluster.eventually("Any again", || Ok(all(true, 4002))).unwrap();
}

#[test]
fn log_rules_tell_and_staged_policies_count() {
    let world = world("ll-log");
    let (near, web) = (address("198.51.100.7"), address("10.65.0.2"));
    assert!(world.arrives(&world.router, &world.web, (near, 3000), (web, 53)));
    world
        .cluster
        .eventually("the packet is logged", || {
            let log = world.cluster.agent()?.log_text();
            Ok(log.lines().any(|line| {
                [
                    "policy log:",
                    "NetworkPolicy/default/web rule 0",
                    "ingress",
                    "UDP 198.51.100.7:3000 -> 10.65.0.2:53",
                    "allow",
                ]
                .iter()
                .all(|part| line.contains(part))
            }))
        })
        .unwrap();
    assert!(world.sum("felid_kernel_events_total", "event=\"logged\"") > 0.0);
    let staged = |action: &str| {
        let label = format!("action=\"{action}\",policy=\"StagedGlobalNetworkPolicy/rehearsal\",staged=\"true\"");
        world.sum("felid_policy_packets_total", &label)
    };
    assert_eq!((staged("deny"), staged("allow")), (1.0, 0.0));
    // More than the rate allows: the rest is counted.
    let outgoing = world.router.namespace.packets("eth0").unwrap();
    world
        .cluster
        .eventually("some are held back", || {
            for port in 0..2000_u16 {
                let frame = Frame::new(world.router.mac, HOST_MAC, near, web).udp(4000 + port, 54, b"x");
                outgoing.send(&frame)?;
            }
            Ok(world.sum("felid_kernel_events_total", "event=\"log_suppressed\"") > 0.0)
        })
        .unwrap();
}
