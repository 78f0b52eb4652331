//! The servers of a running agent over real sockets, with a pretended kernel behind them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::fake::{Running, start};
use common::records::{SHOP, endpoint, updates};
use common::{Ran, felid};
use felid_agent::config::{ClientAuth, Listen, MetricsTls};
use felid_agent::run::lock::RunLock;
use felid_agent::run::server::{self, Limits, Service};
use felid_common::{Event, NatHandle, Side};
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
    serve_with(agent, None)
}

/// Serves with these certificates for metrics.
fn serve_with(agent: &Running, tls: Option<MetricsTls>) -> Servers {
    let run_dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (stop, stopping) = watch::channel(false);
    let listen = |name, router, tls| {
        let any = Listen::new("127.0.0.1", 0);
        let (listener, address) = runtime.block_on(server::bind(name, "--listen", &any)).unwrap().unwrap();
        let service = Service {
            name,
            router,
            limits: limits(),
            tls,
            metrics: Arc::clone(&agent.metrics),
        };
        runtime.spawn(server::serve(listener, service, stopping.clone()));
        address.port()
    };
    let tls = tls.and_then(|tls| server::acceptor(&tls).unwrap());
    let health = listen("health", server::health_router(Arc::clone(&agent.health)), None);
    let router = server::metrics_router(Arc::clone(&agent.metrics), agent.handle.clone());
    let metrics = listen("metrics", router, tls);
    let guard = runtime.enter();
    let lock = RunLock::take(run_dir.path()).unwrap();
    let socket = server::bind_socket(Arc::new(Mutex::new(lock))).unwrap();
    drop(guard);
    let service = Service {
        name: "socket",
        router: server::api_router(agent.handle.clone(), SOCKET_CONNECTIONS),
        limits: Limits {
            connections: SOCKET_CONNECTIONS,
            ..Limits::private(1024)
        },
        tls: None,
        metrics: Arc::clone(&agent.metrics),
    };
    runtime.spawn(server::serve(socket, service, stopping.clone()));
    Servers {
        run_dir,
        health,
        metrics,
        _runtime: runtime,
        _stop: stop,
    }
}

/// Connections of the socket at one time.
const SOCKET_CONNECTIONS: usize = 128;

