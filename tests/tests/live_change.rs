//! Changes while traffic runs: policy edits, restarts, bad records.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use felid_lab::records::{Endpoint, policy};
use felid_tests::{Cluster, Workload, sockets};

struct World {
    cluster: Cluster,
    server: Workload,
    client: Workload,
}

fn allow(port: u16) -> String {
    policy(
        "default",
        "server",
        &format!(
            "  selector: app == 'server'\n  types: [Ingress]\n  ingress:\n    - {{action: Allow, protocol: TCP, source: {{selector: app == 'client'}}, destination: {{ports: [{port}]}}}}"
        ),
    )
}

fn world(prefix: &str) -> World {
    let mut cluster = Cluster::new(prefix).unwrap();
    let server = cluster
        .host
        .workload("caliserver", &["10.65.0.2", "fd00:65::2"])
        .unwrap();
    let client = cluster
        .host
        .workload("caliclient", &["10.65.0.3", "fd00:65::3"])
        .unwrap();
    let server_record = Endpoint {
        labels: "app: server",
        ..Endpoint::of("server", &server)
    }
    .yaml();
    cluster.write("server.yaml", &server_record).unwrap();
    let client_record = Endpoint {
        labels: "app: client",
        ..Endpoint::of("client", &client)
    }
    .yaml();
    cluster.write("client.yaml", &client_record).unwrap();
    cluster.write("policy.yaml", &allow(80)).unwrap();
    cluster.start().unwrap();
    for port in [80, 81] {
        sockets::serve_tcp(&server.namespace, port).unwrap();
    }
    World {
        cluster,
        server,
        client,
    }
}

impl World {
    fn reaches(&self, to: IpAddr, port: u16) -> bool {
        sockets::tcp(&self.client.namespace, to, port).unwrap()
    }
}

#[test]
fn an_edit_takes_effect_and_revoked_flows_end() {
    let world = world("lc-edit");
    for to in world.server.addresses.clone() {
        world.cluster.write("policy.yaml", &allow(80)).unwrap();
        world
            .cluster
            .eventually("port 80 is allowed", || Ok(world.reaches(to, 80)))
            .unwrap();
        assert!(!world.reaches(to, 81));
        let mut stream = sockets::tcp_open(&world.client.namespace, to, 80).unwrap();
        sockets::echo(&mut stream).unwrap();
        world.cluster.write("policy.yaml", &allow(81)).unwrap();
        world
            .cluster
            .eventually("port 81 is allowed", || Ok(world.reaches(to, 81)))
            .unwrap();
        assert!(!world.reaches(to, 80));
        stream.set_read_timeout(Some(Duration::from_millis(800))).unwrap();
        assert!(
            sockets::echo(&mut stream).is_err(),
            "the established connection to {to} outlives its policy"
        );
    }
}

#[test]
fn an_edit_that_revokes_nothing_costs_established_flows_nothing() {
    let world = world("lc-keep");
    let mut streams: Vec<_> = world
        .server
        .addresses
        .iter()
        .map(|to| sockets::tcp_open(&world.client.namespace, *to, 80).unwrap())
        .collect();
    for port in 1000..1020 {
        let two = allow(80).replace("[80]", &format!("[80, {port}]"));
        world.cluster.write("policy.yaml", &two).unwrap();
        for stream in &mut streams {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            for _ in 0..20 {
                sockets::echo(stream).unwrap();
            }
        }
    }
}

#[test]
fn the_kernel_enforces_while_the_agent_is_dead_and_flows_survive_its_restart() {
    let mut world = world("lc-restart");
    let to = world.server.addresses[0];
    let mut stream = sockets::tcp_open(&world.client.namespace, to, 80).unwrap();
    for round in 0..3 {
        if round == 1 {
            world.cluster.stop().unwrap();
        } else {
            world.cluster.kill();
        }
        sockets::echo(&mut stream).unwrap();
        assert!(world.reaches(to, 80), "allowed while the agent is dead");
        assert!(!world.reaches(to, 81), "denied while the agent is dead");
        world.cluster.start().unwrap();
        sockets::echo(&mut stream).unwrap();
        assert!(world.reaches(to, 80));
        assert!(!world.reaches(to, 81));
    }
    // It still follows changes.
    world.cluster.write("policy.yaml", &allow(81)).unwrap();
    world
        .cluster
        .eventually("port 81 is allowed", || Ok(world.reaches(to, 81)))
        .unwrap();
}

#[test]
fn a_bad_record_leaves_the_last_good_one_in_force_across_restarts() {
    let mut world = world("lc-bad");
    let to = world.server.addresses[0];
    world
        .cluster
        .write("policy.yaml", &allow(80).replace("[80]", "[70000]"))
        .unwrap();
    world
        .cluster
        .eventually("the problem is told", || {
            let status = world.cluster.felid(&["status"])?;
            // A stream has objects instead of files.
            let told = String::from_utf8_lossy(&status.stdout).into_owned();
            Ok(["policy.yaml", "NetworkPolicy/default/"]
                .iter()
                .any(|place| told.contains(place)))
        })
        .unwrap();
    assert!(world.reaches(to, 80), "the last good version is in force");
    assert!(!world.reaches(to, 81));
    world.cluster.kill();
    world.cluster.start().unwrap();
    assert!(world.reaches(to, 80), "also after a restart");
    assert!(!world.reaches(to, 81));
}

