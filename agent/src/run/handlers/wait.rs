//! Whether what somebody waits for is so.

use felid_dataplane::Inspection;
use felid_datastore::{InForce, Problem};
use felid_model::resolved::{LocalEndpoint, ResolvedPolicy};
use felid_model::{Kind, ResourceKey};

use crate::api::{self, EndpointState, FailureKind, Refusal, WaitFor, Waited};
use crate::endpoint_names::{EndpointNames, address};
use crate::text;

use super::View;

/// What the records said when somebody began to wait is taken in up to here.
#[derive(Debug, Clone, Copy)]
pub(in crate::run) struct Target(pub(in crate::run) u64);

/// What comes of a look at what somebody waits for.
pub(in crate::run) enum Look {
    /// It is so.
    Done(Waited),
    /// It is not so yet, for this reason.
    NotYet(String),
    /// It will not become so as things stand.
    Never(Refusal),
}

impl<D: Inspection> View<'_, D> {
    /// Returns why the datastore has not told everything that it held when somebody began to wait.
    pub(in crate::run) fn unread(&self) -> String {
        let datastore = &self.configuration.settings().datastore;
        match self.records.connection().reason {
            Some(reason) => format!("{datastore} cannot be read: {reason}"),
            None => format!("{datastore} is still being read"),
        }
    }

    /// Looks whether something is so. `target` is of no interest to [`WaitFor::Ready`].
    pub(in crate::run) fn look(&self, what: &WaitFor, target: Target) -> Look {
        match what {
            WaitFor::Ready => self.look_at_readiness(),
            WaitFor::Enforced(key) => self.look_at_record(key, target),
            WaitFor::Deleted(key) => self.look_at_deletion(key, target),
        }
    }

    fn look_at_readiness(&self) -> Look {
        let reasons = self.not_ready();
        if !reasons.is_empty() {
            return Look::NotYet(reasons.join("; "));
        }
        let Some((revision, at)) = self.revisions.enforced() else {
            return Look::NotYet("the kernel is being programmed".to_owned());
        };
        Look::Done(Waited {
            done: true,
            revision: Some(revision),
            enforced_at: Some(api::rfc3339(at)),
            ..Waited::default()
        })
    }

    fn look_at_deletion(&self, key: &ResourceKey, target: Target) -> Look {
        let key = self.known_by(key);
        let doubt = self.doubts(&key).next();
        let missing = match doubt {
            Some(problem) => Some(text::shown(&problem.to_string())),
            None => self.behind(&key, target),
        };
        missing.map_or_else(|| Look::Done(waited(&key)), Look::NotYet)
    }

    /// Returns whether a record is in force.
    pub(in crate::run) fn is_there(&self, key: &ResourceKey) -> bool {
        self.revisions.record(&self.known_by(key)).is_some()
    }

    fn look_at_record(&self, key: &ResourceKey, target: Target) -> Look {
        let key = self.known_by(key);
        // Where the record as it stands cannot be in force, waiting does not help.
        let name = key.to_string();
        let mut problems = self.records.problems().list().iter();
        let refused = problems
            .find(|problem| problem.resource.as_ref() == Some(&name) && !matches!(problem.in_force, InForce::Document));
        if let Some(problem) = refused {
            return Look::Never(Refusal::Unmet(format!(
                "{key} is not in force as it stands: {}",
                text::shown(&problem.to_string())
            )));
        }
        let Some(version) = self.revisions.record(&key) else {
            return match self.doubts(&key).next() {
                Some(problem) => Look::NotYet(text::shown(&problem.to_string())),
                None => Look::Never(Refusal::Unknown(format!("resource does not exist: {key}"))),
            };
        };
        if let Some(problem) = self.doubts(&key).next() {
            return Look::NotYet(text::shown(&problem.to_string()));
        }
        let node = &self.configuration.settings().node.0;
        let is_local = self.calc.endpoints().any(|endpoint| endpoint.key == key);
        if let Some(other) = version
            .node
            .as_deref()
            .filter(|other| !is_local && *other != node.as_str())
        {
            return Look::Never(Refusal::Unmet(format!(
                "{key} is of node {other:?}, and this is node {node:?}: the agent there enforces it"
            )));
        }
        if let Some(reason) = self.behind(&key, target) {
            return Look::NotYet(reason);
        }
        let (concerned, missing) = self.concerned(&key);
        if let Some(reason) = missing {
            return Look::NotYet(reason);
        }
        Look::Done(Waited {
            revision: Some(version.revision),
            // A later version than the one that was waited for may be on its way.
            enforced_at: version
                .enforced
                .or(self.revisions.enforced().map(|(_, at)| at))
                .map(api::rfc3339),
            endpoints: concerned,
            ..waited(&key)
        })
    }

    /// Returns the key of the record that a user means: endpoints have several names.
    fn known_by(&self, key: &ResourceKey) -> ResourceKey {
        let is_endpoint = matches!(key.kind, Kind::WorkloadEndpoint | Kind::Pod);
        if !is_endpoint || self.revisions.record(key).is_some() {
            return key.clone();
        }
        let has_place = key.name.contains('/') || address(&key.name).is_some();
        let mut meant = self.calc.endpoints().filter(|endpoint| {
            endpoint.key.kind == key.kind
                && (has_place || *endpoint.interface_name == *key.name || endpoint.key.namespace == key.namespace)
                && EndpointNames::of_local(endpoint).are_meant_by(&key.name)
        });
        match (meant.next(), meant.next()) {
            (Some(endpoint), None) => endpoint.key.clone(),
            _ => key.clone(),
        }
    }

    /// Returns what is wrong with the datastore so that nobody can say what it holds of a record:
    /// documents whose name cannot be read, and places that cannot be.
    fn doubts(&self, key: &ResourceKey) -> impl Iterator<Item = &Problem> {
        let problems = self.records.problems().errors();
        let name = key.to_string();
        problems.filter(move |problem| match problem.in_force {
            InForce::Unchanged => problem.origin.is_some(),
            InForce::LastGood => problem.resource.as_ref().is_none_or(|other| *other == name),
            InForce::Document | InForce::Nothing | InForce::Closed | InForce::Elsewhere(_) => false,
        })
    }

    /// Returns why not everything up to a revision is enforced, or not what beside policy follows
    /// from a record; `None` = all of it is.
    fn behind(&self, key: &ResourceKey, target: Target) -> Option<String> {
        use FailureKind::{Cluster, Complete, Kernel, Nat, Plan, Settings};
        let enforced = self.revisions.enforced();
        let is_enforced = enforced.is_some_and(|(enforced, _)| enforced >= target.0);
        let (beside, translates): (&[FailureKind], bool) = match key.kind {
            Kind::FelixConfiguration => (&[Settings, Cluster, Nat], true),
            Kind::IpPool => (&[Cluster, Nat], true),
            Kind::WorkloadEndpoint | Kind::Pod => (&[Nat], true),
            _ => (&[], false),
        };
        let failing = |kinds: &[FailureKind]| {
            let first = |kind: &FailureKind| Some(format!("{kind}: {}", self.reporting.failures.first(*kind)?));
            kinds.iter().find_map(first)
        };
        if !is_enforced {
            let reason = failing(&[Plan, Kernel, Complete]);
            return Some(reason.unwrap_or_else(|| "the kernel is being programmed".to_owned()));
        }
        let under_way =
            || (translates && self.translations.is_dirty()).then(|| "translations are being set".to_owned());
        failing(beside).or_else(under_way)
    }

    /// Returns how many endpoints of this node a record applies to, and what keeps it from being
    /// enforced there.
    fn concerned(&self, key: &ResourceKey) -> (Option<usize>, Option<String>) {
        if matches!(key.kind, Kind::WorkloadEndpoint | Kind::Pod) {
            return self.concerned_endpoint(key);
        }
        let users: Vec<&LocalEndpoint> = self
            .calc
            .endpoints()
            .filter(|endpoint| uses(&endpoint.ingress, key) || uses(&endpoint.egress, key))
            .map(|endpoint| &**endpoint)
            .collect();
        // What is not a policy may matter to every endpoint.
        let is_policy = key.kind.is_policy() || key.kind == Kind::Profile;
        let failed = self.planner.problems().find(|problem| {
            let concerns = users.iter().any(|user| user.key == problem.endpoint);
            concerns || !is_policy
        });
        let reason = failed.map(|problem| format!("{}: {problem}", problem.endpoint));
        (is_policy.then_some(users.len()), reason)
    }

    fn concerned_endpoint(&self, key: &ResourceKey) -> (Option<usize>, Option<String>) {
        let endpoints = self.endpoints();
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let found = endpoints
            .iter()
            .find(|endpoint| endpoint.name == *key.name && endpoint.namespace == namespace);
        match found {
            // It has no addresses, or has ended: there is nothing to enforce.
            None => (Some(0), None),
            Some(endpoint) if endpoint.state == EndpointState::Enforcing => (Some(1), None),
            Some(endpoint) => {
                let reason = endpoint.reason.as_deref().unwrap_or("nothing says why");
                (Some(1), Some(format!("{key} is {}: {reason}", endpoint.state)))
            }
        }
    }
}

/// Whether a policy or profile is among those that are asked.
fn uses(policy: &ResolvedPolicy, key: &ResourceKey) -> bool {
    let tiers = policy.tiers.iter().flat_map(|tier| &tier.policies);
    tiers.chain(&policy.profiles).any(|rules| rules.key == *key)
}

fn waited(key: &ResourceKey) -> Waited {
    Waited {
        done: true,
        kind: Some(key.kind.to_string()),
        namespace: key.namespace.as_deref().map(str::to_owned),
        name: Some(key.name.to_string()),
        ..Waited::default()
    }
}
