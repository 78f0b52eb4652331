//! Everything felid keeps in the kernel, under one directory of a bpffs:
//! `<bpffs>/felid/v<ABI_VERSION>/` with `maps/`, `links/`, `programs/` (continuations of generated
//! programs) and `embedded/`.
//!
//! In: transactions of the planner, the interfaces of the host, settings. Out: the same in the
//! kernel, and what the programs count. What is pinned goes on enforcing whether the agent lives or
//! not; [`Kernel::open`] adopts it.

mod apply;
mod btf;
mod cleanup;
mod conntrack;
mod embedded;
mod endpoints;
mod expedite;
mod guard;
mod host;
mod host_input;
mod identity;
mod links;
mod logged;
mod maps;
mod mirror;
mod nats;
mod observe;
mod pins;
mod probe;
mod programs;
mod settings;
mod shares;
mod sweep;
mod switch;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use felid_common::{DropReason, Event};
use felid_compile::planner::{Adopted, PlannerOptions};
use felid_compile::program::Program;
use felid_compile::transaction::{EndpointId, ProgramId};

pub use apply::{Completed, Flip, grace};
pub use cleanup::{Inventory, attached, cleanup, detach_strays};
pub use conntrack::{Conntrack, FlowCounts, FlowInfo, FlowState, FlowTable};
pub use endpoints::EndpointState;
pub(crate) use guard::{Contested, Contests};
pub use guard::{GuardReport, InterferenceKind};
pub use links::{Foreign, Role};
pub use logged::LogReader;
pub use maps::Capacities;
pub use nats::NatFlows;
pub use probe::{PacketOutcome, Probe, Run};
pub use settings::Settings;
pub use shares::FlowUsage;
pub use sweep::SweepStats;

use crate::error::{KernelError, Result};
use crate::link::LinkState;
use crate::object::EBPF;
use crate::sys::RawMap;
use endpoints::{Attach, Endpoints};
use expedite::Expedited;
use host::{check_kernel, raise_file_limit};
use links::Links;
use maps::Maps;
use mirror::Mirror;
use nats::Nats;
use observe::Counters;
use pins::PinDirectory;
use programs::{Generated, MapFds, Policies, PolicyPrograms};
use settings::StoredSettings;
use shares::{Population, Shares};
use switch::{NextIds, Switch};
use tables::Tables;

/// What [`Kernel::open`] needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The mount point of a bpffs, which is mounted there if nothing is.
    pub bpffs: PathBuf,
    /// Whether the bpffs may end with the agent, and all policy with it, as in tests. Otherwise
    /// [`Kernel::open`] refuses that.
    pub bpffs_private: bool,
    /// The sizes of tables that do not exist yet.
    pub capacities: Capacities,
    /// How the names of workloads' interfaces begin. Such an interface is closed while it has no
    /// endpoint.
    pub interface_prefixes: Vec<String>,
    /// What the programs are told beside policy.
    pub settings: Settings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bpffs: PathBuf::from("/sys/fs/bpf"),
            bpffs_private: false,
            capacities: Capacities::default(),
            interface_prefixes: vec!["cali".to_owned()],
            settings: Settings::default(),
        }
    }
}

/// The kernel's side of the dataplane. All calls block for as long as the system calls take
/// (microseconds to milliseconds); none waits for a grace period but the attachment of a link that
/// was not there, and a change of settings that forbids what was allowed.
///
/// Minimum kernel version: 6.6, with BTF.
pub struct Kernel {
    tables: Tables,
    endpoints: Endpoints,
    programs: PolicyPrograms,
    switch: Switch,
    next_ids: NextIds,
    nats: Nats,
    settings: StoredSettings,
    counters: Counters,
    conntrack: Arc<Conntrack>,
    /// Entries of each fragment table.
    fragments: u32,
    pins: PinDirectory,
}

