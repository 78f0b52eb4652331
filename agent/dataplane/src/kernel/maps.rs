//! The maps: names, kinds, sizes; opened from their pins or created and pinned.

use std::io;
use std::path::Path;

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type::{self, *};
use felid_common::{
    ClassPair, DROP_REASONS, EVENTS, Endpoint, FLOW_COUNTS, Flow, FlowCount, FlowKeyV4, FlowKeyV6, FragmentPlaceV4,
    FragmentPlaceV6, ImageV4, ImageV6, LOG_BYTES, Learned, LogRate, MAX_COUNTERS, MAX_ENDPOINTS, MAX_NATS, NamedPort,
    NamedPortKey, Nat, NetKeyV4, NetKeyV6, POLICIES, Peer, Scratch, Settings, static_programs,
};

use super::shares::LEAST_PLACES;
use crate::error::{KernelError, Result};
use crate::sys::{self, RawMap};

/// How many entries the tables have. All but the networks are allocated in full when they are
/// created: about 100 MiB of kernel memory with the defaults on two CPUs, charged to the agent's
/// memory cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Established flows of IPv4.
    pub established_v4: u32,
    /// Established flows of IPv6.
    pub established_v6: u32,
    /// Half-open flows, for each IP version.
    pub half_open: u32,
    /// Single addresses that are members of sets, for each IP version.
    pub peers: u32,
    /// Networks that are members of sets, for each IP version.
    pub nets: u32,
    /// Named ports: addresses with a protocol and a port.
    pub named_ports: u32,
    /// Classes: distinct combinations of sets.
    pub classes: u32,
    /// Bits of a class row: how many sets can be in use at a time. It is a multiple of 64.
    pub class_bits: u32,
    /// Fragmented datagrams under way, for each IP version.
    pub fragments: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            established_v4: 262_144,
            established_v6: 131_072,
            half_open: 131_072,
            peers: 262_144,
            nets: 1_048_576,
            named_ports: 65_536,
            classes: 12_288,
            class_bits: 12_288,
            fragments: 32_768,
        }
    }
}

impl Capacities {
    /// Returns how many words of 64 bits a class row has.
    pub const fn class_words(&self) -> usize {
        self.class_bits.div_ceil(64) as usize
    }
}

/// Elements that are copied by one call.
const COPIED: usize = 4_096;

/// Interfaces of workloads: those of all endpoints, and as many that are closed.
const GUARDED: u32 = 2 * MAX_ENDPOINTS;

/// Networks of the cluster, of each family.
const CLUSTER_PREFIXES: u32 = 1_024;

/// All maps that the agent reads or writes, by what they are for.
pub(crate) struct Maps {
    pub(crate) programs: ProgramMaps,
    pub(crate) endpoints: RawMap,
    /// Indexes of the interfaces at which programs of this version stand.
    pub(crate) guarded: RawMap,
    pub(crate) memberships: MembershipMaps,
    pub(crate) flows: FlowMaps,
    pub(crate) counts: CountMaps,
    pub(crate) nats: NatMaps,
    /// Whether the tables existed before.
    pub(crate) adopted: bool,
}

/// What decides which programs run, and what they read at every packet.
pub(crate) struct ProgramMaps {
    pub(crate) static_programs: RawMap,
    pub(crate) policies: RawMap,
    pub(crate) epoch: RawMap,
    pub(crate) settings: RawMap,
    pub(crate) scratch: RawMap,
}

/// What addresses and ports belong to.
pub(crate) struct MembershipMaps {
    /// New at every start: the programs of a previous run go on with the rows that they were made
    /// for.
    pub(crate) classes: RawMap,
    pub(crate) peers_v4: RawMap,
    pub(crate) peers_v6: RawMap,
    pub(crate) nets_v4: RawMap,
    pub(crate) nets_v6: RawMap,
    pub(crate) named_ports: RawMap,
}

/// The conntrack tables.
pub(crate) struct FlowMaps {
    pub(crate) established_v4: RawMap,
    pub(crate) established_v6: RawMap,
    pub(crate) half_open_v4: RawMap,
    pub(crate) half_open_v6: RawMap,
    /// What each endpoint has of them.
    pub(crate) counts: RawMap,
    /// Entries of each fragment table, which are used by the programs only, through their pins.
    pub(crate) fragments: u32,
}

