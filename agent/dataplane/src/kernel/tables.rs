//! What addresses and ports belong to: `peers_*`, `nets_*` and `named_ports`, whose values carry a
//! class per bank.

use std::net::IpAddr;

use felid_common::{
    ClassPair, NamedPort, NamedPortKey, NetKeyV4, NetKeyV6, PEER_HOST, Peer, SETTING_NETS_V4, SETTING_NETS_V6,
};
use felid_compile::transaction::{Change, EndpointId, PeerEntry, Transaction};
use felid_model::Protocol;
use felid_model::resolved::NamedPortMember;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::maps::MembershipMaps;
use super::mirror::Mirror;
use crate::error::{KernelError, Result};
use crate::sys::RawMap;

pub(crate) struct Tables {
    pub(crate) peers_v4: Mirror<[u8; 4], Peer>,
    pub(crate) peers_v6: Mirror<[u8; 16], Peer>,
    pub(crate) nets_v4: Mirror<NetKeyV4, ClassPair>,
    pub(crate) nets_v6: Mirror<NetKeyV6, ClassPair>,
    pub(crate) named_ports: Mirror<NamedPortKey, NamedPort>,
    /// Rows of bits, one a class: which sets its members are in. Of this run alone.
    classes: RawMap,
}

/// Marks a class of a previous run: its row is in the table of that run, not in this one's. Such
/// numbers are told to the planner so that they take no room, and come back as what stood in an
/// entry before.
const PREVIOUS: u32 = 1 << 31;

/// A class of a previous run, for the planner.
const fn previous(class: u32) -> u32 {
    if class == 0 { 0 } else { class | PREVIOUS }
}

/// What stands in the kernel for a class.
const fn original(class: u32) -> u32 {
    class & !PREVIOUS
}

/// A table whatever its keys and values are.
trait BankedTable {
    fn flush(&mut self) -> Result<()>;
    fn commit(&mut self);
    fn forget_changes(&mut self);
}

impl<K, V> BankedTable for Mirror<K, V>
where
    K: Copy + Ord + IntoBytes + FromBytes + Immutable,
    V: Copy + PartialEq + IntoBytes + FromBytes + Immutable,
{
    fn flush(&mut self) -> Result<()> {
        Self::flush(self)
    }

    fn commit(&mut self) {
        Self::commit(self);
    }

    fn forget_changes(&mut self) {
        self.roll_back(None);
    }
}

impl Tables {
    /// Reads what a previous run left in the kernel.
    pub(crate) fn adopt(maps: MembershipMaps) -> Result<Self> {
        Ok(Self {
            peers_v4: Mirror::adopt("peers_v4", maps.peers_v4, |_, _| false)?,
            peers_v6: Mirror::adopt("peers_v6", maps.peers_v6, |_, _| false)?,
            nets_v4: Mirror::adopt("nets_v4", maps.nets_v4, |_, _| false)?,
            nets_v6: Mirror::adopt("nets_v6", maps.nets_v6, |_, _| false)?,
            named_ports: Mirror::adopt("named_ports", maps.named_ports, |_, _| false)?,
            classes: maps.classes,
        })
    }

