//! Generated programs, and the array that says which policy holds where.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY;
use felid_common::{EGRESS, INGRESS, MAX_ENDPOINTS, POLICIES, policy_index};
use felid_compile::program::{Chunk, Insn, MapRef, Program};
use felid_compile::stub::SkbLayout;
use felid_compile::transaction::{EndpointChange, ProgramId, Transaction};

use super::maps::Maps;
use crate::error::{KernelError, RefusedProgram, Result};
use crate::sys::{self, RawMap};

/// Marks an `ld_imm64` whose immediate is the file descriptor of a map.
const PSEUDO_MAP_FD: u8 = 1;

/// Sets an element of a program array.
pub(crate) fn set_program(array: &RawMap, index: u32, program: BorrowedFd<'_>) -> Result<()> {
    array
        .update(&index.to_ne_bytes(), &program.as_raw_fd().to_ne_bytes())
        .map_err(KernelError::call(format!("set element {index} of a program array")))
}

/// The programs of policies, where they are in force, and what they refer to.
pub(crate) struct PolicyPrograms {
    pub(crate) generated: Generated,
    pub(crate) policies: Policies,
    /// Drops everything: for interfaces without an endpoint.
    pub(crate) closed: OwnedFd,
    pub(crate) map_fds: MapFds,
    /// Where the running kernel keeps what stubs read of a packet.
    pub(crate) skb_layout: SkbLayout,
    /// Kept open: generated code refers to them by file descriptor.
    pub(crate) _referred: [RawMap; 2],
}

impl PolicyPrograms {
    /// Loads the new programs of a transaction, all of them or none. Returns those that were not
    /// there before.
    pub(crate) fn load(&mut self, transaction: &Transaction) -> Result<Vec<ProgramId>> {
        self.generated.load(&transaction.new_programs, &self.map_fds)
    }

    /// Says which programs one bank shall hold after a transaction. `is_first`: what a previous run
    /// left there goes.
    pub(crate) fn want(&mut self, transaction: &Transaction, bank: u32, is_first: bool) {
        for (id, change) in &transaction.endpoints {
            let (egress, ingress) = match change {
                EndpointChange::Set(plan) => (Some(plan.egress), Some(plan.ingress)),
                EndpointChange::Gone { .. } => (None, None),
            };
            self.policies.want(policy_index(bank, EGRESS, id.index), egress);
            self.policies.want(policy_index(bank, INGRESS, id.index), ingress);
        }
        if is_first {
            self.policies.clear_inherited(bank);
        }
    }

    /// Writes what is wanted. After an error the rest is still pending.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.policies.flush(self.generated.loaded())
    }

    /// Everything as it was before the change under way.
    pub(crate) fn roll_back(&mut self) -> Result<()> {
        self.policies.roll_back(self.generated.loaded())
    }
}

/// A generated program in the kernel.
pub(crate) struct Loaded {
    entry: OwnedFd,
    /// The array of its continuations, and its pin. While that exists the array keeps its elements,
    /// whether the agent lives or not.
    chain: Option<Chain>,
    /// What it was made from.
    pub(crate) program: Arc<Program>,
}

/// The generated programs.
pub(crate) struct Generated {
    directory: PathBuf,
    loaded: BTreeMap<ProgramId, Loaded>,
    /// Number of the next chain's pin.
    next_chain: u64,
    /// Pins of a previous run, in use until the first change is complete.
    inherited: Vec<PathBuf>,
}

