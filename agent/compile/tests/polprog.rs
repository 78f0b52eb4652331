//! Facts about the reference behaviour: one packet against one policy, through the reference
//! evaluator and through compiled code.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use felid_compile::reference::Decided;
use felid_compile::testing::NumberedCounters;
use felid_compile::{Direction, compile, reference};
use serde_json::Value;
use support::cases::{packet, policy, text_of, world};
use support::{assert_same, check_form, run};

#[test]
fn cases_of_the_reference() {
    let text = include_str!("../../../tests/cases/polprog.json");
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    let mut judged = 0;
    for case in cases
        .iter()
        .filter(|case| ["workload", "hits"].contains(&text_of(&case["group"])))
    {
        judge(case);
        judged += 1;
    }
    assert_eq!(judged, 125);
}

fn judge(case: &Value) {
    let packet = packet(&case["packet"]);
    let policy = policy(case);
    let allowed = text_of(&case["verdict"]) == "allow";
    for direction in [Direction::Ingress, Direction::Egress] {
        let mut world = world(case);
        world.own = vec![if direction == Direction::Ingress {
            packet.dst
        } else {
            packet.src
        }];
        let decision = reference::evaluate(&policy, &packet, &world);
        assert_eq!(decision.allowed, allowed, "{case}");
        if let Some(hits) = case.get("rule_hits") {
            let found: Vec<Value> = decision
                .passed
                .iter()
                .chain([&decision.by])
                .map(|by| hit(case, by))
                .collect();
            assert_eq!(*hits, Value::Array(found), "{case}");
        }
        let mut counters = NumberedCounters::default();
        let program = compile(&policy, direction, &world.own(), &world, &mut counters).unwrap();
        check_form(&program);
        let outcome = run(&program, &world, &packet, direction, 0);
        assert_same(&program, &counters, &outcome, &decision);
    }
}

/// The id that the case gives to what decided.
fn hit(case: &Value, by: &Decided) -> Value {
    let tiers = case["tiers"].as_array().unwrap();
    let tier_of = |name: &str| tiers.iter().find(|tier| tier["name"] == name).unwrap();
    match by {
        Decided::Rule {
            key,
            tier: Some(tier),
            index,
        } => {
            let policies = tier_of(tier)["policies"].as_array().unwrap();
            let policy = policies.iter().find(|policy| policy["name"] == *key.name).unwrap();
            policy["rules"][*index as usize]["matchID"].clone()
        }
        Decided::EndOfTier(tier) => tier_of(tier)["endMatchID"].clone(),
        Decided::NoProfile => case["noProfileMatchID"].clone(),
        other => panic!("{other:?}"),
    }
}
