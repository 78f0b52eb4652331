//! The maps: names, kinds, sizes; opened from their pins or created and pinned.

use std::io;
use std::path::Path;

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type::{self, *};
use felid_common::{
    ClassPair, DROP_REASONS, EVENTS, Endpoint, Flow, FlowKeyV4, FlowKeyV6, Fragment, FragmentKeyV4, FragmentKeyV6,
    LOG_BYTES, LogRate, MAX_COUNTERS, MAX_ENDPOINTS, MAX_NATS, NamedPort, NamedPortKey, Nat, NetKeyV4, NetKeyV6,
    POLICIES, Peer, Scratch, Settings, fixed,
};

use crate::error::{KernelError, Result};
use crate::sys::{self, RawMap};

/// How many entries the tables have. All but the networks are allocated in full when they are created: about 100 MiB of kernel
/// memory with the defaults on two CPUs, charged to the agent's memory cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Established IPv4 flows.
    pub established_v4: u32,
    /// Established IPv6 flows.
    pub established_v6: u32,
    /// Half-open flows, of each family.
    pub half_open: u32,
    /// Addresses in selectors, of each family.
    pub peers: u32,
    /// Networks in selectors, of each family.
    pub nets: u32,
    /// Named ports.
    pub named_ports: u32,
    /// Classes: distinct memberships.
    pub classes: u32,
    /// Bits of a class row: sets that can be in use at a time. A multiple of 64.
    pub class_bits: u32,
    /// Fragmented datagrams under way, of each family.
    pub fragments: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            established_v4: 262_144,
            established_v6: 131_072,
            half_open: 65_536,
            peers: 65_536,
            nets: 16_384,
            named_ports: 65_536,
            classes: 12_288,
            class_bits: 12_288,
            fragments: 8_192,
        }
    }
}

impl Capacities {
    /// Words of a class row.
    pub const fn class_words(&self) -> usize {
        self.class_bits.div_ceil(64) as usize
    }
}

/// Networks of the cluster, of each family.
const CLUSTER_PREFIXES: u32 = 1_024;

/// All maps.
pub(crate) struct Maps {
    pub(crate) fixed: RawMap,
    pub(crate) policies: RawMap,
    pub(crate) epoch: RawMap,
    pub(crate) settings: RawMap,
    pub(crate) endpoints: RawMap,
    pub(crate) scratch: RawMap,
    /// New at every start: the programs of a previous run go on with the rows that they were made for.
    pub(crate) classes: RawMap,
    pub(crate) peers_v4: RawMap,
    pub(crate) peers_v6: RawMap,
    pub(crate) nets_v4: RawMap,
    pub(crate) nets_v6: RawMap,
    pub(crate) named_ports: RawMap,
    pub(crate) established_v4: RawMap,
    pub(crate) established_v6: RawMap,
    pub(crate) half_open_v4: RawMap,
    pub(crate) half_open_v6: RawMap,
    pub(crate) drops: RawMap,
    pub(crate) events: RawMap,
    pub(crate) counters: RawMap,
    pub(crate) nats: RawMap,
    pub(crate) nat_flows: RawMap,
    pub(crate) cluster_v4: RawMap,
    pub(crate) cluster_v6: RawMap,
    /// Entries of each fragment table, which are used by the programs only, through their pins.
    pub(crate) fragments: u32,
    /// Whether the tables existed before.
    pub(crate) adopted: bool,
}

/// Names of all maps, which are the names of their pins and of the object's maps.
pub(crate) const NAMES: [&str; 27] = [
    "fixed",
    "policies",
    "epoch",
    "settings",
    "endpoints",
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
];

/// What a map is made of.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    kind: bpf_map_type,
    key: usize,
    value: usize,
    entries: u32,
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
        }
    }
}

struct Opener<'a> {
    directory: &'a Path,
    cpus: usize,
    adopted: bool,
}

