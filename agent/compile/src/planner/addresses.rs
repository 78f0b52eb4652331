//! What the records say of addresses: which sets each prefix and named port is in, whose address it
//! is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use felid_model::resolved::{NamedPortMember, SetIds};
use felid_model::{Protocol, ResourceKey};
use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use super::sets::{Numbers, SetNo, Sets};

/// A prefix that something is known of.
#[derive(Debug, Default)]
struct AddressNode {
    /// Sets it is in itself.
    sets: Option<Numbers>,
    /// Local endpoints that have this address; the first one gets it.
    owners: BTreeSet<ResourceKey>,
    /// An address of the host.
    host: bool,
}

/// What an address or prefix needs in the kernel's maps.
#[derive(Debug, Default)]
pub(super) struct AddressInfo<'a> {
    /// It is itself in a set that has a slot.
    pub(super) member: bool,
    /// The local endpoint that has this address.
    pub(super) owner: Option<&'a ResourceKey>,
    /// It is an address of the host.
    pub(super) host: bool,
}

/// Number arrays of the delta that is being applied, by the address of the list they were made
/// from: many prefixes share a list. Good for one delta only: the delta keeps the lists alive, and
/// each set in them has a member that the delta does not take away.
pub(super) type NumbersCache = HashMap<*const SetIds, Numbers>;

/// Everything known of addresses and named ports, as the records say it now.
#[derive(Debug, Default)]
pub(super) struct AddressTable {
    prefixes: JointPrefixMap<IpNet, AddressNode>,
    named_ports: BTreeMap<NamedPortMember, Numbers>,
    hosts: BTreeSet<IpAddr>,
}

fn numbers(sets: &mut Sets, cache: &mut NumbersCache, list: Option<&Arc<SetIds>>) -> Option<Numbers> {
    let list = list.filter(|list| !list.is_empty())?;
    Some(
        cache
            .entry(Arc::as_ptr(list))
            .or_insert_with(|| sets.numbers(list))
            .clone(),
    )
}

impl AddressTable {
    fn change(&mut self, prefix: IpNet, change: impl FnOnce(&mut AddressNode)) {
        let node = self.prefixes.entry(prefix).or_default();
        change(node);
        if node.sets.is_none() && node.owners.is_empty() && !node.host {
            self.prefixes.remove(&prefix);
        }
    }

    /// Sets which sets a prefix is in itself; whether that is new.
    pub(super) fn set_members(
        &mut self,
        sets: &mut Sets,
        cache: &mut NumbersCache,
        prefix: IpNet,
        list: Option<&Arc<SetIds>>,
    ) -> bool {
        let new = numbers(sets, cache, list);
        let old = self.prefixes.get(&prefix).and_then(|node| node.sets.clone());
        if old == new {
            return false;
        }
        sets.move_prefix(
            prefix,
            old.as_deref().unwrap_or_default(),
            new.as_deref().unwrap_or_default(),
        );
        self.change(prefix, |node| node.sets = new);
        true
    }

    /// Sets which sets a named port is in; whether that is new.
    pub(super) fn set_named_port(
        &mut self,
        sets: &mut Sets,
        cache: &mut NumbersCache,
        member: NamedPortMember,
        list: Option<&Arc<SetIds>>,
    ) -> bool {
        let new = numbers(sets, cache, list);
        let old = match &new {
            Some(new) => self.named_ports.insert(member, new.clone()),
            None => self.named_ports.remove(&member),
        };
        sets.move_named_port(
            member,
            old.as_deref().unwrap_or_default(),
            new.as_deref().unwrap_or_default(),
        );
        old != new
    }

    /// A local endpoint has this address.
    pub(super) fn add_owner(&mut self, address: IpAddr, key: &ResourceKey) {
        self.change(IpNet::from(address), |node| {
            node.owners.insert(key.clone());
        });
    }

