//! The running agent: `felid run`.
//!
//! ```text
//! datastore thread --Batch--.                       .--> kernel (pinned maps, programs, links)
//! netlink -----------Event-----> pipeline thread -----+--> routes, neighbours, sysctls
//! servers -------Question---'   (pipeline.rs)        '--> health, metrics
//! sweeper task (conntrack) --> metrics
//! ```
//!
//! The pipeline has a thread of its own, so that programming the kernel never holds up the servers. Only wiring is here.

pub mod answers;
pub mod dataplane;
pub mod failures;
pub mod flows;
pub mod handle;
pub mod health;
pub(crate) mod inside;
pub mod lock;
pub mod logging;
mod nat_answers;
mod nats;
mod others;
pub mod pipeline;
pub mod policy_log;
mod program;
pub mod server;
mod sweeper;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use felid_compile::planner::{Planner, PlannerOptions};
use felid_dataplane::kernel::{self, Capacities};
use felid_datastore::{DirectoryStore, Options};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::{Places, RunArgs};
use crate::config::{self, DatastoreUrl, HostAction, NatOutbound, Settings, Static};
use crate::entry::Outcome;
use crate::metrics::Metrics;

use dataplane::Dataplane;
use handle::Handle;
use health::Health;
use lock::RunLock;
use pipeline::{Parts, Pipeline};

/// Mark of felid's routes: Felix's `deviceRouteProtocol`.
pub(crate) const ROUTE_PROTOCOL: u8 = 3;
/// How long the servers wait for an answer of the pipeline.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the servers listen, once they do.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    metrics: Arc<Mutex<Option<SocketAddr>>>,
    health: Arc<Mutex<Option<SocketAddr>>>,
}

impl Addresses {
    fn get(slot: &Mutex<Option<SocketAddr>>) -> Option<SocketAddr> {
        *slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set(slot: &Mutex<Option<SocketAddr>>, address: SocketAddr) {
        *slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(address);
    }

    /// Where metrics are served.
    pub fn metrics(&self) -> Option<String> {
        Self::get(&self.metrics).map(|address| format!("http://{address}/metrics"))
    }

    /// Where health is served.
    pub fn health(&self) -> Option<String> {
        Self::get(&self.health).map(|address| format!("http://{address}/readiness"))
    }
}

/// `felid run`: until SIGTERM or SIGINT.
pub fn run(places: &Places, args: &RunArgs) -> anyhow::Result<Outcome> {
    felid_dataplane::sys::share_one_arena();
    let config = config::gather(places, args.flags())?;
    let settings = config.settings();
    let log = logging::start(settings.log_format, settings.log_severity_screen)?;
    for variable in &config.unknown_variables {
        tracing::warn!("{variable} is no setting of felid and does nothing");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(config, settings, log));
    if let Err(error) = &result {
        tracing::error!("{error:#}");
    }
    // Threads that wait for the kernel end with the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(if result.is_ok() { Outcome::Done } else { Outcome::Failed })
}

/// Removes the socket when the agent ends, however it ends but by SIGKILL.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!("{}: {error}", self.0.display());
        }
    }
}

/// Settings of the programs in the kernel.
pub(crate) fn kernel_settings(settings: &Settings) -> kernel::Settings {
    let timeouts = &settings.conntrack_timeouts;
    let default = kernel::Settings::default();
    kernel::Settings {
        tcp_syn: timeouts.tcp_syn_sent.unwrap_or(default.tcp_syn),
        tcp_established: timeouts.tcp_established.unwrap_or(default.tcp_established),
        tcp_fin: timeouts.tcp_fins_seen.unwrap_or(default.tcp_fin),
        tcp_rst: timeouts.tcp_reset_seen.unwrap_or(default.tcp_rst),
        udp: timeouts.udp.unwrap_or(default.udp),
        icmp: timeouts.icmp.unwrap_or(default.icmp),
        other: timeouts.generic.unwrap_or(default.other),
        host_reachable: settings.default_endpoint_to_host_action != HostAction::Drop,
        allow_ipip: settings.allow_ipip,
        allow_vxlan: settings.allow_vxlan,
        vxlan_port: settings.vxlan_port.0,
        nat_outbound: settings.ip_nat_outbound == NatOutbound::External,
        ..default
    }
}

fn kernel_config(settings: &Settings) -> kernel::Config {
    let defaults = Capacities::default();
    kernel::Config {
        bpffs: settings.bpffs.clone(),
        capacities: Capacities {
            established_v4: settings.conntrack_established_size.0,
            established_v6: settings.conntrack_established_size_v6.0,
            half_open: settings.conntrack_half_open_size.0,
            peers: settings.max_peers.0,
            nets: settings.max_nets.0,
            named_ports: settings.max_named_ports.0,
            classes: settings.max_classes.0,
            class_bits: settings.max_sets.0.next_multiple_of(64),
            fragments: defaults.fragments,
        },
        interface_prefixes: settings.interface_prefix.0.clone(),
        settings: kernel_settings(settings),
    }
}

