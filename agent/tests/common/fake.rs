//! A pipeline on a pretended kernel.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use felid_agent::api::{Endpoint, Refusal, Status, Wait, WaitFor, Waited};
use felid_agent::config::{self, Static};
use felid_agent::metrics::Metrics;
use felid_agent::run::handle::{Handle, Request};
use felid_agent::run::health::Health;
use felid_agent::run::pipeline::{Outlets, Pipeline, Setup};
use felid_compile::nat::{HostUse, Mapping, Mappings};
use felid_compile::planner::{Adopted, Planner, PlannerOptions};
use felid_compile::transaction::{EndpointChange, EndpointId, EndpointPlan, ProgramId, Transaction};
use felid_dataplane::kernel::{
    Capacities, Completed, EndpointState, FlowCounts, FlowInfo, Foreign, NatFlows, Settings, SweepStats,
};
use felid_dataplane::net::{Event, NetError};
use felid_dataplane::{
    AddressTranslation, DataplaneError, Enforcement, FlowSource, Grace, HostChanges, HostNetwork, Inspection,
    Interference, KernelError, PacketCounters, RefusedProgram,
};
use felid_datastore::{Batch, Control, Problems, Update};
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};

/// What the pretended kernel has seen, and what it shall do.
#[derive(Default)]
pub struct State {
    /// Transactions in force, in order.
    pub applied: Vec<Transaction>,
    /// How many were completed.
    pub completed: usize,
    /// Errors for the next calls of `apply`: a reason, and whether the new programs are to blame.
    pub refuse: VecDeque<(String, bool)>,
    /// Errors for the next calls of `complete`.
    pub fail_complete: VecDeque<String>,
    /// Grace periods do not end while this is true.
    pub hold: bool,
    /// Settings that were made.
    pub settings: Vec<Settings>,
    /// Interface prefixes that were made.
    pub prefixes: Vec<Vec<String>>,
    /// Translations in force.
    pub nats: Mappings,
    /// External addresses for which the kernel has no room.
    pub no_room: BTreeSet<IpAddr>,
    /// What the next change of translations cannot do to the host's network.
    pub nat_troubles: Vec<String>,
    /// What became of translations, in order: those that were in force after each call.
    pub nat_history: Vec<(&'static str, Mappings)>,
    /// Whether external addresses are announced.
    pub announced: bool,
    /// Networks of the cluster.
    pub cluster: BTreeSet<IpNet>,
    /// Endpoints in force.
    pub endpoints: BTreeMap<EndpointId, EndpointPlan>,
    /// Interfaces that are there.
    pub interfaces: BTreeSet<String>,
    /// Counters.
    pub counters: PacketCounters,
    /// Flows.
    pub flows: Vec<FlowInfo>,
    /// Network problems.
    pub network: BTreeMap<Arc<str>, Vec<String>>,
    /// Addresses that the pretended host needs.
    pub host_uses: BTreeMap<IpAddr, HostUse>,
    /// Interfaces that an earlier run guarded and nobody claims.
    pub unclaimed: BTreeSet<Arc<str>>,
    /// What others did.
    pub interference: Interference,
    /// How often everything was looked at.
    pub refreshed: usize,
    /// Barriers are not passed while this is true; those that wait.
    pub hold_barriers: bool,
    pub barriers: Vec<u64>,
}

/// Shared with the test.
pub type Shared = Arc<Mutex<State>>;

struct Fake {
    state: Shared,
    events: mpsc::UnboundedReceiver<Event>,
}

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap()
}

/// An error of the kernel's with this reason.
fn failure(action: &str, reason: String) -> KernelError {
    KernelError::Call {
        action: action.to_owned(),
        source: std::io::Error::other(reason),
    }
}

impl Enforcement for Fake {
    async fn apply(&mut self, transaction: &Transaction) -> Result<HostChanges, KernelError> {
        let mut state = lock(&self.state);
        if let Some((reason, blame)) = state.refuse.pop_front() {
            let refusal = |id: &ProgramId| RefusedProgram {
                id: *id,
                chunk: 0,
                source: std::io::Error::other(reason.clone()),
                log: String::new(),
            };
            return Err(if blame {
                KernelError::Programs(transaction.new_programs.keys().map(refusal).collect())
            } else {
                failure("apply", reason)
            });
        }
        for (id, change) in &transaction.endpoints {
            match change {
                EndpointChange::Set(plan) => drop(state.endpoints.insert(*id, plan.clone())),
                EndpointChange::Gone { .. } => drop(state.endpoints.remove(id)),
            }
        }
        state.applied.push(transaction.clone());
        Ok(HostChanges::default())
    }

