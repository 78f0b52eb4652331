//! What does not fit.

use felid_compile::planner::Planner;
use felid_compile::planner::{Adopted, PlannerOptions};
use felid_model::resolved::ResolvedAction;

use crate::build::{allow, endpoint, endpoints, gone, key, policy, rule, side};
use crate::cases::{plan_of, step};
use crate::scenario::Picky;

#[test]
fn a_policy_with_more_sets_than_slots_concerns_its_own_endpoints_only() {
    let options = PlannerOptions {
        max_slots: 64,
        ..PlannerOptions::default()
    };
    let mut planner = Planner::with_compiler(options, Adopted::default(), Picky);
    let web = allow(&["a"]);
    step(
        &mut planner,
        &[endpoints([
            endpoint("old", &["10.0.0.1"], &web),
            endpoint("web", &["10.0.0.2"], &web),
        ])],
    );
    let before = planner.endpoint(&key("old")).unwrap().ingress;
    let names: Vec<String> = (0..65).map(|n| format!("s{n}")).collect();
    let rules = names
        .iter()
        .map(|name| rule(ResolvedAction::Allow, side(&[name], &[]), side(&[], &[])));
    let huge = policy("default", rules.collect());
    let transaction = step(
        &mut planner,
        &[endpoints([
            endpoint("old", &["10.0.0.1"], &huge),
            endpoint("new", &["10.0.0.3"], &huge),
            endpoint("web", &["10.0.0.2"], &allow(&["b"])),
        ])],
    )
    .unwrap();
    assert_eq!(
        plan_of(&transaction, "web").ingress,
        planner.endpoint(&key("web")).unwrap().ingress
    );
    let problems: Vec<(String, bool)> = planner
        .problems()
        .map(|problem| {
            assert!(
                problem.reason.contains("65 sets") && problem.reason.contains("64"),
                "{problem}"
            );
            (problem.endpoint.name.to_string(), problem.closed)
        })
        .collect();
    // The policy before names a set that nothing else names any more, so it cannot stay.
    assert_eq!(problems, [("new".to_owned(), true), ("old".to_owned(), true)]);
    assert_ne!(planner.endpoint(&key("old")).unwrap().ingress, before);
    // Where its sets are known the last policy stays.
    let transaction = step(
        &mut planner,
        &[endpoints([
            endpoint("old", &["10.0.0.1"], &web),
            endpoint("web", &["10.0.0.2"], &web),
        ])],
    );
    assert!(transaction.is_some());
    step(&mut planner, &[endpoints([endpoint("old", &["10.0.0.1"], &huge)])]);
    let old = planner
        .problems()
        .find(|problem| problem.endpoint == key("old"))
        .unwrap();
    assert!(!old.closed);
    step(
        &mut planner,
        &[gone("new"), endpoints([endpoint("old", &["10.0.0.1"], &web)])],
    );
    assert_eq!(planner.problems().count(), 0);
}

#[test]
fn sets_that_find_no_room_wait_and_are_in_nobodys_way() {
    let tight = PlannerOptions {
        max_slots: 64,
        ..PlannerOptions::default()
    };
    let mut planner = Planner::with_compiler(tight, Adopted::default(), Picky);
    let names = |prefix: &str| -> Vec<String> { (0..40).map(|i| format!("{prefix}{i}")).collect() };
    let wide = |names: &[String]| {
        let rules = names
            .iter()
            .map(|name| rule(ResolvedAction::Allow, side(&[name], &[]), side(&[], &[])));
        policy("default", rules.collect())
    };
    let (old, new) = (wide(&names("old")), wide(&names("new")));
    step(&mut planner, &[endpoints([endpoint("w", &["10.0.0.1"], &old)])]).unwrap();
    // Forty sets go and forty come: for a moment there is no room, since the program in force still tests the old ones.
    step(
        &mut planner,
        &[endpoints([
            endpoint("w", &["10.0.0.1"], &new),
            endpoint("web", &["10.0.0.2"], &allow(&["b"])),
        ])],
    )
    .unwrap();
    let problems: Vec<String> = planner
        .problems()
        .map(|problem| problem.endpoint.name.to_string())
        .collect();
    assert_eq!(problems, ["w"]);
    // Now they are gone, and the next try finds room.
    planner.retry();
    step(&mut planner, &[]).unwrap();
    assert_eq!(planner.problems().count(), 0);
}
