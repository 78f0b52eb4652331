//! Random records from a small world, so that they meet: few names, addresses, labels and
//! interfaces.

use std::sync::Arc;

use felid_model::*;
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn label_text() -> impl Strategy<Value = LabelMap> {
    prop::collection::btree_map(
        select(&["app", "role", "env", "pcsa.app", "projectcalico.org/serviceaccount"][..]).prop_map(str::to_owned),
        select(&["x", "y", "z"][..]).prop_map(str::to_owned),
        0..3,
    )
}

/// Selectors over the labels of [`label_text`], with and without conditions that an index can use.
pub(crate) fn selectors() -> impl Strategy<Value = Selector> {
    let key = select(&["app", "role", "env", "pcns.team", "pcsa.app"][..]);
    let value = select(&["x", "y", "z"][..]);
    let leaf = (key, value, 0..8).prop_map(|(key, value, shape)| match shape {
        0 => "all()".to_owned(),
        1 => format!("{key} != '{value}'"),
        2 => format!("has({key})"),
        3 => format!("{key} in {{'x', '{value}'}}"),
        4 => format!("{key} not in {{'x', '{value}'}}"),
        _ => format!("{key} == '{value}'"),
    });
    let tree = leaf.prop_recursive(2, 6, 2, |inner| {
        (inner.clone(), inner, 0..3).prop_map(|(a, b, shape)| match shape {
            0 => format!("({a}) && ({b})"),
            1 => format!("({a}) || ({b})"),
            _ => format!("!({a})"),
        })
    });
    tree.prop_map(|text| selector(&text))
}

fn namespace_selectors() -> impl Strategy<Value = Selector> {
    select(&["all()", "global()", "team == 'x'", "team != 'x'", "has(team)"][..]).prop_map(selector)
}

