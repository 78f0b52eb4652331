//! Everything felid keeps in the kernel, under one directory of a bpffs: `<bpffs>/felid/v<ABI_VERSION>/` with `maps/`, `links/`,
//! `programs/` (continuations of generated programs) and `embedded/`.
//!
//! In: transactions of the planner, the interfaces of the host, settings. Out: the same in the kernel, and what the programs count. What
//! is pinned goes on enforcing whether the agent lives or not; [`Kernel::open`] adopts it.

mod apply;
mod cleanup;
mod conntrack;
mod embedded;
mod endpoints;
mod expedite;
mod host;
mod links;
mod logged;
mod maps;
mod mirror;
mod nats;
mod observe;
mod probe;
mod programs;
mod settings;
mod sweep;
mod tables;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use felid_common::{ABI_VERSION, Drop, Event};
use felid_compile::planner::{Adopted, PlannerOptions};
use felid_compile::program::Program;
use felid_compile::transaction::{EndpointId, ProgramId};
use nix::fcntl::Flock;
use zerocopy::{FromBytes as _, IntoBytes as _};

pub use apply::{Completed, Flip, grace};
pub use cleanup::{Inventory, attached, cleanup};
pub use conntrack::{Conntrack, FlowCounts, FlowInfo, FlowState, FlowTable};
pub use endpoints::EndpointState;
pub use links::{Foreign, Role};
pub use logged::LogReader;
pub use maps::Capacities;
pub use nats::NatFlows;
pub use probe::{Outcome, Probe, Run};
pub use settings::Settings;
pub use sweep::SweepStats;

use crate::error::{KernelError, Result};
use crate::link::LinkState;
use crate::object::EBPF;
use crate::sys::RawMap;
use embedded::Embedded;
use endpoints::{Attach, Endpoints};
use expedite::Expedited;
use host::{check_kernel, lock, mount_bpffs, raise_file_limit};
use links::Links;
use maps::Maps;
use mirror::Mirror;
use nats::Nats;
use observe::Counters;
use programs::{Generated, MapFds, Policies};
use settings::calibrate_hz;
use tables::Tables;

/// What [`Kernel::open`] needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Mount point of a bpffs; mounted there if nothing is.
    pub bpffs: PathBuf,
    /// Table sizes, for tables that do not exist yet.
    pub capacities: Capacities,
    /// How names of workload interfaces begin: such an interface without an endpoint is closed.
    pub interface_prefixes: Vec<String>,
    /// Settings of the programs.
    pub settings: Settings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bpffs: PathBuf::from("/sys/fs/bpf"),
            capacities: Capacities::default(),
            interface_prefixes: vec!["cali".to_owned()],
            settings: Settings::default(),
        }
    }
}

/// The kernel's side of the dataplane. All calls block for as long as the system calls take (microseconds to milliseconds); none waits
/// for a grace period but the attachment of a link that was not there.
pub struct Kernel {
    tables: Tables,
    endpoints: Endpoints,
    policies: Policies,
    generated: Generated,
    directory: PathBuf,
    closed: OwnedFd,
    map_fds: MapFds,
    classes: RawMap,
    epoch_map: RawMap,
    epoch: u32,
    next_endpoint_id: u32,
    next_nat_id: u32,
    nats: Nats,
    fragments: u32,
    settings_map: RawMap,
    settings: Settings,
    /// What the map holds.
    written: felid_common::Settings,
    hz: u32,
    counters: Counters,
    conntrack: Arc<Conntrack>,
    /// The switch whose second half is still to come.
    unfinished: bool,
    /// Not one transaction has been applied since the start.
    first: bool,
    /// Kept open: generated code refers to them by file descriptor.
    _shared: [RawMap; 2],
    _lock: Flock<File>,
}

/// `<bpffs>/felid/v<ABI_VERSION>`.
fn directory(bpffs: &Path) -> PathBuf {
    bpffs.join("felid").join(format!("v{ABI_VERSION}"))
}

