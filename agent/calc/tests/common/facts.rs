//! Short forms of what the calculation says.

use std::sync::Arc;

use felid_calc::Calc;
use felid_model::resolved::{LocalEndpoint, ResolvedPolicy};
use felid_model::*;

use super::*;

pub(crate) fn flushed(list: impl IntoIterator<Item = Resource>) -> (Calc, World) {
    let list: Vec<Resource> = list.into_iter().collect();
    let mut calc = calc();
    for resource in &list {
        calc.apply(resource.clone());
    }
    let world = World::of(calc.flush());
    world.expect(&naive::world(&records(list)));
    (calc, world)
}

pub(crate) fn local(world: &World, name: &str) -> Arc<LocalEndpoint> {
    world
        .endpoints
        .get(&wep_key(name))
        .expect("the endpoint is local")
        .clone()
}

/// `tier: policy policy; tier: policy | profile profile`, or the reason why closed.
pub(crate) fn shape(policy: &ResolvedPolicy) -> String {
    if let Some(reason) = &policy.closed {
        assert!(policy.tiers.is_empty() && policy.profiles.is_empty());
        return format!("closed: {reason}");
    }
    let names = |rules: &[resolved::ResolvedRules]| -> String {
        rules.iter().map(|rules| format!(" {}", rules.key.name)).collect()
    };
    let tiers: Vec<String> = policy
        .tiers
        .iter()
        .map(|tier| {
            format!(
                "{}{}:{}",
                tier.name,
                if tier.end_pass { "+" } else { "" },
                names(&tier.policies)
            )
        })
        .collect();
    format!("{} |{}", tiers.join("; "), names(&policy.profiles))
}

pub(crate) fn members(world: &World, net: &str) -> Vec<String> {
    let sets = world.members.get(&nets(net)[0]);
    sets.iter()
        .flat_map(|sets| sets.iter())
        .map(|set| set.0.to_string())
        .collect()
}

pub(crate) fn uids<const N: usize>(selectors: [&str; N]) -> Vec<String> {
    let mut uids: Vec<String> = selectors.iter().map(|text| selector(text).uid()).collect();
    uids.sort();
    uids
}
