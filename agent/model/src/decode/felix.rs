//! `FelixConfiguration`: what felid follows of it. Other fields that Calico has are warnings, since records that were written for
//! Felix hold many; those that nobody has are errors.

use crate::{EndpointToHostAction, FelixConfiguration, Kind, LogSeverity, Resource};

use super::check;
use super::felix_fields::NOT_FOLLOWED;
use super::fields::Fields;
use super::metadata::{self, Metadata};
use super::simple::Read;

/// Reads one.
pub(super) fn decode(mut root: Fields<'_>) -> Read {
    let metadata = Metadata::read(&mut root, false, check::subdomain);
    metadata.require_name(root.issues());
    let mut spec = root.object_or_empty("spec");
    let log_severity_screen = one_of(
        &mut spec,
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
        &mut spec,
        "defaultEndpointToHostAction",
        &[
            ("Drop", EndpointToHostAction::Drop),
            ("Return", EndpointToHostAction::Return),
            ("Accept", EndpointToHostAction::Accept),
        ],
    );
    let floating_ips = one_of(&mut spec, "floatingIPs", &[("Enabled", true), ("Disabled", false)]);
    let prefixes = |text: &str| {
        text.split(',')
            .map(|prefix| prefix.trim().to_owned())
            .collect::<Vec<_>>()
    };
    let interface_prefix = spec
        .checked("interfacePrefix", |text| {
            prefixes(text)
                .iter()
                .try_for_each(|prefix| check::interface_prefix(prefix))
        })
        .map(prefixes);
    let name = metadata.name.as_deref();
    if name.is_some_and(|name| name != "default" && !name.starts_with("node.")) {
        let reason = "only \"default\" and \"node.NAME\" are read";
        root.issues().warning("metadata.name".to_owned(), None, reason);
    }
    for key in NOT_FOLLOWED {
        if let Some(value) = spec.get(key) {
            root.issues()
                .warning(spec.at(key), Some(value), "not followed by this version of felid");
        }
    }
    spec.finish();
    metadata::finish_root(root);
    let key = metadata.key(Kind::FelixConfiguration);
    let resource = key.clone().map(|key| {
        let configuration = FelixConfiguration {
            key,
            log_severity_screen,
            interface_prefix,
            default_endpoint_to_host_action,
            floating_ips,
        };
        Resource::FelixConfiguration(configuration.into())
    });
    (key, resource)
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
