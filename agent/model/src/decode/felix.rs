//! `FelixConfiguration`: what felid follows of it. Records that were written for Felix hold many
//! settings that felid does not have: those are warnings. Fields that nobody has are errors.

use ipnet::IpNet;
use serde_json::Value;

use crate::{
    EndpointToHostAction, FelixConfiguration, Kind, LogSeverity, Resource, ResourceKey, WorkloadSourceSpoofing,
};

use super::check;
use super::felix_fields::{AT_START, NO_SUCH_SETTING, NOT_FOLLOWED};
use super::fields::Fields;
use super::metadata::{self, Metadata};
use super::simple::Read;

/// Reads a `FelixConfiguration`.
pub(super) fn decode(mut root: Fields<'_>) -> Read {
    let metadata = Metadata::read(&mut root, false, check::subdomain);
    metadata.require_name(root.issues());
    let mut spec = root.object_or_empty("spec");
    let key = metadata.key(Kind::FelixConfiguration);
    let configuration = settings(&mut spec, key.clone());
    let name = metadata.name.as_deref();
    if name.is_some_and(|name| name != "default" && !name.starts_with("node.")) {
        let reason = "only \"default\" and \"node.NAME\" are read";
        root.issues().warning("metadata.name".to_owned(), None, reason);
    }
    warn_of(
        &mut spec,
        &AT_START,
        "does not count here: felid takes this setting from its flags, environment and --config",
    );
    warn_of(&mut spec, &NOT_FOLLOWED, NO_SUCH_SETTING);
    spec.finish();
    metadata::finish_root(root);
    let resource = configuration.map(|configuration| Resource::FelixConfiguration(configuration.into()));
    (key, resource)
}

/// The settings that felid follows while it runs.
fn settings(spec: &mut Fields<'_>, key: Option<ResourceKey>) -> Option<FelixConfiguration> {
    let log_severity_screen = one_of(
        spec,
        "logSeverityScreen",
        &[
            ("Trace", LogSeverity::Trace),
            ("Debug", LogSeverity::Debug),
            ("Info", LogSeverity::Info),
            ("Warning", LogSeverity::Warning),
            ("Error", LogSeverity::Error),
            ("Fatal", LogSeverity::Fatal),
        ],
    );
    let default_endpoint_to_host_action = one_of(
        spec,
        "defaultEndpointToHostAction",
        &[
            ("Drop", EndpointToHostAction::Drop),
            ("Return", EndpointToHostAction::Return),
            ("Accept", EndpointToHostAction::Accept),
        ],
    );
    let floating_ips = one_of(spec, "floatingIPs", &[("Enabled", true), ("Disabled", false)]);
    let workload_source_spoofing = one_of(
        spec,
        "workloadSourceSpoofing",
        &[
            ("Disabled", WorkloadSourceSpoofing::Disabled),
            ("Any", WorkloadSourceSpoofing::Any),
        ],
    );
    let external_ip_announcement = one_of(spec, "externalIPAnnouncement", &[("None", false), ("ProxyARP", true)]);
    let ip_nat_outbound = one_of(spec, "ipNATOutbound", &[("None", false), ("External", true)]);
    let external_ip_allowed = networks(spec, "externalIPAllowed");
    let ip_nat_cluster_cidrs = networks(spec, "ipNATClusterCIDRs");
    let interface_prefix = interface_prefix(spec);
    Some(FelixConfiguration {
        log_severity_screen,
        interface_prefix,
        default_endpoint_to_host_action,
        floating_ips,
        workload_source_spoofing,
        external_ip_announcement,
        external_ip_allowed,
        ip_nat_outbound,
        ip_nat_cluster_cidrs,
        ..FelixConfiguration::new(key?)
    })
}

/// `interfacePrefix`: beginnings of names of interfaces, separated by commas.
fn interface_prefix(spec: &mut Fields<'_>) -> Option<Vec<String>> {
    let prefixes = |text: &str| {
        text.split(',')
            .map(|prefix| prefix.trim().to_owned())
            .collect::<Vec<_>>()
    };
    let check = |text: &str| {
        let prefixes = prefixes(text);
        prefixes.iter().try_for_each(|prefix| check::interface_prefix(prefix))
    };
    spec.checked("interfacePrefix", check).map(prefixes)
}

/// A list of networks, or text in which commas separate them.
fn networks(spec: &mut Fields<'_>, key: &'static str) -> Option<Vec<IpNet>> {
    let texts: Vec<&str> = match spec.get(key)? {
        Value::String(text) => text.split(',').map(str::trim).collect(),
        _ => spec.strings(key).into_iter().map(|(_, text)| text).collect(),
    };
    let mut nets = Vec::new();
    for text in texts.into_iter().filter(|text| !text.is_empty()) {
        match text.parse::<IpNet>() {
            Ok(net) => nets.push(net.trunc()),
            Err(_) => spec.issue(key, &format!("{text:?} is not a network such as 10.0.0.0/8")),
        }
    }
    Some(nets)
}

/// Warns of each of these fields that is there.
fn warn_of(spec: &mut Fields<'_>, keys: &[&'static str], reason: &str) {
    for key in keys {
        if spec.get(key).is_some() {
            spec.warn(key, reason);
        }
    }
}

/// One of these words, in any case of letters.
fn one_of<T: Copy>(spec: &mut Fields<'_>, key: &'static str, words: &[(&str, T)]) -> Option<T> {
    let text = spec.text(key)?;
    let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    if found.is_none() {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        spec.issue(key, &format!("expected one of {}", words.join(", ")));
    }
    found.map(|(_, value)| *value)
}
