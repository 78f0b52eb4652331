//! Which form a record has, by its apiVersion and kind. What might be meant as policy is never silently ignored.

use crate::convert::source_kind;
use crate::{API_VERSION, Kind};

/// A form of record.
pub(super) enum Form {
    /// One that felid acts on.
    Known(Kind),
    /// A record of Kubernetes.
    Kubernetes(Kind),
    /// `workloadEndpoint` of Calico's v1 form.
    EndpointV1,
    /// Cannot be read.
    Refused {
        /// Why.
        reason: String,
        /// It is a policy: endpoints that it may select are to be closed.
        policy: bool,
    },
    /// None of felid's business.
    Foreign,
}

/// Calico's kinds that say nothing about what felid does.
const CALICO_FOREIGN: [&str; 16] = [
    "IPReservation",
    "IPAMBlock",
    "IPAMConfig",
    "IPAMConfiguration",
    "IPAMHandle",
    "BlockAffinity",
    "BGPConfiguration",
    "BGPPeer",
    "BGPFilter",
    "Node",
    "ClusterInformation",
    "KubeControllersConfiguration",
    "CalicoNodeStatus",
    "RemoteClusterConfiguration",
    "EgressGatewayPolicy",
    "LicenseKey",
];

/// Kinds of `apiVersion: v1` that Calico had before version 3.
const CALICO_V1: [&str; 7] = [
    "workloadEndpoint",
    "hostEndpoint",
    "policy",
    "profile",
    "ipPool",
    "bgpPeer",
    "node",
];

/// Finds the form.
pub(super) fn form(api_version: &str, kind: &str) -> Form {
    let refused = |reason: String, policy| Form::Refused { reason, policy };
    if kind.is_empty() {
        return refused("is required".to_owned(), false);
    }
    if let Some(kind) = source_kind(api_version, kind) {
        return Form::Kubernetes(kind);
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let looks_like_policy = kind.to_ascii_lowercase().ends_with("policy") && !kind.starts_with("Staged");
    match group {
        "projectcalico.org" | "crd.projectcalico.org" => {
            if CALICO_FOREIGN.contains(&kind) {
                return Form::Foreign;
            }
            if api_version != API_VERSION {
                let reason = format!("apiVersion {api_version} is not read: write apiVersion: {API_VERSION}");
                return refused(reason, looks_like_policy);
            }
            match (
                Kind::from_record(API_VERSION, kind).filter(|kind| is_decoded(*kind)),
                kind,
            ) {
                (Some(kind), _) => Form::Known(kind),
                (None, "StagedKubernetesNetworkPolicy") => Form::Kubernetes(Kind::StagedKubernetesNetworkPolicy),
                _ => {
                    let meant = Kind::ALL
                        .into_iter()
                        .find(|known| known.as_str().eq_ignore_ascii_case(kind));
                    let hint = meant.map_or_else(String::new, |meant| format!("; {meant} is meant?"));
                    refused(format!("unknown kind of {API_VERSION}{hint}"), looks_like_policy)
                }
            }
        }
        "networking.k8s.io" | "extensions" if kind == "NetworkPolicy" => {
            let reason = format!("apiVersion {api_version} is not read: write networking.k8s.io/v1");
            refused(reason, true)
        }
        "policy.networking.k8s.io" => refused(format!("unknown kind of {api_version}"), true),
        "" if version == "v1" && kind == "workloadEndpoint" => Form::EndpointV1,
        "" if version == "v1" && CALICO_V1.contains(&kind) => {
            let reason = format!("of Calico's v1 form only workloadEndpoint is read: write apiVersion: {API_VERSION}");
            match kind {
                "ipPool" | "bgpPeer" | "node" => Form::Foreign,
                _ => refused(reason, kind == "policy"),
            }
        }
        // Without an apiVersion the kinds of felid are meant.
        "" if version.is_empty() => {
            let meant = Kind::from_name(kind).map(Kind::api_version);
            let hint = match meant.or(looks_like_policy.then_some(API_VERSION)) {
                Some(version) => format!("apiVersion is missing: write apiVersion: {version}"),
                None => "apiVersion is missing".to_owned(),
            };
            refused(hint, looks_like_policy)
        }
        _ => Form::Foreign,
    }
}

/// Kinds that [`super::resource`] decodes.
fn is_decoded(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::WorkloadEndpoint
            | Kind::Profile
            | Kind::NetworkPolicy
            | Kind::GlobalNetworkPolicy
            | Kind::Tier
            | Kind::NetworkSet
            | Kind::GlobalNetworkSet
            | Kind::FelixConfiguration
            | Kind::StagedNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
            | Kind::HostEndpoint
            | Kind::IpPool
    )
}
