//! Endpoint names against the reference cases; kinds and protocols by name.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use felid_model::names::Identifiers;
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
            // Interfaces of pods belong to the conversion of pods.
            "veth" => continue,
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
