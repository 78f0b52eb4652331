//! Where records come from: files, a datastore, or the running agent.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, bail};
use felid_model::{Decoded, Document, Resource, ResourceKey, decode};

use crate::cli::{ExplainArgs, GlobalArgs};
use crate::client::{Client, ClientError};
use crate::config;
use crate::endpoint_names::EndpointNames;
use crate::output::warn;
use crate::records::{self, read_files};

use super::snapshot::Snapshot;

/// A workload that somebody may mean.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) key: ResourceKey,
    pub(super) node: String,
    pub(super) addresses: Vec<IpAddr>,
    names: EndpointNames,
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
    /// Files if they are named, a datastore if one is; else the agent if one runs, else the
    /// datastore of the configuration.
    pub(super) fn open(global: &GlobalArgs, args: &ExplainArgs) -> anyhow::Result<Self> {
        if !args.files.files.is_empty() {
            let mut resources = Vec::new();
            for input in read_files(&args.files)? {
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
        let settings = config::gather(global, [])?.settings();
        if global.datastore.is_none() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            match runtime.block_on(Client::new(&settings.run_dir).get("/v1/snapshot", &[])) {
                Ok(snapshot) => return Ok(Self::Agent(Box::new(snapshot))),
                Err(ClientError::NotRunning(..) | ClientError::NoPermission(..)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let (store, _) = records::open_store(&settings.datastore)?;
        let listing = store.list().with_context(|| settings.datastore.to_string())?;
        for problem in listing.problems.errors() {
            warn(&problem.to_string());
        }
        let resources = listing
            .resources
            .into_iter()
            .filter_map(|stored| stored.resource)
            .collect();
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
                let each = snapshot.endpoints.iter().map(|endpoint| Known {
                    key: endpoint.key.clone(),
                    node: snapshot.node.clone(),
                    addresses: endpoint.addresses.clone(),
                    names: EndpointNames::of_local(endpoint),
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
    Some(Known {
        key: endpoint.key.clone(),
        node: endpoint.node.clone(),
        addresses: endpoint.ip_networks.iter().map(|net| net.addr()).collect(),
        names: EndpointNames::of_resource(endpoint),
    })
}

/// The workload that a user calls by a name, or by an address that is its own or leads to it.
pub(super) fn find<'a>(name: &str, known: &'a [Known]) -> anyhow::Result<Option<&'a Known>> {
    let found: Vec<&Known> = known.iter().filter(|known| known.names.are_meant_by(name)).collect();
    match found[..] {
        [one] => Ok(Some(one)),
        [] => Ok(None),
        _ => {
            let names: Vec<String> = found
                .iter()
                .map(|known| {
                    let namespace = known.key.namespace.as_deref().unwrap_or_default();
                    format!("{namespace}/{} on {}", known.key.name, known.node)
                })
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
        Decoded::Foreign { .. } | Decoded::NotARecord { .. } | Decoded::Empty => (None, Vec::new()),
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
