//! `felid wait`: when it returns, the next packet is judged by what was waited for.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, UdpSocket};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use felid_lab::records::{Endpoint, policy};
use felid_lab::{Namespace, Workload};
use felid_tests::{Cluster, sockets};

/// How long an answer is waited for that must not come.
const SILENCE: Duration = Duration::from_millis(25);

fn allow(port: u16) -> String {
    policy(
        "default",
        "server",
        &format!(
            "  selector: app == 'server'\n  types: [Ingress]\n  ingress:\n    - {{action: Allow, protocol: UDP, destination: {{ports: [{port}]}}}}"
        ),
    )
}

fn world(prefix: &str) -> (Cluster, Workload, Workload) {
    let cluster = Cluster::new(prefix).unwrap();
    let server = cluster.host.workload("caliserver", &["10.65.0.2"]).unwrap();
    let client = cluster.host.workload("caliclient", &["10.65.0.3"]).unwrap();
    for (name, workload) in [("server", &server), ("client", &client)] {
        let labels = format!("app: {name}");
        let record = Endpoint {
            labels: &labels,
            ..Endpoint::of(name, workload)
        };
        cluster.write(&format!("{name}.yaml"), &record.yaml()).unwrap();
    }
    cluster.write("policy.yaml", &allow(80)).unwrap();
    (cluster, server, client)
}

/// A socket with which one flow is sent, its answers waited for as long as that.
fn flow(from: &Namespace, to: IpAddr, port: u16) -> UdpSocket {
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.connect((to, port)).unwrap();
    socket
}

/// Whether this very datagram is answered.
fn is_answered(socket: &UdpSocket, number: u32, patience: Duration) -> bool {
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.send(&number.to_be_bytes()).unwrap();
    let mut answer = [0; 4];
    socket
        .recv(&mut answer)
        .is_ok_and(|_| u32::from_be_bytes(answer) == number)
}

/// Starts a command that waits.
fn start(cluster: &Cluster, arguments: &[&str]) -> Child {
    Command::new(felid_tests::felid().unwrap())
        .args(arguments)
        .arg("--run-dir")
        .arg(cluster.host.directory().join("run"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_packet_after_a_wait_is_judged_by_the_new_policy() {
    let (mut cluster, server, client) = world("lw-next");
    cluster.start().unwrap();
    if !cluster.reads_files() {
        return; // What was written to the directory is not in the stream yet.
    }
    let to = server.addresses[0];
    for port in [80, 81] {
        sockets::serve_udp(&server.namespace, port).unwrap();
    }
    // Flows that are established whenever their port is allowed.
    let flows = [80, 81].map(|port| flow(&client.namespace, to, port));
    let mut number = 0;
    for round in 0..100_usize {
        cluster.write("policy.yaml", &allow(80 + (round % 2) as u16)).unwrap();
        let waited = cluster.felid(&["wait", "np/server", "--timeout", "20s"]).unwrap();
        let (code, out, err) = texts(&waited);
        assert_eq!(
            (code, out.as_str()),
            (Some(0), "networkpolicy/server condition met\n"),
            "{err}"
        );
        number += 1;
        let (allowed, forbidden) = (&flows[round % 2], &flows[1 - round % 2]);
        assert!(
            !is_answered(forbidden, number, SILENCE),
            "round {round}: the flow outlives its policy"
        );
        number += 1;
        assert!(is_answered(allowed, number, Duration::from_secs(5)), "round {round}");
    }
}

#[test]
fn an_agent_that_restarts_is_waited_for() {
    let (mut cluster, _server, _client) = world("lw-restart");
    let ready = start(&cluster, &["wait-ready", "--timeout", "60s"]);
    cluster.start().unwrap();
    assert_eq!(texts(&ready.wait_with_output().unwrap()).1, "ready\n");
    let record = Endpoint {
        pod: "late",
        interface: "calilate",
        addresses: vec!["10.65.0.9".to_owned()],
        ..Endpoint::default()
    };
    cluster.write("late.yaml", &record.yaml()).unwrap();
    let late = ["wait", "wep/node1-k8s-late-eth0", "--timeout"];
    cluster
        .eventually("the record is known", || {
            let output = cluster.felid(&[&late[..], &["100ms"]].concat())?;
            Ok(texts(&output).2.contains("interface calilate is not there"))
        })
        .unwrap();
    let waiting = start(&cluster, &[&late[..], &["60s"]].concat());
    let doomed = start(&cluster, &[&late[..], &["1s"]].concat());
    cluster.kill();
    let (code, _, err) = texts(&doomed.wait_with_output().unwrap());
    assert_eq!(code, Some(1));
    assert!(
        err.contains("timed out waiting for the condition on WorkloadEndpoint(default/node1-k8s-late-eth0)"),
        "{err}"
    );
    cluster.start().unwrap();
    let _late = cluster.host.workload("calilate", &["10.65.0.9"]).unwrap();
    let (code, out, err) = texts(&waiting.wait_with_output().unwrap());
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "workloadendpoint/node1-k8s-late-eth0 condition met\n"),
        "{err}"
    );
}

#[test]
fn bad_unknown_and_deleted_records_are_told_apart() {
    let (mut cluster, _server, _client) = world("lw-bad");
    cluster.start().unwrap();
    if !cluster.reads_files() {
        return; // As above.
    }
    cluster
        .write("policy.yaml", &allow(80).replace("Allow", "Alow"))
        .unwrap();
    let (code, _, err) = texts(&cluster.felid(&["wait", "np/server"]).unwrap());
    assert_eq!(code, Some(1));
    assert!(
        err.contains("NetworkPolicy/default/server is not in force as it stands: policy.yaml:"),
        "{err}"
    );
    assert!(err.contains("the last good version stays in force"), "{err}");
    cluster
        .write(
            "new.yaml",
            &allow(80).replace("name: server", "name: new").replace("Allow", "Alow"),
        )
        .unwrap();
    let (code, _, err) = texts(&cluster.felid(&["wait", "np/new"]).unwrap());
    assert_eq!(code, Some(1));
    assert!(err.contains("the endpoints that it may select are closed"), "{err}");
    cluster.remove("new.yaml").unwrap();
    let (code, _, err) = texts(&cluster.felid(&["wait", "np/new"]).unwrap());
    assert_eq!(
        (code, err.as_str()),
        (Some(1), "felid: resource does not exist: NetworkPolicy/default/new\n")
    );
    cluster.remove("policy.yaml").unwrap();
    let (code, out, err) = texts(&cluster.felid(&["wait", "np/server", "--for", "delete"]).unwrap());
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "networkpolicy/server condition met\n"),
        "{err}"
    );
    cluster.write("policy.yaml", &allow(80)).unwrap();
    let file = cluster.records().join("policy.yaml").display().to_string();
    let (code, out, err) = texts(&cluster.felid(&["wait", "-f", &file]).unwrap());
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "networkpolicy/server condition met\n"),
        "{err}"
    );
}
