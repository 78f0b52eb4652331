//! Settings of the agent: flags, then `FELID_*` environment, then the `--config` file, then the datastore's
//! `FelixConfiguration` (`node.NAME`, then `default`), then defaults. Per setting, the first that says something wins.
//!
//! In: text from each of these places. Out: [`Settings`], all parsed and checked, with the place each value came from. A name
//! that no setting has is refused in flags and files, and reported (not refused) in the environment.

mod file;
mod layer;
mod value;

use felid_model::FelixConfiguration;

use crate::entry::usage;

pub use file::read as read_file;
pub use layer::{Layer, Settings, names};
pub use value::{
    Announcement, ConntrackTimeouts, DatastoreUrl, FromSetting, HostAction, Listen, LogFormat, LogLevel, NatOutbound,
    format_duration,
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

/// Layer of the environment, and the names of `FELID_*` variables that are no setting. `FELID_VXLAN_PORT` and `FELID_VXLANPORT`
/// are the same; both at once with different values are an error.
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
    layer.set_default_endpoint_to_host_action(record.default_endpoint_to_host_action.map(HostAction::from), &place);
    layer
}

/// The layers that do not change while the agent runs, strongest first; records are added with [`Static::with_records`].
#[derive(Debug, Clone, Default)]
pub struct Static {
    layers: Vec<Layer>,
    /// `FELID_*` variables that are no setting.
    pub unknown_variables: Vec<String>,
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
        let mut layers = vec![flags, environment];
        let file = file
            .map(std::path::Path::to_path_buf)
            .or(named_by_environment.map(Into::into));
        if let Some(path) = file {
            layers.push(read_file(&path)?);
        }
        Ok(Self {
            layers,
            unknown_variables,
        })
    }

    /// Settings without any record.
    pub fn settings(&self) -> Settings {
        Settings::resolve(self.layers.iter())
    }

    /// Settings with the records' word: `node` (the record `node.NAME`) before `default`.
    pub fn with_records(&self, node: Option<&FelixConfiguration>, default: Option<&FelixConfiguration>) -> Settings {
        let records: Vec<Layer> = [node, default].into_iter().flatten().map(from_record).collect();
        Settings::resolve(self.layers.iter().chain(&records))
    }
}

/// The layers that flags (their own and the places), environment and file make. What is wrong with flags and environment is wrong
/// usage; what is wrong with the file is a failure.
pub fn gather<'a>(
    places: &'a crate::cli::Places,
    flags: impl IntoIterator<Item = (&'a str, Option<&'a String>)>,
) -> anyhow::Result<Static> {
    let flags = from_flags(places.flags().into_iter().chain(flags)).map_err(usage)?;
    let variables: Vec<(String, String)> = variables().collect();
    Static::new(flags, variables.iter().cloned(), places.config.as_deref()).map_err(|error| {
        if variables.iter().any(|(name, _)| *name == error.place) {
            usage(error)
        } else {
            error.into()
        }
    })
}

/// The environment. Names that are not UTF-8 cannot be ours; values that are not are refused by whatever parses them.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
}