    /// A local endpoint does not have this address any more.
    pub(super) fn remove_owner(&mut self, address: IpAddr, key: &ResourceKey) {
        self.change(IpNet::from(address), |node| {
            node.owners.remove(key);
        });
    }

    /// Sets the host's addresses; returns those for which that is new.
    pub(super) fn set_hosts(&mut self, hosts: BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let changed: Vec<IpAddr> = self.hosts.symmetric_difference(&hosts).copied().collect();
        for &address in &changed {
            self.change(IpNet::from(address), |node| node.host = hosts.contains(&address));
        }
        self.hosts = hosts;
        changed
    }

    /// Every known prefix that this one covers, itself included.
    pub(super) fn below(&self, prefix: IpNet) -> impl Iterator<Item = IpNet> + '_ {
        self.prefixes.children(&prefix).map(|(prefix, _)| prefix)
    }

    /// The local endpoints with an address that this prefix covers.
    pub(super) fn owners_below(&self, prefix: IpNet) -> impl Iterator<Item = &ResourceKey> + '_ {
        self.prefixes.children(&prefix).flat_map(|(_, node)| node.owners.iter())
    }

    /// The local endpoints that have this address.
    pub(super) fn owners(&self, address: IpAddr) -> impl Iterator<Item = &ResourceKey> + '_ {
        self.prefixes
            .get(&IpNet::from(address))
            .into_iter()
            .flat_map(|node| node.owners.iter())
    }

    /// Fills the row of the effective membership of a prefix or address, through all that cover it.
    pub(super) fn look(&self, prefix: IpNet, sets: &Sets, row: &mut [u64]) -> AddressInfo<'_> {
        row.fill(0);
        let mut info = AddressInfo::default();
        for (covering, node) in self.prefixes.cover(&prefix) {
            let members = node.sets.as_deref().unwrap_or_default();
            sets.mark(members, row);
            if covering == prefix {
                info = AddressInfo {
                    member: sets.any_slot(members),
                    owner: node.owners.first(),
                    host: node.host,
                };
            }
        }
        info
    }

    /// Fills the row of a named port; whether it is in any set that has a slot.
    pub(super) fn look_named_port(&self, member: &NamedPortMember, sets: &Sets, row: &mut [u64]) -> bool {
        row.fill(0);
        let members = self.named_ports.get(member).map(AsRef::as_ref).unwrap_or_default();
        sets.mark(members, row);
        sets.any_slot(members)
    }

    /// Those of the wanted sets that an address is in, through all prefixes that cover it.
    pub(super) fn memberships(&self, address: IpAddr, wanted: &SetIds, sets: &Sets) -> SetIds {
        if wanted.is_empty() {
            return SetIds::new();
        }
        let prefix = IpNet::from(address);
        self.prefixes
            .cover(&prefix)
            .flat_map(|(_, node)| chosen(node.sets.as_deref(), wanted, sets))
            .collect()
    }

    /// The named ports of an address, each with those of the wanted sets that it is in.
    pub(super) fn named_ports_of(
        &self,
        address: IpAddr,
        wanted: &SetIds,
        sets: &Sets,
    ) -> Vec<(NamedPortMember, SetIds)> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let first = NamedPortMember {
            address,
            protocol: Protocol(0),
            port: 0,
        };
        let last = NamedPortMember {
            address,
            protocol: Protocol(u8::MAX),
            port: u16::MAX,
        };
        self.named_ports
            .range(first..=last)
            .map(|(member, numbers)| (*member, chosen(Some(numbers), wanted, sets).collect::<SetIds>()))
            .filter(|(_, sets)| !sets.is_empty())
            .collect()
    }
}

fn chosen<'a>(
    numbers: Option<&'a [SetNo]>,
    wanted: &'a SetIds,
    sets: &'a Sets,
) -> impl Iterator<Item = felid_model::resolved::SetId> + 'a {
    numbers
        .unwrap_or_default()
        .iter()
        .filter_map(|&set| sets.id(set))
        .filter(|id| wanted.contains(*id))
        .cloned()
}