impl Kernel {
    /// Opens what is pinned or creates it, and loads this version's programs into their places.
    /// Enforcement by a previous run goes on without a gap. It is called in the network namespace
    /// of the host's interfaces, by root.
    ///
    /// # Errors
    ///
    /// A kernel older than 6.6 (TCX came with it), one without BTF, a directory that another agent
    /// has, a map of another shape than this version's, and whatever the kernel refuses.
    pub fn open(config: &Config) -> Result<Self> {
        let release = check_kernel()?;
        let skb_layout = btf::skb_layout(&release)?;
        raise_file_limit();
        let mut pins = PinDirectory::open(&config.bpffs, config.bpffs_private)?;
        pins.check_other_versions()?;
        Expedited::recover(&pins.path);
        let maps = Maps::open(&pins.maps(), &config.capacities)?;
        pins.hold_maps()?;
        let map_fds = MapFds::new(&maps);
        let next_ids = NextIds::read(&maps.endpoints)?;
        // Reading the tables first: a fault there leaves the previous run's programs as they are.
        let switch = Switch::adopt(maps.programs.epoch)?;
        let tables = Tables::adopt(maps.memberships)?;
        let is_free = |_: &u32, record: &felid_common::Endpoint| record.id == 0;
        let records = Mirror::adopt("endpoints", maps.endpoints, is_free)?;
        let guarded = Mirror::adopt("guarded", maps.guarded, |_, _| false)?;
        let written = settings::read(&maps.programs.settings)?;
        let nats = nats::read(maps.nats)?;
        let policies = Policies::adopt(maps.programs.policies, !maps.adopted)?;
        let links = Links::adopt(pins.path.join("links"))?;
        let generated = Generated::adopt(pins.path.join("programs"))?;
        // Of these only the pins are used from here on, and the descriptors in generated code.
        let embedded = embedded::install(
            EBPF,
            &pins.maps(),
            &pins.path.join("embedded"),
            &maps.programs.static_programs,
        )?;
        let netfilter = pins.path.join("netfilter");
        pins.hold_links(host_input::install(&netfilter, &map_fds, &skb_layout)?);
        let clock = embedded.sweepers.clock.as_fd();
        let settings = StoredSettings::adopt(maps.programs.settings, written, config.settings.clone(), clock)?;
        let fragments = maps.flows.fragments;
        let conntrack = Conntrack::new(maps.flows, reopen(&pins.maps(), "settings")?, embedded.sweepers);
        let nats = Nats::adopt(nats, settings.nat_seed, next_ids.nat)?;
        let mut kernel = Self {
            tables,
            endpoints: Endpoints::new(records, guarded, links, config.interface_prefixes.clone()),
            programs: PolicyPrograms {
                generated,
                policies,
                closed: embedded.closed,
                map_fds,
                skb_layout,
                _referred: [maps.programs.scratch, maps.programs.static_programs],
            },
            switch,
            next_ids,
            nats,
            settings,
            counters: Counters::new(maps.counts),
            conntrack: Arc::new(conntrack),
            fragments,
            pins,
        };
        if kernel.settings.is_new() {
            kernel.write_settings()?;
        }
        Ok(kernel)
    }

