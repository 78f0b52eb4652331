//! What runs for an endpoint's direction whose policy has no program, or does not fit.
//!
//! In: the input that is wanted, and the one that is in force. Out: the input to run, and a
//! [`PolicyFailure`] where it is not the wanted one. Never: programs themselves.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use felid_model::ResourceKey;
use felid_model::resolved::{LocalEndpoint, ResolvedPolicy, SetIds};

use super::Planner;
use super::compiler::Compiler;
use super::draft::{Draft, Fallback};
use super::policy::Input;
use super::types::{PlanError, PolicyFailure};
use crate::types::Direction;

/// Both directions, in the order of [`super::draft::InForce::inputs`].
const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// Why an endpoint is closed whose policy has no program, in listings. It is the same for all of
/// them, so that they share a program.
const CLOSED: &str = "the policy cannot be compiled";

/// What an endpoint's direction is to run.
pub(super) struct Wanted<'a> {
    pub(super) endpoint: &'a LocalEndpoint,
    pub(super) input: Input,
    /// What is in force.
    pub(super) before: Option<Arc<Input>>,
}

impl<C: Compiler> Planner<C> {
    /// Returns the input to run: the wanted one; if that has no program or does not fit, the policy
    /// in force; if that cannot stay, one that denies everything.
    pub(super) fn choose(&mut self, wanted: Wanted<'_>, draft: &mut Draft) -> Result<Arc<Input>, PlanError> {
        let Wanted {
            endpoint,
            input,
            before,
        } = wanted;
        let direction = input.policy.direction;
        let left_out = self.left_out.reason(&input.policy.resolved);
        let reason = match left_out.map_or_else(|| self.obtain(input.clone()), Err) {
            Ok(input) => return Ok(input),
            Err(reason) => reason,
        };
        let mut fallback = Fallback {
            problem: PolicyFailure {
                endpoint: endpoint.key.clone(),
                direction,
                closed: false,
                reason,
            },
            wanted: input,
        };
        let place = (endpoint.key.clone(), direction);
        // The calculation says nothing of sets that no policy names any more, so a policy that
        // names such sets cannot be kept: it would run on members as they once were.
        let named = draft.named.get_or_insert_with(|| self.sets_named());
        let kept = before.map(|before| before.policy.clone());
        let kept = kept.filter(|policy| policy.sets().all(|set| named.contains(set)));
        if let Some(policy) = kept.filter(|policy| self.left_out.reason(&policy.resolved).is_none()) {
            let own = policy.own(endpoint, &self.addresses, &self.sets);
            if let Ok(input) = self.obtain(Input { policy, own }) {
                fallback.problem.closed = input.policy.resolved.closed.is_some();
                draft.fallbacks.insert(place, fallback);
                return Ok(input);
            }
        }
        fallback.problem.closed = true;
        draft.fallbacks.insert(place, fallback);
        let closed = Arc::new(ResolvedPolicy {
            closed: Some(CLOSED.into()),
            ..ResolvedPolicy::default()
        });
        let policy = self.policies.intern(direction, &closed);
        let own = policy.own(endpoint, &self.addresses, &self.sets);
        self.obtain(Input { policy, own }).map_err(PlanError::Closed)
    }

    /// Notes that there is no room for an endpoint in the kernel's table of endpoints: its
    /// interface stays closed.
    pub(super) fn note_no_room(&mut self, endpoint: &LocalEndpoint, draft: &mut Draft) {
        let room = self.options.max_endpoints.saturating_sub(1);
        let reason: Arc<str> =
            format!("the node has more endpoints than the {room} that the table `endpoints` has room for").into();
        for wanted in self.policies.inputs(endpoint, &self.addresses, &self.sets) {
            let direction = wanted.policy.direction;
            let problem = PolicyFailure {
                endpoint: endpoint.key.clone(),
                direction,
                closed: true,
                reason: reason.clone(),
            };
            draft
                .fallbacks
                .insert((endpoint.key.clone(), direction), Fallback { problem, wanted });
        }
    }

    /// The shared form of an input, or why it has no program.
    fn obtain(&mut self, input: Input) -> Result<Arc<Input>, Arc<str>> {
        self.programs.obtain(&self.compiler, input, &mut self.sets)
    }

    /// Every set that a policy of any endpoint names, by the records.
    fn sets_named(&mut self) -> SetIds {
        let mut named = SetIds::new();
        let mut seen = HashSet::new();
        for endpoint in self.desired.values() {
            for (direction, resolved) in DIRECTIONS.into_iter().zip([&endpoint.egress, &endpoint.ingress]) {
                if seen.insert((direction, Arc::as_ptr(resolved))) {
                    named.extend(self.policies.intern(direction, resolved).sets().cloned());
                }
            }
        }
        named
    }

    /// Remembers what could not be put in force among the endpoints that were looked at.
    pub(super) fn note_fallbacks(
        &mut self,
        affected: &BTreeSet<ResourceKey>,
        fallbacks: BTreeMap<(ResourceKey, Direction), Fallback>,
    ) {
        if self.fallbacks.is_empty() && fallbacks.is_empty() {
            return;
        }
        self.fallbacks.retain(|(key, _), _| !affected.contains(key));
        self.fallbacks.extend(fallbacks);
        let wanted: HashSet<&Input> = self.fallbacks.values().map(|fallback| &fallback.wanted).collect();
        self.programs.forget_rejected(|input| wanted.contains(input));
    }
}