/// Per-CPU counters.
pub(crate) struct CountMaps {
    pub(crate) drops: RawMap,
    pub(crate) events: RawMap,
    pub(crate) counters: RawMap,
}

/// 1:1 translations.
pub(crate) struct NatMaps {
    pub(crate) nats: RawMap,
    pub(crate) nat_flows: RawMap,
    pub(crate) cluster_v4: RawMap,
    pub(crate) cluster_v6: RawMap,
}

/// Names of all maps, which are the names of their pins and of the object's maps.
pub(crate) const NAMES: [&str; 32] = [
    "static_programs",
    "policies",
    "epoch",
    "settings",
    "endpoints",
    "guarded",
    "scratch",
    "classes",
    "peers_v4",
    "peers_v6",
    "nets_v4",
    "nets_v6",
    "named_ports",
    "established_v4",
    "established_v6",
    "half_open_v4",
    "half_open_v6",
    "half_open_ring_v4",
    "half_open_ring_v6",
    "flow_counts",
    "fragments_v4",
    "fragments_v6",
    "drops",
    "events",
    "counters",
    "log",
    "log_rate",
    "nats",
    "nat_flows",
    "cluster_v4",
    "cluster_v6",
    "learned",
];

/// What a map is made of.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    kind: bpf_map_type,
    key: usize,
    value: usize,
    entries: u32,
    /// Elements are allocated when they are written, and a start with a larger size makes the map
    /// larger.
    grows: bool,
}

impl Shape {
    /// A map whose keys are indices.
    const fn array(name: &'static str, kind: bpf_map_type, value: usize, entries: u32) -> Self {
        Self {
            name,
            kind,
            key: 4,
            value,
            entries,
            grows: false,
        }
    }

    /// Flags of the map.
    const fn flags(&self) -> u32 {
        if self.grows || matches!(self.kind, BPF_MAP_TYPE_LPM_TRIE) {
            aya_obj::generated::BPF_F_NO_PREALLOC
        } else {
            0
        }
    }
}

struct Opener<'a> {
    directory: &'a Path,
    cpus: usize,
    adopted: bool,
}

impl Opener<'_> {
    /// How many values user space sees for each key.
    const fn values(&self, kind: bpf_map_type) -> usize {
        if matches!(kind, BPF_MAP_TYPE_PERCPU_ARRAY) {
            self.cpus
        } else {
            1
        }
    }

    fn open(&mut self, shape: Shape) -> Result<RawMap> {
        let Shape { name, key, .. } = shape;
        let path = self.directory.join(name);
        let values = self.values(shape.kind);
        match sys::open_pin(&path) {
            Ok(fd) => {
                let map = MapData::from_fd(fd)
                    .and_then(|data| RawMap::new(data, values))
                    .map_err(|source| KernelError::Map { name, source })?;
                let value = if values > 1 {
                    shape.value.next_multiple_of(8) * values
                } else {
                    shape.value
                };
                if map.key_size() == key && map.value_size() == value {
                    self.adopted = true;
                    if shape.grows && map.max_entries() < shape.entries {
                        return self.grow(shape, &map);
                    }
                    if map.max_entries() != shape.entries {
                        tracing::warn!(
                            map = name,
                            entries = map.max_entries(),
                            configured = shape.entries,
                            "a table keeps the size it was created with until `felid cleanup`"
                        );
                    }
                    return Ok(map);
                }
                let (found_key, found_value) = (map.key_size(), map.value_size());
                return Err(KernelError::Shape {
                    path,
                    found_key,
                    found_value,
                    key,
                    value,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(KernelError::file("open", &path)(error)),
        }
        self.create(shape)
    }

    /// A new map in the place of an old one, which lives on for the programs that were made for it.
    fn renew(&self, shape: Shape) -> Result<RawMap> {
        let path = self.directory.join(shape.name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(KernelError::file("replace", &path)(error)),
            _ => self.create(shape),
        }
    }

    /// A larger map with all elements of an old one, in the place of it. Programs of the previous
    /// run go on with the old one, which nobody writes any more, until this run's programs are in
    /// their places: so no packet meets a table that lacks something.
    fn grow(&self, shape: Shape, old: &RawMap) -> Result<RawMap> {
        let name = shape.name;
        let (path, fresh) = (self.directory.join(name), self.directory.join(format!("{name}_new")));
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(KernelError::file("remove", &fresh)(error));
            }
            _ => {}
        }
        let map = self.create_unpinned(shape)?;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        old.dump(|key, value| {
            keys.extend_from_slice(key);
            values.extend_from_slice(value);
        })
        .map_err(KernelError::call(format!("read the map {name}")))?;
        for (keys, values) in keys.chunks(COPIED * shape.key).zip(values.chunks(COPIED * shape.value)) {
            map.update_batch(keys, values)
                .map_err(|failed| KernelError::call(format!("write the map {name}"))(failed.error))?;
        }
        sys::pin(map.fd(), &fresh).map_err(KernelError::file("pin", &fresh))?;
        std::fs::rename(&fresh, &path).map_err(KernelError::file("replace", &path))?;
        tracing::info!(
            map = name,
            from = old.max_entries(),
            to = map.max_entries(),
            "a table has become larger"
        );
        Ok(map)
    }

    fn create_unpinned(&self, shape: Shape) -> Result<RawMap> {
        let (name, kind) = (shape.name, shape.kind);
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let (key, value) = (size(shape.key), size(shape.value));
        let definition = aya_obj::Map::new_from_params(kind as u32, key, value, shape.entries, shape.flags());
        MapData::create(definition, name, None)
            .and_then(|data| RawMap::new(data, self.values(kind)))
            .map_err(|source| KernelError::Map { name, source })
    }

    fn create(&self, shape: Shape) -> Result<RawMap> {
        let path = self.directory.join(shape.name);
        let map = self.create_unpinned(shape)?;
        sys::pin(map.fd(), &path).map_err(KernelError::file("pin", &path))?;
        Ok(map)
    }
}

