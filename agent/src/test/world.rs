//! The state that a case builds up: from its namespaces, pods and documents to the records that are
//! in force.
//!
//! In: cases. Out: updates for the calculation, the same changes as records for a whole agent, and
//! who is meant by the names in expectations. Records are judged as they stand, whether a schema
//! would accept them or not.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use felid_model::{Decoded, Kind, LabelMap, Resource, ResourceKey, decode_literal, list_items};
use serde::Serialize;
use serde_json::{Value, json};

use super::case::{Case, NamespaceSpec, Step};
use super::node::{reasons, text};
use super::pod::{self, Pod};

/// Namespace and name.
type Name = (String, String);

/// A change for the calculation.
#[derive(Debug)]
pub(crate) enum Update {
    /// The resource is in force.
    Apply(Resource),
    /// The resource is gone.
    Delete(ResourceKey),
}

/// A change as a stream of records says it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RecordChange {
    /// This record holds.
    Apply(Value),
    /// This record is gone.
    Delete(Value),
}

/// Everything that exists.
#[derive(Debug, Default)]
pub(crate) struct World {
    pods: BTreeMap<Name, Pod>,
    /// Service accounts that pods name or documents describe, with their labels.
    accounts: BTreeMap<Name, LabelMap>,
    external: BTreeMap<String, Vec<IpAddr>>,
    /// What is in force, each with its record.
    in_force: BTreeMap<ResourceKey, Value>,
    updates: Vec<Update>,
    /// The same changes.
    records: Vec<RecordChange>,
    /// What people should know of the documents.
    notes: Vec<String>,
}

impl World {
    /// The state before the first step.
    pub(crate) fn begin(&mut self, case: &Case) -> anyhow::Result<()> {
        for namespace in &case.namespaces {
            self.apply_namespace(namespace);
        }
        for external in &case.external {
            self.external.insert(external.name.clone(), external.ips.clone());
        }
        for pod in &case.pods {
            self.put_pod(pod::record(pod))?;
        }
        for (n, document) in case.resources.iter().enumerate() {
            self.apply_all(document).with_context(|| format!("resources[{n}]"))?;
        }
        Ok(())
    }

