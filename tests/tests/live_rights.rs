//! What the agent may do: it keeps the capabilities that it needs, and works with these alone.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use felid_lab::Workload;
use felid_lab::records::{Endpoint, policy};
use felid_tests::{Cluster, sockets};

/// What the kernel asks for, and what makes everything work; see docs/rights.md.
const NEEDED: [(&str, u64); 3] = [("net_admin", 12), ("perfmon", 38), ("bpf", 39)];
const USEFUL: [(&str, u64); 3] = [("dac_read_search", 2), ("sys_admin", 21), ("lease", 28)];

fn mask<'a>(capabilities: impl IntoIterator<Item = &'a (&'a str, u64)>) -> String {
    let bits = capabilities
        .into_iter()
        .fold(0_u64, |bits, (_, number)| bits | 1 << number);
    format!("{bits:016x}")
}

/// A program that runs the agent with these words before it.
fn wrapped(cluster: &Cluster, before: &str) -> PathBuf {
    let script = cluster.host.directory().join("start");
    let felid = felid_tests::felid().unwrap().display();
    std::fs::write(&script, format!("#!/bin/sh\numask 000\n{before} {felid} \"$@\"\n")).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// With these capabilities and no others.
fn limited<'a>(capabilities: impl IntoIterator<Item = &'a (&'a str, u64)>) -> String {
    let names: Vec<String> = capabilities.into_iter().map(|(name, _)| format!("+{name}")).collect();
    format!("exec setpriv --bounding-set -all,{}", names.join(","))
}

fn allow(port: u16) -> String {
    let spec = format!(
        "  selector: all()\n  types: [Ingress]\n  ingress:\n    - {{action: Allow, protocol: TCP, destination: {{ports: [{port}]}}}}"
    );
    policy("default", "ports", &spec)
}

fn add(cluster: &Cluster, name: &str, address: &str) -> Workload {
    let workload = cluster.host.workload(&format!("cali{name}"), &[address]).unwrap();
    let record = Endpoint::of(name, &workload).yaml();
    cluster.write(&format!("{name}.yaml"), &record).unwrap();
    workload
}

/// The values of a field of the status of all threads of the agent.
fn status(cluster: &Cluster, field: &str) -> BTreeSet<String> {
    let pid = std::fs::read_to_string(cluster.host.directory().join("run/felid.lock")).unwrap();
    let threads = std::fs::read_dir(format!("/proc/{}/task", pid.trim())).unwrap();
    let values = threads.flatten().filter_map(|thread| {
        // It may have ended.
        let text = std::fs::read_to_string(thread.path().join("status")).ok()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Some(line?.trim().to_owned())
    });
    values.collect()
}

fn one(value: &str) -> BTreeSet<String> {
    BTreeSet::from([value.to_owned()])
}

/// Policy, a change of it, new interfaces, a death and a stop, one after the other.
fn everything_works(cluster: &mut Cluster) {
    let server = add(cluster, "server", "10.65.0.2");
    let client = add(cluster, "client", "10.65.0.3");
    cluster.write("policy.yaml", &allow(80)).unwrap();
    cluster.start().unwrap();
    for port in [80, 81] {
        sockets::serve_tcp(&server.namespace, port).unwrap();
    }
    let reaches = |to: IpAddr, port| sockets::tcp(&client.namespace, to, port).unwrap();
    let to = server.addresses[0];
    assert!(reaches(to, 80) && !reaches(to, 81));
    cluster.kill();
    assert!(reaches(to, 80) && !reaches(to, 81), "while it is dead");
    cluster.write("policy.yaml", &allow(81)).unwrap();
    cluster.start().unwrap();
    cluster
        .eventually("the change is in force", || Ok(reaches(to, 81)))
        .unwrap();
    assert!(!reaches(to, 80));
    let late: Vec<Workload> = (10..20)
        .map(|n| add(cluster, &format!("late{n}"), &format!("10.65.0.{n}")))
        .collect();
    cluster
        .eventually("new interfaces are judged", || {
            let status = cluster.felid_json(&["status", "-o", "json"])?;
            Ok(status["counts"]["enforcing"] == late.len() + 2)
        })
        .unwrap();
    let status = cluster.felid_json(&["status", "-o", "json"]).unwrap();
    assert_eq!(status["failures"], serde_json::json!([]));
    sockets::serve_tcp(&late[0].namespace, 81).unwrap();
    assert!(reaches(late[0].addresses[0], 81) && !reaches(late[0].addresses[0], 80));
}

#[test]
fn the_agent_keeps_what_it_needs_and_its_files_are_its_own() {
    let mut cluster = Cluster::new("lr-keep").unwrap();
    cluster.program = Some(wrapped(&cluster, "exec"));
    everything_works(&mut cluster);
    let kept = mask(NEEDED.iter().chain(&USEFUL));
    for field in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(status(&cluster, field), one(&kept), "{field} of all threads");
    }
    for field in ["CapInh", "CapAmb"] {
        assert_eq!(status(&cluster, field), one(&mask([])), "{field}");
    }
    assert_eq!(status(&cluster, "NoNewPrivs"), one("1"));
    assert_eq!(status(&cluster, "Seccomp"), one("2"));
    let open: Vec<String> = ["run", "state"]
        .iter()
        .flat_map(|name| open_to_others(&cluster.host.directory().join(name)))
        .collect();
    assert_eq!(open, Vec::<String>::new(), "whatever the umask");
    cluster.stop().unwrap();
    let output = cluster.felid(&["cleanup"]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Files below a directory that others may read or write.
fn open_to_others(directory: &Path) -> Vec<String> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            open.extend(open_to_others(&path));
        }
        if metadata.mode() & 0o077 != 0 {
            open.push(format!("{} {:o}", path.display(), metadata.mode()));
        }
    }
    open
}

