//! Looking at the host: what came of an event, and everything again.
//!
//! The kernel half is told of all interfaces at once, since closing must not wait. The rest (other
//! ends, sysctls, routes, neighbours) is worked off a few interfaces at a time, so that hundreds of
//! them do not hold up changes of policy.

mod links;
mod peers;
mod reconcile;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Dataplane;
use super::guard::FIREWALL;
use crate::driver::{HostChanges, HostNetwork};
use crate::error::{DataplaneError, KernelError};
use crate::net::Event;

/// Interfaces that are worked off in one go.
const AT_ONCE: usize = 16;
/// The routes and neighbours of the whole host are listed at most this often because something
/// changed.
const USES_PERIOD: Duration = Duration::from_secs(5);

/// What a burst of events asks for.
#[derive(Default)]
struct Burst {
    /// Links that are new, or not as they were.
    changed: BTreeSet<u32>,
    /// Interfaces to reconcile.
    dirty: BTreeSet<u32>,
    /// Links that are gone or renamed, if the events are not older than what is known already: the
    /// kernel has to say so.
    suspect: BTreeSet<u32>,
    /// Interfaces whose traffic control changed.
    traffic: BTreeSet<u32>,
    addresses: bool,
    /// A link that is no workload's is not as it was: the kernel drops the proxy neighbours of one
    /// that goes down.
    uplinks: bool,
    backlog: bool,
    guard: bool,
    resync: bool,
}

impl HostNetwork for Dataplane {
    async fn event(&mut self) -> Option<Event> {
        if self.guard.is_due() {
            return Some(Event::Guard);
        }
        if !self.routing.backlog.is_empty() {
            return Some(Event::Backlog);
        }
        tokio::select! {
            event = self.events.next() => event,
            () = tokio::time::sleep_until(self.guard.next().into()) => Some(Event::Guard),
        }
    }

    async fn handle(&mut self, event: Event) -> HostChanges {
        let mut changes = HostChanges::default();
        let mut burst = Burst {
            suspect: std::mem::take(&mut self.host.suspect),
            ..Burst::default()
        };
        self.take_events(event, &mut burst);
        if burst.guard {
            // Before anything else: what it finds may be open.
            self.guard().await;
            changes.errors.extend(self.find_changed_peers().await);
        }
        if burst.resync {
            return self.refresh().await;
        }
        self.verify(&mut burst, &mut changes).await;
        // Closing comes first; other ends are asked for afterwards.
        changes.errors.extend(self.update_kernel(&burst.changed));
        let applied = std::mem::take(&mut burst.changed);
        self.find_traffic(&mut burst, &mut changes).await;
        // A link that was asked about may have another name by now.
        self.verify(&mut burst, &mut changes).await;
        let mut found = self.find_peers(&(&applied | &burst.changed)).await;
        found.append(&mut burst.changed);
        changes.errors.extend(self.update_kernel(&found));
        if burst.addresses {
            self.refresh_addresses(&mut changes).await;
        }
        self.uses.is_stale |= burst.addresses || burst.uplinks;
        if self.uses.is_stale && self.uses.listed.elapsed() >= USES_PERIOD {
            self.refresh_uses(&mut changes).await;
        }
        if burst.addresses || burst.uplinks {
            changes.errors.extend(self.announce().await);
        }
        changes.errors.extend(self.reconcile(burst.dirty).await);
        if burst.backlog {
            changes.errors.extend(self.work_off().await);
        }
        changes
    }

    async fn set_interface_prefixes(&mut self, prefixes: Vec<String>) -> HostChanges {
        self.host.prefixes.clone_from(&prefixes);
        let errors: Vec<KernelError> = self.kernel.set_interface_prefixes(prefixes);
        let mut changes = self.refresh().await;
        changes.errors.extend(errors.into_iter().map(DataplaneError::from));
        changes
    }

