//! The compiler's entry point: a resolved policy of one endpoint and direction becomes a
//! [`Program`].
//!
//! In: a policy, its direction, and what is known of the endpoint's own side; then the slots of the
//! sets that the policy tests. Out: a program, or the reason why there is none. Never: who uses the
//! program.
//!
//! [`prepare()`] takes the policy apart (`ir`) and stops where the planner hands out slots;
//! [`Prepared::compile`] goes on from there (`codegen`).

use felid_model::resolved::{ResolvedPolicy, SetId};

use crate::codegen::emitter::Emitter;
use crate::codegen::layout::layout;
use crate::codegen::placed::{EmittedSection, SectionFamily};
use crate::codegen::plan::Plan;
use crate::codegen::search::search;
use crate::ir::lower::lower;
use crate::ir::rule::{Lowered, Section, SetIndex};
use crate::limits::EXPANSIONS;
use crate::program::Program;
use crate::types::{CompileError, Counters, Direction, LocalSide, Slots};

/// Compiles a policy: [`prepare()`] and [`Prepared::compile`] in one.
///
/// `policy` and `local` are what is known of the policy and of the endpoint itself, `slots` says
/// where the bits of sets are, and `counters` hands out counters.
///
/// # Errors
///
/// The program would not fit, or a set has no slot, see [`CompileError`].
///
/// # Examples
///
/// A policy without tiers and profiles denies everything:
///
/// ```
/// use felid_compile::{CompileError, Counters, Direction, LocalSide, compile};
/// use felid_compile::program::Slots;
/// use felid_compile::transaction::CounterName;
/// use felid_model::resolved::{ResolvedPolicy, SetId, SetIds};
///
/// struct NoSets;
/// impl Slots for NoSets {
///     fn slot(&self, _: &SetId) -> Option<u32> {
///         None
///     }
/// }
/// struct OneCounter;
/// impl Counters for OneCounter {
///     fn counter(&mut self, _: &CounterName) -> u32 {
///         1
///     }
/// }
///
/// let local = LocalSide {
///     addresses: vec![("10.0.0.1".parse().unwrap(), SetIds::new())],
///     ..LocalSide::default()
/// };
/// let policy = ResolvedPolicy::default();
/// let program = compile(&policy, Direction::Ingress, &local, &NoSets, &mut OneCounter)?;
/// assert_eq!(program.chunks.len(), 1);
/// assert_eq!(program.rules[0].text, "Deny: no tier and no profile decided");
/// # Ok::<(), CompileError>(())
/// ```
pub fn compile(
    policy: &ResolvedPolicy,
    direction: Direction,
    local: &LocalSide,
    slots: &impl Slots,
    counters: &mut impl Counters,
) -> Result<Program, CompileError> {
    prepare(policy, direction, local).compile(slots, counters)
}

/// A policy of one endpoint and direction, taken apart.
pub struct Prepared<'a> {
    policy: &'a ResolvedPolicy,
    direction: Direction,
    lowered: Lowered<'a>,
    /// How the rules of each section are looked for, in the order of [`Lowered::families`].
    plans: Vec<Plan>,
    /// For each set whether it is tested on addresses.
    addresses: Vec<bool>,
    /// For each set whether it is tested on the peer's named port.
    named: Vec<bool>,
}

/// Takes a policy apart, so that it is known which sets its program will test.
pub fn prepare<'a>(policy: &'a ResolvedPolicy, direction: Direction, local: &LocalSide) -> Prepared<'a> {
    let lowered = lower(policy, direction, local);
    let [expansion, ..] = EXPANSIONS;
    let sections = lowered.families.iter().flatten();
    let plans = sections.map(|section| Plan::new(&section.rules, expansion)).collect();
    let [addresses, named] = lowered.tested();
    Prepared {
        policy,
        direction,
        lowered,
        plans,
        addresses,
        named,
    }
}

