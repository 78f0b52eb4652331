//! A model of the dataplane and the kernel: carries transactions out write by write, and judges
//! packets as the static programs do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use felid_common::{NamedPortKey, Scratch, VERDICT_ALLOW};
use felid_compile::Direction;
use felid_compile::planner::{Adopted, identity};
use felid_compile::program::Program;
use felid_compile::reference::Packet;
use felid_compile::testing::Rng;
use felid_compile::transaction::{Change, CounterName, EndpointChange, EndpointId, PeerEntry, ProgramId, Transaction};
use felid_model::resolved::NamedPortMember;
use ipnet::IpNet;
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::support::machine::{End, Machine};
use crate::support::{address_words, scratch_of};

/// A class that no program may look at.
const FORBIDDEN: u32 = u32::MAX;

/// Value of an entry of `peers_v4` or `peers_v6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerValue {
    pub(crate) class: [u32; 2],
    pub(crate) endpoint: Option<EndpointId>,
    pub(crate) host: bool,
}

/// Everything pinned.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) bank: usize,
    pub(crate) peers: BTreeMap<IpAddr, PeerValue>,
    pub(crate) nets: BTreeMap<IpNet, [u32; 2]>,
    pub(crate) named_ports: BTreeMap<NamedPortMember, [u32; 2]>,
    pub(crate) classes: BTreeMap<u32, Arc<[u64]>>,
    pub(crate) programs: BTreeMap<ProgramId, Arc<Program>>,
    pub(crate) policies: [BTreeMap<(u32, Direction), Arc<Program>>; 2],
    pub(crate) endpoints: BTreeMap<u32, (EndpointId, [u32; 4])>,
    pub(crate) counters: BTreeMap<u32, CounterName>,
    pub(crate) next_endpoint_id: u32,
    /// Every id that ever lived, with who had it.
    pub(crate) ids: BTreeMap<u32, [u32; 4]>,
}

/// One write, or one step.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Peer(IpAddr, Change<PeerEntry>),
    Net(IpNet, Change<u32>),
    NamedPort(NamedPortMember, Change<u32>),
    Endpoint(EndpointId, EndpointChange),
}

impl Kernel {
    /// Steps 1 to 3: programs, classes, records.
    pub(crate) fn prepare(&mut self, transaction: &Transaction) {
        for (id, program) in &transaction.new_programs {
            assert!(
                self.programs.insert(*id, program.clone()).is_none(),
                "{id:?} is loaded already"
            );
        }
        assert!(self.next_endpoint_id <= transaction.next_endpoint_id);
        self.next_endpoint_id = transaction.next_endpoint_id;
        let bank = self.bank;
        let used: BTreeSet<u32> = self
            .peers
            .values()
            .map(|value| value.class[bank])
            .chain(self.nets.values().map(|class| class[bank]))
            .chain(self.named_ports.values().map(|class| class[bank]))
            .collect();
        for (class, row) in &transaction.classes {
            assert!(
                *class != 0 && !used.contains(class),
                "class {class} is overwritten in use"
            );
            self.classes.insert(*class, row.clone());
        }
        for (id, change) in &transaction.endpoints {
            let EndpointChange::Set(plan) = change else { continue };
            let identity = identity(&plan.endpoint.key, &plan.endpoint.interface_name);
            match self.endpoints.get(&id.index) {
                Some(known) => assert_eq!(*known, (*id, identity), "the record is in use"),
                None => {
                    assert!(self.ids.insert(id.id, identity).is_none(), "id {} is used twice", id.id);
                    assert!(id.id < transaction.next_endpoint_id && id.id != 0 && id.index != 0);
                    assert!(
                        !plan.revoke_egress && !plan.revoke_ingress,
                        "a new endpoint has nothing to revoke"
                    );
                    self.endpoints.insert(id.index, (*id, identity));
                }
            }
        }
        for (index, name) in &transaction.new_counters {
            assert!(
                *index != 0 && self.counters.insert(*index, name.clone()).is_none(),
                "counter {index} is in use"
            );
        }
    }

