//! Kinds: their names, as Calico's records and `calicoctl` write them.

use std::fmt;
use std::sync::Arc;

use crate::{Kind, ResourceKey};

/// `apiVersion` of every record felid acts on.
pub const API_VERSION: &str = "projectcalico.org/v3";

/// Name, plural, aliases beside these (all lower case).
const NAMES: [(Kind, &str, &str, &[&str]); 8] = [
    (
        Kind::WorkloadEndpoint,
        "WorkloadEndpoint",
        "workloadendpoints",
        &["wep", "weps"],
    ),
    (Kind::Profile, "Profile", "profiles", &["pro", "pros"]),
    (
        Kind::NetworkPolicy,
        "NetworkPolicy",
        "networkpolicies",
        &[
            "np",
            "nps",
            "policy",
            "policies",
            "pol",
            "pols",
            "cnp",
            "caliconetworkpolicy",
        ],
    ),
    (
        Kind::GlobalNetworkPolicy,
        "GlobalNetworkPolicy",
        "globalnetworkpolicies",
        &["gnp", "gnps", "cgnp"],
    ),
    (Kind::Tier, "Tier", "tiers", &[]),
    (Kind::NetworkSet, "NetworkSet", "networksets", &["netset", "netsets"]),
    (
        Kind::GlobalNetworkSet,
        "GlobalNetworkSet",
        "globalnetworksets",
        &["gnetset", "gnetsets", "gns"],
    ),
    (
        Kind::FelixConfiguration,
        "FelixConfiguration",
        "felixconfigurations",
        &["felixconfig", "felixconfigs", "fconfig", "fconfigs"],
    ),
];

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 8] = [
        Kind::WorkloadEndpoint,
        Kind::Profile,
        Kind::NetworkPolicy,
        Kind::GlobalNetworkPolicy,
        Kind::Tier,
        Kind::NetworkSet,
        Kind::GlobalNetworkSet,
        Kind::FelixConfiguration,
    ];

    /// The name that records carry in `kind`.
    pub fn as_str(self) -> &'static str {
        NAMES
            .iter()
            .find(|(kind, ..)| *kind == self)
            .map_or("", |(_, name, ..)| name)
    }

    /// Plural, in lower case.
    pub fn plural(self) -> &'static str {
        NAMES
            .iter()
            .find(|(kind, ..)| *kind == self)
            .map_or("", |(_, _, plural, _)| plural)
    }

    /// Whether its resources live in namespaces.
    pub fn is_namespaced(self) -> bool {
        matches!(self, Kind::WorkloadEndpoint | Kind::NetworkPolicy | Kind::NetworkSet)
    }

    /// Whether its resources are policies.
    pub fn is_policy(self) -> bool {
        matches!(self, Kind::NetworkPolicy | Kind::GlobalNetworkPolicy)
    }

    /// The kind with exactly this name.
    pub fn from_name(name: &str) -> Option<Kind> {
        NAMES
            .iter()
            .find(|(_, known, ..)| *known == name)
            .map(|(kind, ..)| *kind)
    }

    /// The kind that a user of the command line means: name, plural or alias, in any case, with `-` or without.
    pub fn from_alias(alias: &str) -> Option<Kind> {
        let alias: String = alias
            .chars()
            .filter(|c| *c != '-')
            .flat_map(char::to_lowercase)
            .collect();
        NAMES
            .iter()
            .find(|(_, name, plural, aliases)| {
                alias == name.to_lowercase() || alias == *plural || aliases.contains(&alias.as_str())
            })
            .map(|(kind, ..)| *kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl ResourceKey {
    /// A key. For kinds in namespaces an absent or empty namespace is `default`; for the others the namespace is left out.
    pub fn new(kind: Kind, namespace: Option<&str>, name: &str) -> Self {
        let namespace = kind
            .is_namespaced()
            .then(|| Arc::from(namespace.filter(|namespace| !namespace.is_empty()).unwrap_or("default")));
        ResourceKey {
            kind,
            namespace,
            name: Arc::from(name),
        }
    }
}

/// `Kind/name` or `Kind/namespace/name`.
impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.kind, self.name),
            None => write!(f, "{}/{}", self.kind, self.name),
        }
    }
}
