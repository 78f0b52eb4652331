//! Endpoint names against the reference cases; kinds and protocols by name.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use felid_model::names::{self, Identifiers};
use felid_model::{Kind, Protocol, ResourceKey};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn identifiers(case: &Value) -> Identifiers {
    let text = |key: &str| case[key].as_str().unwrap_or_default().to_owned();
    Identifiers {
        node: text("node"),
        orchestrator: text("orchestrator"),
        endpoint: text("endpoint"),
        workload: text("workload"),
        pod: text("pod"),
        container_id: text("containerID"),
    }
}

fn as_json(ids: &Identifiers) -> Value {
    let fields = [
        ("node", &ids.node),
        ("orchestrator", &ids.orchestrator),
        ("endpoint", &ids.endpoint),
        ("workload", &ids.workload),
        ("pod", &ids.pod),
        ("containerID", &ids.container_id),
    ];
    let given = fields.into_iter().filter(|(_, value)| !value.is_empty());
    Value::Object(
        given
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .collect::<Map<_, _>>(),
    )
}

#[test]
fn reference_cases() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/cases/wep_names.json");
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut checked = 0;
    for case in &cases {
        let name = case["name"].as_str().unwrap_or_default();
        match case["op"].as_str().unwrap() {
            "build" => match identifiers(case).name(case["allowPrefix"] == true) {
                Ok(built) => assert_eq!(json!(built), case["name"], "{case}"),
                Err(error) => assert_eq!(json!(error.field), case["erroredField"], "{case}"),
            },
            "match" => match identifiers(case).matches(name) {
                Ok(matches) => assert_eq!(json!(matches), case["match"], "{case}"),
                Err(error) => assert_eq!(json!(error.field), case["erroredField"], "{case}"),
            },
            "parse" => match Identifiers::parse(name) {
                Ok(ids) => assert_eq!(as_json(&ids), case["ids"], "{case}"),
                Err(_) => assert_eq!(case["error"], true, "{case}"),
            },
            "veth" => {
                let prefix = case["interfacePrefixes"][0]
                    .as_str()
                    .unwrap_or(names::DEFAULT_INTERFACE_PREFIX);
                let (namespace, pod) = (case["namespace"].as_str().unwrap(), case["pod"].as_str().unwrap());
                assert_eq!(names::host_interface(prefix, namespace, pod), name, "{case}");
            }
            other => panic!("unknown operation {other}"),
        }
        checked += 1;
    }
    assert!(checked >= 20, "{checked}");
}

proptest! {
    #[test]
    fn names_parse_back(node in "[a-z.]{1,5}(-{1,3}[a-z]{1,3}){0,2}", orchestrator in "k8s|cni|libnetwork|a-b|no-mad",
                        x in "[a-z/]{1,5}(-{1,3}[a-z]{1,3}){0,2}", endpoint in "[a-z0-9]{1,5}(-[a-z]{1,3}){0,2}") {
        let mut ids = Identifiers { node, orchestrator, endpoint, ..Identifiers::default() };
        match ids.orchestrator.as_str() {
            "k8s" => ids.pod = x,
            "cni" => ids.container_id = x,
            "libnetwork" => {}
            _ => ids.workload = x,
        }
        let name = ids.name(false).unwrap();
        prop_assert_eq!(ids.matches(&name), Ok(true));
        prop_assert_eq!(Identifiers::parse(&name).unwrap(), ids.clone());
        let prefix = Identifiers { endpoint: String::new(), ..ids };
        prop_assert!(name.starts_with(&prefix.name(true).unwrap()));
        prop_assert_eq!(prefix.matches(&name), Ok(true));
    }

    #[test]
    fn arbitrary_names_never_panic(name in ".{0,30}") {
        let _ = Identifiers::parse(&name);
        let _ = Identifiers { node: "n".into(), ..Identifiers::default() }.matches(&name);
    }
}

#[test]
fn names_are_built_in_the_order_of_their_parts() {
    let build = |allow_prefix: bool, [node, orchestrator, x, endpoint]: [&str; 4]| {
        let ids = Identifiers {
            node: node.into(),
            orchestrator: orchestrator.into(),
            pod: x.into(),
            workload: x.into(),
            container_id: x.into(),
            endpoint: endpoint.into(),
        };
        ids.name(allow_prefix).map_err(|error| error.field)
    };
    for (parts, whole, prefix) in [
        (["n", "k8s", "p", "e"], Ok("n-k8s-p-e"), Ok("n-k8s-p-e")),
        (["n", "", "p", "e"], Err("orchestrator"), Ok("n-")),
        (["n", "k8s", "", "e"], Err("pod"), Ok("n-k8s-")),
        (["n", "cni", "", "e"], Err("containerID"), Ok("n-cni-")),
        (["n", "x", "", "-"], Err("workload"), Ok("n-x-")),
        (["n", "k8s", "p", ""], Err("endpoint"), Ok("n-k8s-p-")),
        (
            ["n", "libnetwork", "", ""],
            Err("endpoint"),
            Ok("n-libnetwork-libnetwork-"),
        ),
        (["", "", "-", "-"], Err("node"), Err("node")),
        (["n-", "", "", ""], Err("node"), Err("node")),
        (["n", "-", "", ""], Err("orchestrator"), Err("orchestrator")),
        (["n", "cni", "-c", ""], Err("containerID"), Err("containerID")),
        (["n", "k8s", "p-", ""], Err("pod"), Err("pod")),
        (["n", "x", "w", "e-"], Err("endpoint"), Err("endpoint")),
        (
            ["N o", "K8S", "a/b é", "e\t"],
            Ok("N o-K8S-a/b é-e\t"),
            Ok("N o-K8S-a/b é-e\t"),
        ),
    ] {
        assert_eq!(build(false, parts), whole.map(str::to_owned), "{parts:?}");
        assert_eq!(build(true, parts), prefix.map(str::to_owned), "{parts:?}");
    }
}

