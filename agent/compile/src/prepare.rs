//! Between a policy and its program: what is to be tested is known, and where sets have their bits is still open.

use felid_model::resolved::{ResolvedPolicy, SetId};

use crate::compile::{CompileError, Counters, Direction, EXPANSIONS, Own};
use crate::emit::Emitter;
use crate::layout::{Emitted, Family, layout};
use crate::lower::lower;
use crate::program::{Program, Slots};
use crate::rule::{Lowered, Section, SetIndex};
use crate::search::{Plan, search};

/// A policy of one endpoint and direction, taken apart.
pub struct Prepared<'a> {
    policy: &'a ResolvedPolicy,
    direction: Direction,
    lowered: Lowered<'a>,
    /// How the rules of each section are looked for, in the order of [`Lowered::families`].
    plans: Vec<Plan>,
    addresses: Vec<bool>,
    named: Vec<bool>,
}

/// Takes a policy apart.
pub fn prepare<'a>(policy: &'a ResolvedPolicy, direction: Direction, own: &Own) -> Prepared<'a> {
    let lowered = lower(policy, direction, own);
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
    /// The policy.
    pub fn policy(&self) -> &ResolvedPolicy {
        self.policy
    }

    /// The sets that the program tests on the peer, so that they can be given slots before [`Self::compile`]: those of the peer's
    /// address, then those of its named port, each once. They are in the order in which their slots should be: a program is fastest if
    /// the sets of a list of rules have their slots side by side.
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
        // Those of the own address, where it is not known, have no order.
        for marked in [&self.addresses, &self.named] {
            let marked = (0..).zip(marked).filter(|(_, marked)| **marked);
            marked.for_each(|(index, _)| add(index));
        }
        out
    }

    /// Compiles. Equal decisions give equal programs: nothing in a program names the endpoint.
    pub fn compile(mut self, slots: &impl Slots, counters: &mut impl Counters) -> Result<Program, CompileError> {
        if let Some(rule) = &self.lowered.unsupported {
            return Err(CompileError::SpoofedPorts(rule.clone()));
        }
        let bits = self.bits(slots)?;
        let mut result = Err(CompileError::Internal("no way to compile"));
        for expansion in EXPANSIONS {
            let families = self.emit(&bits, expansion)?;
            result = layout(&self.lowered.sites, families, self.direction, counters);
            if !matches!(
                result,
                Err(CompileError::TooManyChunks { .. } | CompileError::TooLarge { .. })
            ) {
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

    /// Bit positions of all sets, checked.
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

    /// Emits all sections.
    fn emit(&mut self, bits: &[u32], expansion: usize) -> Result<Vec<Family>, CompileError> {
        let emitter = Emitter {
            bits,
            direction: self.direction,
            sites: &self.lowered.sites,
            candidate: false,
        };
        let mut plans = std::mem::take(&mut self.plans).into_iter();
        let mut emit = |section: &Section| -> Result<Emitted, CompileError> {
            // The plans are for the first expansion.
            let plan = plans.next().unwrap_or_else(|| Plan::new(&section.rules, expansion));
            Ok(Emitted::new(
                search(&emitter, &section.rules, expansion, plan)?,
                section,
            ))
        };
        let families = self.lowered.families.iter();
        families
            .map(|sections| {
                let sections = sections.iter().map(&mut emit).collect::<Result<_, _>>()?;
                Ok(Family { sections })
            })
            .collect()
    }
}