/// Limits that tests reach.
fn limits() -> Limits {
    Limits {
        connections: 8,
        per_address: 4,
        head: Duration::from_secs(2),
        lifetime: Duration::from_secs(4),
        pace: Duration::ZERO,
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
        redirect: true,
        egress: Side::default(),
        ingress: Side {
            endpoint: 1,
            index: 1,
            generation: 1,
        },
        original_nat: NatHandle::default(),
        reply_nat: NatHandle::default(),
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
    agent.send(updates(&endpoint("a", "10.0.1.1")));
    agent.until("refused", |agent| agent.health.ready().is_err());
    assert_eq!(
        http(servers.health, "/readiness"),
        (503, "kernel: cannot apply: no memory\n".to_owned())
    );
}

#[test]
fn metrics_are_sampled_when_somebody_looks() {
    let agent = start(&[]);
    let servers = serve(&agent);
    agent.send_all(SHOP);
    agent.until("ready", |agent| agent.health.ready().is_ok());
    agent
        .kernel()
        .counters
        .drops
        .push((felid_common::DropReason::SpoofedAddress, 7));
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
fn connections_are_limited_and_end() {
    let agent = start(&[]);
    let servers = serve(&agent);
    let connect = || {
        let stream = std::net::TcpStream::connect(("127.0.0.1", servers.metrics)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    };
    // Those that send nothing have their places for as long as a head may take, and no longer.
    let idle: Vec<_> = (0..4).map(|_| connect()).collect();
    std::thread::sleep(Duration::from_millis(100));
    let mut more = connect();
    let mut answer = Vec::new();
    let _ = write!(more, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let _ = more.read_to_end(&mut answer);
    assert_eq!(answer, b"", "turned away: no answer");
    let turned_away: Vec<_> = agent.metrics.condition.all_turned_away().collect();
    assert_eq!(turned_away, [("health", 0), ("metrics", 1), ("socket", 0)]);
    let status = servers.felid(&["status"]).out;
    assert!(
        status.contains("server of metrics has turned away 1 connections"),
        "{status}"
    );
    for mut stream in idle {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    assert_eq!(http(servers.metrics, "/metrics").0, 200, "places are free again");
    // Those that ask again and again and read nothing would have their places for ever: more is
    // waiting to be sent than any buffer holds.
    let greedy: Vec<_> = (0..4).map(|_| connect()).collect();
    for mut stream in &greedy {
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        for _ in 0..2000 {
            if write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").is_err() {
                break;
            }
        }
    }
    std::thread::sleep(2 * limits().lifetime + Duration::from_secs(1));
    assert_eq!(http(servers.metrics, "/metrics").0, 200, "their time is over");
    drop(greedy);
    // Health has places of its own.
    assert_eq!(http(servers.health, "/liveness").0, 200);
}

#[test]
fn a_port_that_is_taken_is_an_error_that_says_what_to_do() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost"] {
        let listen = Listen::new(host, port);
        let error = runtime
            .block_on(server::bind("health", "--health-listen", &listen))
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("another process listens there"), "{text}");
        assert!(
            text.contains("--health-listen") && text.contains(&port.to_string()),
            "{text}"
        );
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

    for (event, total) in [(Event::Logged, 5), (Event::LogSuppressed, 7), (Event::LogLost, 1)] {
        agent.kernel().counters.events.push((event, total));
    }
    // One of another node's, one of a tier that does not exist.
    for staged in [
        "{name: elsewhere}\nspec: {selector: app == 'db', ingress: [{action: Deny}]}",
        "{name: lost}\nspec: {tier: nowhere, selector: app == 'web', ingress: [{action: Deny}]}",
    ] {
        agent.send(updates(&format!(
            "apiVersion: projectcalico.org/v3\nkind: StagedGlobalNetworkPolicy\nmetadata: {staged}\n"
        )));
    }
    agent.until("taken in", |agent| agent.metrics.records.updates.get() == 11);
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
fn a_socket_that_somebody_removes_is_made_again() {
    use std::os::unix::fs::PermissionsExt;

    let agent = start(&[]);
    let servers = serve(&agent);
    let run_dir = servers.run_dir.path();
    for whole in [false, true] {
        if whole {
            std::fs::remove_dir_all(run_dir).unwrap();
        } else {
            std::fs::remove_file(run_dir.join("felid.sock")).unwrap();
        }
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while servers.felid(&["status"]).code != Some(0) {
            assert!(std::time::Instant::now() < end, "the whole directory: {whole}");
            std::thread::sleep(Duration::from_millis(100));
        }
        let mode = |name: &str| std::fs::metadata(run_dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("felid.sock"), mode("felid.lock")), (0o600, 0o600));
        let error = RunLock::take(run_dir).unwrap_err().to_string();
        assert!(error.contains("another agent"), "{error}");
    }
}

#[test]
fn the_socket_is_roots_alone() {
    use std::os::unix::fs::PermissionsExt;
    let agent = start(&[]);
    let servers = serve(&agent);
    let socket = servers.run_dir.path().join("felid.sock");
    assert_eq!(std::fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut names: Vec<_> = std::fs::read_dir(servers.run_dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["felid.lock", "felid.sock"], "nothing is left of making it");
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
        reply_nat: NatHandle { index, id },
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

/// A certificate and its key, PEM, for a name; signed by an authority or, without one, by itself as
/// an authority.
struct Identity {
    cert: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Identity {
    fn new(name: &str, authority: Option<&Self>) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let cert = match authority {
            Some(by) => params.signed_by(&key, &by.cert, &by.key).unwrap(),
            None => {
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
                params.self_signed(&key).unwrap()
            }
        };
        Self { cert, key }
    }

    fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (cert, key) = (
            directory.join(format!("{name}.crt")),
            directory.join(format!("{name}.key")),
        );
        std::fs::write(&cert, self.cert.pem()).unwrap();
        std::fs::write(&key, self.key.serialize_pem()).unwrap();
        (cert, key)
    }
}

/// Asks for the metrics by TLS as this client.
fn https(port: u16, authority: &Identity, client: Option<&Identity>) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

    let mut roots = RootCertStore::empty();
    roots.add(authority.cert.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let key = PrivateKeyDer::from_pem_slice(client.key.serialize_pem().as_bytes()).unwrap();
            builder
                .with_client_auth_cert(vec![client.cert.der().clone()], key)
                .unwrap()
        }
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, stream).await?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    })
}

