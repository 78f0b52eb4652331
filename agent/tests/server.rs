//! The servers of a running agent over real sockets, with a pretended kernel behind them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use common::fake::{Running, start};
use common::records::SHOP;
use common::{Ran, felid};
use felid_agent::run::server;
use felid_common::{Shown, Side};
use felid_dataplane::kernel::{FlowInfo, FlowState, FlowTable};
use serde_json::Value;
use tokio::sync::watch;

/// Servers in a runtime of their own.
struct Servers {
    run_dir: tempfile::TempDir,
    health: u16,
    metrics: u16,
    _runtime: tokio::runtime::Runtime,
    _stop: watch::Sender<bool>,
}

fn serve(agent: &Running) -> Servers {
    let run_dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (stop, stopping) = watch::channel(false);
    let (told, bound) = std::sync::mpsc::channel();
    let listen = |what, router| {
        let told = told.clone();
        let address = ("127.0.0.1".to_owned(), 0);
        runtime.spawn(server::serve_tcp(
            what,
            address,
            router,
            move |address| told.send(address.port()).unwrap(),
            stopping.clone(),
        ));
        bound.recv_timeout(Duration::from_secs(5)).unwrap()
    };
    let health = listen("health", server::health_router(Arc::clone(&agent.health)));
    let metrics = listen(
        "metrics",
        server::metrics_router(Arc::clone(&agent.metrics), agent.handle.clone()),
    );
    let guard = runtime.enter();
    let socket = server::bind_socket(run_dir.path()).unwrap();
    drop(guard);
    runtime.spawn(server::serve_socket(
        socket,
        server::api_router(agent.handle.clone()),
        stopping,
    ));
    Servers {
        run_dir,
        health,
        metrics,
        _runtime: runtime,
        _stop: stop,
    }
}