/// What the planner may use: the tables as they really are.
fn planner_options(capacities: &Capacities) -> PlannerOptions {
    PlannerOptions {
        max_slots: capacities.class_bits,
        max_classes: capacities.classes,
        peers_v4: capacities.peers as usize,
        peers_v6: capacities.peers as usize,
        nets_v4: capacities.nets as usize,
        nets_v6: capacities.nets as usize,
        named_ports: capacities.named_ports as usize,
        ..PlannerOptions::default()
    }
}

async fn serve(config: Static, settings: Settings, log: logging::LogHandle) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if settings.node.0.is_empty() {
        return Err(anyhow!("the host has no name: say --node"));
    }
    tracing::info!(node = settings.node.0, datastore = %settings.datastore, "felid {} starts", env!("CARGO_PKG_VERSION"));
    let _lock = RunLock::take(&settings.run_dir)?;
    let socket = server::bind_socket(&settings.run_dir)?;
    let _file = SocketFile(settings.run_dir.join(crate::api::SOCKET));
    let metrics = Arc::new(Metrics::new(settings.metrics_max_policies.0 as usize)?);
    let health = Arc::new(Health::default());
    let addresses = Addresses::default();
    let (stop, stopping) = watch::channel(false);
    let (handle, questions) = Handle::new(PATIENCE);

    // Health first: whoever watches the start sees why it is not ready yet.
    let mut servers = tokio::task::JoinSet::new();
    if let Some((host, port)) = settings.health_listen.address() {
        let slot = Arc::clone(&addresses.health);
        let bound = move |address| Addresses::set(&slot, address);
        let router = server::health_router(Arc::clone(&health));
        servers.spawn(server::serve_tcp(
            "health",
            (host.to_owned(), port),
            router,
            bound,
            stopping.clone(),
        ));
    }
    if let Some((host, port)) = settings.metrics_listen.address() {
        let slot = Arc::clone(&addresses.metrics);
        let bound = move |address| Addresses::set(&slot, address);
        let router = server::metrics_router(Arc::clone(&metrics), handle.clone());
        servers.spawn(server::serve_tcp(
            "metrics",
            (host.to_owned(), port),
            router,
            bound,
            stopping.clone(),
        ));
    }
    servers.spawn(server::serve_socket(
        socket,
        server::api_router(handle.clone()),
        stopping.clone(),
    ));

    // The records are read while the kernel half loads its programs.
    let DatastoreUrl::Directory(directory) = settings.datastore.clone();
    let mut options = Options::new(directory, settings.state_dir.join("records"));
    options.rescan = settings.rescan_interval;
    let (store, batches) = DirectoryStore::start(options).with_context(|| settings.datastore.to_string())?;
    let options = felid_dataplane::Options {
        kernel: kernel_config(&settings),
        route_protocol: ROUTE_PROTOCOL,
    };
    let began = Instant::now();
    let (kernel, adopted) = felid_dataplane::Dataplane::open(&options).await?;
    let (epoch, endpoints) = (kernel.epoch(), adopted.endpoints.len());
    tracing::info!(
        epoch,
        endpoints,
        "adopted what the kernel holds in {:.0} ms",
        began.elapsed().as_secs_f64() * 1e3
    );
    let planner = Planner::new(planner_options(&kernel.capacities()), adopted);
    let interval = settings.conntrack_sweep_interval;
    servers.spawn(sweeper::run(
        kernel.flows(),
        Arc::clone(&metrics),
        interval,
        stopping.clone(),
    ));

    let tables = Arc::<Mutex<policy_log::Tables>>::default();
    servers.spawn(policy_log::run(
        kernel.kernel().log_reader()?,
        Arc::clone(&tables),
        stopping.clone(),
    ));
    servers.spawn(others::watch(Arc::clone(&health), stopping.clone()));

    let parts = Parts {
        dataplane: kernel,
        planner,
        config,
        batches,
        questions,
        metrics,
        health: Arc::clone(&health),
        log: Some(log),
        logged: tables,
        addresses,
    };
    let mut pipeline = start_pipeline(parts, stopping)?;
    let result = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        result = &mut pipeline => Some(result),
    };
    tracing::info!("felid stops; the kernel goes on enforcing");
    health.stop();
    // Everyone who waits for it has a receiver of his own.
    let _ = stop.send(true);
    let result = match result {
        Some(result) => result,
        None => pipeline.await,
    };
    drop(store);
    let _ = tokio::time::timeout(Duration::from_secs(1), async {
        while servers.join_next().await.is_some() {}
    })
    .await;
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(anyhow!(reason)),
        Err(_) => Err(anyhow!("the pipeline died")),
    }
}

/// Runs the pipeline on a thread of its own; the receiver gets its result, or an error if it died.
fn start_pipeline(
    parts: Parts<felid_dataplane::Dataplane>,
    stop: server::Stop,
) -> anyhow::Result<tokio::sync::oneshot::Receiver<Result<(), String>>> {
    let (done, result) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("pipeline".to_owned()).spawn(move || {
        let (pipeline, inputs) = Pipeline::new(parts);
        let result = runtime.block_on(pipeline.run(inputs, stop));
        // Nobody waits for it any more only if the process is ending.
        let _ = done.send(result);
    })?;
    Ok(result)
}
