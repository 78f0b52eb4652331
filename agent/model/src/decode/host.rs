//! `HostEndpoint`: a peer of selectors. Its own interface is out of felid's scope.

use serde_json::Value;

use crate::{HostEndpoint, Kind, Resource};

use super::check;
use super::entity;
use super::fields::Fields;
use super::metadata::{self, Metadata};
use super::ports::{self, PortOwner};
use super::rule;
use super::simple::Read;

/// Reads one.
pub(super) fn decode(mut root: Fields<'_>) -> Read {
    let metadata = Metadata::read(&mut root, false, check::subdomain);
    metadata.require_name(root.issues());
    let mut spec = root.object_or_empty("spec");
    spec.checked("node", check::identifier);
    if spec.text("node").is_none() {
        spec.forbid("node", "is required");
    }
    let expected_ips = entity::addresses(&mut spec, "expectedIPs");
    let no_addresses = spec
        .peek("expectedIPs")
        .and_then(Value::as_array)
        .is_none_or(Vec::is_empty);
    spec.checked("interfaceName", check::interface);
    if spec.text("interfaceName").is_none() && no_addresses {
        spec.forbid("interfaceName", "is required unless there are expectedIPs");
    }
    let profiles = rule::checked_strings(&mut spec, "profiles", check::identifier);
    let ports = ports::read(&mut spec, PortOwner::Host);
    spec.finish();
    let issues = root.issues();
    metadata::finish_root(root);
    let reason = "its addresses can be selected, but policy on its own interface is out of felid's scope";
    issues.warning("kind".to_owned(), None, reason);
    let key = metadata.key(Kind::HostEndpoint);
    let resource = key.clone().map(|key| {
        let endpoint = HostEndpoint {
            key,
            labels: metadata.inherited_left_out(issues),
            expected_ips,
            profiles,
            ports,
        };
        Resource::HostEndpoint(endpoint.into())
    });
    (key, resource)
}
