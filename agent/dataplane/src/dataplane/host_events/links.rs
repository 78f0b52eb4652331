//! Which links the host has, and what becomes of one that an event names.

use std::collections::{BTreeMap, BTreeSet};

use super::Burst;
use crate::dataplane::Dataplane;
use crate::driver::HostChanges;
use crate::error::DataplaneError;
use crate::link::{LinkState, Peer};
use crate::net::{Link, NetError};

impl Dataplane {
    pub(super) fn take_link(&mut self, link: Link, burst: &mut Burst) {
        let index = link.index;
        let concerns = self.concerns(&link) || self.host.links.get(&index).is_some_and(|old| self.concerns(old));
        let name = link.name.clone();
        let carrier = link.lower_up;
        let old = self.host.links.insert(index, link);
        let same = old.as_ref() == self.host.links.get(&index);
        burst.uplinks |= !concerns && !same;
        // What a workload's other end comes and goes with changes nothing here.
        let old = old.map(|old| Link {
            lower_up: carrier,
            ..old
        });
        if old.as_ref() == self.host.links.get(&index) {
            return;
        }
        burst.changed.insert(index);
        burst.dirty.extend(concerns.then_some(index));
        if let Some(old) = old {
            // A problem is told by the name that the interface has.
            self.routing.problems.remove(&old.name);
            if old.name != name {
                burst.suspect.insert(index);
            }
        }
    }

    /// Asks the kernel about links that are said to be gone or renamed. An event may be older than
    /// what was listed since, and the index may be another link's by now. What cannot be asked
    /// stays as it is, and is asked about again with the next event.
    pub(super) async fn verify(&mut self, burst: &mut Burst, changes: &mut HostChanges) {
        for index in std::mem::take(&mut burst.suspect) {
            match self.net.link(index).await {
                Ok(Some(link)) => {
                    let concerns = self.concerns(&link);
                    self.take_link(link, burst);
                    // Even if it looks as before it may be another one, with none of felid's
                    // programs.
                    burst.changed.insert(index);
                    burst.dirty.extend(concerns.then_some(index));
                }
                Ok(None) => {
                    burst.changed.remove(&index);
                    burst.dirty.remove(&index);
                    self.forget_link(index);
                    let errors = self.kernel.link_gone(index);
                    changes.errors.extend(errors.into_iter().map(DataplaneError::from));
                }
                Err(error) => {
                    self.host.suspect.insert(index);
                    changes.errors.push(error.into());
                }
            }
        }
        burst.suspect.clear();
    }

    fn forget_link(&mut self, index: u32) {
        if let Some(old) = self.host.links.remove(&index) {
            self.routing.problems.remove(&old.name);
        }
        self.host.peers.remove(&index);
        self.host.classifiers.remove(&index);
        self.routing.managed.remove(&index);
        self.routing.configured.remove(&index);
        self.routing.backlog.remove(&index);
    }

    /// Every link. Those that were known, or have programs of ours, and are not in the list are
    /// asked for one by one: a list that was interrupted may lack what is there, and a live
    /// interface must not lose its programs over that.
    pub(super) async fn list_links(&self, changes: &mut HostChanges) -> Result<BTreeMap<u32, Link>, NetError> {
        let listed = self.net.links().await?;
        let mut links: BTreeMap<u32, Link> = listed.list.into_iter().map(|link| (link.index, link)).collect();
        if !listed.whole {
            changes.errors.push(NetError::Interrupted { what: "list links" }.into());
        }
        let known: BTreeSet<u32> = self
            .host
            .links
            .keys()
            .copied()
            .chain(self.kernel.roles().into_keys())
            .collect();
        for index in known {
            if !links.contains_key(&index)
                && let Some(link) = self.net.link(index).await?
            {
                links.insert(index, link);
            }
        }
        Ok(links)
    }

    /// Tells the kernel half of links that have changed: a burst of them in one call, which waits
    /// once and not for each.
    pub(super) fn update_kernel(&mut self, changed: &BTreeSet<u32>) -> Vec<DataplaneError> {
        let mut states = changed
            .iter()
            .filter_map(|index| self.host.links.get(index))
            .map(|link| self.state(link));
        let errors = match (states.next(), states.next()) {
            (None, _) => Vec::new(),
            (Some(state), None) => self.kernel.set_link(state),
            (Some(_), Some(_)) => self
                .kernel
                .set_links(self.host.links.values().map(|link| self.state(link)).collect()),
        };
        errors.into_iter().map(DataplaneError::from).collect()
    }

    /// Asks what others do to interfaces' packets.
    pub(super) async fn find_traffic(&mut self, burst: &mut Burst, changes: &mut HostChanges) {
        for index in std::mem::take(&mut burst.traffic) {
            if !self.host.links.get(&index).is_some_and(|link| self.concerns(link)) {
                continue;
            }
            // The queueing discipline stands in what is said of the link.
            match (self.net.link(index).await, self.net.classifiers(Some(index)).await) {
                (Ok(Some(link)), Ok(mut classifiers)) => {
                    // Whatever else has become of it since: the event that says so will tell
                    // nothing new.
                    self.take_link(link, burst);
                    match classifiers.remove(&index) {
                        Some(now) => self.host.classifiers.insert(index, now),
                        None => self.host.classifiers.remove(&index),
                    };
                    burst.changed.insert(index);
                }
                // Its event is on the way.
                (Ok(None), _) => {}
                (Err(error), _) | (_, Err(error)) => changes.errors.push(error.into()),
            }
        }
    }

    pub(super) fn state(&self, link: &Link) -> LinkState {
        let place = link.peer_index.zip(link.peer_namespace);
        let known = self.host.peers.get(&link.index);
        let known = known.filter(|other| Some(other.place) == place);
        let classifiers = self.host.classifiers.get(&link.index);
        let mut filters: Vec<String> = classifiers.map(|found| found.filters.to_vec()).unwrap_or_default();
        filters.extend(link.xdp.map(|id| format!("XDP program {id} (ingress)")));
        // What skips the host's stack skips classifiers, too.
        let redirectable = link.redirectable() && classifiers.is_none() && !known.is_some_and(|other| other.has_master);
        LinkState {
            ifindex: link.index,
            name: link.name.clone(),
            mac: link.mac,
            mtu: link.mtu,
            is_ethernet: link.is_ethernet,
            peer: redirectable.then(|| Peer {
                mac: known.and_then(|other| other.mac),
            }),
            filters: filters.into(),
        }
    }
}
