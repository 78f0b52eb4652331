//! Reads the cases of `tests/cases/polprog.json`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use felid_compile::reference::Packet;
use felid_compile::testing::World;
use felid_model::resolved::{
    NamedPortMember, ResolvedAction, ResolvedPolicy, ResolvedRule, ResolvedRules, ResolvedSide, ResolvedTier, SetId,
};
use felid_model::{IcmpMatch, Kind, Protocol, ResourceKey};
use serde_json::Value;

/// The text of a string.
pub(crate) fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn icmp(value: &Value) -> IcmpMatch {
    let number = |key: &str| value.get(key).and_then(Value::as_u64).map(|number| number as u8);
    IcmpMatch {
        icmp_type: number("type"),
        code: number("code"),
    }
}

/// A list, empty if it is not there.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The case's packet.
pub(crate) fn packet(value: &Value) -> Packet {
    let number = |key: &str| value.get(key).and_then(Value::as_u64).unwrap_or_default();
    Packet {
        src: text_of(&value["src"]).parse().unwrap(),
        dst: text_of(&value["dst"]).parse().unwrap(),
        protocol: Protocol(number("proto") as u8),
        src_port: number("sport") as u16,
        dst_port: number("dport") as u16,
        icmp_type: number("icmp_type") as u8,
        icmp_code: number("icmp_code") as u8,
    }
}

/// The case's policy.
pub(crate) fn policy(case: &Value) -> ResolvedPolicy {
    let tiers = list(case, "tiers").iter().map(|tier| ResolvedTier {
        name: text_of(&tier["name"]).into(),
        end_pass: text_of(&tier["endAction"]) == "Pass",
        policies: list(tier, "policies")
            .iter()
            .map(|policy| rules(policy, Kind::GlobalNetworkPolicy))
            .collect(),
    });
    let profiles = list(case, "profiles")
        .iter()
        .map(|profile| rules(profile, Kind::Profile));
    ResolvedPolicy {
        tiers: tiers.collect(),
        profiles: profiles.collect(),
        closed: None,
    }
}

fn rules(value: &Value, kind: Kind) -> ResolvedRules {
    let key = ResourceKey {
        kind,
        namespace: None,
        name: text_of(&value["name"]).into(),
    };
    let rules = list(value, "rules").iter().enumerate().map(|(index, rule)| {
        let mut resolved = ResolvedRule::new(index as u32, action(&rule["action"]));
        resolved.fields.icmp = rule.get("icmp").map(icmp);
        resolved.fields.not_icmp = rule.get("notICMP").map(icmp);
        let version = rule.get("ipVersion").and_then(Value::as_u64);
        resolved.ip_version = version.map(|version| version as u8);
        resolved.protocol = rule.get("protocol").map(protocol);
        resolved.not_protocol = rule.get("notProtocol").map(protocol);
        resolved.source = side(&rule["source"]);
        resolved.destination = side(&rule["destination"]);
        resolved
    });
    ResolvedRules {
        staged: false,
        key,
        rules: Arc::new(rules.collect()),
    }
}

fn action(value: &Value) -> ResolvedAction {
    match text_of(value) {
        "Allow" => ResolvedAction::Allow,
        "Deny" => ResolvedAction::Deny,
        "Pass" => ResolvedAction::Pass,
        "Log" => ResolvedAction::Log,
        other => panic!("action {other}"),
    }
}

fn protocol(value: &Value) -> Protocol {
    Protocol(match value.as_u64() {
        Some(number) => number as u8,
        None => match text_of(value).to_lowercase().as_str() {
            "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            "icmp" => 1,
            "icmpv6" => 58,
            other => panic!("protocol {other}"),
        },
    })
}

fn side(value: &Value) -> ResolvedSide {
    let nets = |key| {
        list(value, key)
            .iter()
            .map(|net| text_of(net).parse().unwrap())
            .collect()
    };
    let sets = |key| list(value, key).iter().map(|set| SetId(text_of(set).into())).collect();
    let ports = |key| list(value, key).iter().map(range).collect();
    ResolvedSide {
        nets: nets("nets"),
        not_nets: nets("notNets"),
        sets: sets("ipSets"),
        not_sets: sets("notIpSets"),
        ports: ports("ports"),
        named_ports: sets("namedPortSets"),
        not_ports: ports("notPorts"),
        not_named_ports: sets("notNamedPortSets"),
        service_ports: sets("ipPortSets"),
    }
}

fn range(value: &Value) -> (u16, u16) {
    match value.as_u64() {
        Some(port) => (port as u16, port as u16),
        None => {
            let (first, last) = text_of(value).split_once(':').unwrap();
            (first.parse().unwrap(), last.parse().unwrap())
        }
    }
}

/// The case's sets.
pub(crate) fn world(case: &Value) -> World {
    let mut world = World::default();
    let empty = serde_json::Map::new();
    let sets: BTreeMap<_, _> = case
        .get("ipsets")
        .and_then(Value::as_object)
        .unwrap_or(&empty)
        .iter()
        .collect();
    for (slot, (name, members)) in sets.into_iter().enumerate() {
        let id = SetId(name.as_str().into());
        world.slots.insert(id.clone(), slot as u32 * 31);
        for member in members.as_array().unwrap().iter().map(text_of) {
            match member.split_once(',') {
                None => world.sets.entry(id.clone()).or_default().push(
                    member
                        .parse()
                        .or_else(|_| member.parse::<IpAddr>().map(Into::into))
                        .unwrap(),
                ),
                Some((address, port)) => {
                    let (name, port) = port.split_once(':').unwrap();
                    let address = address.split('/').next().unwrap().parse().unwrap();
                    let protocol = protocol(&Value::String(name.to_owned()));
                    let member = NamedPortMember {
                        address,
                        protocol,
                        port: port.parse().unwrap(),
                    };
                    world.named_ports.entry(id.clone()).or_default().insert(member);
                }
            }
        }
    }
    world
}
