//! Settings of the agent: flags, then `FELID_*` environment, then the `--config` file, then the
//! datastore's `FelixConfiguration` (`node.NAME`, then `default`), then defaults. Per setting, the
//! first that says something wins.
//!
//! In: text from each of these places. Out: [`Settings`], all parsed and checked, with the place
//! each value came from. A name that no setting has is refused in flags and files, and reported
//! (not refused) in the environment.

mod file;
mod layer;
mod value;

use felid_calc::{Calc, NodeConfiguration, Output};
use felid_model::FelixConfiguration;

use crate::outcome::usage;

pub use file::read as read_file;
pub use layer::{Layer, Settings, names};
pub use value::{
    Announcement, ClientAuth, ConntrackTimeouts, DatastoreUrl, FromSetting, HostAction, Listen, LogFormat, LogLevel,
    MetricsTls, NatOutbound, OptionalPath, format_duration,
};

/// Why a setting cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingError {
    /// Where it stands: `--vxlan-port`, `FELID_VXLANPORT`, `FILE: vxlanPort`.
    pub place: String,
    /// What was found there.
    pub value: String,
    /// Why it cannot be used.
    pub reason: String,
}

impl std::fmt::Display for SettingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.value.is_empty() {
            write!(f, "{}: {}", self.place, self.reason)
        } else {
            write!(f, "{}: {:?}: {}", self.place, self.value, self.reason)
        }
    }
}

impl std::error::Error for SettingError {}

/// Layer of the flags that were given: (flag without dashes, setting, text).
pub fn from_flags<'a>(flags: impl IntoIterator<Item = (&'a str, Option<&'a String>)>) -> Result<Layer, SettingError> {
    let mut layer = Layer::default();
    for (flag, text) in flags {
        let Some(text) = text else { continue };
        let place = format!("--{flag}");
        layer
            .set(&flag.replace('-', ""), text, &place)
            .map_err(|reason| SettingError {
                place: place.clone(),
                value: text.clone(),
                reason,
            })?;
    }
    Ok(layer)
}

