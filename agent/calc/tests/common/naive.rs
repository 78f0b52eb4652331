//! The calculation from scratch, without any index: every question is answered by looking at all
//! records. It shares no code with the crate; only selectors are joined and hashed by the model's
//! own means.

mod members;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use felid_model::resolved::*;
use felid_model::*;
use ipnet::IpNet;
use sha2::{Digest as _, Sha224};

use members::members;

use super::{NODE, Records, World, key, selector};

/// What makes a member.
#[derive(Clone, Debug)]
enum Set {
    Addresses(Selector),
    Ports(Selector, Option<Protocol>, String),
    Nets(Vec<IpNet>),
    Service(String, String, bool),
}

type Sets = BTreeMap<SetId, Set>;

/// The state that these records stand for.
pub(crate) fn world(records: &Records) -> World {
    let locals = locals(records);
    let policies: Vec<&Resource> = records
        .values()
        .filter(|r| matches!(r, Resource::Policy(_) | Resource::BadPolicy(_)))
        .collect();
    let mut sets = Sets::new();
    let mut owners: BTreeMap<IpAddr, &ResourceKey> = BTreeMap::new();
    for wep in locals.values() {
        for net in &wep.ip_networks {
            owners.entry(net.addr()).or_insert(&wep.key);
        }
    }
    let mut world = World::default();
    for wep in locals.values() {
        let labels = inherited(&wep.labels, &wep.profiles, records);
        let mine: Vec<&Resource> = policies
            .iter()
            .copied()
            .filter(|policy| selects(policy, &labels))
            .collect();
        let mut policy = |ingress| resolved_policy(wep, &mine, ingress, records, &mut sets);
        let (mut ingress, mut egress) = (policy(true), policy(false));
        let mut addresses: Vec<IpAddr> = wep.ip_networks.iter().map(IpNet::addr).collect();
        addresses.sort();
        addresses.dedup();
        if let Some(lost) = addresses.iter().find(|address| owners[address] != &wep.key) {
            let reason: Arc<str> = format!("address {lost} belongs to {}", owners[lost]).into();
            ingress = ResolvedPolicy {
                closed: Some(reason),
                ..ResolvedPolicy::default()
            };
            egress = ingress.clone();
            addresses.retain(|address| owners[address] == &wep.key);
        }
        let value = LocalEndpoint {
            allow_spoofed_source_prefixes: Vec::new(),
            ip_nats: Vec::new(),
            aws_elastic_ips: wep.aws_elastic_ips.clone(),
            key: wep.key.clone(),
            interface_name: wep.interface_name.as_str().into(),
            addresses,
            mac: wep.mac,
            ipv4_gateway: wep.ipv4_gateway,
            ipv6_gateway: wep.ipv6_gateway,
            ports: wep.ports.clone(),
            profiles: wep.profiles.clone(),
            ingress: Arc::new(ingress),
            egress: Arc::new(egress),
        };
        world.endpoints.insert(wep.key.clone(), Arc::new(value));
    }
    members(records, &sets, &mut world);
    world
}

/// Endpoints of this node with addresses that own their interface.
fn locals(records: &Records) -> BTreeMap<String, &WorkloadEndpoint> {
    let mut interfaces = BTreeMap::new();
    for resource in records.values() {
        if let Resource::WorkloadEndpoint(wep) = resource
            && wep.node == NODE
            && !wep.ip_networks.is_empty()
        {
            interfaces.entry(wep.interface_name.clone()).or_insert(&**wep);
        }
    }
    // By key, as owners of addresses are found in this order.
    interfaces.into_values().map(|wep| (wep.key.to_string(), wep)).collect()
}

