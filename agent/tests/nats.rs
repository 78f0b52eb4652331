//! Translations in the pipeline: when they come and go, what settings and other records do to them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::net::IpAddr;

use common::fake::{Running, start};
use common::records::updates;
use felid_datastore::Update;
use felid_model::{Kind, ResourceKey};

/// An endpoint of node1 with an address and external addresses.
fn endpoint(name: &str, address: &str, external: &[&str]) -> String {
    let nats: Vec<String> = external
        .iter()
        .map(|external| format!("{{internalIP: {address}, externalIP: {external}}}"))
        .collect();
    format!(
        "apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {{name: node1-k8s-{name}-eth0, namespace: shop}}
spec:
  orchestrator: k8s
  node: node1
  pod: {name}
  endpoint: eth0
  ipNetworks: [{address}/32]
  interfaceName: cali{name}
  ipNATs: [{}]
",
        nats.join(", ")
    )
}

fn key(name: &str) -> ResourceKey {
    ResourceKey {
        kind: Kind::WorkloadEndpoint,
        namespace: Some("shop".into()),
        name: format!("node1-k8s-{name}-eth0").as_str().into(),
    }
}

/// What is in force as `external=internal`.
fn in_force(agent: &Running) -> Vec<String> {
    let kernel = agent.kernel();
    let nats = kernel.nats.iter();
    nats.map(|(external, mapping)| format!("{external}={}", mapping.internal))
        .collect()
}

fn until(agent: &Running, expected: &[&str]) {
    agent.until(&format!("{expected:?}"), |agent| in_force(agent) == expected);
}

#[test]
fn translations_follow_records() {
    let agent = start(&[]);
    agent.send_all(&endpoint("a", "10.0.0.1", &["192.0.2.10"]));
    until(&agent, &["192.0.2.10=10.0.0.1"]);
    assert_eq!(agent.kernel().completed, 1, "not before its endpoint is complete");
    agent.send(updates(&endpoint("a", "10.0.0.1", &["192.0.2.11", "192.0.2.10"])));
    until(&agent, &["192.0.2.10=10.0.0.1", "192.0.2.11=10.0.0.1"]);
    agent.send(vec![Update::Delete(key("a"))]);
    until(&agent, &[]);
}

#[test]
fn what_changes_hands_ends_before_the_switch() {
    let agent = start(&[]);
    agent.send_all(&endpoint("a", "10.0.0.1", &["192.0.2.10"]));
    until(&agent, &["192.0.2.10=10.0.0.1"]);
    agent.kernel().hold = true;
    let mut change = vec![Update::Delete(key("a"))];
    change.extend(updates(&endpoint("b", "10.0.0.2", &["192.0.2.10"])));
    agent.send(change);
    agent.until("switched", |agent| agent.kernel().applied.len() == 2);
    assert_eq!(
        in_force(&agent),
        Vec::<String>::new(),
        "gone with the switch; new ones come when it is complete"
    );
    agent.kernel().hold = false;
    until(&agent, &["192.0.2.10=10.0.0.2"]);
    let agent_history = agent.kernel().nat_history.clone();
    assert!(
        agent_history
            .iter()
            .any(|(call, now)| *call == "retire" && now.is_empty())
    );
}

#[test]
fn what_a_refused_switch_ended_comes_back() {
    let agent = start(&[]);
    agent.send_all(&endpoint("a", "10.0.0.1", &["192.0.2.10"]));
    until(&agent, &["192.0.2.10=10.0.0.1"]);
    agent.kernel().refuse.push_back(("no room".to_owned(), false));
    agent.send(vec![Update::Delete(key("a"))]);
    agent.until("ended and there again", |agent| {
        let history = agent.kernel().nat_history.clone();
        let ended = history
            .iter()
            .rposition(|(call, now)| *call == "retire" && now.is_empty());
        ended.is_some_and(|ended| {
            history
                .iter()
                .skip(ended)
                .any(|(call, now)| *call == "set" && now.len() == 1)
        })
    });
}

