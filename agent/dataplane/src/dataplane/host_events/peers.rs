//! The other ends of veths, in the workloads' namespaces.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::AT_ONCE;
use crate::dataplane::{Dataplane, OtherEnd};
use crate::error::DataplaneError;

impl Dataplane {
    /// Finds out about the other ends of interfaces that have just become an endpoint's, where
    /// nothing is known of them: outside felid's prefixes nobody has asked before.
    pub(in crate::dataplane) async fn find_new_peers(&mut self, interfaces: &[u32]) -> Vec<DataplaneError> {
        let unknown = interfaces.iter().filter(|index| !self.host.peers.contains_key(index));
        let unknown: BTreeSet<u32> = unknown.copied().collect();
        let found = self.find_peers(&unknown).await;
        self.update_kernel(&found)
    }

    /// Looks at the other ends of some interfaces again, of others each time: nobody tells what
    /// becomes of them in their namespaces.
    pub(in crate::dataplane) async fn find_changed_peers(&mut self) -> Vec<DataplaneError> {
        let after = (Bound::Excluded(self.guard.last_peer), Bound::Unbounded);
        let some: BTreeSet<u32> = self
            .host
            .peers
            .range(after)
            .take(AT_ONCE)
            .map(|(index, _)| *index)
            .collect();
        self.guard.last_peer = some.last().copied().unwrap_or_default();
        let found = self.find_peers(&some).await;
        self.update_kernel(&found)
    }

    /// Asks for the MAC addresses of veths' other ends in other namespaces; the links of which
    /// something new was learnt.
    pub(super) async fn find_peers(&mut self, links: &BTreeSet<u32>) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        for index in links {
            let Some(link) = self
                .host
                .links
                .get(index)
                .filter(|link| link.redirectable() && self.concerns(link))
                .cloned()
            else {
                continue;
            };
            let (Some(peer), Some(namespace)) = (link.peer_index, link.peer_namespace) else {
                continue;
            };
            let end = self.net.other_end(&link).await;
            let other = OtherEnd {
                place: (peer, namespace),
                mac: end.as_ref().and_then(|end| end.mac),
                has_master: end.is_some_and(|end| end.has_master),
            };
            if self.host.peers.insert(*index, other) != Some(other) {
                found.insert(*index);
            }
        }
        found
    }
}
