//! Which form a resource has, by its `apiVersion` and `kind`. What might be meant as policy is
//! never silently ignored.

use crate::convert::source_kind;
use crate::policy_scope::{PolicyScope, policy_scope};
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
        /// The endpoints that are to be closed, if it is a policy.
        closes: Option<PolicyScope>,
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

/// Finds the form of a resource of Calico's own group, in the version that felid reads.
fn calico_form(kind: &str) -> Form {
    let known = Kind::from_record(API_VERSION, kind).filter(|kind| is_decoded(*kind));
    match (known, kind) {
        (Some(kind), _) => Form::Known(kind),
        (None, "StagedKubernetesNetworkPolicy") => Form::Kubernetes(Kind::StagedKubernetesNetworkPolicy),
        _ => {
            let meant = Kind::ALL
                .into_iter()
                .find(|known| known.as_str().eq_ignore_ascii_case(kind));
            let hint = meant.map_or_else(String::new, |meant| format!("; {meant} is meant?"));
            Form::Refused {
                reason: format!("unknown kind of {API_VERSION}{hint}"),
                closes: policy_scope(kind),
            }
        }
    }
}

/// Finds the form.
pub(super) fn form(api_version: &str, kind: &str) -> Form {
    let refused = |reason: String, closes| Form::Refused { reason, closes };
    if kind.is_empty() {
        return refused("is required".to_owned(), None);
    }
    if let Some(kind) = source_kind(api_version, kind) {
        return Form::Kubernetes(kind);
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let scope = policy_scope(kind);
    match group {
        "projectcalico.org" | "crd.projectcalico.org" => {
            if CALICO_FOREIGN.contains(&kind) {
                return Form::Foreign;
            }
            if api_version != API_VERSION {
                let reason = format!("apiVersion {api_version} is not read: write apiVersion: {API_VERSION}");
                return refused(reason, scope);
            }
            calico_form(kind)
        }
        "networking.k8s.io" | "extensions" if kind == "NetworkPolicy" => {
            let reason = format!("apiVersion {api_version} is not read: write networking.k8s.io/v1");
            refused(reason, scope)
        }
        "policy.networking.k8s.io" => {
            let scope = scope.or(Some(PolicyScope::Cluster));
            refused(format!("unknown kind of {api_version}"), scope)
        }
        "discovery.k8s.io" if kind == "EndpointSlice" => {
            let reason = format!("apiVersion {api_version} is not read: write discovery.k8s.io/v1");
            refused(reason, None)
        }
        "" if version == "v1" && kind == "workloadEndpoint" => Form::EndpointV1,
        "" if version == "v1" && CALICO_V1.contains(&kind) => {
            let reason = format!("of Calico's v1 form only workloadEndpoint is read: write apiVersion: {API_VERSION}");
            match kind {
                "ipPool" | "bgpPeer" | "node" => Form::Foreign,
                // Calico's v1 policies hold in all namespaces.
                _ => refused(reason, (kind == "policy").then_some(PolicyScope::Cluster)),
            }
        }
        // Without an apiVersion the kinds of felid are meant.
        "" if version.is_empty() => {
            let meant = Kind::from_name(kind).map(Kind::api_version);
            let hint = match meant.or(scope.map(|_| API_VERSION)) {
                Some(version) => format!("apiVersion is missing: write apiVersion: {version}"),
                None => "apiVersion is missing".to_owned(),
            };
            refused(hint, scope)
        }
        _ => other_group(api_version, group, version, kind),
    }
}

/// The form of a resource in a group that felid does not know. Network policy of whatever group is
/// refused: either the group is mistyped, or the policy is another agent's and felid cannot enforce
/// it. So is any other kind that felid acts on in what can only be a mistyped group of Calico's.
fn other_group(api_version: &str, group: &str, version: &str, kind: &str) -> Form {
    let own = Kind::ALL
        .into_iter()
        .find(|own| own.record_kind().eq_ignore_ascii_case(kind));
    let of_calico = group.to_ascii_lowercase().contains("calico") || version == "v3";
    let is_network_policy = kind.to_ascii_lowercase().ends_with("networkpolicy");
    if !(is_network_policy || of_calico && own.is_some_and(is_decoded)) {
        return Form::Foreign;
    }
    let hint = match own {
        Some(Kind::NetworkPolicy | Kind::KubernetesNetworkPolicy) => {
            format!(
                "write {API_VERSION}, or {} for one of Kubernetes",
                Kind::KubernetesNetworkPolicy.api_version()
            )
        }
        Some(own) => format!("write {}", own.api_version()),
        None => "felid enforces no policy of this kind".to_owned(),
    };
    Form::Refused {
        reason: format!("apiVersion {api_version:?} has no {kind} that felid reads: {hint}"),
        closes: policy_scope(kind),
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