/// The record of a profile: its own, else the one of a namespace or service account that implies
/// it.
fn profile<'a>(name: &str, records: &'a Records) -> Option<&'a Profile> {
    let called = |key: &ResourceKey| match &key.namespace {
        Some(namespace) => format!("ksa.{namespace}.{}", key.name),
        None if key.kind == Kind::Namespace => format!("kns.{}", key.name),
        None => key.name.to_string(),
    };
    let of_kind = |kind| {
        records.values().find_map(|record| match record {
            Resource::Profile(profile) if called(&profile.key) == name && profile.key.kind == kind => Some(&**profile),
            _ => None,
        })
    };
    [Kind::Profile, Kind::Namespace, Kind::ServiceAccount]
        .into_iter()
        .find_map(of_kind)
}

fn inherited(own: &LabelMap, profiles: &[String], records: &Records) -> LabelMap {
    let mut labels = own.clone();
    for name in profiles {
        if let Some(profile) = profile(name, records) {
            for (key, value) in &profile.labels_to_apply {
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
    labels
}

fn selects(policy: &Resource, labels: &LabelMap) -> bool {
    let (key, own, namespaces, accounts) = match policy {
        Resource::Policy(p) => (
            &p.key,
            Some(&p.selector),
            &p.namespace_selector,
            p.service_account_selector.as_ref(),
        ),
        Resource::BadPolicy(b) => (&b.key, b.selector.as_ref(), &b.namespace_selector, None),
        _ => return false,
    };
    let in_namespace = |ns: &Arc<str>| labels.get(NAMESPACE_LABEL).is_some_and(|have| have == &**ns);
    own.is_none_or(|own| own.matches(labels))
        && key.namespace.as_ref().is_none_or(in_namespace)
        && namespaces
            .as_ref()
            .is_none_or(|ns| ns.with_label_prefix(NAMESPACE_PREFIX).matches(labels))
        && accounts.is_none_or(|accounts| accounts.with_label_prefix("pcsa.").matches(labels))
}

/// Order and end of a tier.
fn tier(name: &str, records: &Records) -> Option<(Option<f64>, bool)> {
    match (records.get(&key(Kind::Tier, None, name)), name) {
        (Some(Resource::Tier(tier)), _) => Some((tier.order, tier.default_pass)),
        (_, "default") => Some((Some(1_000_000.0), false)),
        (_, "kube-admin") => Some((Some(1000.0), true)),
        (_, "kube-baseline") => Some((Some(10_000_000.0), true)),
        _ => None,
    }
}

fn resolved_policy(
    wep: &WorkloadEndpoint,
    policies: &[&Resource],
    ingress: bool,
    records: &Records,
    sets: &mut Sets,
) -> ResolvedPolicy {
    let mut closed = Vec::new();
    let mut good = Vec::new();
    for policy in policies {
        match policy {
            Resource::BadPolicy(bad) if bad.key.kind.to_string().starts_with("Staged") => {}
            Resource::BadPolicy(bad) => closed.push((bad.key.clone(), bad.reason.clone())),
            Resource::Policy(p) if (ingress && p.applies_ingress) || (!ingress && p.applies_egress) => {
                // Its sets are active whether its tier exists or not.
                let rules = if ingress { &p.ingress } else { &p.egress };
                let rules = Arc::new(resolved_rules(rules, p.key.namespace.as_deref(), sets));
                match tier(&p.tier, records) {
                    None if p.staged => {}
                    None => closed.push((p.key.clone(), format!("tier {:?} does not exist", p.tier))),
                    Some(tier) => good.push((tier, &**p, rules)),
                }
            }
            _ => {}
        }
    }
    let mut resolved = ResolvedPolicy::default();
    good.sort_by(|(a, p, _), (b, q, _)| {
        let infinite = |order: Option<f64>| order.unwrap_or(f64::INFINITY);
        let text = |p: &Policy| {
            format!(
                "{}/{}/{}",
                p.key.name,
                p.key.namespace.as_deref().unwrap_or_default(),
                p.key.kind
            )
        };
        (a.0.is_none().cmp(&b.0.is_none()))
            .then(a.0.partial_cmp(&b.0).unwrap())
            .then(p.tier.cmp(&q.tier))
            .then(infinite(p.order).partial_cmp(&infinite(q.order)).unwrap())
            .then(text(p).cmp(&text(q)))
    });
    for ((_, end_pass), policy, rules) in good {
        if resolved
            .tiers
            .last()
            .is_none_or(|tier: &ResolvedTier| *tier.name != *policy.tier)
        {
            let name = policy.tier.as_str().into();
            resolved.tiers.push(ResolvedTier {
                name,
                end_pass,
                policies: Vec::new(),
            });
        }
        resolved.tiers.last_mut().unwrap().policies.push(ResolvedRules {
            staged: policy.staged,
            key: policy.key.clone(),
            rules,
        });
    }
    for tier in &mut resolved.tiers {
        if tier.policies.iter().all(|policy| policy.staged) {
            tier.end_pass = true;
        }
    }
    let mut reached = true;
    let mut seen = BTreeSet::new();
    for name in &wep.profiles {
        let Some(profile) = profile(name, records) else {
            reached = false;
            continue;
        };
        // Its sets are active whether it is reached or not.
        let rules = if ingress { &profile.ingress } else { &profile.egress };
        let rules = Arc::new(resolved_rules(rules, None, sets));
        if reached && seen.insert(name) {
            resolved.profiles.push(ResolvedRules {
                staged: false,
                key: key(Kind::Profile, None, name),
                rules,
            });
        }
    }
    closed.sort();
    if let Some((key, reason)) = closed.first() {
        let more = if closed.len() > 1 {
            format!(" (and {} more)", closed.len() - 1)
        } else {
            String::new()
        };
        return ResolvedPolicy {
            closed: Some(format!("{key}: {reason}{more}").into()),
            ..ResolvedPolicy::default()
        };
    }
    resolved
}

fn resolved_rules(rules: &[Rule], namespace: Option<&str>, sets: &mut Sets) -> Vec<ResolvedRule> {
    let mut resolved = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let action = match rule.action {
            Action::Allow | Action::Log if !rule.unknown_fields.is_empty() => continue,
            Action::Log => ResolvedAction::Log,
            Action::Allow => ResolvedAction::Allow,
            Action::Pass if rule.unknown_fields.is_empty() => ResolvedAction::Pass,
            Action::Pass | Action::Deny => ResolvedAction::Deny,
        };
        let mut versions = BTreeSet::from([4, 6]);
        versions.retain(|version| rule.ip_version.is_none_or(|only| only == *version));
        let mut mine = Sets::new();
        let mut side = |entity| resolved_side(entity, namespace, rule.protocol, &mut versions, &mut mine);
        let (mut source, mut destination) = (side(&rule.source), side(&rule.destination));
        for (services, ports) in [(&rule.source.services, false), (&rule.destination.services, true)] {
            if let Some(service) = services {
                let place = service.namespace.as_deref().or(namespace).unwrap_or_default();
                let id = add(Set::Service(place.to_owned(), service.name.clone(), ports), &mut mine);
                if ports {
                    destination.service_ports.push(id);
                } else {
                    source.sets.push(id);
                }
            }
        }
        if versions.is_empty() {
            continue;
        }
        sets.extend(mine);
        resolved.push(ResolvedRule {
            ip_version: (versions.len() == 1).then(|| *versions.first().unwrap()),
            protocol: rule.protocol,
            not_protocol: rule.not_protocol,
            fields: rule.fields,
            source,
            destination,
            ..ResolvedRule::new(u32::try_from(index).unwrap(), action)
        });
    }
    resolved
}

fn resolved_side(
    entity: &EntityRule,
    namespace: Option<&str>,
    protocol: Option<Protocol>,
    versions: &mut BTreeSet<u8>,
    sets: &mut Sets,
) -> ResolvedSide {
    let mut accounts = Vec::new();
    if let Some(ServiceAccountMatch {
        names,
        selector: labels,
    }) = &entity.service_accounts
    {
        accounts.extend(labels.as_ref().map(|labels| labels.with_label_prefix("pcsa.")));
        if !names.is_empty() {
            let list: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
            accounts.push(selector(&format!(
                "projectcalico.org/serviceaccount in {{{}}}",
                list.join(",")
            )));
        }
    }
    let accounts = accounts.into_iter().reduce(|a, b| a.and(&b));
    let says_some = entity.selector.is_some()
        || entity.not_selector.is_some()
        || entity.namespace_selector.is_some()
        || accounts.is_some();
    let mut conditions = Vec::new();
    if let Some(namespaces) = &entity.namespace_selector {
        conditions.push(namespaces.for_namespaces());
    } else if let Some(namespace) = namespace
        && says_some
    {
        conditions.push(selector(&format!("{NAMESPACE_LABEL} == '{namespace}'")));
    }
    let own = entity.selector.clone();
    conditions.extend(match (accounts, own) {
        (Some(accounts), Some(own)) => Some(accounts.and(&own)),
        (accounts, own) => accounts.or(own),
    });
    let mut side = ResolvedSide::default();
    if let Some(not) = &entity.not_selector {
        if conditions.is_empty() {
            side.not_sets.push(add(Set::Addresses(not.clone()), sets));
        } else {
            conditions.push(not.negate());
        }
    }
    let positive = conditions.into_iter().reduce(|a, b| a.and(&b));
    let filter = positive.clone().unwrap_or_else(|| selector("all()"));
    for (ports, ranges, names) in [
        (&entity.ports, &mut side.ports, &mut side.named_ports),
        (&entity.not_ports, &mut side.not_ports, &mut side.not_named_ports),
    ] {
        for port in ports {
            match port {
                Port::Range(first, last) => ranges.push((*first, *last)),
                Port::Named(name) => names.push(add(Set::Ports(filter.clone(), protocol, name.clone()), sets)),
            }
        }
    }
    if positive.is_some() && (side.named_ports.is_empty() || !side.ports.is_empty()) {
        side.sets.push(add(Set::Addresses(filter), sets));
    }
    let v4 = |nets: &[IpNet]| nets.iter().filter(|net| net.addr().is_ipv4()).count();
    let long = |nets: &[IpNet]| v4(nets) > 8 || nets.len() - v4(nets) > 8;
    if long(&entity.nets) {
        side.sets.push(add(Set::Nets(entity.nets.clone()), sets));
    } else {
        side.nets.clone_from(&entity.nets);
    }
    if long(&entity.not_nets) {
        if v4(&entity.not_nets) == 0 {
            versions.remove(&4);
        }
        if v4(&entity.not_nets) == entity.not_nets.len() {
            versions.remove(&6);
        }
        side.not_sets.push(add(Set::Nets(entity.not_nets.clone()), sets));
    } else {
        side.not_nets.clone_from(&entity.not_nets);
    }
    side
}

fn add(set: Set, sets: &mut Sets) -> SetId {
    let text = match &set {
        Set::Addresses(selector) => selector.uid(),
        Set::Ports(selector, protocol, name) => {
            let protocol = protocol.map_or("*".to_owned(), |protocol| protocol.0.to_string());
            format!("n:{}", hash(&format!("{}\0{protocol}\0{name}\0", selector.uid())))
        }
        Set::Service(namespace, name, ports) => {
            let prefix = if *ports { "p" } else { "v" };
            format!("{prefix}:{}", hash(&format!("{namespace}\0{name}\0")))
        }
        Set::Nets(nets) => {
            let sorted: BTreeSet<IpNet> = nets.iter().map(IpNet::trunc).collect();
            format!(
                "c:{}",
                hash(&sorted.iter().map(|net| format!("{net}\0")).collect::<String>())
            )
        }
    };
    let id = SetId(text.into());
    sets.insert(id.clone(), set);
    id
}

fn hash(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha224::digest(text.as_bytes()))
}
