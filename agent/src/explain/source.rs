//! Where records come from: files, a datastore, or the running agent.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, bail};
use felid_model::names::Identifiers;
use felid_model::{Decoded, Document, Resource, ResourceKey, decode};

use crate::api::{Client, ClientError};
use crate::cli::{ExplainArgs, Places};
use crate::config::{self, DatastoreUrl};
use crate::output::warn;
use crate::records::{Names, read_files};

use super::snapshot::Snapshot;

/// A workload that somebody may mean.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) key: ResourceKey,
    pub(super) node: String,
    pub(super) addresses: Vec<IpAddr>,
    /// Pod, workload, container.
    names: Vec<String>,
}

impl Known {
    fn new(
        key: &ResourceKey,
        node: &str,
        addresses: Vec<IpAddr>,
        names: impl IntoIterator<Item = Option<String>>,
    ) -> Self {
        let own = key.name.to_string();
        let names = names.into_iter().flatten().filter(|name| !name.is_empty());
        Self {
            key: key.clone(),
            node: node.to_owned(),
            addresses,
            names: names.chain([own]).collect(),
        }
    }
}

/// All that can be asked about.
pub(super) enum Source {
    /// Records, wherever they stand.
    Records {
        /// What they are.
        resources: Vec<Resource>,
        /// For people.
        place: String,
    },
    /// What the agent has in force on its node.
    Agent(Box<Snapshot>),
}

impl Source {
    /// Files if they are named, a datastore if one is; else the agent if one runs, else the datastore of the configuration.
    pub(super) fn open(places: &Places, args: &ExplainArgs) -> anyhow::Result<Self> {
        if !args.files.files.is_empty() {
            let mut resources = Vec::new();
            for input in read_files(&args.files, Names::Any)? {
                for document in &input.documents {
                    resources.extend(resource(document, &input.name));
                }
            }
            let names: Vec<String> = args.files.files.iter().map(|path| path.display().to_string()).collect();
            return Ok(Self::Records {
                resources,
                place: names.join(", "),
            });
        }
        let settings = config::gather(places, [])?.settings();
        if places.datastore.is_none() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            match runtime.block_on(Client::new(&settings.run_dir).get("/v1/snapshot", &[])) {
                Ok(snapshot) => return Ok(Self::Agent(Box::new(snapshot))),
                Err(ClientError::NotRunning(..) | ClientError::NoPermission(..)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let DatastoreUrl::Directory(path) = &settings.datastore;
        let (stored, problems) = felid_datastore::list(path).with_context(|| settings.datastore.to_string())?;
        for problem in problems.errors() {
            warn(&problem.to_string());
        }
        let resources = stored.into_iter().filter_map(|stored| stored.resource).collect();
        Ok(Self::Records {
            resources,
            place: settings.datastore.to_string(),
        })
    }

    /// For people.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Records { place, .. } => format!("records of {place}"),
            Self::Agent(snapshot) => format!("the agent on {}", snapshot.node),
        }
    }

    /// Every workload.
    pub(super) fn known(&self) -> Vec<Known> {
        match self {
            Self::Records { resources, .. } => resources.iter().filter_map(known_record).collect(),
            Self::Agent(snapshot) => {
                let each = snapshot.endpoints.iter().map(|endpoint| {
                    let ids = Identifiers::parse(&endpoint.key.name).unwrap_or_default();
                    // A record of a pod has the pod's own name.
                    let names = [ids.pod, ids.workload, ids.container_id].map(Some);
                    Known::new(&endpoint.key, &snapshot.node, endpoint.addresses.clone(), names)
                });
                each.collect()
            }
        }
    }

    /// What holds on a node.
    pub(super) fn snapshot(&self, node: &str) -> Snapshot {
        match self {
            Self::Records { resources, .. } => Snapshot::of(node, resources),
            Self::Agent(snapshot) => (**snapshot).clone(),
        }
    }

    /// Addresses of the node, if they are known.
    pub(super) fn host_addresses(&self) -> BTreeSet<IpAddr> {
        match self {
            Self::Records { .. } => BTreeSet::new(),
            Self::Agent(snapshot) => snapshot.host_addresses.clone(),
        }
    }
}

fn known_record(resource: &Resource) -> Option<Known> {
    let Resource::WorkloadEndpoint(endpoint) = resource else {
        return None;
    };
    let addresses = endpoint.ip_networks.iter().map(|net| net.addr()).collect();
    let names = [&endpoint.pod, &endpoint.workload, &endpoint.container_id].map(Clone::clone);
    Some(Known::new(&endpoint.key, &endpoint.node, addresses, names))
}

/// The workload that a name means: `NAMESPACE/NAME` of a pod, a workload, a container or an endpoint.
pub(super) fn find<'a>(name: &str, known: &'a [Known]) -> anyhow::Result<&'a Known> {
    let (namespace, wanted) = name
        .split_once('/')
        .with_context(|| format!("{name:?} is no address, not \"host\", and no workload (NAMESPACE/NAME)"))?;
    let is_meant = |known: &&Known| {
        known.key.namespace.as_deref() == Some(namespace) && known.names.iter().any(|name| name == wanted)
    };
    let found: Vec<&Known> = known.iter().filter(is_meant).collect();
    match found[..] {
        [one] => Ok(one),
        [] => bail!("there is no workload {name}"),
        _ => {
            let names: Vec<String> = found
                .iter()
                .map(|known| format!("{namespace}/{}", known.key.name))
                .collect();
            bail!("{name} may be any of {}", names.join(", "))
        }
    }
}

/// What a document is in force as, as the agent would read it.
fn resource(document: &Document, file: &str) -> Option<Resource> {
    let (resource, issues) = match decode(document) {
        Decoded::Resource { resource, issues } => (Some(resource), issues),
        Decoded::Bad { issues, bad_policy, .. } => (bad_policy.map(|bad| Resource::BadPolicy(bad.into())), issues),
        Decoded::Foreign { .. } | Decoded::Empty => (None, Vec::new()),
    };
    for issue in issues
        .iter()
        .filter(|issue| issue.severity == felid_model::Severity::Error)
    {
        let line = issue.line.unwrap_or(document.line);
        warn(&format!("{file}:{line}: {issue}"));
    }
    resource
}