#[test]
fn metrics_are_served_by_tls_to_clients_of_the_authority() {
    let directory = tempfile::tempdir().unwrap();
    let (authority, other) = (Identity::new("authority", None), Identity::new("other", None));
    let server = Identity::new("localhost", Some(&authority));
    let (client, stranger) = (
        Identity::new("prometheus", Some(&authority)),
        Identity::new("stranger", Some(&other)),
    );
    let (ca_file, _) = authority.write(directory.path(), "ca");
    let (cert_file, key_file) = server.write(directory.path(), "server");
    let files = |client_auth| MetricsTls {
        cert_file: Some(cert_file.clone()),
        key_file: Some(key_file.clone()),
        ca_file: Some(ca_file.clone()),
        client_auth,
    };
    let agent = start(&[]);
    let good = |answer: std::io::Result<String>| answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
    for (auth, without, with_other) in [
        (ClientAuth::RequireAndVerifyClientCert, false, false),
        (ClientAuth::VerifyClientCertIfGiven, true, false),
        (ClientAuth::NoClientCert, true, true),
    ] {
        let port = serve_with(&agent, Some(files(auth)));
        assert!(good(https(port.metrics, &authority, Some(&client))), "{auth:?}");
        assert_eq!(good(https(port.metrics, &authority, None)), without, "{auth:?}");
        assert_eq!(
            good(https(port.metrics, &authority, Some(&stranger))),
            with_other,
            "{auth:?}"
        );
        assert!(
            !good(https(port.metrics, &other, Some(&client))),
            "another server's certificate"
        );
    }
}

#[test]
fn certificates_that_cannot_be_used_are_named_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let server = Identity::new("localhost", None);
    let (cert_file, key_file) = server.write(directory.path(), "server");
    let empty = directory.path().join("empty.crt");
    std::fs::write(&empty, "").unwrap();
    let missing = directory.path().join("missing.crt");
    let refused = |settings: MetricsTls| format!("{:#}", server::acceptor(&settings).err().unwrap());
    let files = MetricsTls {
        cert_file: Some(cert_file),
        key_file: Some(key_file),
        ca_file: None,
        client_auth: ClientAuth::NoClientCert,
    };
    assert!(server::acceptor(&files).unwrap().is_some());
    assert!(server::acceptor(&MetricsTls::default()).unwrap().is_none());
    let alone = MetricsTls {
        key_file: None,
        ..files.clone()
    };
    assert!(refused(alone).contains("go together"));
    let nobody = MetricsTls {
        client_auth: ClientAuth::RequireAndVerifyClientCert,
        ..files.clone()
    };
    assert!(refused(nobody).contains("prometheusMetricsCAFile"));
    for (path, text) in [(empty, "no certificate"), (missing, "missing.crt")] {
        let settings = MetricsTls {
            cert_file: Some(path),
            ..files.clone()
        };
        assert!(refused(settings).contains(text));
    }
}

#[test]
fn whoever_waits_leaves_room_for_others_and_is_told_when_it_is_so() {
    let agent = start(&[]);
    agent.send_all(SHOP);
    agent.until("ready", |agent| agent.health.ready().is_ok());
    let servers = serve(&agent);
    agent.kernel().hold = true;
    agent.send(updates(&endpoint("a", "10.0.1.1")));
    agent.until("second switch", |agent| agent.kernel().applied.len() == 2);
    let waits = ["wait", "np/web", "-n", "shop", "--timeout", "60s"];
    let run_dir = servers.run_dir.path().display().to_string();
    let children: Vec<_> = (0..SOCKET_CONNECTIONS / 2 + 3)
        .map(|_| {
            let mut command = felid(&waits);
            let pipes = (std::process::Stdio::piped(), std::process::Stdio::piped());
            command.args(["--run-dir", &run_dir]).stdout(pipes.0).stderr(pipes.1);
            command.spawn().unwrap()
        })
        .collect();
    let mut waiting = children;
    let mut refused = Vec::new();
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while refused.len() < 3 {
        assert!(std::time::Instant::now() < end, "{} of 3 are refused", refused.len());
        refused.extend(waiting.extract_if(.., |child| child.try_wait().unwrap().is_some()));
        std::thread::sleep(Duration::from_millis(10));
    }
    for child in refused {
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(ran.code, Some(1));
        assert!(
            ran.err.contains("64 commands wait for something already"),
            "{}",
            ran.err
        );
    }
    assert_eq!(servers.felid(&["status"]).code, Some(0), "others are answered");
    agent.kernel().hold = false;
    for child in waiting {
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(0), "networkpolicy/web condition met\n"),
            "{}",
            ran.err
        );
    }
    let ran = servers.felid(&["wait", "np", "absent", "web", "-n", "shop", "-o", "json"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.err, "felid: resource does not exist: NetworkPolicy/shop/absent\n");
    let answer: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&answer["done"], &answer["name"], &answer["endpoints"]),
        (&true.into(), &"web".into(), &1.into())
    );
    assert_eq!(servers.felid(&["wait-ready"]).out, "ready\n");
}
