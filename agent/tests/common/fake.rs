//! A pipeline on a pretended kernel.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use felid_agent::api::{Endpoint, Status};
use felid_agent::config::{self, Static};
use felid_agent::metrics::Metrics;
use felid_agent::run::Addresses;
use felid_agent::run::dataplane::{ApplyError, Counted, Dataplane, FlowSource, Grace, Seen};
use felid_agent::run::handle::{Handle, Question};
use felid_agent::run::health::Health;
use felid_agent::run::pipeline::{Parts, Pipeline};
use felid_compile::nat::{Mapping, Mappings};
use felid_compile::planner::{Adopted, Planner, PlannerOptions};
use felid_compile::transaction::{EndpointChange, EndpointId, EndpointPlan, ProgramId, Transaction};
use felid_dataplane::kernel::{
    Capacities, EndpointState, FlowCounts, FlowInfo, Foreign, NatFlows, Settings, SweepStats,
};
use felid_dataplane::net::Event;
use felid_datastore::{Batch, Problems, Update};
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
    pub crowded: BTreeSet<IpAddr>,
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
    pub counted: Counted,
    /// Flows.
    pub flows: Vec<FlowInfo>,
    /// Network problems.
    pub network: BTreeMap<String, Vec<String>>,
    /// How often everything was looked at.
    pub refreshed: usize,
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

impl Dataplane for Fake {
    async fn apply(&mut self, transaction: &Transaction) -> Result<Seen, ApplyError> {
        let mut state = lock(&self.state);
        if let Some((reason, blame)) = state.refuse.pop_front() {
            let blamed = transaction.new_programs.keys().filter(|_| blame);
            let programs: BTreeMap<ProgramId, String> = blamed.map(|id| (*id, reason.clone())).collect();
            return Err(ApplyError { reason, programs });
        }
        for (id, change) in &transaction.endpoints {
            match change {
                EndpointChange::Set(plan) => drop(state.endpoints.insert(*id, plan.clone())),
                EndpointChange::Gone { .. } => drop(state.endpoints.remove(id)),
            }
        }
        state.applied.push(transaction.clone());
        Ok(Seen::default())
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

    fn complete(&mut self, _: &Transaction) -> Result<(), String> {
        let mut state = lock(&self.state);
        if let Some(reason) = state.fail_complete.pop_front() {
            return Err(reason);
        }
        state.completed += 1;
        Ok(())
    }

    async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    async fn handle(&mut self, _: Event) -> Seen {
        Seen::default()
    }

    async fn refresh(&mut self) -> Seen {
        lock(&self.state).refreshed += 1;
        Seen::default()
    }

    fn host_addresses(&self) -> BTreeSet<IpAddr> {
        BTreeSet::from(["192.0.2.1".parse().unwrap()])
    }

    fn network_problems(&self) -> BTreeMap<String, Vec<String>> {
        lock(&self.state).network.clone()
    }

    fn epoch(&self) -> u32 {
        lock(&self.state).applied.len() as u32
    }

    fn set_settings(&mut self, settings: Settings) -> Result<(), String> {
        lock(&self.state).settings.push(settings);
        Ok(())
    }

    fn retire_nats(&mut self, wanted: &Mappings) -> Result<(), String> {
        let mut state = lock(&self.state);
        state
            .nats
            .retain(|external, mapping| wanted.get(external) == Some(mapping));
        let now = state.nats.clone();
        state.nat_history.push(("retire", now));
        Ok(())
    }

    async fn set_nats(&mut self, wanted: &Mappings) -> Result<(BTreeSet<IpAddr>, Seen), String> {
        let mut state = lock(&self.state);
        state.nats.clone_from(wanted);
        let crowded = state.crowded.clone();
        state.nats.retain(|external, _| !crowded.contains(external));
        let now = state.nats.clone();
        state.nat_history.push(("set", now));
        let seen = Seen {
            network: std::mem::take(&mut state.nat_troubles),
            ..Seen::default()
        };
        Ok((crowded, seen))
    }

    fn set_announcement(&mut self, wanted: bool) {
        lock(&self.state).announced = wanted;
    }

    fn set_cluster(&mut self, prefixes: &BTreeSet<IpNet>) -> Result<(), String> {
        lock(&self.state).cluster.clone_from(prefixes);
        Ok(())
    }

    fn nats(&self) -> Result<BTreeMap<IpAddr, NatFlows>, String> {
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

    async fn set_interface_prefixes(&mut self, prefixes: Vec<String>) -> Seen {
        lock(&self.state).prefixes.push(prefixes);
        Seen::default()
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
                fast: there,
                conflict: None,
                foreign: Foreign::default(),
                generations: [1, 1],
            }
        };
        state.endpoints.iter().map(one).collect()
    }

    fn counted(&self) -> Result<Counted, String> {
        Ok(lock(&self.state).counted.clone())
    }

    fn flows(&self) -> Arc<dyn FlowSource> {
        Arc::new(FakeFlows(Arc::clone(&self.state)))
    }

    fn capacities(&self) -> Capacities {
        Capacities::default()
    }
}

struct FakeFlows(Shared);

impl FlowSource for FakeFlows {
    fn flows(&self, seen: &mut dyn FnMut(FlowInfo)) -> Result<(), String> {
        lock(&self.0).flows.iter().cloned().for_each(seen);
        Ok(())
    }

    fn sweep(&self) -> Result<SweepStats, String> {
        Ok(SweepStats::default())
    }

    fn counts(&self) -> Result<FlowCounts, String> {
        Ok(FlowCounts::new())
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
    let (handle, questions) = Handle::new(Duration::from_secs(5));
    let metrics = Arc::new(Metrics::new(100).unwrap());
    let health = Arc::new(Health::default());
    let (stop, stopping) = watch::channel(false);
    let parts = Parts {
        dataplane: Fake {
            state: Arc::clone(&kernel),
            events: receiver,
        },
        planner: Planner::new(PlannerOptions::default(), Adopted::default()),
        config,
        batches: batch_receiver,
        questions,
        metrics: Arc::clone(&metrics),
        health: Arc::clone(&health),
        log: None,
        logged: Arc::default(),
        addresses: Addresses::default(),
    };
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (pipeline, inputs) = Pipeline::new(parts);
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
        self.batches
            .blocking_send(Batch {
                updates,
                problems: Arc::new(Problems::default()),
            })
            .unwrap();
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

    fn ask<T>(&self, question: impl FnOnce(felid_agent::run::handle::Reply<T>) -> Question) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(self.handle.ask(question)).unwrap()
    }

    pub fn status(&self) -> Status {
        self.ask(Question::Status)
    }

    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.ask(Question::Endpoints)
    }

    pub fn sample(&self) -> String {
        self.ask(Question::Sample);
        String::from_utf8(self.metrics.text().unwrap()).unwrap()
    }

    /// Waits for it to end by itself.
    pub fn ended(self) -> Result<(), String> {
        self.thread.join().unwrap()
    }

    /// Ends it.
    pub fn stop(self) -> (Result<(), String>, Shared) {
        self.stop.send(true).unwrap();
        (self.thread.join().unwrap(), self.kernel)
    }
}
