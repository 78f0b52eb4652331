//! What people call an endpoint.

use felid_model::ResourceKey;

/// Returns `namespace/name`.
pub(super) fn full_name(key: &ResourceKey) -> String {
    match &key.namespace {
        Some(namespace) => format!("{namespace}/{}", key.name),
        None => key.name.to_string(),
    }
}