#[test]
fn a_policy_that_was_bad_from_the_start_closes_what_it_may_select() {
    let world = world("lc-closed");
    let to = world.server.addresses[0];
    assert!(world.reaches(to, 80));
    let bad = policy(
        "default",
        "bad",
        "  selector: app == 'server'\n  ingress: [{action: Perhaps}]",
    );
    world.cluster.write("bad.yaml", &bad).unwrap();
    world
        .cluster
        .eventually("the endpoint is closed", || Ok(!world.reaches(to, 80)))
        .unwrap();
    world.cluster.remove("bad.yaml").unwrap();
    world
        .cluster
        .eventually("the endpoint is open again", || Ok(world.reaches(to, 80)))
        .unwrap();
}

#[test]
fn interfaces_come_late_vanish_are_renamed_and_reused() {
    let world = world("lc-links");
    let host = world.cluster.host.namespace();
    let to: IpAddr = "10.65.0.5".parse().unwrap();
    let record = |interface: &str| {
        Endpoint {
            labels: "app: server",
            pod: "late",
            interface,
            addresses: vec!["10.65.0.5".into(), "fd00:65::5".into()],
            ..Endpoint::default()
        }
        .yaml()
    };
    world.cluster.write("late.yaml", &record("calilate")).unwrap();
    // The record waits for its interface; three lives of it, each with another index.
    for life in 0..3 {
        let late = world
            .cluster
            .host
            .workload("calilate", &["10.65.0.5", "fd00:65::5"])
            .unwrap();
        sockets::serve_tcp(&late.namespace, 80).unwrap();
        sockets::serve_tcp(&late.namespace, 81).unwrap();
        world
            .cluster
            .eventually("the late endpoint is reached", || Ok(world.reaches(to, 80)))
            .unwrap();
        assert!(!world.reaches(to, 81), "life {life}");
        if life == 1 {
            // Renamed: no endpoint has this name, so it is closed; the record's own name brings it
            // back.
            host.ip("link set calilate down").unwrap();
            host.ip("link set calilate name caliother").unwrap();
            host.ip("link set caliother up").unwrap();
            world
                .cluster
                .eventually("a renamed interface is closed", || Ok(!world.reaches(to, 80)))
                .unwrap();
            world.cluster.write("late.yaml", &record("caliother")).unwrap();
            world
                .cluster
                .eventually("its new record opens it", || Ok(world.reaches(to, 80)))
                .unwrap();
            assert!(!world.reaches(to, 81));
            world.cluster.write("late.yaml", &record("calilate")).unwrap();
        }
        // The kernel removes a namespace's interfaces some time after the namespace: by hand, it is
        // now.
        let name = if life == 1 { "caliother" } else { "calilate" };
        host.ip(&format!("link del {name}")).unwrap();
        drop(late);
    }
}

/// A writer that pauses in the middle of a file, longer than anybody would call a pause, and an
/// agent that starts meanwhile: what is not written yet does not count as deleted.
#[test]
fn a_file_that_is_still_open_for_writing_takes_nothing_out_of_force() {
    let mut world = world("lc-open");
    if !world.cluster.reads_files() {
        // A stream has whole records.
        return;
    }
    let to = world.server.addresses[0];
    let allow = allow(80).replace("[80]", "[80, 81]");
    let deny = policy(
        "default",
        "deny",
        "  order: 1\n  selector: app == 'server'\n  types: [Ingress]\n  ingress:\n    - {action: Deny, protocol: TCP, destination: {ports: [81]}}\n    - {action: Pass}",
    );
    world
        .cluster
        .write("policy.yaml", &format!("{allow}---\n{deny}"))
        .unwrap();
    world
        .cluster
        .eventually("81 is denied, 80 is not", || {
            Ok(world.reaches(to, 80) && !world.reaches(to, 81))
        })
        .unwrap();
    let path = world.cluster.records().join("policy.yaml");
    let mut slow = std::fs::File::create(&path).unwrap();
    slow.write_all(format!("{allow}---\n").as_bytes()).unwrap();
    for _ in 0..13 {
        std::thread::sleep(Duration::from_secs(1));
        let log = || world.cluster.agent().unwrap().log_text();
        assert!(
            !world.reaches(to, 81),
            "the document that denies it is not written yet: {}",
            log()
        );
    }
    let told = |world: &World| {
        let status = world.cluster.felid(&["status"]).unwrap();
        String::from_utf8_lossy(&status.stdout).contains("for writing")
    };
    world.cluster.eventually("status says it", || Ok(told(&world))).unwrap();
    world.cluster.kill();
    world.cluster.start().unwrap();
    assert!(world.reaches(to, 80) && !world.reaches(to, 81), "after a restart");
    slow.write_all(deny.replace("[81]", "[82]").as_bytes()).unwrap();
    drop(slow);
    world
        .cluster
        .eventually("the whole file is in force", || Ok(world.reaches(to, 81)))
        .unwrap();
}
