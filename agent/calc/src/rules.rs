//! Rules of records to rules over sets.
//!
//! The facts are Felix's. One side of a rule has at most one positive selector: its namespaces, its
//! selector and what its notSelector leaves, joined. Where there is no positive selector,
//! notSelector also holds for addresses that nothing bears, and stays apart. A named port is a set
//! that is filtered by the positive selector already, so that selector's own set is left out where
//! only named ports are asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use felid_model::resolved::{ResolvedAction, ResolvedRule, ResolvedSide, SetId};
use felid_model::{
    Action, EntityRule, NAMESPACE_LABEL, Port, Protocol, Rule, SERVICE_ACCOUNT_LABEL, SERVICE_ACCOUNT_PREFIX, Selector,
    ServiceAccountMatch, ServiceMatch,
};
use ipnet::IpNet;
use sha2::{Digest as _, Sha224};

/// Longest list of networks of one family that is compared inline.
pub(crate) const MAX_INLINE_NETS: usize = 8;

/// What makes an address, or an (address, protocol, port), a member of a set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SetRule {
    /// Addresses of what the selector matches.
    Selector(Selector),
    /// Ports of this name, of the protocol if one is given, on what the selector matches.
    NamedPort {
        /// Filter.
        selector: Selector,
        /// `None` = any.
        protocol: Option<Protocol>,
        /// Name of the port.
        name: Arc<str>,
    },
    /// Addresses in these networks.
    Networks(Vec<IpNet>),
    /// What stands behind a service, by its endpoint slices.
    Service {
        /// Which.
        service: ServiceName,
        /// Its (address, protocol, port)s; else its addresses.
        ports: bool,
    },
}

/// A service: namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServiceName {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// In words, for people.
impl fmt::Display for SetRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetRule::Selector(selector) => f.write_str(selector.canonical()),
            SetRule::NamedPort {
                selector,
                protocol,
                name,
            } => {
                let protocol = protocol.map(|protocol| format!("{protocol} ")).unwrap_or_default();
                write!(f, "{protocol}port {name} of {}", selector.canonical())
            }
            SetRule::Networks(nets) => {
                let shown: Vec<String> = nets.iter().take(4).map(ToString::to_string).collect();
                let more = nets.len().saturating_sub(shown.len());
                f.write_str(&shown.join(", "))?;
                if more > 0 {
                    write!(f, " and {more} more")
                } else {
                    Ok(())
                }
            }
            SetRule::Service { service, .. } => write!(f, "service {}/{}", service.namespace, service.name),
        }
    }
}

/// The sets that some rules name.
pub(crate) type SetRules = BTreeMap<SetId, SetRule>;

/// Rules of one record for one direction. `namespace`: that of a namespaced policy. The sets that
/// they name go into `sets`.
pub(crate) fn resolve_rules(rules: &[Rule], namespace: Option<&str>, sets: &mut SetRules) -> Vec<ResolvedRule> {
    let mut resolved = Vec::with_capacity(rules.len());
    for (index, rule) in (0..).zip(rules) {
        // Only the sets of rules that are kept become active.
        let mut named = SetRules::new();
        if let Some(rule) = resolve_rule(index, rule, namespace, &mut named) {
            resolved.push(rule);
            sets.append(&mut named);
        }
    }
    resolved
}

/// `None` = the rule cannot match.
fn resolve_rule(index: u32, rule: &Rule, namespace: Option<&str>, sets: &mut SetRules) -> Option<ResolvedRule> {
    let action = match (rule.action, rule.unknown_fields.is_empty()) {
        (Action::Allow, true) => ResolvedAction::Allow,
        (Action::Log, true) => ResolvedAction::Log,
        (Action::Allow | Action::Log, false) => return None,
        (Action::Pass, true) => ResolvedAction::Pass,
        (Action::Deny, _) | (Action::Pass, false) => ResolvedAction::Deny,
    };
    let mut versions = IpVersions {
        only: rule.ip_version,
        none: false,
    };
    let mut side = |entity| resolve_side(entity, namespace, rule.protocol, &mut versions, sets);
    let (mut source, mut destination) = (side(&rule.source), side(&rule.destination));
    // A service as source is its addresses, as destination its ports too.
    if let Some(service) = &rule.source.services {
        source.sets.push(service_set(service, namespace, false, sets));
    }
    if let Some(service) = &rule.destination.services {
        destination
            .service_ports
            .push(service_set(service, namespace, true, sets));
    }
    (!versions.none).then_some(ResolvedRule {
        index,
        action,
        ip_version: versions.only,
        protocol: rule.protocol,
        not_protocol: rule.not_protocol,
        fields: rule.fields,
        source,
        destination,
    })
}

/// IP versions that a rule can match.
struct IpVersions {
    /// Only this one.
    only: Option<u8>,
    /// None at all.
    none: bool,
}

impl IpVersions {
    fn restrict(&mut self, version: u8) {
        self.none |= self.only.is_some_and(|only| only != version);
        self.only = Some(version);
    }
}