    fn grace(&self) -> Grace {
        let state = Arc::clone(&self.state);
        Box::pin(async move {
            while lock(&state).hold {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        })
    }

    fn complete(&mut self, _: &Transaction) -> Result<Completed, KernelError> {
        let mut state = lock(&self.state);
        if let Some(reason) = state.fail_complete.pop_front() {
            return Err(failure("complete", reason));
        }
        state.completed += 1;
        let epoch = state.applied.len() as u32;
        Ok(Completed { epoch })
    }

    fn set_settings(&mut self, settings: Settings) -> Result<(), KernelError> {
        lock(&self.state).settings.push(settings);
        Ok(())
    }
}

impl HostNetwork for Fake {
    async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    async fn handle(&mut self, _: Event) -> HostChanges {
        HostChanges::default()
    }

    async fn refresh(&mut self) -> HostChanges {
        lock(&self.state).refreshed += 1;
        HostChanges::default()
    }

    async fn set_interface_prefixes(&mut self, prefixes: Vec<String>) -> HostChanges {
        lock(&self.state).prefixes.push(prefixes);
        HostChanges::default()
    }
}

impl AddressTranslation for Fake {
    fn set_cluster(&mut self, prefixes: &BTreeSet<IpNet>) -> Result<(), KernelError> {
        lock(&self.state).cluster.clone_from(prefixes);
        Ok(())
    }

    fn retire_nats(&mut self, wanted: &Mappings) -> Result<(), KernelError> {
        let mut state = lock(&self.state);
        state
            .nats
            .retain(|external, mapping| wanted.get(external) == Some(mapping));
        let now = state.nats.clone();
        state.nat_history.push(("retire", now));
        Ok(())
    }

    async fn set_nats(&mut self, wanted: &Mappings) -> Result<(BTreeSet<IpAddr>, Vec<DataplaneError>), KernelError> {
        let mut state = lock(&self.state);
        state.nats.clone_from(wanted);
        let no_room = state.no_room.clone();
        state.nats.retain(|external, _| !no_room.contains(external));
        let now = state.nats.clone();
        state.nat_history.push(("set", now));
        let troubles = std::mem::take(&mut state.nat_troubles);
        let errors = troubles
            .into_iter()
            .map(|reason| NetError::Open(std::io::Error::other(reason)).into());
        Ok((no_room, errors.collect()))
    }

    fn set_announcement(&mut self, wanted: bool) {
        lock(&self.state).announced = wanted;
    }
}

impl Inspection for Fake {
    fn interfaces(&self) -> Option<BTreeSet<Arc<str>>> {
        let state = lock(&self.state);
        Some(state.interfaces.iter().map(|name| name.as_str().into()).collect())
    }

    fn host_addresses(&self) -> BTreeSet<IpAddr> {
        BTreeSet::from(["192.0.2.1".parse().unwrap()])
    }

    fn problems(&self) -> BTreeMap<Arc<str>, Vec<String>> {
        lock(&self.state).network.clone()
    }

    fn host_uses(&self) -> BTreeMap<IpAddr, HostUse> {
        lock(&self.state).host_uses.clone()
    }

    fn unclaimed(&self) -> BTreeSet<Arc<str>> {
        lock(&self.state).unclaimed.clone()
    }

    fn interference(&self) -> Interference {
        lock(&self.state).interference.clone()
    }

    fn epoch(&self) -> u32 {
        lock(&self.state).applied.len() as u32
    }

    fn endpoints(&self) -> Vec<EndpointState> {
        let state = lock(&self.state);
        let one = |(id, plan): (&EndpointId, &EndpointPlan)| {
            let interface = plan.endpoint.interface_name.clone();
            let there = state.interfaces.contains(&*interface);
            EndpointState {
                id: *id,
                key: plan.endpoint.key.clone(),
                interface,
                ifindex: there.then_some(10 + id.index),
                attached: true,
                redirectable: there,
                conflict: None,
                foreign: Foreign::default(),
                generations: [1, 1],
            }
        };
        state.endpoints.iter().map(one).collect()
    }

    fn counters(&self) -> Result<PacketCounters, KernelError> {
        Ok(lock(&self.state).counters.clone())
    }

    fn flows(&self) -> Arc<dyn FlowSource> {
        Arc::new(FakeFlows(Arc::clone(&self.state)))
    }

    fn capacities(&self) -> Capacities {
        Capacities::default()
    }

    fn nats(&self) -> Result<BTreeMap<IpAddr, NatFlows>, KernelError> {
        let state = lock(&self.state);
        let one = |(external, mapping): (&IpAddr, &Mapping)| {
            let index = mapping.endpoint.index;
            let nat = NatFlows {
                mapping: *mapping,
                index,
                id: 7,
                flows: 3,
            };
            (*external, nat)
        };
        Ok(state.nats.iter().map(one).collect())
    }

    fn ended_nat_flows(&self) -> u64 {
        0
    }
}

struct FakeFlows(Shared);

impl FlowSource for FakeFlows {
    fn flows(&self, seen: &mut dyn FnMut(FlowInfo)) -> Result<(), KernelError> {
        lock(&self.0).flows.iter().cloned().for_each(seen);
        Ok(())
    }