fn networks(pool: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<IpNet>> {
    prop::collection::vec(select(pool).prop_map(|net| nets(net)[0]), 0..=most)
}

const ADDRESSES: &[&str] = &[
    "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "fd00::1", "fd00::2", "fd00::3",
];
const NETS: &[&str] = &[
    "10.0.0.0/24",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "10.0.0.3/32",
    "fd00::/64",
    "fd00::2/128",
    "::/0",
];

fn ports() -> impl Strategy<Value = Vec<EndpointPort>> {
    let one = (
        select(&["http", "dns", ""][..]),
        select(&[6u8, 17][..]),
        select(&[80u16, 8080, 53][..]),
    );
    prop::collection::vec(
        one.prop_map(|(name, protocol, number)| port(name, protocol, number)),
        0..3,
    )
}

fn endpoints() -> impl Strategy<Value = Resource> {
    let name = (select(&["u", "v", "w", "x"][..]), select(&["a", "b"][..]));
    let node = prop::bool::weighted(0.7);
    let profiles = prop::collection::vec(select(&["p", "q", "kns.a", "kns.b"][..]).prop_map(str::to_owned), 0..3);
    let interface = select(&["", "", "", "shared"][..]);
    (
        name,
        label_text(),
        node,
        networks(ADDRESSES, 3),
        profiles,
        interface,
        ports(),
    )
        .prop_map(
            |((name, namespace), own, local, ip_networks, profiles, interface, ports)| {
                let mut wep = in_namespace(wep(name, "", ""), namespace);
                wep.labels.extend(own);
                wep.node = if local { NODE } else { "n2" }.to_owned();
                wep.interface_name = if interface.is_empty() {
                    format!("cali{namespace}{name}")
                } else {
                    interface.to_owned()
                };
                endpoint(WorkloadEndpoint {
                    ip_networks,
                    profiles,
                    ports,
                    ..wep
                })
            },
        )
}

fn network_sets() -> impl Strategy<Value = Resource> {
    let name = (select(&["s", "t"][..]), select(&[None, Some("a"), Some("b")][..]));
    (name, label_text(), networks(NETS, 3)).prop_map(|((name, namespace), own, networks)| {
        let Resource::NetworkSet(set) = network_set(namespace, name, "", "") else {
            unreachable!()
        };
        let mut set = Arc::unwrap_or_clone(set);
        set.labels.extend(own);
        Resource::NetworkSet(Arc::new(NetworkSet { nets: networks, ..set }))
    })
}

fn rule_ports() -> impl Strategy<Value = Vec<Port>> {
    let one = prop_oneof![
        Just(Port::Range(80, 90)),
        Just(Port::Named("http".to_owned())),
        Just(Port::Named("dns".to_owned())),
    ];
    prop::collection::vec(one, 0..3)
}

fn entities() -> impl Strategy<Value = EntityRule> {
    let long = || {
        let all: Vec<String> = (0..9).map(|i| format!("10.{i}.0.0/16")).collect();
        nets(&all.join(" "))
    };
    let lists =
        prop_oneof![6 => networks(NETS, 2), 1 => networks(NETS, 2).prop_map(move |more| [long(), more].concat())];
    let accounts = (
        prop::collection::vec(select(&["x", "y"][..]).prop_map(str::to_owned), 0..2),
        prop::option::weighted(0.5, selectors()),
    )
        .prop_map(|(names, selector)| ServiceAccountMatch { names, selector });
    let service =
        (select(&["svc", "web"][..]), select(&[None, Some("a"), Some("b")][..])).prop_map(|(name, namespace)| {
            ServiceMatch {
                name: name.to_owned(),
                namespace: namespace.map(str::to_owned),
            }
        });
    let kubernetes = (
        prop::option::weighted(0.2, accounts),
        prop::option::weighted(0.2, service),
    );
    let maybe = |probability| prop::option::weighted(probability, selectors());
    let namespaces = prop::option::weighted(0.2, namespace_selectors());
    let ports = prop_oneof![3 => Just(vec![]), 1 => rule_ports()];
    let nets = prop_oneof![3 => Just(vec![]), 1 => lists];
    (
        maybe(0.5),
        maybe(0.2),
        namespaces,
        (ports.clone(), ports),
        (nets.clone(), nets),
        kubernetes,
    )
        .prop_map(
            |(
                selector,
                not_selector,
                namespace_selector,
                (ports, not_ports),
                (nets, not_nets),
                (service_accounts, services),
            )| EntityRule {
                nets,
                not_nets,
                selector,
                not_selector,
                namespace_selector,
                ports,
                not_ports,
                service_accounts,
                services,
            },
        )
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let action = select(&[Action::Allow, Action::Deny, Action::Pass, Action::Log][..]);
    let unknown = prop::bool::weighted(0.1);
    let version = select(&[None, None, Some(4), Some(6)][..]);
    let protocol = select(&[None, Some(Protocol(6)), Some(Protocol(17))][..]);
    let one = (action, unknown, version, protocol, entities(), entities()).prop_map(
        |(action, unknown, ip_version, protocol, source, destination)| Rule {
            unknown_fields: if unknown {
                vec!["source.color".to_owned()]
            } else {
                vec![]
            },
            ip_version,
            protocol,
            source,
            destination,
            ..rule(action)
        },
    );
    prop::collection::vec(one, 0..3)
}

fn policies() -> impl Strategy<Value = Resource> {
    let name = (
        select(&["p", "p-1", "q"][..]),
        select(&[None, Some("a"), Some("b")][..]),
    );
    let place = (
        select(&["default", "kube-admin", "t1", "t2"][..]),
        select(&[None, Some(1.0), Some(-1.0)][..]),
    );
    let types = (any::<bool>(), any::<bool>());
    let namespaces = prop::option::weighted(0.2, namespace_selectors());
    let accounts = prop::option::weighted(0.1, selectors());
    let kind = (prop::bool::weighted(0.1), prop::bool::weighted(0.2));
    let who = (selectors(), namespaces, accounts);
    (name, place, types, who, rules(), rules(), kind).prop_map(
        |((name, namespace), (tier, order), types, who, ingress, egress, (is_bad, staged))| {
            let (selector, namespaces, service_account_selector) = who;
            let kind = match (staged, namespace) {
                (true, Some(_)) => Kind::StagedNetworkPolicy,
                (true, None) => Kind::StagedGlobalNetworkPolicy,
                (false, Some(_)) => Kind::NetworkPolicy,
                (false, None) => Kind::GlobalNetworkPolicy,
            };
            let key = key(kind, namespace, name);
            let namespace_selector = namespaces.filter(|_| namespace.is_none());
            if is_bad {
                let (selector, reason) = (Some(selector), "broken".to_owned());
                return Resource::BadPolicy(Arc::new(BadPolicy {
                    key,
                    selector,
                    namespace_selector,
                    reason,
                }));
            }
            enforced(Policy {
                key,
                staged,
                service_account_selector,
                tier: tier.to_owned(),
                order,
                selector,
                namespace_selector,
                applies_ingress: types.0,
                applies_egress: types.1,
                egress,
                ..policy(namespace, name, "", ingress)
            })
        },
    )
}

fn profiles() -> impl Strategy<Value = Resource> {
    let team = select(&["", "pcns.team=x", "pcns.team=y"][..]);
    let name = select(&["p", "q", "kns.a", "kns.b"][..]);
    (name, team, label_text(), rules(), rules()).prop_map(|(name, team, own, ingress, egress)| {
        let Resource::Profile(made) = profile(name, team, ingress, egress) else {
            unreachable!()
        };
        let mut made = Arc::unwrap_or_clone(made);
        made.labels_to_apply.extend(own);
        Resource::Profile(Arc::new(made))
    })
}

fn tiers() -> impl Strategy<Value = Resource> {
    let name = select(&["t1", "t2", "default", "kube-admin"][..]);
    let order = select(&[None, Some(1.0), Some(0.0), Some(-0.0), Some(1000.0), Some(2e6)][..]);
    (name, order, any::<bool>()).prop_map(|(name, order, pass)| tier(name, order, pass))
}

/// What a namespace implies.
fn namespaces() -> impl Strategy<Value = Resource> {
    let team = select(&["", "pcns.team=x", "pcns.team=y"][..]);
    (select(&["a", "b"][..]), team, rules()).prop_map(|(name, team, ingress)| {
        Resource::Profile(Arc::new(Profile {
            key: key(Kind::Namespace, None, name),
            labels_to_apply: labels(team),
            ingress,
            egress: Vec::new(),
        }))
    })
}

fn host_endpoints() -> impl Strategy<Value = Resource> {
    let addresses = prop::collection::vec(select(ADDRESSES).prop_map(|address| address.parse().unwrap()), 0..3);
    (select(&["h1", "h2"][..]), label_text(), addresses, ports()).prop_map(|(name, labels, expected_ips, ports)| {
        Resource::HostEndpoint(Arc::new(HostEndpoint {
            key: key(Kind::HostEndpoint, None, name),
            labels,
            expected_ips,
            profiles: vec!["p".to_owned()],
            ports,
        }))
    })
}

fn slices() -> impl Strategy<Value = Resource> {
    let addresses = prop::collection::vec(select(ADDRESSES).prop_map(|address| address.parse().unwrap()), 0..3);
    let port = (select(&[6u8, 17][..]), select(&[Some(80u16), Some(53), None][..]));
    let ports = prop::collection::vec(port.prop_map(|(protocol, port)| (Protocol(protocol), port)), 0..3);
    let service = select(&[Some("svc"), Some("web"), None][..]);
    (
        select(&["e1", "e2"][..]),
        select(&["a", "b"][..]),
        service,
        addresses,
        ports,
    )
        .prop_map(|(name, namespace, service, addresses, ports)| {
            Resource::EndpointSlice(Arc::new(EndpointSlice {
                key: key(Kind::EndpointSlice, Some(namespace), name),
                service: service.map(str::to_owned),
                addresses,
                ports,
            }))
        })
}

/// Any record.
pub(crate) fn resources() -> impl Strategy<Value = Resource> {
    prop_oneof![
        4 => endpoints(),
        2 => network_sets(),
        4 => policies(),
        2 => profiles(),
        1 => namespaces(),
        1 => host_endpoints(),
        1 => slices(),
        1 => tiers(),
    ]
}