impl Opener<'_> {
    /// Values that user space sees for each key.
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

    fn create(&self, shape: Shape) -> Result<RawMap> {
        let (name, kind) = (shape.name, shape.kind);
        let path = self.directory.join(name);
        let flags = if kind == BPF_MAP_TYPE_LPM_TRIE {
            aya_obj::generated::BPF_F_NO_PREALLOC
        } else {
            0
        };
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let definition =
            aya_obj::Map::new_from_params(kind as u32, size(shape.key), size(shape.value), shape.entries, flags);
        let map = MapData::create(definition, name, None)
            .and_then(|data| RawMap::new(data, self.values(kind)))
            .map_err(|source| KernelError::Map { name, source })?;
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
        let c = capacities;
        let mut array = |name, kind, value, entries| opener.open(Shape::array(name, kind, value, entries));
        let fixed = array("fixed", BPF_MAP_TYPE_PROG_ARRAY, 4, fixed::COUNT)?;
        let policies = array("policies", BPF_MAP_TYPE_PROG_ARRAY, 4, POLICIES)?;
        let epoch = array("epoch", BPF_MAP_TYPE_ARRAY, 4, 1)?;
        let settings = array("settings", BPF_MAP_TYPE_ARRAY, size_of::<Settings>(), 1)?;
        let endpoints = array("endpoints", BPF_MAP_TYPE_ARRAY, size_of::<Endpoint>(), MAX_ENDPOINTS)?;
        let scratch = array("scratch", BPF_MAP_TYPE_PERCPU_ARRAY, size_of::<Scratch>(), 1)?;
        let drops = array("drops", BPF_MAP_TYPE_PERCPU_ARRAY, 8, DROP_REASONS)?;
        let events = array("events", BPF_MAP_TYPE_PERCPU_ARRAY, 8, EVENTS)?;
        let counters = array("counters", BPF_MAP_TYPE_PERCPU_ARRAY, 8, MAX_COUNTERS)?;
        let nats = array("nats", BPF_MAP_TYPE_ARRAY, size_of::<Nat>(), MAX_NATS)?;
        let nat_flows = array("nat_flows", BPF_MAP_TYPE_PERCPU_ARRAY, 8, MAX_NATS)?;
        // Used by the programs only, through their pins, and the ring by whoever reads it.
        array("log_rate", BPF_MAP_TYPE_PERCPU_ARRAY, size_of::<LogRate>(), 1)?;
        let row = c.class_words() * 8;
        let classes = opener.renew(Shape::array("classes", BPF_MAP_TYPE_ARRAY, row, c.classes))?;
        let mut table = |name, kind, key, value, entries| {
            opener.open(Shape {
                name,
                kind,
                key,
                value,
                entries,
            })
        };
        table("log", BPF_MAP_TYPE_RINGBUF, 0, 0, LOG_BYTES)?;
        let (hash, lru, lpm) = (BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_LPM_TRIE);
        let (key4, key6) = (size_of::<FlowKeyV4>(), size_of::<FlowKeyV6>());
        let flow = size_of::<Flow>();
        let fragment = size_of::<Fragment>();
        let fragments = table("fragments_v4", lru, size_of::<FragmentKeyV4>(), fragment, c.fragments)?.max_entries();
        table("fragments_v6", lru, size_of::<FragmentKeyV6>(), fragment, c.fragments)?;
        let (port_key, port, pair) = (
            size_of::<NamedPortKey>(),
            size_of::<NamedPort>(),
            size_of::<ClassPair>(),
        );
        Ok(Self {
            fixed,
            policies,
            epoch,
            settings,
            endpoints,
            scratch,
            classes,
            peers_v4: table("peers_v4", hash, 4, size_of::<Peer>(), c.peers)?,
            peers_v6: table("peers_v6", hash, 16, size_of::<Peer>(), c.peers)?,
            nets_v4: table("nets_v4", lpm, size_of::<NetKeyV4>(), pair, c.nets)?,
            nets_v6: table("nets_v6", lpm, size_of::<NetKeyV6>(), pair, c.nets)?,
            named_ports: table("named_ports", hash, port_key, port, c.named_ports)?,
            established_v4: table("established_v4", hash, key4, flow, c.established_v4)?,
            established_v6: table("established_v6", hash, key6, flow, c.established_v6)?,
            half_open_v4: table("half_open_v4", lru, key4, flow, c.half_open)?,
            half_open_v6: table("half_open_v6", lru, key6, flow, c.half_open)?,
            drops,
            events,
            counters,
            nats,
            nat_flows,
            cluster_v4: table("cluster_v4", lpm, size_of::<NetKeyV4>(), 4, CLUSTER_PREFIXES)?,
            cluster_v6: table("cluster_v6", lpm, size_of::<NetKeyV6>(), 4, CLUSTER_PREFIXES)?,
            fragments,
            adopted: opener.adopted,
        })
    }
}
