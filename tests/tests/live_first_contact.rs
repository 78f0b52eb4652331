//! The first hour of a new user, on a machine as many are: Docker's `iptables -P FORWARD DROP`,
//! rules as kube-proxy makes them, no default route, Felix's ports taken, a host name with
//! capitals. Everything works, or one sentence says what is missing.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use felid_lab::records::{Endpoint, policy};
use felid_tests::{Cluster, Namespace, Workload, felid, sockets};

const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:2::1"];
const OUTSIDE: [&str; 2] = ["192.0.2.7", "2001:db8:2::7"];
const CLIENT: [&str; 2] = ["10.65.0.2", "fd00:65::2"];
const WEB: [&str; 2] = ["10.65.0.3", "fd00:65::3"];
/// A service with the web server behind it, and one that leads off the node.
const SERVICES: [[&str; 2]; 2] = [["10.96.0.1", "fd00:96::1"], ["10.96.0.2", "fd00:96::2"]];
const NODE_PORT: u16 = 30080;
const NODE: &str = "node-one.example";

/// Who makes the rules of others.
#[derive(Clone, Copy, PartialEq)]
enum Rules {
    Iptables,
    Nftables,
}

struct World {
    cluster: Cluster,
    client: Workload,
    web: Workload,
    outside: Namespace,
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What Docker and kube-proxy do to one family, by iptables.
fn iptables(host: &Namespace, family: usize) {
    let program = ["iptables", "ip6tables"][family];
    let to = |address: &str| match family {
        0 => format!("{address}:80"),
        _ => format!("[{address}]:80"),
    };
    let rules = [
        "-P FORWARD DROP".to_owned(),
        "-t nat -N KUBE-SERVICES".to_owned(),
        "-t nat -A PREROUTING -j KUBE-SERVICES".to_owned(),
        "-t nat -A OUTPUT -j KUBE-SERVICES".to_owned(),
        format!(
            "-t nat -A KUBE-SERVICES -d {} -p tcp --dport 80 -j DNAT --to-destination {}",
            SERVICES[0][family],
            to(WEB[family])
        ),
        format!(
            "-t nat -A KUBE-SERVICES -d {} -p tcp --dport 80 -j DNAT --to-destination {}",
            SERVICES[1][family],
            to(OUTSIDE[family])
        ),
        format!(
            "-t nat -A KUBE-SERVICES -m addrtype --dst-type LOCAL -p tcp --dport {NODE_PORT} -j DNAT --to-destination {}",
            to(WEB[family])
        ),
    ];
    for rule in rules {
        let words: Vec<&str> = std::iter::once(program).chain(rule.split(' ')).collect();
        host.exec(&words).unwrap();
    }
}

/// The same by nftables, with the chains that the newer iptables and kube-proxy make.
fn nftables(host: &Namespace, family: usize) {
    let (ip, to) = (["ip", "ip6"][family], |address: &str| match family {
        0 => format!("{address}:80"),
        _ => format!("[{address}]:80"),
    });
    let [web, outside] = [to(WEB[family]), to(OUTSIDE[family])];
    let [first, second] = SERVICES.map(|service| service[family]);
    let rules = format!(
        "add table {ip} filter; add chain {ip} filter FORWARD {{ type filter hook forward priority 0; policy drop; }};
add table {ip} kube-proxy; add chain {ip} kube-proxy services;
add chain {ip} kube-proxy nat-prerouting {{ type nat hook prerouting priority -100; }}; add rule {ip} kube-proxy nat-prerouting jump services;
add chain {ip} kube-proxy nat-output {{ type nat hook output priority -100; }}; add rule {ip} kube-proxy nat-output jump services;
add rule {ip} kube-proxy services {ip} daddr {first} tcp dport 80 dnat to {web};
add rule {ip} kube-proxy services {ip} daddr {second} tcp dport 80 dnat to {outside};
add rule {ip} kube-proxy services fib daddr type local tcp dport {NODE_PORT} dnat to {web}"
    );
    host.exec(&["nft", &rules]).unwrap();
}

/// Runs the agent on a host whose own name has capitals, and without being told a name.
fn on_a_named_host(cluster: &Cluster) -> std::path::PathBuf {
    let path = cluster.host.directory().join("felid-on-a-named-host");
    let text = format!(
        "#!/bin/sh\n# The arguments begin with: run --node NAME.\nshift 3\nexec unshare --uts sh -c 'hostname Node-One.Example && exec \"$0\" run \"$@\"' {} \"$@\"\n",
        felid().unwrap().display()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn world(prefix: &str, rules: Rules) -> World {
    let (mut cluster, outside) = Cluster::with_uplink(prefix, None).unwrap();
    let host = cluster.host.namespace();
    for family in 0..2 {
        match rules {
            Rules::Iptables => iptables(host, family),
            Rules::Nftables => nftables(host, family),
        }
    }
    for port in [9099, 9091, 80] {
        sockets::serve_tcp(host, port).unwrap();
    }
    let client = cluster.host.workload("caliclient", &CLIENT).unwrap();
    let web = cluster.host.workload("caliweb", &WEB).unwrap();
    for (namespace, port) in [
        (&web.namespace, 80),
        (&web.namespace, 81),
        (&outside, 80),
        (&outside, 81),
    ] {
        sockets::serve_tcp(namespace, port).unwrap();
    }
    let endpoint = |name, labels, workload: &Workload| {
        let record = Endpoint {
            labels,
            ..Endpoint::of(name, workload)
        };
        record.yaml().replace("node: node1", &format!("node: {NODE}"))
    };
    let records = [
        endpoint("client", "app: client", &client),
        endpoint("web", "app: web", &web),
        policy(
            "default",
            "web",
            "  selector: app == 'web'\n  types: [Ingress]\n  ingress:\n    - {action: Allow, protocol: TCP, destination: {ports: [80]}}\n",
        ),
    ];
    cluster.write("records.yaml", &records.concat()).unwrap();
    cluster.program = Some(on_a_named_host(&cluster));
    World {
        cluster,
        client,
        web,
        outside,
    }
}

impl World {
    /// What the agent says at the start, on ports that are taken: it ends, with one sentence.
    fn refuses_taken_ports(&self) {
        for (taken, options) in [("9099", &[][..]), ("9091", &["--health-listen", "127.0.0.1:9199"])] {
            let arguments = [&["run", "--node", NODE], options].concat();
            let output = self.cluster.felid(&arguments).unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{text}");
            let errors: Vec<&str> = text.lines().filter(|line| line.contains(taken)).collect();
            assert!(
                errors
                    .iter()
                    .any(|line| line.contains("another process listens there") && line.contains("-listen")),
                "{text}"
            );
        }
    }

    fn start(&mut self) {
        self.cluster.options = [
            "--health-listen",
            "127.0.0.1:9199",
            "--metrics-listen",
            "127.0.0.1:9191",
        ]
        .map(str::to_owned)
        .to_vec();
        self.cluster.start().unwrap();
    }

    /// Everything that plain Linux and policy let pass, passes; what they do not, does not.
    fn everything_works(&self, when: &str) {
        let (client, web, outside) = (&self.client.namespace, &self.web.namespace, &self.outside);
        let host = self.cluster.host.namespace();
        for family in 0..2 {
            for (who, from, to, port, passes) in [
                ("client to web", client, WEB[family], 80, true),
                ("client to a port that policy closes", client, WEB[family], 81, false),
                ("client to the world", client, OUTSIDE[family], 80, true),
                ("web to the world", web, OUTSIDE[family], 81, true),
                ("the world to web", outside, WEB[family], 80, true),
                (
                    "the world to a port that policy closes",
                    outside,
                    WEB[family],
                    81,
                    false,
                ),
                ("client to a service", client, SERVICES[0][family], 80, true),
                (
                    "client to a service off the node",
                    client,
                    SERVICES[1][family],
                    80,
                    true,
                ),
                ("client to a node port", client, HOST[family], NODE_PORT, true),
                ("the world to a node port", outside, HOST[family], NODE_PORT, true),
                ("host to web", host, WEB[family], 80, true),
                ("client to the host", client, HOST[family], 80, false),
            ] {
                let got = sockets::tcp(from, address(to), port).unwrap();
                assert_eq!(got, passes, "{when}: {who} ({to} port {port})\n{}", self.told());
            }
        }
    }

    /// What the agent tells people: `felid status`, and its log.
    fn told(&self) -> String {
        let output = self.cluster.felid(&["status"]).unwrap();
        let log = self.cluster.agent().unwrap().log_text();
        format!(
            "{}{}\n{log}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }
}

fn first_contact(prefix: &str, rules: Rules) {
    let mut world = world(prefix, rules);
    world.refuses_taken_ports();
    world.start();
    let log = world.cluster.agent().unwrap().log_text();
    assert!(log.contains("taken in lower case"), "{log}");
    world.everything_works("at first");
    let status = world.cluster.felid_json(&["status", "-o", "json"]).unwrap();
    assert_eq!(status["node"], NODE, "{status:#}");
    assert_eq!(status["ready"], true, "{status:#}");
    let told = world.told();
    for part in [
        "http://127.0.0.1:9199",
        "http://127.0.0.1:9191",
        "kube-proxy",
        "FORWARD",
    ] {
        assert!(told.contains(part), "{part:?} is not told:\n{told}");
    }
    // Docker comes up again; the agent comes up again.
    match rules {
        Rules::Iptables => {
            for program in ["iptables", "ip6tables"] {
                world
                    .cluster
                    .host
                    .namespace()
                    .exec(&[program, "-F", "FORWARD"])
                    .unwrap();
            }
        }
        Rules::Nftables => {
            let flush = "flush chain ip filter FORWARD; flush chain ip6 filter FORWARD";
            world.cluster.host.namespace().exec(&["nft", flush]).unwrap();
        }
    }
    let world_is_reached = || sockets::tcp(&world.client.namespace, address(OUTSIDE[0]), 80);
    world
        .cluster
        .eventually("rules of felid's are back", world_is_reached)
        .unwrap();
    world.everything_works("after a flush");
    world.cluster.stop().unwrap();
    world.cluster.start().unwrap();
    world.everything_works("after a restart");
}

#[test]
fn with_nftables() {
    first_contact("lf-nft", Rules::Nftables);
}

#[test]
fn with_iptables() {
    if Command::new("iptables").arg("--version").output().is_err() {
        return;
    }
    first_contact("lf-ipt", Rules::Iptables);
}

/// A firewall of one's own, in which felid has no say: one sentence names it, in the log and in
/// `felid status`.
#[test]
fn a_firewall_that_forwards_nothing_is_named() {
    let mut world = world("lf-own", Rules::Nftables);
    let firewall =
        "add table inet site; add chain inet site forwarding { type filter hook forward priority 10; policy drop; }";
    world.cluster.host.namespace().exec(&["nft", firewall]).unwrap();
    world.start();
    assert!(!sockets::tcp(&world.client.namespace, address(OUTSIDE[0]), 80).unwrap());
    // What stays on the node is delivered past it.
    assert!(sockets::tcp(&world.client.namespace, address(WEB[0]), 80).unwrap());
    let sentence = "the nftables chain inet site forwarding drops what it does not accept";
    let status = world.cluster.felid(&["status"]).unwrap();
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains(sentence), "{status}");
    let log = world.cluster.agent().unwrap().log_text();
    assert_eq!(log.matches(sentence).count(), 1, "{log}");
}

/// Nodes are called in lower case, as by Felix. Who writes the host's name into records as the host
/// itself has it, reads what is wrong before anything is in force.
#[test]
fn a_node_in_capitals_in_records_is_told() {
    let world = world("lf-cap", Rules::Nftables);
    let path = world.cluster.records().join("records.yaml");
    let records = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, records.replace(NODE, "Node-One.Example")).unwrap();
    let validate = Command::new(felid().unwrap())
        .args(["validate", "-f"])
        .arg(&path)
        .output();
    let output = validate.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    let sentence = "spec.node \"Node-One.Example\": expected lower-case letters";
    assert_eq!(told.matches(sentence).count(), 2, "{told}");
}
