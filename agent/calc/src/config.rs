//! The node's configuration, merged from its records.

use std::collections::BTreeMap;
use std::sync::Arc;

use felid_model::{EndpointToHostAction, FelixConfiguration, LogSeverity};

/// What `FelixConfiguration` `node.NAME` says, else `default`, else Felix's defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Interfaces whose name begins with one of these are workloads'. Never empty; default `cali`.
    pub interface_prefixes: Vec<String>,
    /// Packets from a workload to this host that its egress policy allows. Default Drop.
    pub endpoint_to_host: EndpointToHostAction,
    /// Least severe message that is logged. Default Info.
    pub log_severity: LogSeverity,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            interface_prefixes: vec!["cali".to_owned()],
            endpoint_to_host: EndpointToHostAction::Drop,
            log_severity: LogSeverity::Info,
        }
    }
}

/// The records, by name.
#[derive(Debug, Default)]
pub(crate) struct ConfigRecords {
    records: BTreeMap<Arc<str>, Arc<FelixConfiguration>>,
}

impl ConfigRecords {
    pub(crate) fn put(&mut self, name: &Arc<str>, record: Option<Arc<FelixConfiguration>>) {
        match record {
            Some(record) => self.records.insert(name.clone(), record),
            None => self.records.remove(name),
        };
    }

    /// What holds on `node`.
    pub(crate) fn merged(&self, node: &str) -> Config {
        let mut config = Config::default();
        for name in ["default", &format!("node.{node}")] {
            let Some(record) = self.records.get(name) else { continue };
            if let Some(prefixes) = record.interface_prefix.as_ref().filter(|prefixes| !prefixes.is_empty()) {
                config.interface_prefixes.clone_from(prefixes);
            }
            if let Some(action) = record.default_endpoint_to_host_action {
                config.endpoint_to_host = action;
            }
            if let Some(severity) = record.log_severity_screen {
                config.log_severity = severity;
            }
        }
        config
    }
}