    /// An error if what `transaction` adds does not fit, or names a class that does not exist.
    pub(crate) fn reserve(&self, transaction: &Transaction) -> Result<()> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in transaction.peers.keys() {
            match address {
                IpAddr::V4(address) => v4.push(address.octets()),
                IpAddr::V6(address) => v6.push(address.octets()),
            }
        }
        self.peers_v4.reserve(v4.iter())?;
        self.peers_v6.reserve(v6.iter())?;
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in transaction.nets.keys() {
            match net {
                IpNet::V4(net) => v4.push(key_v4(net)),
                IpNet::V6(net) => v6.push(key_v6(net)),
            }
        }
        self.nets_v4.reserve(v4.iter())?;
        self.nets_v6.reserve(v6.iter())?;
        let ports: Vec<_> = transaction.named_ports.keys().map(port_key).collect();
        self.named_ports.reserve(ports.iter())?;
        let used = (transaction.peers.values().map(|change| change.after.class))
            .chain(transaction.nets.values().map(|change| change.after))
            .chain(transaction.named_ports.values().map(|change| change.after));
        let classes = self.classes.max_entries();
        if let Some(class) = used.max().filter(|class| *class >= classes) {
            return Err(KernelError::Inconsistent(format!(
                "class {class}, but the table has {classes}"
            )));
        }
        for (class, row) in &transaction.classes {
            if *class >= classes || row.len() * 8 != self.classes.value_size() {
                let words = row.len();
                return Err(KernelError::Inconsistent(format!("class {class} with {words} words")));
            }
        }
        Ok(())
    }

    /// Number of classes, and bits of the row of each.
    pub(crate) fn class_capacity(&self) -> (u32, u32) {
        let bits = u32::try_from(self.classes.value_size() * 8).unwrap_or(u32::MAX);
        (self.classes.max_entries(), bits)
    }

    /// Writes the rows of new classes, which no entry refers to yet.
    pub(crate) fn write_classes(&self, transaction: &Transaction) -> Result<()> {
        let classes = &transaction.classes;
        let keys: Vec<u8> = classes.iter().flat_map(|(class, _)| class.to_ne_bytes()).collect();
        let rows: Vec<u8> = classes.iter().flat_map(|(_, row)| row.as_bytes()).copied().collect();
        self.classes
            .update_batch(&keys, &rows)
            .map_err(|error| KernelError::call("write the map classes")(error.error))
    }

    /// First half: old classes in the active bank, new ones in the idle bank.
    pub(crate) fn stage(&mut self, transaction: &Transaction, active: usize) {
        let pair = |before, after| {
            let before = original(before);
            if active == 0 { [before, after] } else { [after, before] }
        };
        for (address, change) in &transaction.peers {
            self.want_peer(
                address,
                Some((&change.after, pair(change.before.class, change.after.class))),
            );
        }
        let pair = |change: &Change<u32>| Some(pair(change.before, change.after));
        for (net, change) in &transaction.nets {
            self.want_net(net, pair(change));
        }
        for (member, change) in &transaction.named_ports {
            self.want_port(member, pair(change));
        }
    }

    /// Second half: new classes in both banks; what is gone is deleted.
    pub(crate) fn finish(&mut self, transaction: &Transaction) {
        for (address, change) in &transaction.peers {
            let class = change.after.class;
            self.want_peer(address, change.keep.then_some((&change.after, [class; 2])));
        }
        let pair = |change: &Change<u32>| change.keep.then_some([change.after; 2]);
        for (net, change) in &transaction.nets {
            self.want_net(net, pair(change));
        }
        for (member, change) in &transaction.named_ports {
            self.want_port(member, pair(change));
        }
    }

    fn want_peer(&mut self, address: &IpAddr, value: Option<(&PeerEntry, [u32; 2])>) {
        let value = value.map(|(entry, class)| peer(entry, class).sealed(&address_words(address)));
        match address {
            IpAddr::V4(address) => self.peers_v4.want(address.octets(), value),
            IpAddr::V6(address) => self.peers_v6.want(address.octets(), value),
        }
    }

    fn want_net(&mut self, net: &IpNet, class: Option<[u32; 2]>) {
        let value = class.map(|class| ClassPair { class });
        match net {
            IpNet::V4(net) => self.nets_v4.want(key_v4(net), value),
            IpNet::V6(net) => self.nets_v6.want(key_v6(net), value),
        }
    }

    fn want_port(&mut self, member: &NamedPortMember, class: Option<[u32; 2]>) {
        let key = port_key(member);
        self.named_ports
            .want(key, class.map(|class| NamedPort::new(class, &key)));
    }

    /// Every table, for what is done to all of them alike.
    fn all(&mut self) -> [&mut dyn BankedTable; 5] {
        [
            &mut self.peers_v4,
            &mut self.peers_v6,
            &mut self.nets_v4,
            &mut self.nets_v6,
            &mut self.named_ports,
        ]
    }

    /// Writes what is pending to every table. After an error the rest is still pending.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.all().into_iter().try_for_each(BankedTable::flush)
    }

    pub(crate) fn commit(&mut self) {
        self.all().into_iter().for_each(BankedTable::commit);
    }

    /// Everything as it was at the last commit, also in the kernel.
    pub(crate) fn roll_back(&mut self) -> Result<()> {
        self.all().into_iter().for_each(BankedTable::forget_changes);
        self.flush()
    }

    /// `SETTING_NETS_*` as they must be for what is wanted now.
    pub(crate) fn setting_flags(&self) -> u32 {
        let mut flags = 0;
        if !self.nets_v4.is_empty() {
            flags |= SETTING_NETS_V4;
        }
        if !self.nets_v6.is_empty() {
            flags |= SETTING_NETS_V6;
        }
        flags
    }

    /// What lookups in the bank `active` find.
    pub(crate) fn peers(&self, active: usize) -> impl Iterator<Item = (IpAddr, PeerEntry)> + '_ {
        let v4 = self
            .peers_v4
            .actual()
            .iter()
            .map(|(key, value)| (IpAddr::from(*key), value));
        let v6 = self
            .peers_v6
            .actual()
            .iter()
            .map(|(key, value)| (IpAddr::from(*key), value));
        v4.chain(v6).map(move |(address, value)| {
            let endpoint = (value.id != 0).then_some(EndpointId {
                index: value.endpoint,
                id: value.id,
            });
            let host = value.flags & PEER_HOST != 0;
            (
                address,
                PeerEntry {
                    class: previous(value.class[active]),
                    endpoint,
                    host,
                },
            )
        })
    }

    /// The networks, with the class that a lookup in the bank `active` finds.
    pub(crate) fn nets(&self, active: usize) -> impl Iterator<Item = (IpNet, u32)> + '_ {
        let v4 = self.nets_v4.actual().iter().filter_map(move |(key, value)| {
            let address = key.address.to_ne_bytes().into();
            Some((
                Ipv4Net::new(address, u8::try_from(key.prefix).ok()?).ok()?.into(),
                previous(value.class[active]),
            ))
        });
        let v6 = self.nets_v6.actual().iter().filter_map(move |(key, value)| {
            let address = bytes(key.address).into();
            Some((
                Ipv6Net::new(address, u8::try_from(key.prefix).ok()?).ok()?.into(),
                previous(value.class[active]),
            ))
        });
        v4.chain(v6)
    }

    /// The named ports, with the class that a lookup in the bank `active` finds.
    pub(crate) fn named_ports(&self, active: usize) -> impl Iterator<Item = (NamedPortMember, u32)> + '_ {
        self.named_ports.actual().iter().map(move |(key, value)| {
            let address = match key.ip_version {
                4 => IpAddr::from(key.address[0].to_ne_bytes()),
                _ => IpAddr::from(bytes(key.address)),
            };
            (
                NamedPortMember {
                    address,
                    protocol: Protocol(key.protocol),
                    port: key.port,
                },
                previous(value.class[active]),
            )
        })
    }
}

