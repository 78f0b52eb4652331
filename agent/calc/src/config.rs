//! Which records configure this node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use felid_model::{FelixConfiguration, IpPool, ResourceKey};
use ipnet::IpNet;

/// The `FelixConfiguration` records that hold on this node, the strongest first: `node.NAME`, then
/// `default`.
///
/// Their fields are not merged here: flags, environment and file of the agent are stronger than any
/// record, so the agent merges all of them in one place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeConfiguration {
    /// The records. Where two name the same setting, the first decides.
    pub records: Vec<Arc<FelixConfiguration>>,
}

/// The records of configuration.
#[derive(Debug, Default)]
pub(crate) struct ConfigResources {
    felix: BTreeMap<Arc<str>, Arc<FelixConfiguration>>,
    pools: BTreeMap<ResourceKey, IpNet>,
}

impl ConfigResources {
    pub(crate) fn put_felix(&mut self, name: &Arc<str>, record: Option<Arc<FelixConfiguration>>) {
        match record {
            Some(record) => self.felix.insert(name.clone(), record),
            None => self.felix.remove(name),
        };
    }

    pub(crate) fn put_pool(&mut self, key: &ResourceKey, pool: Option<&IpPool>) {
        match pool {
            Some(pool) => self.pools.insert(key.clone(), pool.cidr),
            None => self.pools.remove(key),
        };
    }

    /// Returns what holds on `node`.
    pub(crate) fn of_node(&self, node: &str) -> NodeConfiguration {
        let names = [&format!("node.{node}"), "default"];
        NodeConfiguration {
            records: names.iter().filter_map(|name| self.felix.get(*name).cloned()).collect(),
        }
    }

    /// Returns the networks of all pools.
    pub(crate) fn pools(&self) -> BTreeSet<IpNet> {
        self.pools.values().copied().collect()
    }
}