fn resolve_side(
    entity: &EntityRule,
    namespace: Option<&str>,
    protocol: Option<Protocol>,
    versions: &mut IpVersions,
    sets: &mut SetRules,
) -> ResolvedSide {
    let mut side = ResolvedSide::default();
    let positive = positive_selector(entity, namespace);
    if positive.is_none()
        && let Some(not) = &entity.not_selector
    {
        side.not_sets.push(selector_set(not, sets));
    }
    let mut named = |ports: &[Port]| split_ports(ports, positive.as_ref(), protocol, sets);
    (side.ports, side.named_ports) = named(&entity.ports);
    (side.not_ports, side.not_named_ports) = named(&entity.not_ports);
    if let Some(positive) = &positive
        && (side.named_ports.is_empty() || !side.ports.is_empty())
    {
        side.sets.push(selector_set(positive, sets));
    }
    if is_long(&entity.nets) {
        // A family without an entry has no member, so the rule does not match it, as the list
        // itself would have it.
        side.sets.push(networks_set(&entity.nets, sets));
    } else {
        side.nets.clone_from(&entity.nets);
    }
    if is_long(&entity.not_nets) {
        // A family without an entry must not match; "not a member" alone would.
        match (family(&entity.not_nets, 4), family(&entity.not_nets, 6)) {
            (_, 0) => versions.restrict(4),
            (0, _) => versions.restrict(6),
            _ => {}
        }
        side.not_sets.push(networks_set(&entity.not_nets, sets));
    } else {
        side.not_nets.clone_from(&entity.not_nets);
    }
    side
}

/// What one side must be: `None` = anything, also addresses that nothing bears.
fn positive_selector(entity: &EntityRule, namespace: Option<&str>) -> Option<Selector> {
    let accounts = entity.service_accounts.as_ref().and_then(service_account_selector);
    let selector = match (accounts, &entity.selector) {
        (Some(accounts), Some(selector)) => Some(accounts.and(selector)),
        (Some(accounts), None) => Some(accounts),
        (None, selector) => selector.clone(),
    };
    let says_some = selector.is_some() || entity.not_selector.is_some() || entity.namespace_selector.is_some();
    let namespaces = match (&entity.namespace_selector, namespace) {
        (Some(selector), _) => Some(selector.for_namespaces()),
        (None, Some(namespace)) if says_some => Some(Selector::label_equals(NAMESPACE_LABEL, namespace)),
        _ => None,
    };
    let positive = match (namespaces, selector) {
        (Some(namespaces), Some(selector)) => Some(namespaces.and(&selector)),
        (Some(namespaces), None) => Some(namespaces),
        (None, selector) => selector,
    };
    match (positive, &entity.not_selector) {
        (Some(positive), Some(not)) => Some(positive.and(&not.negate())),
        (positive, _) => positive,
    }
}

/// Endpoints that run as such service accounts; `None` if nothing is said of them.
fn service_account_selector(accounts: &ServiceAccountMatch) -> Option<Selector> {
    let labels = accounts
        .selector
        .as_ref()
        .map(|selector| selector.with_label_prefix(SERVICE_ACCOUNT_PREFIX));
    let names = (!accounts.names.is_empty()).then(|| Selector::label_in(SERVICE_ACCOUNT_LABEL, &accounts.names));
    match (labels, names) {
        (Some(labels), Some(names)) => Some(labels.and(&names)),
        (labels, names) => labels.or(names),
    }
}

fn service_set(service: &ServiceMatch, namespace: Option<&str>, ports: bool, sets: &mut SetRules) -> SetId {
    // Without any namespace there is no such service, and the set stays empty.
    let namespace = service.namespace.as_deref().or(namespace).unwrap_or_default();
    let prefix = if ports { "p:" } else { "v:" };
    let id = hash_id(prefix, [namespace, service.name.as_str()].into_iter());
    sets.entry(id.clone()).or_insert_with(|| SetRule::Service {
        service: ServiceName {
            namespace: namespace.into(),
            name: service.name.as_str().into(),
        },
        ports,
    });
    id
}

fn selector_set(selector: &Selector, sets: &mut SetRules) -> SetId {
    let id = SetId(selector.uid().into());
    sets.entry(id.clone())
        .or_insert_with(|| SetRule::Selector(selector.clone()));
    id
}

/// Numeric ranges, and the sets of the named ports.
fn split_ports(
    ports: &[Port],
    positive: Option<&Selector>,
    protocol: Option<Protocol>,
    sets: &mut SetRules,
) -> (Vec<(u16, u16)>, Vec<SetId>) {
    let mut ranges = Vec::new();
    let mut named = Vec::new();
    for port in ports {
        match port {
            Port::Range(first, last) => ranges.push((*first, *last)),
            Port::Named(name) => {
                let selector = positive.cloned().unwrap_or_else(Selector::all);
                let protocol_text = protocol.map_or_else(|| "*".to_owned(), |protocol| protocol.0.to_string());
                let id = hash_id("n:", [selector.uid().as_str(), &protocol_text, name].into_iter());
                sets.entry(id.clone()).or_insert_with(|| SetRule::NamedPort {
                    selector,
                    protocol,
                    name: name.as_str().into(),
                });
                named.push(id);
            }
        }
    }
    (ranges, named)
}

fn family(nets: &[IpNet], version: u8) -> usize {
    nets.iter()
        .filter(|net| matches!((net, version), (IpNet::V4(_), 4) | (IpNet::V6(_), 6)))
        .count()
}

fn is_long(nets: &[IpNet]) -> bool {
    family(nets, 4) > MAX_INLINE_NETS || family(nets, 6) > MAX_INLINE_NETS
}

fn networks_set(nets: &[IpNet], sets: &mut SetRules) -> SetId {
    let mut nets: Vec<IpNet> = nets.iter().map(IpNet::trunc).collect();
    nets.sort_unstable();
    nets.dedup();
    let texts: Vec<String> = nets.iter().map(IpNet::to_string).collect();
    let id = hash_id("c:", texts.iter().map(String::as_str));
    sets.entry(id.clone()).or_insert(SetRule::Networks(nets));
    id
}

/// Prefix + unpadded base64url of SHA-224 of the parts, each ended by a zero byte.
fn hash_id<'a>(prefix: &str, parts: impl Iterator<Item = &'a str>) -> SetId {
    let mut hash = Sha224::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    SetId(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(hash.finalize())).into())
}
