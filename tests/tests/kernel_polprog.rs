//! Facts about the reference behaviour: one packet against one policy, through the compiled
//! programs in the kernel.

#[path = "../../agent/compile/tests/support/cases.rs"]
mod cases;

use std::sync::Arc;

use felid_tests::polprog::{Case, judge};
use serde_json::Value;

#[test]
fn cases_of_the_reference() -> anyhow::Result<()> {
    let all: Vec<Value> = serde_json::from_str(include_str!("../cases/polprog.json"))?;
    let ours = all
        .iter()
        .filter(|case| ["workload", "hits"].contains(&cases::text_of(&case["group"])));
    let cases: Vec<Case> = ours
        .map(|case| Case {
            name: cases::text_of(&case["name"]).to_owned(),
            world: cases::world(case),
            policy: Arc::new(cases::policy(case)),
            packet: cases::packet(&case["packet"]),
            allowed: cases::text_of(&case["verdict"]) == "allow",
        })
        .collect();
    assert_eq!(judge(cases)?, 250);
    Ok(())
}
