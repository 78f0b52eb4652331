//! Loaded programs: compiled once per input, shared where equal, counted by their users.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use felid_model::resolved::SetIds;

use super::compiler::Compiler;
use super::counters::{CounterTable, Recorder};
use super::policy::Input;
use super::sets::{SetNo, Sets};
use crate::compile::prepare;
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

/// Why an input has no program.
enum NoProgram {
    /// It may have one with the next plan.
    ForNow(Arc<str>),
    /// It will have none until the planner is told to try again.
    Lasting(Arc<str>),
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
struct StagedPrograms {
    inputs: Vec<Arc<Input>>,
    programs: Vec<ProgramId>,
    users: HashMap<Arc<Input>, isize>,
    old: Vec<ProgramId>,
}

/// What a plan does to programs and counters.
#[derive(Debug, Default)]
pub(super) struct ProgramChanges {
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
    /// Inputs that cannot be compiled, or whose programs the kernel did not take: not to be tried
    /// with every plan.
    rejected: HashMap<Arc<Input>, Arc<str>>,
    staged: StagedPrograms,
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
            staged: StagedPrograms::default(),
        }
    }

    /// Returns the shared form of an input that has a program, compiled if need be; or why there is
    /// none.
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
        let compiled = match self.compile(compiler, &input, sets) {
            Ok(compiled) => compiled,
            Err(NoProgram::ForNow(reason)) => return Err(reason),
            Err(NoProgram::Lasting(reason)) => {
                self.rejected.insert(Arc::new(input), reason.clone());
                return Err(reason);
            }
        };
        let input = Arc::new(input);
        self.inputs.insert(input.clone(), compiled);
        self.staged.inputs.push(input.clone());
        Ok(input)
    }

    /// Compiles an input, once its sets have slots.
    fn compile(&mut self, compiler: &impl Compiler, input: &Input, sets: &mut Sets) -> Result<Compiled, NoProgram> {
        let (policy, local) = (&input.policy, input.own.for_compiler());
        let prepared = prepare(&policy.resolved, policy.direction, &local);
        let tested = prepared.sets();
        let room = sets.capacity();
        if tested.len() > room {
            // It would not fit if it were alone, so it must not be in the way of the others.
            let reason = format!("it tests {} sets, and there is room for {room} (maxSets)", tested.len());
            return Err(NoProgram::Lasting(reason.into()));
        }
        if let Err(needed) = sets.allocate(tested.iter()) {
            // Slots that the state before still holds are free once it is gone. So only this policy
            // waits for the next try, and everything else goes on.
            let reason = format!("{needed} sets are in use with it, and there is room for {room} (maxSets)");
            return Err(NoProgram::ForNow(reason.into()));
        }
        let mut recorder = Recorder {
            table: &mut self.counters,
            used: BTreeSet::new(),
        };
        let program = compiler.compile(prepared, &*sets, &mut recorder);
        let program = program.map_err(|error| NoProgram::Lasting(error.to_string().into()))?;
        let counters = recorder.used;
        let tested = program.sets.iter().chain(&program.named_port_sets);
        let mut tested: Vec<SetNo> = tested.filter_map(|id| sets.find(id)).collect();
        tested.sort_unstable();
        tested.dedup();
        let mask = |ids: &SetIds| {
            let known = ids.iter().filter_map(|id| sets.find(id));
            let matters: Vec<SetNo> = known.filter(|set| tested.binary_search(set).is_ok()).collect();
            let mut row = vec![0; self.words].into_boxed_slice();
            sets.mark(&matters, &mut row);
            row
        };
        let (leaving, joining) = (mask(&policy.matters_leaving), mask(&policy.matters_joining));
        Ok(Compiled {
            program: self.intern(program, tested, counters),
            users: 0,
            leaving,
            joining,
        })
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

    /// Decides which programs the planned state needs, and stages what follows for sets and
    /// counters.
    pub(super) fn stage_changes(&mut self, sets: &mut Sets) -> ProgramChanges {
        let mut users: HashMap<ProgramId, isize> = HashMap::new();
        for (input, change) in &self.staged.users {
            if let Some(compiled) = self.inputs.get(input) {
                *users.entry(compiled.program).or_default() += change;
            }
        }
        let mut changes = ProgramChanges::default();
        for id in std::mem::take(&mut self.staged.programs) {
            if users.get(&id).is_none_or(|&n| n <= 0) {
                self.unload(id);
            } else if let Some(loaded) = self.loaded.get(&id) {
                loaded.sets.iter().for_each(|&set| sets.stage_program(set, 1));
                loaded
                    .counters
                    .iter()
                    .for_each(|&index| self.counters.stage_program(index, 1));
                changes.new_programs.insert(id, loaded.program.clone());
                self.staged.programs.push(id);
            }
        }
        for (id, change) in users {
            let Some(loaded) = self.loaded.get(&id) else { continue };
            if loaded.users > 0 && loaded.users.saturating_add_signed(change) == 0 {
                loaded.sets.iter().for_each(|&set| sets.stage_program(set, -1));
                loaded
                    .counters
                    .iter()
                    .for_each(|&index| self.counters.stage_program(index, -1));
                changes.old_programs.push(id);
            }
        }
        changes.old_programs.sort_unstable();
        self.staged.old.clone_from(&changes.old_programs);
        (changes.new_counters, changes.old_counters) = self.counters.stage_changes();
        changes
    }

    fn unload(&mut self, id: ProgramId) {
        if let Some(loaded) = self.loaded.remove(&id) {
            self.by_program.remove(&loaded.program);
        }
    }

    /// Inputs whose flows have to be judged again, given the bits that some peers lost and some
    /// gained.
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