/// Layer of the environment, and the names of `FELID_*` variables that are no setting.
/// `FELID_VXLAN_PORT` and `FELID_VXLANPORT` are the same; both at once with different values are an
/// error.
pub fn from_environment(
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<(Layer, Vec<String>), SettingError> {
    let mut layer = Layer::default();
    let mut unknown = Vec::new();
    let mut seen = std::collections::BTreeMap::<String, (String, String)>::new();
    let mut sorted: Vec<_> = variables.into_iter().collect();
    sorted.sort();
    for (variable, text) in sorted {
        let Some(name) = variable.strip_prefix("FELID_") else {
            continue;
        };
        let name = name.replace('_', "").to_ascii_lowercase();
        if name == "config" {
            continue;
        }
        if !names().any(|known| known.eq_ignore_ascii_case(&name)) {
            unknown.push(variable);
            continue;
        }
        if let Some((other, value)) = seen.get(&name)
            && *value != text
        {
            let reason = format!("{other} says otherwise: {value:?}");
            return Err(SettingError {
                place: variable,
                value: text,
                reason,
            });
        }
        layer.set(&name, &text, &variable).map_err(|reason| SettingError {
            place: variable.clone(),
            value: text.clone(),
            reason,
        })?;
        seen.insert(name, (variable, text));
    }
    Ok((layer, unknown))
}

/// Layer of a `FelixConfiguration` record.
pub fn from_record(record: &FelixConfiguration) -> Layer {
    let place = record.key.to_string();
    let mut layer = Layer::default();
    layer.set_log_severity_screen(record.log_severity_screen.map(LogLevel::from), &place);
    layer.set_interface_prefix(record.interface_prefix.clone().map(value::Prefixes), &place);
    layer.set_floating_ips(record.floating_ips, &place);
    layer.set_workload_source_spoofing(record.workload_source_spoofing, &place);
    let announcement = |answers| {
        if answers {
            Announcement::ProxyArp
        } else {
            Announcement::None
        }
    };
    layer.set_external_ip_announcement(record.external_ip_announcement.map(announcement), &place);
    layer.set_external_ip_allowed(record.external_ip_allowed.clone().map(value::Nets), &place);
    let outbound = |external| {
        if external {
            NatOutbound::External
        } else {
            NatOutbound::None
        }
    };
    layer.set_ip_nat_outbound(record.ip_nat_outbound.map(outbound), &place);
    layer.set_ip_nat_cluster_cidrs(record.ip_nat_cluster_cidrs.clone().map(value::Nets), &place);
    layer.set_default_endpoint_to_host_action(record.default_endpoint_to_host_action.map(HostAction::from), &place);
    layer
}

/// The layers that do not change while the agent runs, strongest first; records are added with
/// [`Static::with_records`].
#[derive(Debug, Clone, Default)]
pub struct Static {
    layers: Vec<Layer>,
    /// `FELID_*` variables that are no setting.
    pub unknown_variables: Vec<String>,
    /// Settings of the file that only Felix has, as sentences.
    pub not_followed: Vec<String>,
}

impl Static {
    /// Flags, environment and, if one is named, the file.
    pub fn new(
        flags: Layer,
        variables: impl IntoIterator<Item = (String, String)>,
        file: Option<&std::path::Path>,
    ) -> Result<Self, SettingError> {
        let variables: Vec<(String, String)> = variables.into_iter().collect();
        let named_by_environment = variables
            .iter()
            .find(|(name, _)| name == "FELID_CONFIG")
            .map(|(_, path)| path.clone());
        let (environment, unknown_variables) = from_environment(variables)?;
        let (mut layers, mut not_followed) = (vec![flags, environment], Vec::new());
        let file = file
            .map(std::path::Path::to_path_buf)
            .or(named_by_environment.map(Into::into));
        if let Some(path) = file {
            let (layer, told) = read_file(&path)?;
            layers.push(layer);
            not_followed = told;
        }
        Ok(Self {
            layers,
            unknown_variables,
            not_followed,
        })
    }

    /// Settings without any record.
    pub fn settings(&self) -> Settings {
        Settings::resolve(self.layers.iter())
    }

    /// Returns the settings with the word of the records that hold on this node.
    pub fn with_records(&self, configuration: &NodeConfiguration) -> Settings {
        let records: Vec<Layer> = configuration.records.iter().map(|record| from_record(record)).collect();
        Settings::resolve(self.layers.iter().chain(&records))
    }
}

/// Returns the settings where there are records alone: no flag, no environment and no file.
pub fn of_records(configuration: &NodeConfiguration) -> Settings {
    Static::default().with_records(configuration)
}

/// Flushes a calculation that follows its records alone, their settings included, and hands each
/// output to `take`. Returns the settings if the records changed them.
pub fn flush_with_records(calc: &mut Calc, mut take: impl FnMut(&Output)) -> Option<Settings> {
    let output = calc.flush();
    take(&output);
    let settings = of_records(output.configuration.as_ref()?);
    calc.set_workload_source_spoofing(settings.workload_source_spoofing);
    take(&calc.flush());
    Some(settings)
}

impl Settings {
    /// Returns whether packets from workloads to the node are dropped, whatever policy says.
    pub fn closes_host(&self) -> bool {
        self.default_endpoint_to_host_action == HostAction::Drop
    }

    /// Returns the certificates of the metrics server.
    pub fn metrics_tls(&self) -> MetricsTls {
        MetricsTls {
            cert_file: self.metrics_cert_file.0.clone(),
            key_file: self.metrics_key_file.0.clone(),
            ca_file: self.metrics_ca_file.0.clone(),
            client_auth: self.metrics_client_auth,
        }
    }
}

/// The layers that flags (global ones and those of the command), environment and file make. What is
/// wrong with flags and environment is wrong usage; what is wrong with the file is a failure.
pub fn gather<'a>(
    global: &'a crate::cli::GlobalArgs,
    flags: impl IntoIterator<Item = (&'a str, Option<&'a String>)>,
) -> anyhow::Result<Static> {
    let flags = from_flags(global.flags().into_iter().chain(flags)).map_err(usage)?;
    let variables: Vec<(String, String)> = variables().collect();
    Static::new(flags, variables.iter().cloned(), global.config.as_deref()).map_err(|error| {
        if variables.iter().any(|(name, _)| *name == error.place) {
            usage(error)
        } else {
            error.into()
        }
    })
}

/// The environment. Names that are not UTF-8 cannot be ours; values that are not are refused by
/// whatever parses them.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
}