impl Maps {
    /// Opens or creates every map in `directory`.
    pub(crate) fn open(directory: &Path, capacities: &Capacities) -> Result<Self> {
        let cpus = aya::util::nr_cpus().map_err(|(path, source)| KernelError::call(format!("read {path}"))(source))?;
        let mut opener = Opener {
            directory,
            cpus,
            adopted: false,
        };
        let array = BPF_MAP_TYPE_ARRAY;
        Ok(Self {
            programs: opener.programs()?,
            endpoints: opener.array("endpoints", array, size_of::<Endpoint>(), MAX_ENDPOINTS)?,
            guarded: opener.table::<u32, u32>("guarded", BPF_MAP_TYPE_HASH, GUARDED)?,
            memberships: opener.memberships(capacities)?,
            flows: opener.flows(capacities)?,
            counts: opener.counts()?,
            nats: opener.nats()?,
            adopted: opener.adopted,
        })
    }
}

impl Opener<'_> {
    fn array(&mut self, name: &'static str, kind: bpf_map_type, value: usize, entries: u32) -> Result<RawMap> {
        self.open(Shape::array(name, kind, value, entries))
    }

    /// A hash table or trie with keys of type `K` and values of type `V`.
    fn table<K, V>(&mut self, name: &'static str, kind: bpf_map_type, entries: u32) -> Result<RawMap> {
        self.open(Shape {
            name,
            kind,
            key: size_of::<K>(),
            value: size_of::<V>(),
            entries,
            grows: false,
        })
    }

    /// A hash table or trie whose elements are allocated when they are written, and which a later
    /// start may make larger. Only the agent may write it.
    fn growing<K, V>(&mut self, name: &'static str, kind: bpf_map_type, entries: u32) -> Result<RawMap> {
        self.open(Shape {
            name,
            kind,
            key: size_of::<K>(),
            value: size_of::<V>(),
            entries,
            grows: true,
        })
    }

    fn programs(&mut self) -> Result<ProgramMaps> {
        let array = BPF_MAP_TYPE_ARRAY;
        Ok(ProgramMaps {
            static_programs: self.array("static_programs", BPF_MAP_TYPE_PROG_ARRAY, 4, static_programs::COUNT)?,
            policies: self.array("policies", BPF_MAP_TYPE_PROG_ARRAY, 4, POLICIES)?,
            epoch: self.array("epoch", array, 4, 1)?,
            settings: self.array("settings", array, size_of::<Settings>(), 1)?,
            scratch: self.array("scratch", BPF_MAP_TYPE_PERCPU_ARRAY, size_of::<Scratch>(), 1)?,
        })
    }

    fn memberships(&mut self, capacities: &Capacities) -> Result<MembershipMaps> {
        let (hash, lpm) = (BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE);
        let (peers, nets) = (capacities.peers, capacities.nets);
        let row = capacities.class_words() * 8;
        Ok(MembershipMaps {
            classes: self.renew(Shape::array("classes", BPF_MAP_TYPE_ARRAY, row, capacities.classes))?,
            peers_v4: self.growing::<[u8; 4], Peer>("peers_v4", hash, peers)?,
            peers_v6: self.growing::<[u8; 16], Peer>("peers_v6", hash, peers)?,
            nets_v4: self.growing::<NetKeyV4, ClassPair>("nets_v4", lpm, nets)?,
            nets_v6: self.growing::<NetKeyV6, ClassPair>("nets_v6", lpm, nets)?,
            named_ports: self.growing::<NamedPortKey, NamedPort>("named_ports", hash, capacities.named_ports)?,
        })
    }

    fn flows(&mut self, capacities: &Capacities) -> Result<FlowMaps> {
        let (hash, array) = (BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY);
        let half_open_v4 = self.table::<FlowKeyV4, Flow>("half_open_v4", hash, capacities.half_open)?;
        let half_open_v6 = self.table::<FlowKeyV6, Flow>("half_open_v6", hash, capacities.half_open)?;
        // Rings and fragments are used by the programs only, through their pins.
        let slots = |table: &RawMap| table.max_entries().max(LEAST_PLACES);
        let (slots_v4, slots_v6) = (slots(&half_open_v4), slots(&half_open_v6));
        self.array("half_open_ring_v4", array, size_of::<ImageV4>(), slots_v4)?;
        self.array("half_open_ring_v6", array, size_of::<ImageV6>(), slots_v6)?;
        let fragments = capacities.fragments.max(LEAST_PLACES);
        let fragments_v4 = self.array("fragments_v4", array, size_of::<FragmentPlaceV4>(), fragments)?;
        self.array("fragments_v6", array, size_of::<FragmentPlaceV6>(), fragments)?;
        Ok(FlowMaps {
            established_v4: self.table::<FlowKeyV4, Flow>("established_v4", hash, capacities.established_v4)?,
            established_v6: self.table::<FlowKeyV6, Flow>("established_v6", hash, capacities.established_v6)?,
            half_open_v4,
            half_open_v6,
            counts: self.array("flow_counts", array, size_of::<FlowCount>(), FLOW_COUNTS)?,
            fragments: fragments_v4.max_entries(),
        })
    }

    fn counts(&mut self) -> Result<CountMaps> {
        let per_cpu = BPF_MAP_TYPE_PERCPU_ARRAY;
        // These two are used by the programs only, through their pins, and the ring by whoever
        // reads it.
        self.array("log_rate", per_cpu, size_of::<LogRate>(), 1)?;
        self.array("learned", BPF_MAP_TYPE_ARRAY, size_of::<Learned>(), MAX_ENDPOINTS)?;
        self.table::<(), ()>("log", BPF_MAP_TYPE_RINGBUF, LOG_BYTES)?;
        Ok(CountMaps {
            drops: self.array("drops", per_cpu, 8, DROP_REASONS)?,
            events: self.array("events", per_cpu, 8, EVENTS)?,
            counters: self.array("counters", per_cpu, 8, MAX_COUNTERS)?,
        })
    }

    fn nats(&mut self) -> Result<NatMaps> {
        let lpm = BPF_MAP_TYPE_LPM_TRIE;
        Ok(NatMaps {
            nats: self.array("nats", BPF_MAP_TYPE_ARRAY, size_of::<Nat>(), MAX_NATS)?,
            nat_flows: self.array("nat_flows", BPF_MAP_TYPE_PERCPU_ARRAY, 8, MAX_NATS)?,
            cluster_v4: self.table::<NetKeyV4, u32>("cluster_v4", lpm, CLUSTER_PREFIXES)?,
            cluster_v6: self.table::<NetKeyV6, u32>("cluster_v6", lpm, CLUSTER_PREFIXES)?,
        })
    }
}
