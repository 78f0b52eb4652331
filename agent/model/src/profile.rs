//! Profiles: the names by which endpoints refer to them, and those that namespaces and service
//! accounts imply.

use crate::selector::{NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX};
use crate::{Action, Kind, LabelMap, Profile, ResourceKey, Rule};

/// Label that carries the name of the namespace or service account, behind the prefix.
pub(crate) const NAME_LABEL: &str = "projectcalico.org/name";

/// Returns the name of the profile that a namespace implies.
pub fn namespace_profile(name: &str) -> String {
    format!("kns.{name}")
}

/// Returns the name of the profile that a service account implies.
pub fn service_account_profile(namespace: &str, name: &str) -> String {
    format!("ksa.{namespace}.{name}")
}

impl ResourceKey {
    /// Returns the name by which endpoints refer to the profile that this resource is or implies.
    pub fn profile_name(&self) -> String {
        match (self.kind, &self.namespace) {
            (Kind::Namespace, _) => namespace_profile(&self.name),
            (Kind::ServiceAccount, Some(namespace)) => service_account_profile(namespace, &self.name),
            _ => self.name.to_string(),
        }
    }
}

impl Profile {
    /// Returns the profile that a `Namespace` or a `ServiceAccount` with these labels implies. That
    /// of a namespace allows everything; that of a service account has no rules.
    pub fn implied(key: ResourceKey, labels: &LabelMap) -> Profile {
        let (prefix, rules) = match key.kind {
            Kind::Namespace => (NAMESPACE_PREFIX, vec![Rule::new(Action::Allow)]),
            _ => (SERVICE_ACCOUNT_PREFIX, Vec::new()),
        };
        let mut labels_to_apply: LabelMap = labels
            .iter()
            .map(|(label, value)| (format!("{prefix}{label}"), value.clone()))
            .collect();
        labels_to_apply.insert(format!("{prefix}{NAME_LABEL}"), key.name.to_string());
        Profile {
            key,
            labels_to_apply,
            ingress: rules.clone(),
            egress: rules,
        }
    }
}