    /// Carries a step out.
    pub(crate) fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        for (n, document) in step.delete.iter().enumerate() {
            for item in list_items(document.clone()) {
                self.delete(&item).with_context(|| format!("delete[{n}]"))?;
            }
        }
        for (n, document) in step.apply.iter().enumerate() {
            self.apply_all(document).with_context(|| format!("apply[{n}]"))?;
        }
        Ok(())
    }

    /// What has changed since the last call.
    pub(crate) fn take_updates(&mut self) -> Vec<Update> {
        std::mem::take(&mut self.updates)
    }

    /// What has changed since the last call, as records.
    pub(crate) fn take_records(&mut self) -> Vec<RecordChange> {
        std::mem::take(&mut self.records)
    }

    /// What there is to tell of the documents since the last call.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// The pods, in order of their names.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// The pod `NAMESPACE/NAME`.
    pub(crate) fn pod(&self, name: &str) -> Option<&Pod> {
        let (namespace, name) = name.split_once('/')?;
        self.pods.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Addresses of something outside.
    pub(crate) fn external(&self, name: &str) -> Option<&[IpAddr]> {
        self.external.get(name).map(Vec::as_slice)
    }

    /// All addresses outside.
    pub(crate) fn outside(&self) -> impl Iterator<Item = IpAddr> {
        self.external.values().flatten().copied()
    }

    fn put(&mut self, record: &Value, resource: Resource) {
        let before = self.in_force.insert(resource.key().clone(), record.clone());
        // A bad version of a policy closes, whatever was there before.
        if let (Some(before), Resource::BadPolicy(_)) = (before, &resource) {
            self.records.push(RecordChange::Delete(before));
        }
        self.records.push(RecordChange::Apply(record.clone()));
        self.updates.push(Update::Apply(resource));
    }

    fn remove(&mut self, key: &ResourceKey) -> bool {
        let Some(record) = self.in_force.remove(key) else {
            return false;
        };
        self.records.push(RecordChange::Delete(record));
        self.updates.push(Update::Delete(key.clone()));
        true
    }

    fn apply_namespace(&mut self, namespace: &NamespaceSpec) {
        let NamespaceSpec { name, labels } = namespace;
        self.put_record(
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
        );
    }

    /// A service account with labels. One that only pods name has none.
    fn put_account(&mut self, name: Name, labels: &LabelMap) {
        let (namespace, account) = &name;
        let metadata = json!({"name": account, "namespace": namespace, "labels": labels});
        self.put_record(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}));
        self.accounts.insert(name, labels.clone());
    }

    /// Brings a pod in force, in place of one of the same name. `record` is what stands for it: see
    /// [`pod::record`].
    fn put_pod(&mut self, record: Value) -> anyhow::Result<()> {
        let name = pod::name(&record);
        let (pod, resource) =
            Pod::read(record, self.pods.get(&name)).with_context(|| format!("pod {}/{}", name.0, name.1))?;
        if let Some(account) = pod.account() {
            let account = (name.0.clone(), account.to_owned());
            if !self.accounts.contains_key(&account) {
                self.put_account(account, &LabelMap::new());
            }
        }
        self.put(pod.record(), resource);
        self.pods.insert(name, pod);
        Ok(())
    }

    /// A document, or all that a list holds.
    fn apply_all(&mut self, document: &Value) -> anyhow::Result<()> {
        list_items(document.clone())
            .iter()
            .try_for_each(|item| self.apply(item))
    }

    /// A `Namespace` replaces labels, and a `Pod` everything that it says; every other record comes
    /// into force as it stands.
    fn apply(&mut self, document: &Value) -> anyhow::Result<()> {
        let (kind, name) = (text(document, "/kind"), text(document, "/metadata/name"));
        let namespace = Some(text(document, "/metadata/namespace"))
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or("default");
        if text(document, "/apiVersion") == "v1" {
            let labels = labels(document);
            match kind {
                "Namespace" => {
                    let name = name.to_owned();
                    self.apply_namespace(&NamespaceSpec { name, labels });
                    return Ok(());
                }
                "ServiceAccount" => {
                    self.put_account((namespace.to_owned(), name.to_owned()), &labels);
                    return Ok(());
                }
                "Pod" => {
                    let before = self.pods.get(&(namespace.to_owned(), name.to_owned()));
                    return self.put_pod(pod::merged(before, document));
                }
                _ => {}
            }
        }
        self.put_record(document);
        Ok(())
    }

    /// Brings a record in force as it stands.
    fn put_record(&mut self, record: &Value) {
        let (kind, name) = (text(record, "/kind"), text(record, "/metadata/name"));
        match decode_literal(record) {
            Decoded::Resource { resource, .. } => self.put(record, resource),
            Decoded::Bad { issues, bad_policy, .. } => {
                let reasons = reasons(&issues);
                let consequence = if bad_policy.is_some() {
                    "closes what it may select"
                } else {
                    "is not in force"
                };
                self.notes
                    .push(format!("{kind}/{name} cannot be read, and {consequence}: {reasons}"));
                if let Some(policy) = bad_policy {
                    self.put(record, Resource::BadPolicy(Arc::new(policy)));
                }
            }
            Decoded::Foreign { .. } | Decoded::NotARecord { .. } => self
                .notes
                .push(format!("{kind}/{name} has no effect: the kind is none of felid's")),
            Decoded::Empty => {}
        }
    }

    fn delete(&mut self, document: &Value) -> anyhow::Result<()> {
        let (kind, name) = (text(document, "/kind"), text(document, "/metadata/name"));
        let known = Kind::from_record(text(document, "/apiVersion"), kind).or_else(|| Kind::from_name(kind));
        let Some(known) = known else {
            bail!("unknown kind {kind:?}")
        };
        let namespace = Some(text(document, "/metadata/namespace")).filter(|namespace| !namespace.is_empty());
        let key = ResourceKey::new(known, namespace, name);
        let full = (key.namespace.as_deref().unwrap_or_default().to_owned(), name.to_owned());
        let there = match known {
            Kind::Pod => {
                let pod = self.pods.remove(&full);
                pod.is_some_and(|pod| self.remove(&pod.key))
            }
            Kind::Namespace => {
                let inside: Vec<ResourceKey> = self
                    .in_force
                    .keys()
                    .filter(|key| key.namespace.as_deref() == Some(name))
                    .cloned()
                    .collect();
                self.pods.retain(|(namespace, _), _| namespace != name);
                self.accounts.retain(|(namespace, _), _| namespace != name);
                let mut there = self.remove(&key);
                for key in inside {
                    there |= self.remove(&key);
                }
                there
            }
            Kind::ServiceAccount => {
                self.accounts.remove(&full);
                self.remove(&key)
            }
            _ => self.remove(&key),
        };
        if !there {
            self.notes.push(format!("{key} is to be deleted, but does not exist"));
        }
        Ok(())
    }
}

fn labels(document: &Value) -> LabelMap {
    let labels = document.pointer("/metadata/labels").and_then(Value::as_object);
    let entries = labels.into_iter().flatten();
    entries
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}
