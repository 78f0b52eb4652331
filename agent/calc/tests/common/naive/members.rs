//! Who belongs to which set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use felid_model::resolved::*;
use felid_model::*;
use ipnet::IpNet;

use super::super::{Records, World};
use super::{Set, Sets, host_net, inherited};

/// Something with labels and prefixes.
struct Item {
    labels: LabelMap,
    nets: BTreeSet<IpNet>,
    ports: Vec<EndpointPort>,
}

/// Adds the members of all sets.
pub(super) fn members(records: &Records, sets: &Sets, world: &mut World) {
    let mut items = Vec::new();
    for resource in records.values() {
        match resource {
            Resource::WorkloadEndpoint(wep) => items.push(Item {
                labels: inherited(&wep.labels, &wep.profiles, records),
                nets: wep.ip_networks.iter().map(|net| host_net(net.addr())).collect(),
                ports: wep.ports.clone(),
            }),
            Resource::HostEndpoint(host) => items.push(Item {
                labels: inherited(&host.labels, &host.profiles, records),
                nets: host.expected_ips.iter().copied().map(host_net).collect(),
                ports: host.ports.clone(),
            }),
            Resource::NetworkSet(set) => items.push(Item {
                labels: match &set.key.namespace {
                    Some(namespace) => inherited(&set.labels, &[format!("kns.{namespace}")], records),
                    None => set.labels.clone(),
                },
                nets: set.nets.iter().map(IpNet::trunc).collect(),
                ports: Vec::new(),
            }),
            _ => {}
        }
    }
    let mut members: BTreeMap<IpNet, SetIds> = BTreeMap::new();
    let mut named_ports: BTreeMap<NamedPortMember, SetIds> = BTreeMap::new();
    for (id, set) in sets {
        match set {
            Set::Service(namespace, name, ports) => {
                let slices = records.values().filter_map(|record| match record {
                    Resource::EndpointSlice(slice)
                        if slice.service.as_ref() == Some(name)
                            && slice.key.namespace.as_deref() == Some(namespace) =>
                    {
                        Some(slice)
                    }
                    _ => None,
                });
                for slice in slices {
                    for address in &slice.addresses {
                        if !ports {
                            members.entry(host_net(*address)).or_default().insert(id.clone());
                            continue;
                        }
                        for (protocol, port) in &slice.ports {
                            if let Some(port) = port {
                                let member = NamedPortMember {
                                    address: *address,
                                    protocol: *protocol,
                                    port: *port,
                                };
                                named_ports.entry(member).or_default().insert(id.clone());
                            }
                        }
                    }
                }
            }
            Set::Nets(nets) => {
                for net in nets {
                    members.entry(net.trunc()).or_default().insert(id.clone());
                }
            }
            Set::Addresses(selector) => {
                for item in items.iter().filter(|item| selector.matches(&item.labels)) {
                    for net in &item.nets {
                        members.entry(*net).or_default().insert(id.clone());
                    }
                }
            }
            Set::Ports(selector, protocol, name) => {
                for item in items.iter().filter(|item| selector.matches(&item.labels)) {
                    for port in &item.ports {
                        if port.name == *name && protocol.is_none_or(|protocol| protocol == port.protocol) {
                            for net in &item.nets {
                                let (address, protocol, port) = (net.addr(), port.protocol, port.port);
                                let member = NamedPortMember {
                                    address,
                                    protocol,
                                    port,
                                };
                                named_ports.entry(member).or_default().insert(id.clone());
                            }
                        }
                    }
                }
            }
        }
    }
    world.members = members.into_iter().map(|(net, sets)| (net, Arc::new(sets))).collect();
    world.named_ports = named_ports
        .into_iter()
        .map(|(member, sets)| (member, Arc::new(sets)))
        .collect();
}