impl Prepared<'_> {
    /// Returns the policy.
    pub fn policy(&self) -> &ResolvedPolicy {
        self.policy
    }

    /// Returns the sets that the program tests, so that they can be given slots before
    /// [`Self::compile`]: those of the peer's address, then those of its named port, each once.
    /// They are in the order in which their slots should be: a program is fastest if the sets of a
    /// list of rules have their slots side by side.
    pub fn sets(&self) -> Vec<SetId> {
        let mut seen = vec![false; self.lowered.names.len()];
        let mut out = Vec::with_capacity(seen.len());
        let mut add = |index: SetIndex| {
            if let (Some(seen), Some(name)) = (seen.get_mut(index as usize), self.lowered.names.get(index as usize))
                && !std::mem::replace(seen, true)
            {
                out.push((*name).clone());
            }
        };
        let sections = self.lowered.families.iter().flatten();
        for (section, plan) in sections.zip(&self.plans) {
            plan.order(&section.rules).for_each(&mut add);
        }
        // Those of the endpoint's own address, where it is not known, have no order.
        for marked in [&self.addresses, &self.named] {
            let marked = (0..).zip(marked).filter(|(_, marked)| **marked);
            marked.for_each(|(index, _)| add(index));
        }
        out
    }

    /// Compiles the policy. Equal decisions give equal programs: nothing in a program names the
    /// endpoint.
    ///
    /// # Errors
    ///
    /// The program would not fit, or a set has no slot, see [`CompileError`].
    pub fn compile(mut self, slots: &impl Slots, counters: &mut impl Counters) -> Result<Program, CompileError> {
        if let Some(rule) = &self.lowered.unsupported {
            return Err(CompileError::SpoofedPorts(rule.clone()));
        }
        let bits = self.bits(slots)?;
        let mut result = Err(CompileError::Internal("no way to compile"));
        for expansion in EXPANSIONS {
            let families = self.emit(&bits, expansion)?;
            result = layout(&self.lowered.points, families, self.direction, counters);
            let too_large = CompileError::is_too_large;
            if !result.as_ref().is_err_and(too_large) {
                break;
            }
        }
        let (chunks, rules) = result?;
        Ok(Program {
            chunks,
            rules,
            sets: self.lowered.named(&self.addresses),
            named_port_sets: self.lowered.named(&self.named),
        })
    }

    /// Returns the bit positions of all sets, checked.
    fn bits(&self, slots: &impl Slots) -> Result<Vec<u32>, CompileError> {
        // Offsets of loads are signed 16-bit numbers of bytes.
        let limit = (i16::MAX as u32 + 1) * 8 - 1;
        let tested = self.addresses.iter().zip(&self.named);
        let names = self.lowered.names.iter().zip(tested);
        let slot = |(set, (address, named)): (&&SetId, (&bool, &bool))| {
            if !address && !named {
                return Ok(0);
            }
            let slot = slots.slot(set).ok_or_else(|| CompileError::NoSlot((*set).clone()))?;
            if slot > limit {
                return Err(CompileError::SlotOutOfRange {
                    set: (*set).clone(),
                    slot,
                    limit,
                });
            }
            Ok(slot)
        };
        names.map(slot).collect()
    }

    /// Returns the blocks of all sections.
    fn emit(&mut self, bits: &[u32], expansion: usize) -> Result<Vec<SectionFamily>, CompileError> {
        let emitter = Emitter {
            bits,
            direction: self.direction,
            points: &self.lowered.points,
            candidate: false,
        };
        let mut plans = std::mem::take(&mut self.plans).into_iter();
        let mut emit = |section: &Section| -> Result<EmittedSection, CompileError> {
            // The plans are for the first expansion.
            let plan = plans.next().unwrap_or_else(|| Plan::new(&section.rules, expansion));
            let blocks = search(&emitter, &section.rules, expansion, plan)?;
            Ok(EmittedSection::new(blocks, section))
        };
        let families = self.lowered.families.iter();
        families
            .map(|sections| {
                let sections = sections.iter().map(&mut emit).collect::<Result<_, _>>()?;
                Ok(SectionFamily { sections })
            })
            .collect()
    }
}
