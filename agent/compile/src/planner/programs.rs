//! Loaded programs: compiled once per input, shared where equal, counted by their users.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::compiler::Compiler;
use super::counters::{CounterTable, Recorder};
use super::policy::Input;
use super::sets::{SetNo, Sets};
use crate::prepare::prepare;
use crate::program::Program;
use crate::transaction::{CounterName, ProgramId};

/// What an input was compiled to.
#[derive(Debug)]
struct Compiled {
    program: ProgramId,
    /// Directions of endpoints with this input.
    users: usize,
    /// Bits whose loss on a peer can lose what was allowed.
    leaving: Box<[u64]>,
    /// Bits whose gain can.
    joining: Box<[u64]>,
}

#[derive(Debug)]
struct Loaded {
    program: Arc<Program>,
    /// Sum of its inputs' users.
    users: usize,
    sets: Vec<SetNo>,
    counters: BTreeSet<u32>,
}

#[derive(Debug, Default)]
struct Staged {
    inputs: Vec<Arc<Input>>,
    programs: Vec<ProgramId>,
    users: HashMap<Arc<Input>, isize>,
    old: Vec<ProgramId>,
}

/// What a plan does to programs and counters.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) new_programs: BTreeMap<ProgramId, Arc<Program>>,
    pub(super) old_programs: Vec<ProgramId>,
    pub(super) new_counters: BTreeMap<u32, CounterName>,
    pub(super) old_counters: Vec<u32>,
}

/// All programs.
#[derive(Debug)]
pub(super) struct Programs {
    words: usize,
    inputs: HashMap<Arc<Input>, Compiled>,
    loaded: HashMap<ProgramId, Loaded>,
    by_program: HashMap<Arc<Program>, ProgramId>,
    next: u64,
    counters: CounterTable,
    /// Inputs that cannot be compiled, or whose programs the kernel did not take: not to be tried with every plan.
    rejected: HashMap<Arc<Input>, Arc<str>>,
    staged: Staged,
}

impl Programs {
    pub(super) fn new(words: usize, max_counters: u32) -> Self {
        Self {
            words,
            inputs: HashMap::new(),
            loaded: HashMap::new(),
            by_program: HashMap::new(),
            next: 1,
            counters: CounterTable::new(max_counters),
            rejected: HashMap::new(),
            staged: Staged::default(),
        }
    }

    /// The shared form of an input that has a program, compiled if need be; or why there is none.
    pub(super) fn obtain(
        &mut self,
        compiler: &impl Compiler,
        input: Input,
        sets: &mut Sets,
    ) -> Result<Arc<Input>, Arc<str>> {
        if let Some((known, _)) = self.inputs.get_key_value(&input) {
            return Ok(known.clone());
        }
        if let Some(reason) = self.rejected.get(&input) {
            return Err(reason.clone());
        }
        let (policy, own) = (&input.policy, input.own.for_compiler());
        let prepared = prepare(&policy.resolved, policy.direction, &own);
        let tested = prepared.sets();
        if tested.len() > sets.capacity() {
            // It would not fit if it were alone, so it must not be in the way of the others.
            let (tested, room) = (tested.len(), sets.capacity());
            let reason = format!("it tests {tested} sets, and there is room for {room} (maxSets)");
            let reason: Arc<str> = reason.into();
            self.rejected.insert(Arc::new(input), reason.clone());
            return Err(reason);
        }
        if let Err(needed) = sets.allocate(tested.iter()) {
            // Not for good: slots that the state before still holds are free once it is gone. So only this policy waits for the next
            // try, and everything else goes on.
            let room = sets.capacity();
            return Err(format!("{needed} sets are in use with it, and there is room for {room} (maxSets)").into());
        }
        let mut recorder = Recorder {
            table: &mut self.counters,
            used: BTreeSet::new(),
        };
        let program = match compiler.compile(prepared, &*sets, &mut recorder) {
            Ok(program) => program,
            Err(error) => {
                let reason: Arc<str> = error.to_string().into();
                self.rejected.insert(Arc::new(input), reason.clone());
                return Err(reason);
            }
        };
        let counters = recorder.used;
        let mut tested: Vec<SetNo> = program
            .sets
            .iter()
            .chain(&program.named_port_sets)
            .filter_map(|id| sets.find(id))
            .collect();
        tested.sort_unstable();
        tested.dedup();
        let mask = |ids: &felid_model::resolved::SetIds| {
            let matters: Vec<SetNo> = ids
                .iter()
                .filter_map(|id| sets.find(id))
                .filter(|set| tested.binary_search(set).is_ok())
                .collect();
            let mut row = vec![0; self.words].into_boxed_slice();
            sets.mark(&matters, &mut row);
            row
        };
        let (leaving, joining) = (mask(&policy.matters_leaving), mask(&policy.matters_joining));
        let program = self.intern(program, tested, counters);
        let input = Arc::new(input);
        self.inputs.insert(
            input.clone(),
            Compiled {
                program,
                users: 0,
                leaving,
                joining,
            },
        );
        self.staged.inputs.push(input.clone());
        Ok(input)
    }

