//! `felid explain` by what a running agent has in force, beside what the kernel says.

use std::process::Command;

use anyhow::{Context as _, Result};
use felid_tests::{Cluster, felid};
use serde_json::Value;

const RECORDS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: x}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: node1-k8s-a-eth0, namespace: x, labels: {a: a}}
spec: {node: node1, orchestrator: k8s, pod: a, endpoint: eth0, interfaceName: calia, ipNetworks: [10.0.0.1/32], profiles: [kns.x]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: node1-k8s-b-eth0, namespace: x, labels: {b: b}}
spec: {node: node1, orchestrator: k8s, pod: b, endpoint: eth0, interfaceName: calib, ipNetworks: [10.0.0.2/32], profiles: [kns.x]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: b, namespace: x}
spec: {selector: has(b), ingress: [{action: Deny, source: {nets: [10.9.0.0/16]}}, {action: Allow, source: {selector: has(a)}}]}
";

#[test]
fn by_the_running_agent() -> Result<()> {
    let mut cluster = Cluster::new("felid-exp")?;
    cluster.write("records.yaml", RECORDS)?;
    cluster.start()?;
    let run_dir = cluster.host.directory().join("run");
    let ask = |from: &str| -> Result<Value> {
        let arguments = [
            "explain",
            "--from",
            from,
            "--to",
            "x/b",
            "--port",
            "80",
            "-o",
            "json",
            "--run-dir",
        ];
        let output = Command::new(felid()?)
            .args(arguments)
            .arg(&run_dir)
            .output()
            .context("run felid")?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let report = ask("x/a")?;
    assert_eq!(report["records"], "the agent on node1");
    assert_eq!(report["decidedBy"], "NetworkPolicy/x/b rule 1");
    assert_eq!(report["compiled"]["allowed"], true, "{report:#}");
    assert_eq!(
        report.pointer("/sides/1/tiers/0/policies/0/rules/0/field"),
        Some(&Value::from("source.nets"))
    );
    let report = ask("10.9.0.1")?;
    assert_eq!(report["decidedBy"], "NetworkPolicy/x/b rule 0");
    assert_eq!(report["compiled"]["allowed"], false, "{report:#}");
    Ok(())
}