#[test]
fn these_capabilities_are_enough() {
    let mut cluster = Cluster::new("lr-all").unwrap();
    cluster.program = Some(wrapped(&cluster, &limited(NEEDED.iter().chain(&USEFUL))));
    everything_works(&mut cluster);
    let status = cluster.felid_json(&["status", "-o", "json"]).unwrap();
    assert_eq!(status["notices"], serde_json::json!([]));
}

#[test]
fn what_the_kernel_asks_for_is_enough_to_enforce() {
    let mut cluster = Cluster::new("lr-few").unwrap();
    cluster.program = Some(wrapped(&cluster, &limited(&NEEDED)));
    everything_works(&mut cluster);
    let status = cluster.felid_json(&["status", "-o", "json"]).unwrap();
    let notices = status["notices"].to_string();
    assert!(notices.contains("runs without CAP_SYS_ADMIN"), "{notices}");
}

#[test]
fn a_capability_that_is_missing_is_said_in_one_sentence() {
    for missing in NEEDED {
        let cluster = Cluster::new("lr-less").unwrap();
        let others = NEEDED.iter().filter(|capability| **capability != missing);
        let program = wrapped(&cluster, &limited(others));
        let home = cluster.host.directory();
        let directory = |name: &str| home.join(name).display().to_string();
        let output = cluster
            .host
            .namespace()
            .run(|| {
                let mut command = std::process::Command::new(program);
                command.args(["run", "--node", "node1", "--log-format", "json", "--datastore"]);
                command.arg(format!("dir:{}", cluster.records().display()));
                command.args(["--run-dir", &directory("run"), "--state-dir", &directory("state")]);
                command.arg("--bpffs").arg(cluster.host.bpffs());
                command.env_remove("FELID_BIN").env_remove("FELID_LIVE_DATASTORE");
                command.output().unwrap()
            })
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let name = format!("the process lacks CAP_{} (", missing.0.to_uppercase());
        assert!(text.contains(&name), "{text}");
    }
}

#[test]
fn sysctls_that_are_read_only_are_said_once() {
    let mut cluster = Cluster::new("lr-sys").unwrap();
    let read_only = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec \"$@\"";
    cluster.program = Some(wrapped(
        &cluster,
        &format!("exec unshare --mount sh -c '{read_only}' -"),
    ));
    let _server = add(&cluster, "server", "10.65.0.2");
    cluster.start().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let status = cluster.felid_json(&["status", "-o", "json"]).unwrap();
    let failures: Vec<&str> = status["failures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["reason"].as_str().unwrap())
        .collect();
    let told = failures
        .iter()
        .filter(|reason| reason.contains("/proc/sys is read-only here: mount the host's"))
        .count();
    assert_eq!(told, failures.len(), "{failures:#?}");
    assert!(
        (1..=2).contains(&told),
        "one of the host, one of the interface: {failures:#?}"
    );
}