    /// Returns what a previous run left, for a planner that plans the first transaction of this
    /// run.
    pub fn adopt(&self) -> Adopted {
        let active = self.switch.active();
        Adopted {
            next_endpoint_id: self.next_ids.endpoint,
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

    /// Returns the epoch in force, which counts the switches since the maps were created.
    pub const fn epoch(&self) -> u32 {
        self.switch.epoch
    }

    /// Returns the sizes of the tables as they really are, which may be those of a previous run.
    /// The planner plans with these.
    pub fn capacities(&self) -> Capacities {
        let (classes, class_bits) = self.tables.class_capacity();
        let flows = &self.conntrack.maps;
        let (tables, smaller) = (&self.tables, |v4: &RawMap, v6: &RawMap| {
            v4.max_entries().min(v6.max_entries())
        });
        Capacities {
            established_v4: flows.established_v4.max_entries(),
            established_v6: flows.established_v6.max_entries(),
            half_open: smaller(&flows.half_open_v4, &flows.half_open_v6),
            peers: smaller(tables.peers_v4.map(), tables.peers_v6.map()),
            nets: smaller(tables.nets_v4.map(), tables.nets_v6.map()),
            named_ports: tables.named_ports.map().max_entries(),
            classes,
            class_bits,
            fragments: self.fragments,
        }
    }

    /// Returns the sizes of the tables, as the planner wants them.
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

    /// Changes the settings of the programs. If that forbids what was allowed, it waits for a grace
    /// period, and every flow concerned is judged again. What a previous run set holds until this,
    /// or the first transaction. After an error the old settings may hold.
    pub fn set_settings(&mut self, settings: Settings) -> Result<()> {
        self.settings.desired = settings;
        self.write_settings()?;
        if self.settings.written.revoking != 0 {
            crate::sys::membarrier().map_err(KernelError::call("wait for a grace period"))?;
            self.revoke()?;
        }
        Ok(())
    }

    fn write_settings(&mut self) -> Result<()> {
        self.write_settings_for(Population::of(self.endpoints.records().map(|(index, _)| index)))
    }

    /// Writes the settings for the endpoints that there are, or will be.
    fn write_settings_for(&mut self, population: Population) -> Result<()> {
        let shares = Shares::new(
            &self.capacities(),
            population,
            self.settings.desired.max_flows_per_endpoint,
        );
        self.settings
            .write(self.tables.setting_flags() | self.nats.setting_flags(), &shares)
    }

    /// A grace period after the settings were written: has flows judged again that they may forbid.
    fn revoke(&mut self) -> Result<()> {
        let directions = self.settings.written.revoking;
        if directions == 0 {
            return Ok(());
        }
        self.endpoints.raise(directions);
        self.endpoints.flush()?;
        self.settings.revoked()
    }

    /// Returns how many jiffies a second of this kernel has.
    pub const fn hz(&self) -> u32 {
        self.settings.hz
    }

    /// The endpoints, and what is needed to put their programs at interfaces.
    fn at_interfaces(&mut self) -> (&mut Endpoints, Attach<'_>) {
        let attach = Attach {
            closed: self.programs.closed.as_fd(),
            maps: &self.programs.map_fds,
            skb_layout: &self.programs.skb_layout,
            directory: &self.pins.path,
        };
        (&mut self.endpoints, attach)
    }

    /// Takes in all interfaces of the host as they are now; what is not among them is gone. Returns
    /// what went wrong at single interfaces; the rest has been done.
    pub fn set_links(&mut self, links: Vec<LinkState>) -> Vec<KernelError> {
        let (endpoints, attach) = self.at_interfaces();
        endpoints.set_interfaces(links, &attach)
    }

    /// Takes in one interface that is new, or is not as it was. Returns what went wrong.
    pub fn set_link(&mut self, link: LinkState) -> Vec<KernelError> {
        let (endpoints, attach) = self.at_interfaces();
        endpoints.set_interface(link, &attach)
    }

    /// Takes in that an interface is gone. Returns what went wrong.
    pub fn link_gone(&mut self, ifindex: u32) -> Vec<KernelError> {
        let (endpoints, attach) = self.at_interfaces();
        endpoints.remove_interface(ifindex, &attach)
    }

    /// Sets other prefixes of workloads' interfaces: those that have become unknown are closed,
    /// others are let go. Returns what went wrong at single interfaces; the rest has been done.
    pub fn set_interface_prefixes(&mut self, prefixes: Vec<String>) -> Vec<KernelError> {
        let (endpoints, attach) = self.at_interfaces();
        endpoints.set_prefixes(prefixes, &attach)
    }

    /// Returns each endpoint with what stands at its interface.
    pub fn endpoints(&self) -> Vec<EndpointState> {
        self.endpoints.states()
    }

    /// Returns what stands at each interface that felid is attached to; `None` says that its two
    /// hooks differ, after a failure.
    pub fn roles(&self) -> BTreeMap<u32, Option<Role>> {
        self.endpoints.roles()
    }

    /// Returns the names of interfaces where an earlier run's programs stood and that no endpoint
    /// has claimed since: they are closed.
    pub fn unclaimed(&self) -> BTreeSet<Arc<str>> {
        self.endpoints.unclaimed()
    }

    /// Returns the programs in the kernel, and what they were made from.
    pub fn programs(&self) -> impl Iterator<Item = (ProgramId, &Arc<Program>)> {
        self.programs
            .generated
            .loaded()
            .iter()
            .map(|(id, loaded)| (*id, &loaded.program))
    }

    /// Reads how many packets each policy counter has counted, by its index. Counters at zero are
    /// left out.
    pub fn counters(&self) -> Result<BTreeMap<u32, u64>> {
        self.counters.policies()
    }

    /// Reads how many packets were dropped, by the reason.
    pub fn drops(&self) -> Result<Vec<(DropReason, u64)>> {
        self.counters.drops()
    }

    /// Reads what else the programs count, by the kind of event.
    pub fn events(&self) -> Result<Vec<(Event, u64)>> {
        self.counters.events()
    }

    /// Returns a reader of what Log rules tell. Each record goes to one reader alone.
    pub fn log_reader(&self) -> Result<LogReader> {
        LogReader::open(&self.pins.maps().join("log"))
    }

    /// Returns the tables of flows, which can be used from any thread, whatever the rest does.
    pub fn conntrack(&self) -> Arc<Conntrack> {
        Arc::clone(&self.conntrack)
    }
}

/// Opens a map by its pin once more.
fn reopen(directory: &Path, name: &'static str) -> Result<RawMap> {
    let data = aya::maps::MapData::from_pin(directory.join(name));
    data.and_then(|data| RawMap::new(data, 1))
        .map_err(|source| KernelError::Map { name, source })
}