    async fn refresh(&mut self) -> HostChanges {
        let mut changes = HostChanges::default();
        changes
            .errors
            .extend(self.net.enable_forwarding().into_iter().map(DataplaneError::from));
        match self.list_links(&mut changes).await {
            Ok(links) => {
                // Those that are gone are not in the list, and of the others' programs the kernel
                // half makes sure.
                self.host.suspect.clear();
                self.host.links = links;
                let there = |index: &u32| self.host.links.contains_key(index);
                self.host.peers.retain(|index, _| there(index));
                self.routing.managed.retain(there);
                match self.net.classifiers(None).await {
                    Ok(classifiers) => self.host.classifiers = classifiers,
                    Err(error) => changes.errors.push(error.into()),
                }
                // Closing what is unknown comes before finding out about other ends.
                let states = self.host.links.values().map(|link| self.state(link)).collect();
                let errors = self.kernel.set_links(states);
                changes.errors.extend(errors.into_iter().map(DataplaneError::from));
                let names: BTreeSet<_> = self.host.links.values().map(|link| link.name.clone()).collect();
                self.routing
                    .problems
                    .retain(|name, _| names.contains(name) || &**name == FIREWALL);
            }
            Err(error) => changes.errors.push(error.into()),
        }
        self.refresh_addresses(&mut changes).await;
        self.refresh_uses(&mut changes).await;
        match self.net.present().await {
            Ok(mut present) => {
                let concerned = self.host.links.values().filter(|link| self.concerns(link));
                self.routing.backlog = concerned
                    .map(|link| (link.index, present.remove(&link.index).unwrap_or_default()))
                    .collect();
            }
            Err(error) => changes.errors.push(error.into()),
        }
        changes.errors.extend(self.announce().await);
        changes
    }
}

impl Dataplane {
    /// Takes an event and all that have come with it, and notes what they ask for.
    fn take_events(&mut self, event: Event, burst: &mut Burst) {
        let mut next = Some(event);
        while let Some(event) = next {
            match event {
                Event::Link(link) => self.take_link(link, burst),
                Event::LinkGone(index) => {
                    burst.suspect.insert(index);
                }
                Event::Addresses => burst.addresses = true,
                Event::Routes(index, _) if self.routing.managed.contains(&index) => {
                    burst.dirty.insert(index);
                }
                Event::Routes(_, destination) => {
                    self.uses.is_stale = true;
                    // It may hide felid's own.
                    burst
                        .dirty
                        .extend(destination.and_then(|address| self.interface_with(address)));
                }
                Event::Traffic(index) => {
                    burst.traffic.insert(index);
                }
                Event::Backlog => burst.backlog = true,
                Event::Guard => burst.guard = true,
                Event::Resync => burst.resync = true,
            }
            next = self.events.try_next();
        }
    }

    /// The interface of the endpoint that has an address, its own or an external one.
    fn interface_with(&self, address: IpAddr) -> Option<u32> {
        let mut wanted = self.routing.wanted.iter();
        let (name, _) = wanted.find(|(_, wanted)| {
            wanted.addresses.contains(&address) || self.kernel.nats_of(wanted.id).contains_key(&address)
        })?;
        let link = self.host.links.values().find(|link| link.name == *name)?;
        Some(link.index)
    }

    async fn refresh_uses(&mut self, changes: &mut HostChanges) {
        let workloads = self.host.links.values().filter(|link| self.concerns(link));
        let workloads = workloads.map(|link| link.index).collect();
        // Also after a failure: a table that is too long to be read must not be read all the time.
        self.uses.listed = Instant::now();
        match self.net.host_uses(&workloads).await {
            Ok(addresses) => {
                changes.host_uses |= addresses != self.uses.addresses;
                self.uses.addresses = addresses;
                self.uses.is_stale = false;
            }
            Err(error) => changes.errors.push(error.into()),
        }
    }

    async fn refresh_addresses(&mut self, changes: &mut HostChanges) {
        match self.net.host_addresses().await {
            Ok(addresses) => {
                changes.host_addresses |= addresses != self.host_addresses;
                self.host_addresses = addresses;
            }
            Err(error) => changes.errors.push(error.into()),
        }
    }
}
