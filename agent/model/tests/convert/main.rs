//! Conversions of records of Kubernetes and of Calico's v1 form: a test for each sentence of their
//! semantics.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod cluster;
mod endpoint_v1;
mod network;
mod others;
mod pods;

use felid_model::convert::{Conversion, convert};
use serde_json::Value;

/// The resource of a record without faults.
fn good(record: Value) -> Value {
    match convert(&record) {
        Conversion::Resource(converted) if converted.faults.is_empty() => converted.resource,
        other => panic!("{record}\n{other:?}"),
    }
}

/// The resource of a record with faults, and their fields.
fn faulty(record: Value) -> (Value, Vec<String>) {
    match convert(&record) {
        Conversion::Resource(converted) if !converted.faults.is_empty() => {
            let fields = converted.faults.iter().map(|fault| fault.field.clone()).collect();
            (converted.resource, fields)
        }
        other => panic!("{record}\n{other:?}"),
    }
}

/// The field at fault of a record that cannot be converted.
fn failed(record: Value) -> String {
    match convert(&record) {
        Conversion::Failed(faults) => faults.first().unwrap().field.clone(),
        other => panic!("{record}\n{other:?}"),
    }
}
