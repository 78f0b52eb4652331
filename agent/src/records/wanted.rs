//! Which records `felid get` is asked for.

use std::collections::BTreeMap;

use anyhow::bail;
use felid_datastore::{Listing, StoredResource};
use felid_model::{Decoded, Kind, Resource, ResourceKey, decode};

use crate::cli::GetArgs;
use crate::endpoint_names::{EndpointNames, address};
use crate::outcome::usage;

use super::input;
use super::{columns, describe, kind_and_names};

/// What is asked for.
pub(super) enum Wanted {
    /// All of a kind, in one namespace or (`None`) everywhere.
    All(Kind, Option<String>),
    /// These.
    Keys(Vec<ResourceKey>),
    /// These names in any namespace.
    Anywhere(Kind, Vec<String>),
}

impl Wanted {
    /// Whether a resource is one of those that are asked for.
    pub(super) fn includes(&self, key: &ResourceKey) -> bool {
        match self {
            Wanted::All(kind, namespace) => {
                key.kind == *kind && (namespace.is_none() || key.namespace.as_deref() == namespace.as_deref())
            }
            Wanted::Keys(keys) => keys.contains(key),
            Wanted::Anywhere(kind, names) => key.kind == *kind && names.iter().any(|name| **name == *key.name),
        }
    }

    /// Endpoints may be called by any of their names: puts the keys of those that are there in
    /// place of what the user wrote.
    pub(super) fn resolved(self, listing: &Listing) -> Self {
        match self {
            Wanted::Keys(keys) => Wanted::Keys(
                keys.into_iter()
                    .flat_map(|key| endpoints_called(listing, &key).unwrap_or_else(|| vec![key]))
                    .collect(),
            ),
            Wanted::Anywhere(kind, names) if is_endpoint(kind) => {
                let keys = names.iter().map(|name| ResourceKey {
                    kind,
                    namespace: None,
                    name: name.as_str().into(),
                });
                let found = keys.flat_map(|key| endpoints_called(listing, &key).unwrap_or_else(|| vec![key]));
                Wanted::Keys(found.collect())
            }
            other => other,
        }
    }

    /// Those of the resources that are asked for, in the order in which they are shown, and what is
    /// not there.
    pub(super) fn select<'a>(&self, listing: &'a Listing) -> (Vec<&'a StoredResource>, Vec<String>) {
        // Where one resource stands in two files, the first is the one in force.
        let mut by_key: BTreeMap<&ResourceKey, &StoredResource> = BTreeMap::new();
        for resource in &listing.resources {
            by_key.entry(&resource.key).or_insert(resource);
        }
        let mut missing = Vec::new();
        let mut found = Vec::new();
        match self {
            Wanted::All(kind, _) => {
                found.extend(by_key.values().filter(|stored| self.includes(&stored.key)));
                if *kind == Kind::Tier {
                    found.sort_by(|a: &&StoredResource, b| {
                        columns::order(&a.value).total_cmp(&columns::order(&b.value))
                    });
                }
            }
            Wanted::Keys(keys) => {
                for key in keys {
                    match by_key.get(key) {
                        Some(stored) => found.push(*stored),
                        None => missing.push(describe(key)),
                    }
                }
            }
            Wanted::Anywhere(kind, names) => {
                for name in names {
                    let before = found.len();
                    let named = |stored: &&&StoredResource| stored.key.kind == *kind && *stored.key.name == **name;
                    found.extend(by_key.values().filter(named));
                    if found.len() == before {
                        missing.push(format!("{kind}({name})"));
                    }
                }
            }
        }
        (found, missing)
    }
}

/// Whether resources of this kind are workload endpoints, which have several names.
const fn is_endpoint(kind: Kind) -> bool {
    matches!(kind, Kind::WorkloadEndpoint | Kind::Pod)
}

/// The endpoints that a user calls by a key which no resource has, if there are any: by a name of
/// the key's namespace, and where that is not said by any name.
fn endpoints_called(listing: &Listing, key: &ResourceKey) -> Option<Vec<ResourceKey>> {
    let is_there = |stored: &StoredResource| stored.key == *key;
    if !is_endpoint(key.kind) || listing.resources.iter().any(is_there) {
        return None;
    }
    let text: &str = &key.name;
    // These name an endpoint whatever namespace it is in.
    let has_place = text.contains('/') || address(text).is_some();
    let mut found: Vec<ResourceKey> = listing
        .resources
        .iter()
        .filter(|stored| stored.key.kind == key.kind)
        .filter_map(|stored| match &stored.resource {
            Some(Resource::WorkloadEndpoint(endpoint)) => Some((stored, endpoint)),
            _ => None,
        })
        .filter(|(stored, endpoint)| {
            has_place
                || endpoint.interface_name == text
                || key.namespace.is_none()
                || stored.key.namespace == key.namespace
        })
        .filter(|(_, endpoint)| EndpointNames::of_resource(endpoint).are_meant_by(text))
        .map(|(stored, _)| stored.key.clone())
        .collect();
    found.sort();
    found.dedup();
    (!found.is_empty()).then_some(found)
}

/// Reads what the arguments ask for.
pub(super) fn wanted(args: &GetArgs) -> anyhow::Result<Wanted> {
    let namespace = args.namespace.namespace.as_deref();
    if !args.files.files.is_empty() {
        if args.kind.is_some() {
            return Err(usage("name a kind or files with -f, not both"));
        }
        let mut keys = Vec::new();
        for mut input in input::read(&args.files)? {
            for document in &mut input.documents {
                input::set_namespace(document, namespace);
                match decode(document) {
                    Decoded::Resource { resource, .. } => keys.push(resource.key().clone()),
                    Decoded::Bad { key: Some(key), .. } => keys.push(key),
                    Decoded::Foreign { .. } | Decoded::NotARecord { .. } if input.in_directory => {}
                    Decoded::Bad { .. } | Decoded::Foreign { .. } | Decoded::NotARecord { .. } => {
                        bail!("{}:{}: names no record that felid has", input.name, document.line)
                    }
                    Decoded::Empty => {}
                }
            }
        }
        return Ok(Wanted::Keys(keys));
    }
    let Some(kind) = &args.kind else {
        return Err(usage("name a kind, or files with -f"));
    };
    let (kind, names) = kind_and_names(kind, &args.names)?;
    let everywhere = args.all_namespaces && kind.is_namespaced();
    Ok(match (names.is_empty(), everywhere) {
        (true, true) => Wanted::All(kind, None),
        (true, false) if kind.is_namespaced() => Wanted::All(kind, Some(namespace.unwrap_or("default").to_owned())),
        (true, false) => Wanted::All(kind, None),
        (false, true) => Wanted::Anywhere(kind, names),
        (false, false) => Wanted::Keys(
            names
                .iter()
                .map(|name| ResourceKey::new(kind, namespace, name))
                .collect(),
        ),
    })
}
