//! Records by a pipe: the shop of the demonstration, what changes in it, and the end of the pipe.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use felid_tests::{Host, Workload, WorkloadSpec, felid, sockets};
use serde_json::Value;

/// Name, interface, addresses, last byte of the MAC address and served port, as the shop's records
/// have them.
const WORKLOADS: [(&str, &str, [&str; 2], u8, u16); 3] = [
    ("frontend", "cali1f52436dff8", ["10.65.0.10", "fd00:65::10"], 0x10, 80),
    ("api", "cali50d8cbfc60a", ["10.65.0.20", "fd00:65::20"], 0x20, 8080),
    ("database", "caliae50f695c87", ["10.65.0.30", "fd00:65::30"], 0x30, 5432),
];

struct Shop {
    host: Host,
    workloads: Vec<Workload>,
    agent: Child,
}

impl Shop {
    /// A host with three workloads, and an agent that reads its standard input.
    fn new(prefix: &str) -> Self {
        let host = Host::new(prefix).unwrap();
        let workload = |(_, interface, addresses, mac, port): &(&str, &str, [&str; 2], u8, u16)| {
            let spec = WorkloadSpec {
                interface,
                addresses,
                mac: Some([0x02, 0x65, 0, 0, 0, *mac]),
                ..WorkloadSpec::default()
            };
            let workload = host.create(&spec).unwrap();
            sockets::serve_tcp(&workload.namespace, *port).unwrap();
            workload
        };
        let workloads = WORKLOADS.iter().map(workload).collect();
        let log = std::fs::File::create(host.directory().join("agent.log")).unwrap();
        let path = |name: &str| host.directory().join(name);
        let (state, run) = (path("state"), path("run"));
        let agent = host.namespace().start(&felid().unwrap().to_string_lossy(), |command| {
            command
                .args(["run", "--node", "node1", "--datastore", "stream:-", "--state-dir"])
                .arg(state)
                .arg("--run-dir")
                .arg(run)
                .arg("--bpffs")
                .arg(host.bpffs())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(log);
        });
        let agent = agent.unwrap();
        Self { host, workloads, agent }
    }

    fn say(&mut self, lines: &str) {
        self.agent.stdin.as_mut().unwrap().write_all(lines.as_bytes()).unwrap();
    }

    fn status(&self) -> Option<Value> {
        let output = Command::new(felid().unwrap())
            .args(["status", "-o", "json", "--run-dir"])
            .arg(self.host.directory().join("run"))
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match self.status() {
                Some(status) if holds(&status) => return status,
                status => {
                    let log = std::fs::read_to_string(self.host.directory().join("agent.log")).unwrap();
                    assert!(Instant::now() < end, "never: {what}: {status:?}\n{log}");
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Who reaches whom, by both families.
    fn reached(&self) -> Vec<(&'static str, &'static str)> {
        let mut reached = Vec::new();
        for (from, workload) in WORKLOADS.iter().zip(&self.workloads) {
            for to in WORKLOADS.iter().filter(|to| to.0 != from.0) {
                let connects = |address: &&&str| {
                    let address: IpAddr = address.parse().unwrap();
                    sockets::tcp(&workload.namespace, address, to.4).unwrap()
                };
                let count = to.2.iter().filter(connects).count();
                assert_ne!(count, 1, "{} -> {}: one family only", from.0, to.0);
                if count == 2 {
                    reached.push((from.0, to.0));
                }
            }
        }
        reached
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

/// The records below a path as lines of a stream, as the documentation says how to make them.
fn lines(path: &str) -> String {
    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let output = Command::new("sh")
        .arg("-c")
        .arg("\"$0\" convert -f \"$1\" -o json | sed 's/^{\"resources\":/{\"apply\":/'")
        .arg(felid().unwrap())
        .arg(examples.join(path))
        .output()
        .unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(
        lines.lines().count() > 0 && lines.lines().all(|line| line.starts_with("{\"apply\":")),
        "{lines}"
    );
    lines
}

#[test]
fn the_shop_runs_from_a_pipe() {
    let mut shop = Shop::new("ft-stream");
    shop.say(&lines("shop"));
    shop.until("a resync", |status| status["resync"]["state"] == "resync");
    assert_eq!(shop.status().unwrap()["inSync"], false);
    shop.say("{\"inSync\": true}\n");
    let status = shop.until("in sync and enforced", |status| status["counts"]["enforcing"] == 3);
    assert_eq!(status["resync"]["state"], "in-sync");
    assert_eq!(status["datastore"], "stream:-");
    let before = vec![("frontend", "api"), ("api", "frontend"), ("api", "database")];
    assert_eq!(shop.reached(), before);

    // A bad line changes nothing and is told with its object.
    let bad = lines("shop-edits/api.yaml").replace("\"action\":\"Allow\"", "\"action\":\"Alow\"");
    shop.say(&bad);
    let status = shop.until("a problem", |status| {
        status["problems"].as_array().is_some_and(|list| !list.is_empty())
    });
    let problem = &status["problems"][0];
    assert_eq!(problem["object"], "NetworkPolicy/shop/api", "{problem}");
    assert_eq!(problem["file"], Value::Null);
    assert_eq!(shop.reached(), before);

    shop.say(&lines("shop-edits/api.yaml"));
    shop.until("well again", |status| {
        status["problems"].as_array().is_some_and(Vec::is_empty)
    });
    shop.until("enforced", |status| {
        status["lastProgramming"]["total"].as_u64() >= Some(2)
    });
    let after = vec![("api", "frontend"), ("api", "database")];
    assert_eq!(shop.reached(), after);

    // The end of the pipe takes nothing away, and is told.
    drop(shop.agent.stdin.take());
    let status = shop.until("lost", |status| status["resync"]["state"] == "wait-for-datastore");
    assert!(
        status["resync"]["reason"]
            .as_str()
            .unwrap()
            .contains("end of the input"),
        "{status}"
    );
    assert_eq!(status["ready"], true, "{status}");
    assert_eq!(shop.reached(), after);
}