impl Generated {
    /// Takes note of what a previous run pinned in `directory`.
    pub(crate) fn adopt(directory: PathBuf) -> Result<Self> {
        let (mut inherited, mut next_chain) = (Vec::new(), 0);
        let entries = fs::read_dir(&directory).map_err(KernelError::file("list", &directory))?;
        for entry in entries {
            let entry = entry.map_err(KernelError::file("list", &directory))?;
            let name = entry.file_name();
            if let Some(number) = name
                .to_str()
                .and_then(|name| name.strip_prefix("chain_")?.parse::<u64>().ok())
            {
                next_chain = next_chain.max(number.saturating_add(1));
            }
            inherited.push(entry.path());
        }
        Ok(Self {
            directory,
            loaded: BTreeMap::new(),
            next_chain,
            inherited,
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The arrays of continuations, with their pins.
    pub(crate) fn chains(&self) -> impl Iterator<Item = (&Path, BorrowedFd<'_>)> {
        let chains = self.loaded.values().filter_map(|loaded| loaded.chain.as_ref());
        chains.map(|chain| (chain.path.as_path(), chain.map.fd()))
    }

    pub(crate) const fn loaded(&self) -> &BTreeMap<ProgramId, Loaded> {
        &self.loaded
    }

    /// Loads all of `programs` or none. Refusals are collected, so that the planner learns of all
    /// at once.
    pub(crate) fn load(
        &mut self,
        programs: &BTreeMap<ProgramId, Arc<Program>>,
        maps: &MapFds,
    ) -> Result<Vec<ProgramId>> {
        let (mut new, mut refused) = (Vec::new(), Vec::new());
        for (&id, program) in programs {
            if self.loaded.contains_key(&id) {
                continue;
            }
            match self.load_one(id, program, maps) {
                Ok(loaded) => {
                    self.loaded.insert(id, loaded);
                    new.push(id);
                }
                Err(KernelError::Programs(refusals)) => refused.extend(refusals),
                Err(error) => {
                    self.unload(&new);
                    return Err(error);
                }
            }
        }
        if refused.is_empty() {
            return Ok(new);
        }
        self.unload(&new);
        Err(KernelError::Programs(refused))
    }

    fn load_one(&mut self, id: ProgramId, program: &Arc<Program>, maps: &MapFds) -> Result<Loaded> {
        let Some(first) = program.chunks.first() else {
            return Err(KernelError::Inconsistent(format!(
                "program {} has no instructions",
                id.0
            )));
        };
        let load = |number: usize, chunk: &Chunk, chain: Option<BorrowedFd<'_>>| {
            let refused = |error: std::io::Error, log: String| {
                KernelError::Programs(vec![RefusedProgram {
                    id,
                    chunk: number,
                    source: error,
                    log,
                }])
            };
            let insns = link(chunk, maps, chain).ok_or_else(|| {
                KernelError::Inconsistent(format!("a map reference of program {} is out of place", id.0))
            })?;
            sys::load_classifier(&insns, &format!("p{}_{number}", id.0))
                .map_err(|error| refused(error.error, error.log))
        };
        let uses_chain = |chunk: &Chunk| chunk.maps.iter().any(|(_, map)| *map == MapRef::Chain);
        if program.chunks.len() == 1 && !uses_chain(first) {
            return Ok(Loaded {
                entry: load(0, first, None)?,
                chain: None,
                program: Arc::clone(program),
            });
        }
        let chain = self.create_chain(program.chunks.len())?;
        let fill = || {
            for (number, chunk) in program.chunks.iter().enumerate().skip(1) {
                let fd = load(number, chunk, Some(chain.map.fd()))?;
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                set_program(&chain.map, number, fd.as_fd())?;
            }
            load(0, first, Some(chain.map.fd()))
        };
        match fill() {
            Ok(entry) => Ok(Loaded {
                entry,
                chain: Some(chain),
                program: Arc::clone(program),
            }),
            Err(error) => {
                unpin(&chain.path);
                Err(error)
            }
        }
    }

    fn create_chain(&mut self, length: usize) -> Result<Chain> {
        let name = "chain";
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let definition = aya_obj::Map::new_from_params(BPF_MAP_TYPE_PROG_ARRAY as u32, 4, 4, length, 0);
        let wrap = |source| KernelError::Map { name, source };
        let map = RawMap::new(MapData::create(definition, name, None).map_err(wrap)?, 1).map_err(wrap)?;
        let path = self.directory.join(format!("chain_{}", self.next_chain));
        self.next_chain += 1;
        sys::pin(map.fd(), &path).map_err(KernelError::file("pin", &path))?;
        Ok(Chain { map, path })
    }

    /// Forgets programs: nothing refers to them any more.
    pub(crate) fn unload(&mut self, ids: &[ProgramId]) {
        for id in ids {
            if let Some(Loaded { chain: Some(chain), .. }) = self.loaded.remove(id) {
                unpin(&chain.path);
            }
        }
    }

    /// Forgets what a previous run left pinned: none of its programs is in use any more.
    pub(crate) fn drop_inherited(&mut self) {
        for path in std::mem::take(&mut self.inherited) {
            unpin(&path);
        }
    }
}

struct Chain {
    map: RawMap,
    path: PathBuf,
}

fn unpin(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a pin stays behind");
    }
}

/// File descriptors of the maps that generated code refers to.
pub(crate) struct MapFds {
    scratch: i32,
    classes: i32,
    named_ports: i32,
    counters: i32,
    static_programs: i32,
    settings: i32,
    drops: i32,
    guarded: i32,
}

impl MapFds {
    /// Of maps that outlive every load.
    pub(crate) fn new(maps: &Maps) -> Self {
        let fd = |map: &RawMap| map.fd().as_raw_fd();
        Self {
            scratch: fd(&maps.programs.scratch),
            classes: fd(&maps.memberships.classes),
            named_ports: fd(&maps.memberships.named_ports),
            counters: fd(&maps.counts.counters),
            static_programs: fd(&maps.programs.static_programs),
            settings: fd(&maps.programs.settings),
            drops: fd(&maps.counts.drops),
            guarded: fd(&maps.guarded),
        }
    }
}

/// Puts file descriptors where the code refers to maps. `None`: a reference does not stand on an
/// instruction.
pub(crate) fn link(chunk: &Chunk, maps: &MapFds, chain: Option<BorrowedFd<'_>>) -> Option<Vec<Insn>> {
    let mut insns = chunk.insns.clone();
    for (at, map) in &chunk.maps {
        let insn = insns.get_mut(*at)?;
        insn.src = PSEUDO_MAP_FD;
        insn.imm = match map {
            MapRef::Scratch => maps.scratch,
            MapRef::Classes => maps.classes,
            MapRef::NamedPorts => maps.named_ports,
            MapRef::Counters => maps.counters,
            MapRef::StaticPrograms => maps.static_programs,
            MapRef::Settings => maps.settings,
            MapRef::Drops => maps.drops,
            MapRef::Guarded => maps.guarded,
            MapRef::Chain => chain?.as_raw_fd(),
        };
    }
    Some(insns)
}

/// What an element of `policies` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// A program of this run.
    Program(ProgramId),
    /// A program of a previous run.
    Inherited,
}