fn peer(entry: &PeerEntry, class: [u32; 2]) -> Peer {
    let endpoint = entry.endpoint.unwrap_or(EndpointId { index: 0, id: 0 });
    let flags = if entry.host { PEER_HOST } else { 0 };
    Peer {
        class,
        endpoint: endpoint.index,
        id: endpoint.id,
        flags,
        check: 0,
    }
}

/// An address as in the keys that have room for both families: IPv4 in the first word.
fn address_words(address: &IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => [u32::from_ne_bytes(address.octets()), 0, 0, 0],
        IpAddr::V6(address) => words(address.octets()),
    }
}

/// Address words as they lie in the packet.
pub(crate) fn words(octets: [u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

/// The reverse of [`words`].
pub(crate) fn bytes(words: [u32; 4]) -> [u8; 16] {
    let mut octets = [0; 16];
    for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *bytes = word.to_ne_bytes();
    }
    octets
}

pub(crate) fn key_v4(net: &Ipv4Net) -> NetKeyV4 {
    NetKeyV4 {
        prefix: net.prefix_len().into(),
        address: u32::from_ne_bytes(net.network().octets()),
    }
}

pub(crate) fn key_v6(net: &Ipv6Net) -> NetKeyV6 {
    NetKeyV6 {
        prefix: net.prefix_len().into(),
        address: words(net.network().octets()),
    }
}

fn port_key(member: &NamedPortMember) -> NamedPortKey {
    NamedPortKey {
        address: address_words(&member.address),
        port: member.port,
        protocol: member.protocol.0,
        ip_version: if member.address.is_ipv4() { 4 } else { 6 },
    }
}