#[test]
fn a_policy_that_changes_ends_nothing() {
    let agent = start(&[]);
    agent.send_all(&endpoint("a", "10.0.0.1", &["192.0.2.10"]));
    until(&agent, &["192.0.2.10=10.0.0.1"]);
    agent.send(updates(
        "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: deny}
spec: {selector: all(), types: [Ingress]}
",
    ));
    agent.until("complete", |agent| agent.kernel().completed == 2);
    agent.until("looked again", |agent| {
        agent
            .kernel()
            .nat_history
            .last()
            .is_some_and(|(call, _)| *call == "set")
    });
    let history = agent.kernel().nat_history.clone();
    let first = history.iter().position(|(_, now)| !now.is_empty()).unwrap();
    assert!(history.iter().skip(first).all(|(_, now)| now.len() == 1), "{history:?}");
}

#[test]
fn felix_configuration_switches_them_off_and_on() {
    let agent = start(&[]);
    agent.send_all(&endpoint("a", "10.0.0.1", &["192.0.2.10"]));
    until(&agent, &["192.0.2.10=10.0.0.1"]);
    let felix = |value: &str| {
        updates(&format!(
            "apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {{name: default}}
spec: {{floatingIPs: {value}}}
"
        ))
    };
    agent.send(felix("Disabled"));
    until(&agent, &[]);
    agent.send(felix("Enabled"));
    until(&agent, &["192.0.2.10=10.0.0.1"]);
    // What was said to the agent itself comes first.
    let agent = start(&[("floating-ips", "Disabled")]);
    let mut all = updates(&endpoint("a", "10.0.0.1", &["192.0.2.10"]));
    all.extend(felix("Enabled"));
    all.push(Update::InSync);
    agent.send(all);
    agent.until("complete", |agent| agent.kernel().completed == 1);
    agent.until("decided", |agent| !agent.kernel().nat_history.is_empty());
    assert_eq!(in_force(&agent), Vec::<String>::new());
}

#[test]
fn pools_are_the_cluster() {
    let pool = |name: &str, cidr: &str| {
        updates(&format!(
            "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {{name: {name}}}
spec: {{cidr: {cidr}, disabled: true}}
"
        ))
    };
    let agent = start(&[
        ("ip-nat-outbound", "External"),
        ("ip-nat-cluster-cidrs", "172.16.0.0/12"),
    ]);
    agent.send_all(&endpoint("a", "10.0.0.1", &["192.0.2.10"]));
    let until = |agent: &Running, expected: &[&str]| {
        let expected: BTreeSet<_> = expected.iter().map(|net| net.parse().unwrap()).collect();
        agent.until("networks", |agent| agent.kernel().cluster == expected);
    };
    until(&agent, &["172.16.0.0/12"]);
    assert!(agent.kernel().settings.last().unwrap().nat_outbound);
    agent.send(pool("a", "10.0.0.0/16"));
    until(&agent, &["172.16.0.0/12", "10.0.0.0/16"]);
    agent.send(pool("a", "10.1.0.0/16"));
    until(&agent, &["172.16.0.0/12", "10.1.0.0/16"]);
    agent.send(vec![Update::Delete(ResourceKey {
        kind: Kind::IpPool,
        namespace: None,
        name: "a".into(),
    })]);
    until(&agent, &["172.16.0.0/12"]);
}

#[test]
fn the_hosts_own_addresses_and_a_full_table_are_conflicts() {
    let agent = start(&[]);
    // The pretended host's own address.
    agent.kernel().no_room.insert("192.0.2.12".parse::<IpAddr>().unwrap());
    agent.send_all(&endpoint("a", "10.0.0.1", &["192.0.2.1", "192.0.2.11", "192.0.2.12"]));
    until(&agent, &["192.0.2.11=10.0.0.1"]);
}

#[test]
fn what_cannot_be_done_to_the_hosts_network_is_tried_again() {
    let agent = start(&[("retry-interval", "20ms")]);
    let refreshed = agent.kernel().refreshed;
    agent.kernel().nat_troubles = vec!["list addresses: interrupted".to_owned()];
    agent.send_all(&endpoint("a", "10.0.0.1", &["192.0.2.11"]));
    until(&agent, &["192.0.2.11=10.0.0.1"]);
    agent.until("looked at again", |agent| agent.kernel().refreshed > refreshed);
    agent.until("no longer", |agent| agent.status().failures.is_empty());
    assert!(agent.sample().contains("felid_failures_total{what=\"network\"} 1"));
}