impl Kernel {
    /// Opens what is pinned or creates it, and loads this version's programs into their places. Enforcement by a previous run goes on
    /// without a gap. To be called in the network namespace of the host's interfaces.
    pub fn open(config: &Config) -> Result<Self> {
        check_kernel()?;
        raise_file_limit();
        mount_bpffs(&config.bpffs)?;
        let directory = directory(&config.bpffs);
        let [maps_dir, links_dir, programs_dir, embedded_dir] =
            ["maps", "links", "programs", "embedded"].map(|name| directory.join(name));
        for path in [&maps_dir, &links_dir, &programs_dir, &embedded_dir] {
            fs::create_dir_all(path).map_err(KernelError::file("create", path))?;
        }
        let lock = lock(&directory)?;
        Expedited::recover(&directory);
        let maps = Maps::open(&maps_dir, &config.capacities)?;
        let map_fds = MapFds::new(&maps);
        let epoch = read_word(&maps.epoch, 0)?;
        let [next_endpoint_id, next_nat_id] = maps
            .endpoints
            .lookup(&0_u32.to_ne_bytes())
            .map_err(KernelError::call("read the map endpoints"))?
            .and_then(|value| felid_common::Endpoint::read_from_bytes(&value).ok())
            .map_or([0; 2], |record| record.reserved);
        let old_settings = maps
            .settings
            .lookup(&0_u32.to_ne_bytes())
            .map_err(KernelError::call("read the map settings"))?
            .and_then(|value| felid_common::Settings::read_from_bytes(&value).ok())
            .unwrap_or_default();
        // Reading the tables first: a fault there leaves the previous run's programs as they are.
        let adopted = maps.adopted;
        let tables = Tables {
            peers_v4: Mirror::adopt("peers_v4", maps.peers_v4, |_, _| false)?,
            peers_v6: Mirror::adopt("peers_v6", maps.peers_v6, |_, _| false)?,
            nets_v4: Mirror::adopt("nets_v4", maps.nets_v4, |_, _| false)?,
            nets_v6: Mirror::adopt("nets_v6", maps.nets_v6, |_, _| false)?,
            named_ports: Mirror::adopt("named_ports", maps.named_ports, |_, _| false)?,
        };
        let records = Mirror::adopt("endpoints", maps.endpoints, |_, record: &felid_common::Endpoint| {
            record.id == 0
        })?;
        let nats = Nats::adopt(maps.nats, maps.nat_flows, maps.cluster_v4, maps.cluster_v6, next_nat_id)?;
        let policies = Policies::adopt(maps.policies, !adopted)?;
        let links = Links::adopt(links_dir)?;
        let generated = Generated::adopt(programs_dir)?;
        // Of these only the pins are used from here on, and the descriptors in generated code.
        let Embedded {
            closed,
            clock,
            sweep_v4,
            sweep_v6,
        } = embedded::install(EBPF, &maps_dir, &embedded_dir, &maps.fixed)?;
        let hz = match old_settings.hz {
            0 => calibrate_hz(clock.as_fd())?,
            hz => hz,
        };
        let reopen = |name: &'static str| {
            let data = aya::maps::MapData::from_pin(maps_dir.join(name));
            data.and_then(|data| RawMap::new(data, 1))
                .map_err(|source| KernelError::Map { name, source })
        };
        let conntrack = Conntrack {
            established_v4: maps.established_v4,
            established_v6: maps.established_v6,
            half_open_v4: maps.half_open_v4,
            half_open_v6: maps.half_open_v6,
            settings: reopen("settings")?,
            clock,
            sweep_v4,
            sweep_v6,
        };
        let mut kernel = Self {
            tables,
            endpoints: Endpoints::new(records, links, config.interface_prefixes.clone()),
            policies,
            generated,
            directory,
            closed,
            map_fds,
            classes: maps.classes,
            epoch_map: maps.epoch,
            epoch,
            next_endpoint_id,
            next_nat_id,
            nats,
            fragments: maps.fragments,
            settings_map: maps.settings,
            settings: config.settings.clone(),
            written: old_settings,
            hz,
            counters: Counters::new(maps.counters, maps.drops, maps.events),
            conntrack: Arc::new(conntrack),
            unfinished: false,
            first: true,
            _shared: [maps.scratch, maps.fixed],
            _lock: lock,
        };
        if old_settings.hz == 0 {
            kernel.write_settings()?;
        }
        Ok(kernel)
    }

    /// What a previous run left, for a planner that plans the first transaction of this run.
    pub fn adopt(&self) -> Adopted {
        let active = self.active();
        Adopted {
            next_endpoint_id: self.next_endpoint_id,
            endpoints: self
                .endpoints
                .records()
                .map(|(index, record)| (record.identity, EndpointId { index, id: record.id }))
                .collect(),
            peers: self.tables.peers(active).collect(),
            nets: self.tables.nets(active).collect(),
            named_ports: self.tables.named_ports(active).collect(),
        }
    }

    /// The bank that packets use.
    const fn active(&self) -> usize {
        (self.epoch & 1) as usize
    }

    /// The epoch; it counts the switches since the maps were created.
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Sizes of the tables as they really are, which may be those of a previous run: the planner plans with these.
    pub fn capacities(&self) -> Capacities {
        Capacities {
            established_v4: self.conntrack.established_v4.max_entries(),
            established_v6: self.conntrack.established_v6.max_entries(),
            half_open: self
                .conntrack
                .half_open_v4
                .max_entries()
                .min(self.conntrack.half_open_v6.max_entries()),
            peers: self
                .tables
                .peers_v4
                .map()
                .max_entries()
                .min(self.tables.peers_v6.map().max_entries()),
            nets: self
                .tables
                .nets_v4
                .map()
                .max_entries()
                .min(self.tables.nets_v6.map().max_entries()),
            named_ports: self.tables.named_ports.map().max_entries(),
            classes: self.classes.max_entries(),
            class_bits: u32::try_from(self.classes.value_size() * 8).unwrap_or(u32::MAX),
            fragments: self.fragments,
        }
    }

    /// The same for the planner.
    pub fn planner_options(&self) -> PlannerOptions {
        let sizes = self.capacities();
        PlannerOptions {
            max_slots: sizes.class_bits,
            max_classes: sizes.classes,
            peers_v4: self.tables.peers_v4.map().max_entries() as usize,
            peers_v6: self.tables.peers_v6.map().max_entries() as usize,
            nets_v4: self.tables.nets_v4.map().max_entries() as usize,
            nets_v6: self.tables.nets_v6.map().max_entries() as usize,
            named_ports: sizes.named_ports as usize,
            ..PlannerOptions::default()
        }
    }

    /// Changes the settings of the programs. If that forbids what was allowed, it waits for a grace period, and every flow concerned is
    /// judged again. What a previous run set holds until this, or the first transaction.
    pub fn set_settings(&mut self, settings: Settings) -> Result<()> {
        self.settings = settings;
        self.write_settings()?;
        if self.written.revoking != 0 {
            crate::sys::membarrier().map_err(KernelError::call("wait for a grace period"))?;
            self.revoke()?;
        }
        Ok(())
    }

    fn write_settings(&mut self) -> Result<()> {
        let mut value = self.settings.encode(self.hz);
        value.flags |= self.tables.setting_flags() | self.nats.setting_flags();
        // What is left undone survives the agent.
        value.revoking = self.written.revoking | settings::revoked(&self.written, &value);
        self.put_settings(value)
    }

    fn put_settings(&mut self, value: felid_common::Settings) -> Result<()> {
        self.settings_map
            .update(&0_u32.to_ne_bytes(), value.as_bytes())
            .map_err(KernelError::call("write the map settings"))?;
        self.written = value;
        Ok(())
    }

    /// A grace period after the settings were written: has flows judged again that they may forbid.
    fn revoke(&mut self) -> Result<()> {
        if self.written.revoking == 0 {
            return Ok(());
        }
        self.endpoints.raise(self.written.revoking);
        self.endpoints.flush()?;
        self.put_settings(felid_common::Settings {
            revoking: 0,
            ..self.written
        })
    }

    /// Jiffies a second of this kernel.
    pub const fn hz(&self) -> u32 {
        self.hz
    }

    /// The endpoints, and what is needed to put their programs at interfaces.
    fn at_interfaces(&mut self) -> (&mut Endpoints, Attach<'_>) {
        let attach = Attach {
            closed: self.closed.as_fd(),
            maps: &self.map_fds,
            directory: &self.directory,
        };
        (&mut self.endpoints, attach)
    }

    /// All interfaces of the host as they are now. Returns what went wrong; the rest has been done.
    pub fn set_links(&mut self, links: Vec<LinkState>) -> Vec<KernelError> {
        let (endpoints, attach) = self.at_interfaces();
        endpoints.set_interfaces(links, &attach)
    }

    /// One interface that is new, or is not as it was.
    pub fn set_link(&mut self, link: LinkState) -> Vec<KernelError> {
        let (endpoints, attach) = self.at_interfaces();
        endpoints.set_interface(link, &attach)
    }

    /// An interface that is gone.
    pub fn link_gone(&mut self, ifindex: u32) -> Vec<KernelError> {
        let (endpoints, attach) = self.at_interfaces();
        endpoints.remove_interface(ifindex, &attach)
    }

    /// Other prefixes of workload interfaces from now on: what has become unknown is closed, the rest let go.
    pub fn set_interface_prefixes(&mut self, prefixes: Vec<String>) -> Vec<KernelError> {
        let (endpoints, attach) = self.at_interfaces();
        endpoints.set_prefixes(prefixes, &attach)
    }

    /// Where every endpoint stands.
    pub fn endpoints(&self) -> Vec<EndpointState> {
        self.endpoints.states()
    }

    /// What stands at each interface that felid is attached to; `None` = its hooks differ, after a failure.
    pub fn roles(&self) -> BTreeMap<u32, Option<Role>> {
        self.endpoints.roles()
    }

    /// Programs in the kernel, and what they were made from.
    pub fn programs(&self) -> impl Iterator<Item = (ProgramId, &Arc<Program>)> {
        self.generated
            .loaded()
            .iter()
            .map(|(id, loaded)| (*id, &loaded.program))
    }

    /// Packets counted per policy counter; those at zero are left out.
    pub fn counters(&self) -> Result<BTreeMap<u32, u64>> {
        self.counters.policies()
    }

    /// Packets dropped, by reason.
    pub fn drops(&self) -> Result<Vec<(Drop, u64)>> {
        self.counters.drops()
    }

    /// What else the programs counted.
    pub fn events(&self) -> Result<Vec<(Event, u64)>> {
        self.counters.events()
    }

    /// What Log rules tell. One reader at a time gets each record.
    pub fn log_reader(&self) -> Result<LogReader> {
        LogReader::open(&self.directory.join("maps").join("log"))
    }

    /// The conntrack tables. Usable from any thread, whatever the rest does.
    pub fn conntrack(&self) -> Arc<Conntrack> {
        Arc::clone(&self.conntrack)
    }
}

fn read_word(map: &RawMap, index: u32) -> Result<u32> {
    let value = map
        .lookup(&index.to_ne_bytes())
        .map_err(KernelError::call("read the map epoch"))?;
    Ok(value
        .and_then(|value| value.first_chunk::<4>().map(|word| u32::from_ne_bytes(*word)))
        .unwrap_or(0))
}
