//! The host's network: what the kernel says of it to the pipeline, and what the pipeline wants of it.
//!
//! ```text
//! netlink events --watch()--> HostEvent --> pipeline --> Work --reconcile()--> routes, neighbours, sysctls
//!                                ^------------------- what failed ------------------'
//! ```
//!
//! Both are tasks of their own, so that programming policy never waits for netlink.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use felid_dataplane::net::{EndpointNet, Event, Events, Link, Net};
use felid_dataplane::{LinkState, Peer};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::server::{Stop, stopped};

/// Changes of routes come in bursts, most of them our own: they are looked at together after this time.
const SETTLE: Duration = Duration::from_millis(50);

/// An interface and whether it is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLink {
    /// What the kernel half wants to know.
    pub state: LinkState,
    /// Administratively up.
    pub up: bool,
}

/// What the host's network tells the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// Every interface, as it is now.
    Links(Vec<HostLink>),
    /// One that is new or changed.
    Link(HostLink),
    /// One that is gone.
    Gone(u32),
    /// Addresses of the host itself.
    Addresses(BTreeSet<IpAddr>),
    /// What failed at an interface (`None` = host-wide) at the last attempt; empty = nothing.
    Reconciled(Option<u32>, Vec<String>),
    /// Interfaces or addresses could not be listed.
    Failed(String),
}

/// What the pipeline wants of the host's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// What an interface shall have, and whether it is up; `None` = nothing of ours.
    Want(u32, Option<(EndpointNet, bool)>),
    /// The interface is gone, and all we had on it.
    Forget(u32),
}

/// What the watcher tells the reconciler directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nudge {
    Routes(u32),
    All,
}

/// The pipeline's ends of the channels.
#[derive(Debug)]
pub struct HostChannels {
    /// What happens.
    pub events: mpsc::Receiver<HostEvent>,
    /// What is wanted.
    pub work: mpsc::UnboundedSender<Work>,
}

/// How often everything is looked at without any event; zero = never.
#[derive(Debug, Clone, Copy)]
pub struct Intervals {
    /// Routes and neighbours.
    pub routes: Duration,
    /// Interfaces and addresses.
    pub interfaces: Duration,
    /// What failed.
    pub retry: Duration,
}

/// Starts both tasks, within the runtime.
pub fn start(net: Net, events: Events, intervals: Intervals, stop: Stop) -> HostChannels {
    let (send, receive) = mpsc::channel(4096);
    let (work, wanted) = mpsc::unbounded_channel();
    let (nudge, nudged) = mpsc::unbounded_channel();
    tokio::spawn(watch(net.clone(), events, intervals, send.clone(), nudge, stop.clone()));
    tokio::spawn(reconcile(net, intervals, send, wanted, nudged, stop));
    HostChannels { events: receive, work }
}

/// What the kernel half wants to know of a link.
pub async fn host_link(net: &Net, link: &Link) -> HostLink {
    let peer = if link.redirectable() {
        Some(Peer {
            mac: net.peer_mac(link).await,
        })
    } else {
        None
    };
    let state = LinkState {
        ifindex: link.index,
        name: Arc::clone(&link.name),
        mac: link.mac,
        mtu: link.mtu,
        peer,
    };
    HostLink { state, up: link.up }
}

/// Every interface and the host's addresses.
async fn everything(net: &Net) -> Vec<HostEvent> {
    let mut events = Vec::new();
    match net.links().await {
        Ok(links) => {
            let mut list = Vec::with_capacity(links.len());
            for link in &links {
                list.push(host_link(net, link).await);
            }
            events.push(HostEvent::Links(list));
        }
        Err(error) => events.push(HostEvent::Failed(error.to_string())),
    }
    events.push(addresses(net).await);
    events
}

async fn addresses(net: &Net) -> HostEvent {
    match net.host_addresses().await {
        Ok(addresses) => HostEvent::Addresses(addresses),
        Err(error) => HostEvent::Failed(error.to_string()),
    }
}