fn http(port: u16, path: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

impl Servers {
    fn felid(&self, arguments: &[&str]) -> Ran {
        felid(arguments)
            .arg("--run-dir")
            .arg(self.run_dir.path())
            .output()
            .unwrap()
            .into()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let ran = self.felid(&all);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{arguments:?}");
        serde_json::from_str(&ran.out).unwrap()
    }
}

fn flow(source: &str, port: u16, state: FlowState) -> FlowInfo {
    FlowInfo {
        table: FlowTable::Established,
        protocol: 6,
        icmp: None,
        source: source.parse().unwrap(),
        source_port: 40_000,
        destination: "10.0.0.1".parse().unwrap(),
        destination_port: port,
        state,
        age: Duration::from_secs(10),
        idle: Duration::from_secs(1),
        timeout: Duration::from_secs(3600),
        fast: true,
        egress: Side::default(),
        ingress: Side {
            endpoint: 1,
            index: 1,
            generation: 1,
        },
        original_nat: Shown::default(),
        reply_nat: Shown::default(),
    }
}

#[test]
fn probes_follow_the_pipeline() {
    let agent = start(&[]);
    let servers = serve(&agent);
    let (status, body) = http(servers.health, "/readiness");
    assert_eq!(status, 503);
    assert!(body.contains("has not been read completely"), "{body}");
    assert_eq!(http(servers.health, "/liveness").0, 200);
    agent.send_all(SHOP);
    agent.until("ready", |agent| agent.health.ready().is_ok());
    assert_eq!(http(servers.health, "/readiness"), (200, "ok\n".to_owned()));
    assert_eq!(http(servers.health, "/other").0, 404);
    agent.kernel().refuse.push_back(("no memory".to_owned(), false));
    agent.send(common::records::updates(&common::records::endpoint("a", "10.0.1.1")));
    agent.until("refused", |agent| agent.health.ready().is_err());
    assert_eq!(
        http(servers.health, "/readiness"),
        (503, "kernel: no memory\n".to_owned())
    );
}

#[test]
fn metrics_are_sampled_when_somebody_looks() {
    let agent = start(&[]);
    let servers = serve(&agent);
    agent.send_all(SHOP);
    agent.until("ready", |agent| agent.health.ready().is_ok());
    agent.kernel().counted.drops.insert("spoofed_address", 7);
    let (status, text) = http(servers.metrics, "/metrics");
    assert_eq!(status, 200);
    for line in [
        "felid_dropped_packets_total{reason=\"spoofed_address\"} 7",
        "felix_active_local_endpoints 1",
        "felid_ready 1",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[test]
fn commands_ask_through_the_socket() {
    let agent = start(&[]);
    let servers = serve(&agent);
    agent.send_all(SHOP);
    agent.until("complete", |agent| agent.kernel().completed == 1);
    agent.kernel().flows.extend([
        flow("10.0.0.9", 80, FlowState::Established),
        flow("10.0.0.8", 443, FlowState::Closing),
        flow("fd00::9", 80, FlowState::New),
    ]);

    let status = servers.json(&["status"]);
    assert_eq!(
        (status["ready"].as_bool(), status["node"].as_str()),
        (Some(true), Some("node1"))
    );
    assert_eq!(status["counts"]["localEndpoints"], 1);
    assert_eq!(status["counts"]["stagedPolicies"], 0);
    let text = servers.felid(&["status"]).out;
    assert!(text.contains("Ready             yes"), "{text}");

    for (event, total) in [("logged", 5), ("log_suppressed", 7), ("log_lost", 1)] {
        agent.kernel().counted.events.insert(event, total);
    }
    // One of another node's, one of a tier that does not exist.
    for staged in [
        "{name: elsewhere}\nspec: {selector: app == 'db', ingress: [{action: Deny}]}",
        "{name: lost}\nspec: {tier: nowhere, selector: app == 'web', ingress: [{action: Deny}]}",
    ] {
        agent.send(common::records::updates(&format!(
            "apiVersion: projectcalico.org/v3\nkind: StagedGlobalNetworkPolicy\nmetadata: {staged}\n"
        )));
    }
    agent.until("taken in", |agent| agent.metrics.updates.get() == 11);
    let status = servers.json(&["status"]);
    assert_eq!(status["ready"], true, "a staged policy is no reason against it");
    assert_eq!(status["counts"]["stagedPolicies"], 1);
    assert_eq!(
        status["log"],
        serde_json::json!({"logged": 5, "suppressed": 7, "lost": 1})
    );
    let text = servers.felid(&["status"]).out;
    for line in [
        "(2 active here, 1 of them staged)",
        "Log rules         5 told, 7 suppressed, 1 lost",
        "warning: StagedGlobalNetworkPolicy/lost: tier \"nowhere\" does not exist",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }

    let endpoints = servers.json(&["endpoints"]);
    assert_eq!(endpoints[0]["name"], "node1-k8s-web-eth0");
    let unknown = servers.felid(&["endpoints", "nobody"]);
    assert_eq!(
        (unknown.code, unknown.err.as_str()),
        (Some(1), "felid: no local endpoint \"nobody\"\n")
    );

    assert_eq!(servers.json(&["flows"])["total"], 3);
    assert_eq!(servers.json(&["flows", "--port", "80"])["total"], 2);
    assert_eq!(
        servers.json(&["flows", "--address", "10.0.0.8/31", "--state", "closing"])["total"],
        1
    );
    let limited = servers.json(&["flows", "--limit", "1"]);
    assert_eq!(
        (limited["total"].as_u64(), limited["flows"].as_array().unwrap().len()),
        (Some(3), 1)
    );
    let ours = servers.json(&["flows", "--endpoint", "caliweb", "--protocol", "TCP"]);
    assert_eq!(ours["flows"][0]["destination"]["endpoint"], "shop/node1-k8s-web-eth0");
    assert_eq!(ours["flows"][0]["destination"]["judged"], "allowed");
    assert_eq!(ours["flows"][0]["source"]["judged"], "none");
    assert_eq!(servers.felid(&["flows", "--address", "nonsense"]).code, Some(2));
    assert_eq!(servers.felid(&["flows", "--endpoint", "nobody"]).code, Some(1));

    let programs = servers.json(&["program", "shop/node1-k8s-web-eth0"]);
    assert_eq!(
        (programs[0]["direction"].as_str(), programs[1]["direction"].as_str()),
        (Some("ingress"), Some("egress"))
    );
    assert!(!programs[0]["lines"].as_array().unwrap().is_empty());
    let text = servers
        .felid(&["program", "node1-k8s-web-eth0", "-n", "shop", "--direction", "ingress"])
        .out;
    assert!(text.contains("NetworkPolicy/shop/web rule 0"), "{text}");
    assert_eq!(servers.felid(&["program", "nobody"]).code, Some(1));
    assert_eq!(
        servers.felid(&["program", "caliweb", "--direction", "up"]).code,
        Some(2)
    );
}

#[test]
fn the_socket_is_roots_alone() {
    use std::os::unix::fs::PermissionsExt;
    let agent = start(&[]);
    let servers = serve(&agent);
    let socket = servers.run_dir.path().join("felid.sock");
    assert_eq!(std::fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
    let names: Vec<_> = std::fs::read_dir(servers.run_dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["felid.sock"], "nothing is left of making it");
}

#[test]
fn without_an_agent_the_commands_say_so() {
    let empty = tempfile::tempdir().unwrap();
    for command in [&["status"][..], &["endpoints"], &["flows"], &["nat"], &["program", "x"]] {
        let ran: Ran = felid(command)
            .arg("--run-dir")
            .arg(empty.path())
            .output()
            .unwrap()
            .into();
        assert_eq!(ran.code, Some(1));
        assert!(ran.err.starts_with("felid: no agent runs here: "), "{}", ran.err);
    }
}

/// An endpoint that others know by several addresses.
const KNOWN: &str = "
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: node1-k8s-web-eth0, namespace: shop}
spec:
  orchestrator: k8s
  node: node1
  pod: web
  endpoint: eth0
  ipNetworks: [10.0.0.1/32, 'fd00::1/128']
  interfaceName: caliweb
  ipNATs:
  - {internalIP: 10.0.0.1, externalIP: 203.0.113.10}
  - {internalIP: 10.0.0.1, externalIP: 192.0.2.1}
  awsElasticIPs: [198.51.100.7]
  ports:
  - {name: http, protocol: TCP, port: 8080, hostPort: 80, hostIP: 192.0.2.1}
  - {protocol: UDP, port: 53, hostPort: 53}
  - {name: dns, protocol: UDP, port: 53}
";

#[test]
fn translations_are_listed_beside_those_of_others() {
    let agent = start(&[]);
    let servers = serve(&agent);
    agent.send_all(KNOWN);
    agent.until("in force", |agent| !agent.kernel().nats.is_empty());
    let translated = |index, id| FlowInfo {
        reply_nat: Shown { index, id },
        ..flow("203.0.113.200", 443, FlowState::Established)
    };
    agent.kernel().flows = vec![translated(1, 7), translated(1, 6), flow("10.0.0.9", 80, FlowState::New)];
    let nats = servers.json(&["nat"]);
    let field = |name: &str| {
        nats.as_array()
            .unwrap()
            .iter()
            .map(|nat| nat[name].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        field("external"),
        ["192.0.2.1", "203.0.113.10", "*:53", "192.0.2.1:80", "198.51.100.7"]
    );
    assert_eq!(
        field("internal"),
        ["10.0.0.1", "10.0.0.1", "10.0.0.1:53", "10.0.0.1:8080", "10.0.0.1"]
    );
    assert_eq!(field("by"), ["felid", "felid", "portmap", "portmap", "AWS"]);
    assert_eq!(
        field("state"),
        ["conflict", "in force", "not felid's", "not felid's", "not felid's"]
    );
    assert_eq!(nats[0]["reason"], "the external address is the host's own");
    assert_eq!((&nats[1]["flows"], &nats[1]["flowsTotal"]), (&1.into(), &3.into()));
    assert_eq!(
        (&nats[1]["interface"], &nats[2]["protocol"]),
        (&"caliweb".into(), &"UDP".into())
    );

    let table = servers.felid(&["nats", "203.0.113.10"]).out;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(
        lines[1].starts_with("203.0.113.10   10.0.0.1   shop        node1-k8s-web-eth0   caliweb"),
        "{table}"
    );
    assert_eq!(servers.json(&["nat", "caliweb"]).as_array().unwrap().len(), 5);
    assert_eq!(servers.json(&["nat", "-n", "other"]), Value::Array(Vec::new()));
    let unknown = servers.felid(&["nat", "203.0.113.11"]);
    assert_eq!(
        (unknown.code, unknown.err.as_str()),
        (Some(1), "felid: nothing is translated for \"203.0.113.11\"\n")
    );

    let flows = servers.json(&["flows"]);
    let shown: Vec<_> = flows["flows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|flow| flow["destination"]["shownAs"].clone())
        .collect();
    assert_eq!(shown, [Value::from("203.0.113.10"), Value::from("gone"), Value::Null]);
    assert!(servers.felid(&["flows"]).out.contains("destination is 203.0.113.10"));
    assert_eq!(servers.json(&["flows", "--address", "203.0.113.10"])["total"], 1);

    assert_eq!(
        servers.json(&["status"])["nat"],
        serde_json::json!({"inForce": 1, "conflicts": 1})
    );
    let text = servers.felid(&["status"]).out;
    assert!(
        text.contains("Translations      1 in force, 1 in conflict (felid nat says why)"),
        "{text}"
    );
    let (_, text) = http(servers.metrics, "/metrics");
    for line in [
        "felid_nat_mappings{state=\"in_force\"} 1",
        "felid_nat_mappings{state=\"conflict\"} 1",
        "felid_nat_flows_total 3",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}