#[test]
fn names_are_split_at_single_dashes() {
    let parts = |name: &str| as_json(&Identifiers::parse(name).unwrap());
    for (name, expected) in [
        ("a", json!({"node": "a"})),
        ("-", json!({"node": "-"})),
        ("-a", json!({"node": "-a"})),
        ("-a-b", json!({"node": "-a", "orchestrator": "b"})),
        ("----", json!({"node": "--"})),
        ("a-", json!({"node": "a"})),
        ("a--", json!({"node": "a-"})),
        ("a---", json!({"node": "a-"})),
        ("a---b", json!({"node": "a-", "orchestrator": "b"})),
        ("a----b", json!({"node": "a--b"})),
        ("é-k8s-p", json!({"node": "é", "orchestrator": "k8s", "pod": "p"})),
        (
            "n-k8s-p-e",
            json!({"node": "n", "orchestrator": "k8s", "pod": "p", "endpoint": "e"}),
        ),
        (
            "n-k8s--x-p",
            json!({"node": "n", "orchestrator": "k8s-x", "workload": "p"}),
        ),
        ("n-libnetwork", json!({"node": "n", "orchestrator": "libnetwork"})),
        ("n-libnetwork-", json!({"node": "n"})),
        (
            "n-libnetwork-libnetwork-e",
            json!({"node": "n", "orchestrator": "libnetwork", "endpoint": "e"}),
        ),
        ("n-x-w-", json!({"node": "n", "orchestrator": "x", "workload": "w"})),
    ] {
        assert_eq!(parts(name), expected, "{name}");
    }
    for name in ["", "a-b-c-d-e", "a-b-c-d-"] {
        assert!(Identifiers::parse(name).is_err(), "{name}");
    }
}

#[test]
fn matching_leaves_open_what_is_not_given() {
    let ids = |node: &str, orchestrator: &str, pod: &str, endpoint: &str| Identifiers {
        node: node.into(),
        orchestrator: orchestrator.into(),
        pod: pod.into(),
        endpoint: endpoint.into(),
        ..Identifiers::default()
    };
    for (ids, name, expected) in [
        (ids("n", "", "", ""), "n-x-w-e", Ok(true)),
        (ids("n", "", "p", ""), "n-k8s-q-e", Ok(true)),
        (ids("n", "k8s", "p", ""), "n-k8s-q-e", Ok(false)),
        (ids("n", "k8s", "p", ""), "n-k8s-p--1-e", Ok(false)),
        (ids("n", "k8s", "p-1", ""), "n-k8s-p--1-e", Ok(true)),
        (ids("n", "libnetwork", "", ""), "n-libnetwork-other-e", Ok(false)),
        (ids("n", "", "", ""), "n-k8s-p", Ok(false)),
        (ids("n", "", "", ""), "n-k8s-p-e-f", Ok(false)),
        (ids("n", "", "", ""), "", Ok(false)),
        (ids("m", "", "", ""), "n-k8s-p-e", Ok(false)),
        (ids("-", "", "", ""), "n-k8s-p-e", Ok(false)),
        (ids("", "k8s", "p", "e"), "n-k8s-p-e", Err("node")),
    ] {
        assert_eq!(
            ids.matches(name).map_err(|error| error.field),
            expected,
            "{ids:?} {name}"
        );
    }
}

#[test]
fn interfaces_of_pods() {
    assert_eq!(names::host_interface("cali", "default", "nginx"), "calic440f455693");
    assert_eq!(names::host_interface("tap", "default", "nginx"), "tapc440f455693");
    assert_eq!(names::host_interface("", "", "").len(), 11);
}

#[test]
fn kinds() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_name(kind.as_str()), Some(kind));
        assert_eq!(kind.to_string(), kind.as_str());
        for alias in [
            kind.as_str().to_owned(),
            kind.plural().to_owned(),
            kind.as_str().to_uppercase(),
        ] {
            assert_eq!(Kind::from_alias(&alias), Some(kind), "{alias}");
        }
    }
    for (alias, kind) in [
        ("wep", Kind::WorkloadEndpoint),
        ("WEPS", Kind::WorkloadEndpoint),
        ("np", Kind::NetworkPolicy),
        ("gnp", Kind::GlobalNetworkPolicy),
        ("netset", Kind::NetworkSet),
        ("gnetset", Kind::GlobalNetworkSet),
        ("felixConfig", Kind::FelixConfiguration),
        ("tiers", Kind::Tier),
    ] {
        assert_eq!(Kind::from_alias(alias), Some(kind), "{alias}");
    }
    assert_eq!(Kind::from_alias("deployment"), None);
    assert_eq!(Kind::from_name("networkPolicy"), None);
    assert_eq!(
        ResourceKey::new(Kind::NetworkSet, None, "a").to_string(),
        "NetworkSet/default/a"
    );
    assert_eq!(ResourceKey::new(Kind::Tier, Some("x"), "a").to_string(), "Tier/a");
}

#[test]
fn protocols() {
    for (text, number) in [("TCP", 6), ("UDPLite", 136), ("ICMPv6", 58), ("7", 7), ("255", 255)] {
        assert_eq!(text.parse(), Ok(Protocol(number)));
        assert_eq!(Protocol(number).to_string(), text);
    }
    assert_eq!("6".parse(), Ok(Protocol::TCP));
    for text in ["tcp", "0", "256", "", "+6", "-1", " 6", "6.0", "٣"] {
        assert!(text.parse::<Protocol>().is_err(), "{text:?}");
    }
}