/// A ticker that never ticks for zero.
fn ticker(period: Duration) -> Option<tokio::time::Interval> {
    (!period.is_zero()).then(|| {
        let mut interval = tokio::time::interval_at(Instant::now() + period, period);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        interval
    })
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

async fn watch(
    net: Net,
    mut events: Events,
    intervals: Intervals,
    send: mpsc::Sender<HostEvent>,
    nudge: mpsc::UnboundedSender<Nudge>,
    stop: Stop,
) {
    let mut again = ticker(intervals.interfaces);
    let mut out = everything(&net).await;
    loop {
        let failed = out.iter().any(|event| matches!(event, HostEvent::Failed(_)));
        for event in out.drain(..) {
            if send.send(event).await.is_err() {
                return;
            }
        }
        tokio::select! {
            event = events.next() => match event {
                Some(Event::Link(link)) => out.push(HostEvent::Link(host_link(&net, &link).await)),
                Some(Event::LinkGone(index)) => out.push(HostEvent::Gone(index)),
                Some(Event::Addresses) => out.push(addresses(&net).await),
                // An error means that the reconciler is gone: the agent stops.
                Some(Event::Routes(index)) => drop(nudge.send(Nudge::Routes(index))),
                Some(Event::Resync) => {
                    tracing::info!("network events were lost: looking at everything again");
                    out = everything(&net).await;
                    let _ = nudge.send(Nudge::All);
                }
                None => {
                    out.push(HostEvent::Failed("the kernel closed the stream of network events".to_owned()));
                    let _ = send.send(out.remove(0)).await;
                    return;
                }
            },
            () = tick(&mut again) => out = everything(&net).await,
            () = tokio::time::sleep(intervals.retry), if failed => out = everything(&net).await,
            () = stopped(stop.clone()) => return,
        }
    }
}

/// The reconciler's memory.
struct Reconciler {
    net: Net,
    wanted: BTreeMap<u32, (EndpointNet, bool)>,
    dirty: BTreeSet<u32>,
    /// Interfaces whose sysctls are to be checked.
    configure: BTreeSet<u32>,
    failed: BTreeSet<u32>,
    send: mpsc::Sender<HostEvent>,
}

async fn reconcile(
    net: Net,
    intervals: Intervals,
    send: mpsc::Sender<HostEvent>,
    mut work: mpsc::UnboundedReceiver<Work>,
    mut nudged: mpsc::UnboundedReceiver<Nudge>,
    stop: Stop,
) {
    let forwarding: Vec<String> = net.enable_forwarding().iter().map(ToString::to_string).collect();
    let _ = send.send(HostEvent::Reconciled(None, forwarding)).await;
    let mut this = Reconciler {
        net,
        wanted: BTreeMap::new(),
        dirty: BTreeSet::new(),
        configure: BTreeSet::new(),
        failed: BTreeSet::new(),
        send,
    };
    let mut again = ticker(intervals.routes);
    let mut settle: Option<Instant> = None;
    let mut touched = BTreeSet::new();
    let mut retry: Option<Instant> = None;
    let at = |when: Option<Instant>| async move {
        match when {
            Some(when) => tokio::time::sleep_until(when).await,
            None => std::future::pending().await,
        }
    };
    loop {
        tokio::select! {
            item = work.recv() => match item {
                Some(item) => {
                    this.take(item).await;
                    while let Ok(item) = work.try_recv() {
                        this.take(item).await;
                    }
                }
                None => return,
            },
            Some(nudge) = nudged.recv() => {
                match nudge {
                    Nudge::Routes(index) => drop(touched.insert(index)),
                    Nudge::All => touched.extend(this.wanted.keys().copied()),
                }
                settle.get_or_insert_with(|| Instant::now() + SETTLE);
            }
            () = at(settle) => {
                settle = None;
                this.dirty.extend(std::mem::take(&mut touched).into_iter().filter(|index| this.wanted.contains_key(index)));
            }
            () = tick(&mut again) => {
                this.dirty.extend(this.wanted.keys().copied());
                this.configure.extend(this.wanted.keys().copied());
            }
            () = at(retry) => {
                retry = None;
                this.dirty.extend(this.failed.iter().copied());
                this.configure.extend(this.failed.iter().copied());
            }
            () = stopped(stop.clone()) => return,
        }
        this.round().await;
        if !this.failed.is_empty() && retry.is_none() && !intervals.retry.is_zero() {
            retry = Some(Instant::now() + intervals.retry);
        }
    }
}

impl Reconciler {
    async fn take(&mut self, work: Work) {
        match work {
            Work::Want(index, Some(wanted)) => {
                let before = self.wanted.insert(index, wanted);
                let now = self.wanted.get(&index);
                if before.as_ref() != now {
                    self.dirty.insert(index);
                }
                // A new interface, a renamed one, or one that came up: its sysctls may be the defaults.
                let key =
                    |entry: Option<&(EndpointNet, bool)>| entry.map(|(net, up)| (Arc::clone(&net.interface), *up));
                if key(before.as_ref()) != key(now) {
                    self.configure.insert(index);
                }
            }
            Work::Want(index, None) => {
                if let Some((mut net, up)) = self.wanted.remove(&index) {
                    net.addresses.clear();
                    self.dirty.remove(&index);
                    let report = self.net.reconcile(&net, up).await;
                    self.report(index, report.errors.iter().map(ToString::to_string).collect())
                        .await;
                    self.failed.remove(&index);
                }
            }
            Work::Forget(index) => {
                self.wanted.remove(&index);
                self.dirty.remove(&index);
                self.configure.remove(&index);
                self.report(index, Vec::new()).await;
            }
        }
    }

    async fn round(&mut self) {
        for index in std::mem::take(&mut self.dirty) {
            let Some((net, up)) = self.wanted.get(&index) else {
                continue;
            };
            let mut errors = Vec::new();
            if self.configure.remove(&index) {
                errors.extend(
                    self.net
                        .configure_interface(&net.interface)
                        .iter()
                        .map(ToString::to_string),
                );
            }
            let report = self.net.reconcile(net, *up).await;
            if report.added + report.deleted > 0 {
                let (added, deleted) = (report.added, report.deleted);
                tracing::debug!(interface = %net.interface, added, deleted, "routes and neighbours");
            }
            errors.extend(report.errors.iter().map(ToString::to_string));
            self.report(index, errors).await;
        }
    }

    async fn report(&mut self, index: u32, errors: Vec<String>) {
        let failed = !errors.is_empty();
        let before = if failed {
            !self.failed.insert(index)
        } else {
            self.failed.remove(&index)
        };
        if failed || before {
            // An error means that the pipeline is gone: the agent stops.
            let _ = self.send.send(HostEvent::Reconciled(Some(index), errors)).await;
        }
    }
}