    /// The writes of steps 4 and 7, in random order.
    pub(crate) fn steps(transaction: &Transaction, rng: &mut Rng) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        steps.extend(transaction.peers.iter().map(|(key, change)| Step::Peer(*key, *change)));
        steps.extend(transaction.nets.iter().map(|(key, change)| Step::Net(*key, *change)));
        steps.extend(
            transaction
                .named_ports
                .iter()
                .map(|(key, change)| Step::NamedPort(*key, *change)),
        );
        steps.extend(
            transaction
                .endpoints
                .iter()
                .map(|(id, change)| Step::Endpoint(*id, change.clone())),
        );
        for last in (1..steps.len()).rev() {
            steps.swap(last, rng.below(last + 1));
        }
        steps
    }

    fn banked(&self, before: u32, after: u32) -> [u32; 2] {
        if self.bank == 0 {
            [before, after]
        } else {
            [after, before]
        }
    }

    fn set_programs(&mut self, bank: usize, id: EndpointId, change: &EndpointChange) {
        let bank = self.policies.get_mut(bank).unwrap();
        match change {
            EndpointChange::Set(plan) => {
                for (direction, program) in [(Direction::Egress, plan.egress), (Direction::Ingress, plan.ingress)] {
                    bank.insert(
                        (id.index, direction),
                        self.programs.get(&program).expect("a loaded program").clone(),
                    );
                }
            }
            EndpointChange::Gone { .. } => {
                bank.remove(&(id.index, Direction::Egress));
                bank.remove(&(id.index, Direction::Ingress));
            }
        }
    }

    /// One write of step 4: the idle bank.
    pub(crate) fn write_idle(&mut self, step: &Step) {
        match step {
            Step::Peer(key, change) => {
                if let Some(old) = self.peers.get(key) {
                    assert_eq!(
                        old.class[self.bank], change.before.class,
                        "{key}: `before` is not what is there"
                    );
                } else {
                    assert_eq!(
                        self.class(self.bank, *key),
                        change.before.class,
                        "{key}: `before` is not what covers it"
                    );
                }
                let class = self.banked(change.before.class, change.after.class);
                self.peers.insert(
                    *key,
                    PeerValue {
                        class,
                        endpoint: change.after.endpoint,
                        host: change.after.host,
                    },
                );
            }
            Step::Net(key, change) => {
                self.nets.insert(*key, self.banked(change.before, change.after));
            }
            Step::NamedPort(key, change) => {
                self.named_ports.insert(*key, self.banked(change.before, change.after));
            }
            Step::Endpoint(id, change) => self.set_programs(1 - self.bank, *id, change),
        }
    }

    /// Step 5.
    pub(crate) fn flip(&mut self) {
        self.bank = 1 - self.bank;
    }

    /// One write of step 7: the other bank.
    pub(crate) fn repair(&mut self, step: &Step) {
        match step {
            Step::Peer(key, change) if change.keep => {
                let PeerEntry { class, endpoint, host } = change.after;
                self.peers.insert(
                    *key,
                    PeerValue {
                        class: [class; 2],
                        endpoint,
                        host,
                    },
                );
            }
            Step::Peer(key, _) => {
                self.peers.remove(key);
            }
            Step::Net(key, change) if change.keep => {
                self.nets.insert(*key, [change.after; 2]);
            }
            Step::Net(key, _) => {
                self.nets.remove(key);
            }
            Step::NamedPort(key, change) if change.keep => {
                self.named_ports.insert(*key, [change.after; 2]);
            }
            Step::NamedPort(key, _) => {
                self.named_ports.remove(key);
            }
            Step::Endpoint(id, change) => self.set_programs(1 - self.bank, *id, change),
        }
    }

    /// Step 8.
    pub(crate) fn finish(&mut self, transaction: &Transaction) {
        for (id, change) in &transaction.endpoints {
            if let EndpointChange::Gone { .. } = change {
                assert_eq!(self.endpoints.remove(&id.index).map(|(id, _)| id), Some(*id));
            }
        }
        for id in &transaction.old_programs {
            let program = self.programs.remove(id).expect("a loaded program");
            let used = self
                .policies
                .iter()
                .flat_map(BTreeMap::values)
                .any(|used| Arc::ptr_eq(used, &program));
            assert!(!used, "{id:?} is unloaded in use");
        }
        for index in &transaction.old_counters {
            assert!(self.counters.remove(index).is_some());
        }
    }

    /// What a restarted agent finds. Loaded programs live on in the program array only.
    pub(crate) fn adopt(&mut self) -> Adopted {
        self.programs.clear();
        self.counters.clear();
        let bank = self.bank;
        Adopted {
            next_endpoint_id: self.next_endpoint_id,
            endpoints: self.endpoints.values().map(|(id, identity)| (*identity, *id)).collect(),
            peers: self
                .peers
                .iter()
                .map(|(key, value)| {
                    (
                        *key,
                        PeerEntry {
                            class: value.class[bank],
                            endpoint: value.endpoint,
                            host: value.host,
                        },
                    )
                })
                .collect(),
            nets: self.nets.iter().map(|(key, class)| (*key, class[bank])).collect(),
            named_ports: self
                .named_ports
                .iter()
                .map(|(key, class)| (*key, class[bank]))
                .collect(),
        }
    }

    /// The class of an address: exact entry, else longest prefix.
    pub(crate) fn class(&self, bank: usize, address: IpAddr) -> u32 {
        if let Some(value) = self.peers.get(&address) {
            return value.class[bank];
        }
        let covering = self.nets.iter().filter(|(net, _)| net.contains(&address));
        covering
            .max_by_key(|(net, _)| net.prefix_len())
            .map_or(0, |(_, class)| class[bank])
    }

    fn row(&self, class: u32) -> Vec<u8> {
        if class == 0 {
            return vec![0; self.classes.values().next().map_or(4096, |row| row.len() * 8)];
        }
        let row = self
            .classes
            .get(&class)
            .unwrap_or_else(|| panic!("class {class} was never written"));
        row.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// The verdict on a packet, and the counter that counts it. Without a program: denied.
    pub(crate) fn judge(&self, bank: usize, index: u32, direction: Direction, packet: &Packet) -> (bool, u32) {
        let Some(program) = self.policies[bank].get(&(index, direction)) else {
            return (false, 0);
        };
        let (peer, peer_port) = match direction {
            Direction::Ingress => (packet.src, packet.src_port),
            Direction::Egress => (packet.dst, packet.dst_port),
        };
        let class = self.class(bank, peer);
        let classes = if direction == Direction::Ingress {
            (class, FORBIDDEN)
        } else {
            (FORBIDDEN, class)
        };
        let mut machine = Machine::new(program);
        machine.scratch = scratch_of(packet, bank as u32, classes.0, classes.1)
            .as_bytes()
            .to_vec();
        machine.rows.insert(0, self.row(0));
        machine.rows.insert(class, self.row(class));
        let member = NamedPortMember {
            address: peer,
            protocol: packet.protocol,
            port: peer_port,
        };
        if let Some(class) = self.named_ports.get(&member) {
            let key = NamedPortKey {
                address: address_words(peer),
                port: peer_port,
                protocol: packet.protocol.0,
                ip_version: packet.ip_version(),
            };
            machine.rows.insert(class[bank], self.row(class[bank]));
            machine.named.insert(key.as_bytes().to_vec(), *class);
        }
        let run = machine.run();
        assert_eq!(run.end, End::Judged);
        let after = Scratch::read_from_bytes(&machine.scratch).unwrap();
        (after.verdict == VERDICT_ALLOW, after.counter)
    }
}