/// The program array `policies`: what is in it and what shall be.
pub(crate) struct Policies {
    map: RawMap,
    actual: BTreeMap<u32, Slot>,
    pending: BTreeMap<u32, Option<ProgramId>>,
    /// What was there before the change under way.
    undo: BTreeMap<u32, Option<ProgramId>>,
}

impl Policies {
    /// Looks which elements are set.
    pub(crate) fn adopt(map: RawMap, fresh: bool) -> Result<Self> {
        let mut actual = BTreeMap::new();
        for index in if fresh { 0..0 } else { 0..POLICIES } {
            if map
                .lookup(&index.to_ne_bytes())
                .map_err(KernelError::call("read the map policies"))?
                .is_some()
            {
                actual.insert(index, Slot::Inherited);
            }
        }
        Ok(Self {
            map,
            actual,
            pending: BTreeMap::new(),
            undo: BTreeMap::new(),
        })
    }

    /// Sets what is wanted: `None` = empty.
    pub(crate) fn want(&mut self, index: u32, program: Option<ProgramId>) {
        let before = match (self.pending.get(&index), self.actual.get(&index)) {
            (Some(pending), _) => *pending,
            (None, Some(Slot::Program(id))) => Some(*id),
            // A program of a previous run cannot be put back, and need not: no bank that holds one
            // beside new ones is ever used.
            (None, Some(Slot::Inherited) | None) => None,
        };
        self.undo.entry(index).or_insert(before);
        self.pending.insert(index, program);
    }

    /// From here on [`Policies::roll_back`] leads back to here.
    pub(crate) fn commit(&mut self) {
        self.undo.clear();
    }

    /// Everything as it was at the last commit, also in the kernel.
    pub(crate) fn roll_back(&mut self, programs: &BTreeMap<ProgramId, Loaded>) -> Result<()> {
        self.pending.extend(std::mem::take(&mut self.undo));
        self.flush(programs)
    }

    /// Empties every element of one bank that a previous run filled, and nobody wants otherwise.
    pub(crate) fn clear_inherited(&mut self, bank: u32) {
        let size = 2 * MAX_ENDPOINTS;
        let inherited: Vec<u32> = self
            .actual
            .range(bank * size..(bank + 1) * size)
            .filter(|(index, slot)| **slot == Slot::Inherited && !self.pending.contains_key(index))
            .map(|(index, _)| *index)
            .collect();
        for index in inherited {
            self.want(index, None);
        }
    }

    /// Writes what is wanted. After an error the rest is still pending.
    pub(crate) fn flush(&mut self, programs: &BTreeMap<ProgramId, Loaded>) -> Result<()> {
        while let Some((&index, &wanted)) = self.pending.first_key_value() {
            match wanted {
                Some(id) if self.actual.get(&index) != Some(&Slot::Program(id)) => {
                    let loaded = programs.get(&id);
                    let loaded =
                        loaded.ok_or_else(|| KernelError::Inconsistent(format!("program {} is not loaded", id.0)))?;
                    set_program(&self.map, index, loaded.entry.as_fd())?;
                    self.actual.insert(index, Slot::Program(id));
                }
                None if self.actual.contains_key(&index) => {
                    self.map
                        .delete(&index.to_ne_bytes())
                        .map_err(KernelError::call("delete from the map policies"))?;
                    self.actual.remove(&index);
                }
                _ => {}
            }
            self.pending.pop_first();
        }
        Ok(())
    }

    /// How many elements each bank has, asked of the kernel.
    pub(crate) fn count(&self) -> Result<[usize; 2]> {
        let mut counts = [0; 2];
        for index in 0..POLICIES {
            if self
                .map
                .lookup(&index.to_ne_bytes())
                .map_err(KernelError::call("read the map policies"))?
                .is_some()
            {
                counts[usize::from(index >= 2 * MAX_ENDPOINTS)] += 1;
            }
        }
        Ok(counts)
    }
}