    fn intern(&mut self, program: Program, sets: Vec<SetNo>, counters: BTreeSet<u32>) -> ProgramId {
        if let Some(&id) = self.by_program.get(&program) {
            return id;
        }
        let id = ProgramId(self.next);
        self.next += 1;
        let program = Arc::new(program);
        self.by_program.insert(program.clone(), id);
        self.loaded.insert(
            id,
            Loaded {
                program,
                users: 0,
                sets,
                counters,
            },
        );
        self.staged.programs.push(id);
        id
    }

    /// One more (+1) or one less (-1) direction of an endpoint has this input.
    pub(super) fn stage_user(&mut self, input: &Arc<Input>, change: isize) {
        *self.staged.users.entry(input.clone()).or_default() += change;
    }

    /// The program of an input.
    pub(super) fn program_of(&self, input: &Input) -> Option<ProgramId> {
        self.inputs.get(input).map(|compiled| compiled.program)
    }

    /// Decides which programs the planned state needs, and stages what follows for sets and counters.
    pub(super) fn settle(&mut self, sets: &mut Sets) -> Settled {
        let mut changes: HashMap<ProgramId, isize> = HashMap::new();
        for (input, change) in &self.staged.users {
            if let Some(compiled) = self.inputs.get(input) {
                *changes.entry(compiled.program).or_default() += change;
            }
        }
        let mut settled = Settled::default();
        for id in std::mem::take(&mut self.staged.programs) {
            if changes.get(&id).is_none_or(|&n| n <= 0) {
                self.unload(id);
            } else if let Some(loaded) = self.loaded.get(&id) {
                loaded.sets.iter().for_each(|&set| sets.stage_program(set, 1));
                loaded
                    .counters
                    .iter()
                    .for_each(|&index| self.counters.stage_program(index, 1));
                settled.new_programs.insert(id, loaded.program.clone());
                self.staged.programs.push(id);
            }
        }
        for (id, change) in changes {
            let Some(loaded) = self.loaded.get(&id) else { continue };
            if loaded.users > 0 && loaded.users.saturating_add_signed(change) == 0 {
                loaded.sets.iter().for_each(|&set| sets.stage_program(set, -1));
                loaded
                    .counters
                    .iter()
                    .for_each(|&index| self.counters.stage_program(index, -1));
                settled.old_programs.push(id);
            }
        }
        settled.old_programs.sort_unstable();
        self.staged.old.clone_from(&settled.old_programs);
        (settled.new_counters, settled.old_counters) = self.counters.settle();
        settled
    }

    fn unload(&mut self, id: ProgramId) {
        if let Some(loaded) = self.loaded.remove(&id) {
            self.by_program.remove(&loaded.program);
        }
    }

    /// Inputs whose flows have to be judged again, given the bits that some peers lost and some gained.
    pub(super) fn revoked(&self, lost: &[u64], gained: &[u64]) -> HashSet<Arc<Input>> {
        let meets = |mask: &[u64], bits: &[u64]| mask.iter().zip(bits).any(|(mask, bits)| mask & bits != 0);
        self.inputs
            .iter()
            .filter(|(_, compiled)| meets(&compiled.leaving, lost) || meets(&compiled.joining, gained))
            .map(|(input, _)| input.clone())
            .collect()
    }

    /// The planned state is the only one.
    pub(super) fn commit(&mut self) {
        let staged = std::mem::take(&mut self.staged);
        for (input, change) in staged.users {
            let Some(compiled) = self.inputs.get_mut(&input) else {
                continue;
            };
            compiled.users = compiled.users.saturating_add_signed(change);
            let (program, unused) = (compiled.program, compiled.users == 0);
            if let Some(loaded) = self.loaded.get_mut(&program) {
                loaded.users = loaded.users.saturating_add_signed(change);
            }
            if unused {
                self.inputs.remove(&input);
            }
        }
        for input in staged.inputs {
            if self.inputs.get(&input).is_some_and(|compiled| compiled.users == 0) {
                self.inputs.remove(&input);
            }
        }
        for id in staged.old {
            self.unload(id);
        }
        self.counters.commit();
    }

    /// The old state stays the only one.
    pub(super) fn rollback(&mut self) {
        let staged = std::mem::take(&mut self.staged);
        for input in staged.inputs {
            self.inputs.remove(&input);
        }
        for id in staged.programs {
            self.unload(id);
        }
        self.counters.rollback();
    }

    /// The kernel did not take these of the staged programs. To be followed by [`Self::rollback`].
    pub(super) fn reject(&mut self, refused: &BTreeMap<ProgramId, String>) {
        for input in &self.staged.inputs {
            let reason = self
                .inputs
                .get(input)
                .and_then(|compiled| refused.get(&compiled.program));
            if let Some(reason) = reason {
                self.rejected.insert(input.clone(), reason.as_str().into());
            }
        }
    }

    /// Forgets which inputs have no program, but for those that are to be kept.
    pub(super) fn forget_rejected(&mut self, keep: impl Fn(&Input) -> bool) {
        self.rejected.retain(|input, _| keep(input));
    }

    /// A program.
    pub(super) fn get(&self, id: ProgramId) -> Option<&Arc<Program>> {
        self.loaded.get(&id).map(|loaded| &loaded.program)
    }

    /// Number of programs, and of directions of endpoints that use them.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.loaded.len(), self.loaded.values().map(|loaded| loaded.users).sum())
    }

    /// Counters.
    pub(super) fn counters(&self) -> &CounterTable {
        &self.counters
    }
}
