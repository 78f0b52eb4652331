//! What an administrator sees of external addresses: `felid nat`, `felid flows`, routes, conflicts,
//! restarts, edits.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use felid_lab::records::Endpoint;
use felid_tests::{Cluster, Namespace, Workload, sockets};
use serde_json::Value;

struct World {
    cluster: Cluster,
    web: Workload,
    mail: Workload,
    outside: Namespace,
}

/// A record with translations.
fn record(pod: &str, workload: &Workload, nats: &[(&str, &str)]) -> String {
    let nats: Vec<String> = nats
        .iter()
        .map(|(external, internal)| format!("{{internalIP: '{internal}', externalIP: '{external}'}}"))
        .collect();
    format!(
        "{}  ipNATs: [{}]\n",
        Endpoint::of(pod, workload).yaml(),
        nats.join(", ")
    )
}

fn world(prefix: &str) -> World {
    let (cluster, outside) = Cluster::with_uplink(prefix, None).unwrap();
    let web = cluster.host.workload("caliweb", &["10.65.0.2", "fd00:65::2"]).unwrap();
    let mail = cluster.host.workload("calimail", &["10.65.0.3", "fd00:65::3"]).unwrap();
    for workload in [&web, &mail] {
        sockets::serve_tcp(&workload.namespace, 80).unwrap();
    }
    World {
        cluster,
        web,
        mail,
        outside,
    }
}

const EXTERNAL: [&str; 2] = ["203.0.113.10", "2001:db8:f::10"];

/// State by external address and endpoint.
fn states(cluster: &Cluster) -> BTreeMap<String, String> {
    let nats = cluster.felid_json(&["nat", "-o", "json"]).unwrap();
    let text = |nat: &Value, name: &str| nat[name].as_str().unwrap().to_owned();
    let of = |nat: &Value| {
        (
            format!("{} {}", text(nat, "external"), text(nat, "interface")),
            text(nat, "state"),
        )
    };
    nats.as_array().unwrap().iter().map(of).collect()
}

fn until(world: &World, expected: &[(&str, &str)]) {
    let expected = expected
        .iter()
        .map(|(nat, state)| ((*nat).to_owned(), (*state).to_owned()));
    let expected: BTreeMap<String, String> = expected.collect();
    world
        .cluster
        .eventually(&format!("{expected:?}"), || Ok(states(&world.cluster) == expected))
        .unwrap();
}

fn connects(world: &World, to: &str) -> bool {
    let to = std::net::SocketAddr::new(to.parse().unwrap(), 80);
    let patience = std::time::Duration::from_secs(2);
    let connect = || std::net::TcpStream::connect_timeout(&to, patience).is_ok();
    world.outside.run(connect).unwrap()
}

#[test]
fn an_administrator_follows_an_external_address() {
    let mut world = world("lna");
    let [v4, v6] = EXTERNAL;
    let web = record("web", &world.web, &[(v4, "10.65.0.2"), (v6, "fd00:65::2")]);
    world.cluster.write("web.yaml", &web).unwrap();
    world
        .cluster
        .write("mail.yaml", &record("mail", &world.mail, &[]))
        .unwrap();
    world.cluster.start().unwrap();
    let both = [
        ("203.0.113.10 caliweb", "in force"),
        ("2001:db8:f::10 caliweb", "in force"),
    ];
    until(&world, &both);
    for address in EXTERNAL {
        assert!(connects(&world, address), "{address}");
    }
    let nats = world.cluster.felid_json(&["nat", v4, "-o", "json"]).unwrap();
    assert_eq!((&nats[0]["flowsTotal"], &nats[0]["flows"]), (&1.into(), &1.into()));
    let flows = world
        .cluster
        .felid_json(&["flows", "--address", v4, "-o", "json"])
        .unwrap();
    assert_eq!(flows["flows"][0]["destination"]["address"], "10.65.0.2");
    assert_eq!(flows["flows"][0]["destination"]["shownAs"], v4);
    let metrics = world.cluster.metrics().unwrap();
    assert_eq!(metrics.get("felid_nat_mappings{state=\"in_force\"}"), Some(&2.0));
    assert_eq!(metrics.get("felid_nat_flows_total"), Some(&2.0));

    // A restart keeps them, and what was counted.
    world.cluster.kill();
    assert!(connects(&world, v4), "without an agent");
    world.cluster.start().unwrap();
    until(&world, &both);
    let nats = world.cluster.felid_json(&["nat", v4, "-o", "json"]).unwrap();
    assert_eq!(nats[0]["flowsTotal"], 2);

    // Another endpoint claims one of them: 10.65.0.2 comes first. When it gives it up, the other
    // one has it.
    let mail = record("mail", &world.mail, &[(v4, "10.65.0.3")]);
    world.cluster.write("mail.yaml", &mail).unwrap();
    let contested = [both[0], both[1], ("203.0.113.10 calimail", "conflict")];
    until(&world, &contested);
    world
        .cluster
        .write("web.yaml", &record("web", &world.web, &[(v6, "fd00:65::2")]))
        .unwrap();
    until(&world, &[both[1], ("203.0.113.10 calimail", "in force")]);
    assert!(connects(&world, v4));
    let route = world.cluster.host.namespace().ip(&format!("route get {v4}")).unwrap();
    assert!(route.contains("via 10.65.0.3 dev calimail"), "{route}");

    // Switched off by a record, and everything is gone.
    let off = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {floatingIPs: Disabled}\n";
    world.cluster.write("felix.yaml", off).unwrap();
    until(
        &world,
        &[
            ("2001:db8:f::10 caliweb", "disabled"),
            ("203.0.113.10 calimail", "disabled"),
        ],
    );
    assert!(!connects(&world, v4));
    let metrics = world.cluster.metrics().unwrap();
    assert_eq!(
        metrics.get("felid_nat_flows_total"),
        Some(&4.0),
        "three to the first, one to the second, and none is forgotten when they end"
    );
    let host = world.cluster.host.namespace();
    for family in ["-4", "-6"] {
        let routes = host.ip(&format!("{family} route show proto 3")).unwrap();
        assert!(!routes.contains("onlink"), "{routes}");
    }
    world.cluster.remove("felix.yaml").unwrap();
    until(&world, &[both[1], ("203.0.113.10 calimail", "in force")]);
    assert!(connects(&world, v4));
    world.cluster.stop().unwrap();
    assert!(world.cluster.felid(&["cleanup"]).unwrap().status.success());
    let left = world.cluster.host.namespace().ip("route show proto 3").unwrap();
    assert_eq!(left, "");
}