    fn sweep(&self) -> Result<SweepStats, KernelError> {
        Ok(SweepStats::default())
    }

    fn counts(&self) -> Result<FlowCounts, KernelError> {
        Ok(FlowCounts::new())
    }
}

/// The pretended datastore, which has told everything whenever it is asked.
struct FakeDatastore {
    state: Shared,
    batches: mpsc::WeakSender<Batch>,
}

impl Control for FakeDatastore {
    fn stop(&self) {}

    fn barrier(&self, number: u64) {
        let mut state = lock(&self.state);
        if state.hold_barriers {
            state.barriers.push(number);
        } else if let Some(batches) = self.batches.upgrade() {
            batches.try_send(batch(vec![Update::Barrier(number)])).unwrap();
        }
    }
}

fn batch(updates: Vec<Update>) -> Batch {
    Batch {
        updates,
        problems: Arc::new(Problems::default()),
    }
}

/// A running pipeline.
pub struct Running {
    pub kernel: Shared,
    pub handle: Handle,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    pub batches: mpsc::Sender<Batch>,
    pub events: mpsc::UnboundedSender<Event>,
    stop: watch::Sender<bool>,
    thread: std::thread::JoinHandle<Result<(), String>>,
}

/// Starts a pipeline for node1 with these flags.
pub fn start(flags: &[(&str, &str)]) -> Running {
    let flags: Vec<(&str, String)> = flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let mut given = vec![("node", "node1".to_owned()), ("retry-interval", "50ms".to_owned())];
    given.extend(flags);
    let layer = config::from_flags(given.iter().map(|(name, value)| (*name, Some(value)))).unwrap();
    let config = Static::new(layer, [], None).unwrap();
    let kernel = Shared::default();
    lock(&kernel).interfaces.extend(["caliweb".to_owned()]);
    let (events, receiver) = mpsc::unbounded_channel();
    let (batches, batch_receiver) = mpsc::channel(64);
    let (handle, requests) = Handle::new(Duration::from_secs(5));
    let outlets = Outlets::new(Metrics::new(100).unwrap());
    let (metrics, health) = (Arc::clone(&outlets.metrics), Arc::clone(&outlets.health));
    let (stop, stopping) = watch::channel(false);
    let setup = Setup {
        dataplane: Fake {
            state: Arc::clone(&kernel),
            events: receiver,
        },
        planner: Planner::new(PlannerOptions::default(), Adopted::default()),
        config,
        batches: batch_receiver,
        datastore: Arc::new(FakeDatastore {
            state: Arc::clone(&kernel),
            batches: batches.downgrade(),
        }),
        requests,
        outlets,
    };
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (pipeline, inputs) = Pipeline::new(setup);
        runtime.block_on(pipeline.run(inputs, stopping))
    });
    Running {
        kernel,
        handle,
        health,
        metrics,
        batches,
        events,
        stop,
        thread,
    }
}

impl Running {
    pub fn kernel(&self) -> MutexGuard<'_, State> {
        lock(&self.kernel)
    }

    /// Hands over a batch.
    pub fn send(&self, updates: Vec<Update>) {
        self.batches.blocking_send(batch(updates)).unwrap();
    }

    /// Hands over records, and that these are all.
    pub fn send_all(&self, text: &str) {
        let mut updates = super::records::updates(text);
        updates.push(Update::InSync);
        self.send(updates);
    }

    /// Waits until something holds.
    pub fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !holds(self) {
            assert!(
                Instant::now() < end,
                "not within 10 s: {what}; not ready because {:?}",
                self.health.not_ready()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn ask<T>(&self, request: impl FnOnce(felid_agent::run::handle::Reply<T>) -> Request) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(self.handle.ask(request)).unwrap()
    }

    /// Waits for something on a thread of its own.
    pub fn wait(&self, what: WaitFor, timeout: Duration) -> std::thread::JoinHandle<Result<Waited, Refusal>> {
        let handle = self.handle.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(handle.wait(Wait { what, timeout }))
        })
    }

    pub fn status(&self) -> Status {
        self.ask(Request::Status)
    }

    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.ask(Request::Endpoints)
    }

    pub fn sample(&self) -> String {
        self.ask(Request::Sample);
        String::from_utf8(self.metrics.text().unwrap()).unwrap()
    }

    /// Waits for it to end by itself.
    pub fn ended(self) -> Result<(), String> {
        self.thread.join().unwrap()
    }

    /// Ends it together with the servers.
    pub fn stop_with_servers(self) -> Result<(), String> {
        self.stop.send(true).unwrap();
        drop(self.handle);
        self.thread.join().unwrap()
    }

    /// Ends it.
    pub fn stop(self) -> (Result<(), String>, Shared) {
        self.stop.send(true).unwrap();
        (self.thread.join().unwrap(), self.kernel)
    }
}
