//! The running agent: `felid run`.
//!
//! ```text
//! datastore thread --Batch--.                       .--> kernel (pinned maps, programs, links)
//! netlink -----------Event-----> pipeline thread -----+--> routes, neighbours, sysctls
//! servers --------Request---'   (pipeline/)           '--> health, metrics
//! sweeper task (conntrack) --> metrics
//! ```
//!
//! The pipeline has a thread of its own, so that programming the kernel never holds up the servers.
//! Only wiring is here.

mod connection;
pub mod failures;
pub mod handle;
mod handlers;
pub mod health;
pub(crate) mod inside;
pub mod lock;
pub mod logging;
mod names;
mod others;
mod parts;
pub mod pipeline;
pub mod policy_log;
mod rights;
pub mod server;
mod sweeper;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use felid_compile::planner::{Planner, PlannerOptions};
use felid_dataplane::Inspection as _;
use felid_dataplane::kernel::{self, Capacities};
use felid_datastore::{Batch, DirectoryWatcher, Options, Reading, StartError, StreamSource};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use crate::cli::{GlobalArgs, RunArgs};
use crate::config::{self, DatastoreUrl, HostAction, NatOutbound, Settings, Static};
use crate::metrics::Metrics;
use crate::outcome::Outcome;

use handle::Handle;
use lock::RunLock;
use pipeline::{Outlets, Pipeline, Setup};
use rights::Rights;
use server::{Limits, OwnerOnly, Service, SharedLock, Stop};

/// Mark of felid's routes: Felix's `deviceRouteProtocol`.
pub(crate) const ROUTE_PROTOCOL: u8 = 3;
/// How long what works beside the pipeline may take to end.
const LAST_WAIT: Duration = Duration::from_secs(1);
/// How long the end waits for the datastore to be read no more.
const READING_END: Duration = Duration::from_millis(500);
/// How long the servers wait for an answer of the pipeline.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What works beside the pipeline.
type Tasks = tokio::task::JoinSet<()>;

/// Where the servers listen, as addresses for people; `None` = nowhere.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// Where metrics are served.
    pub metrics: Option<String>,
    /// Where health is served.
    pub health: Option<String>,
}

/// `felid run`: until SIGTERM or SIGINT.
pub fn run(global: &GlobalArgs, args: &RunArgs) -> anyhow::Result<Outcome> {
    felid_dataplane::sys::share_one_arena();
    let config = config::gather(global, args.flags())?;
    let settings = config.settings();
    let log = logging::start(settings.log_format, settings.log_severity_screen)?;
    for variable in &config.unknown_variables {
        tracing::warn!("{variable} is no setting of felid and does nothing");
    }
    for notice in &config.not_followed {
        tracing::warn!("{notice}");
    }
    let rights = match rights::give_up_capabilities(&settings) {
        Ok(rights) => rights,
        Err(error) => {
            tracing::error!("{error:#}");
            return Ok(Outcome::Failed);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(config, (settings, rights), log));
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
        udp_answered: timeouts.udp_answered.unwrap_or(default.udp_answered),
        icmp: timeouts.icmp.unwrap_or(default.icmp),
        other: timeouts.generic.unwrap_or(default.other),
        host_reachable: settings.default_endpoint_to_host_action != HostAction::Drop,
        allow_ipip: settings.allow_ipip,
        allow_vxlan: settings.allow_vxlan,
        vxlan_port: settings.vxlan_port.0,
        nat_outbound: settings.ip_nat_outbound == NatOutbound::External,
        max_flows_per_endpoint: settings.max_flows_per_endpoint.0,
        ..default
    }
}

fn kernel_config(settings: &Settings) -> kernel::Config {
    let defaults = Capacities::default();
    kernel::Config {
        bpffs: settings.bpffs.clone(),
        bpffs_private: settings.bpffs_private,
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

/// Follows the datastore.
fn read_datastore(settings: &Settings) -> Result<(Reading, mpsc::Receiver<Batch>), StartError> {
    let state = settings.state_dir.join("records");
    match &settings.datastore {
        DatastoreUrl::Directory(directory) => {
            let mut options = Options::new(directory);
            options.rescan = settings.rescan_interval;
            options.writers = Some(felid_dataplane::sys::is_open_for_writing);
            felid_datastore::start(DirectoryWatcher::open(&options)?, &state)
        }
        DatastoreUrl::Stream(address) => felid_datastore::start(StreamSource::open(address)?, &state),
    }
}

/// Says it where the node's name is not as it was given; an error if there is none.
fn check_name(settings: &Settings) -> anyhow::Result<()> {
    if settings.node.0.is_empty() {
        return Err(anyhow!("the host has no name: say --node"));
    }
    if let Some(given) = settings.node.given() {
        tracing::warn!(
            "the node's name is taken in lower case, as Felix takes it: {:?}, not {given:?}",
            settings.node.0
        );
    }
    Ok(())
}

async fn serve(config: Static, (settings, rights): (Settings, Rights), log: logging::LogHandle) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    check_name(&settings)?;
    tracing::info!(node = settings.node.0, datastore = %settings.datastore, "felid {} starts", env!("CARGO_PKG_VERSION"));
    let lock = Arc::new(Mutex::new(RunLock::take(&settings.run_dir)?));
    let _file = SocketFile(settings.run_dir.join(crate::api::SOCKET));
    let mut outlets = Outlets::new(Metrics::new(settings.metrics_max_policies.0 as usize)?);
    outlets.log = Some(log);
    config
        .not_followed
        .iter()
        .for_each(|notice| outlets.health.add_notice(notice.clone()));
    rights.tell(&outlets.health);
    let (stop, stopping) = watch::channel(false);
    let (handle, requests) = Handle::new(TIMEOUT);
    let mut tasks = tokio::task::JoinSet::new();
    // Before all else: whoever watches the start sees why it is not ready yet.
    let servers = Servers::bind(&settings, Arc::clone(&lock)).await?;
    outlets.addresses = servers.addresses();
    servers.start(&mut tasks, &outlets, handle, &stopping);

    // The records are read while the kernel half loads its programs.
    let (reading, batches) = read_datastore(&settings).with_context(|| settings.datastore.to_string())?;
    let (dataplane, planner) = open_dataplane(&settings).await?;
    rights::give_up_system_calls(&settings).tell(&outlets.health);
    start_helpers(&mut tasks, &dataplane, &settings, &outlets, &stopping)?;
    let health = Arc::clone(&outlets.health);
    let setup = Setup {
        dataplane,
        planner,
        config,
        batches,
        datastore: reading.control(),
        requests,
        outlets,
    };
    let mut pipeline = start_pipeline(setup, stopping)?;
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
    reading.end(READING_END);
    let _ = tokio::time::timeout(LAST_WAIT, async { while tasks.join_next().await.is_some() {} }).await;
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(anyhow!(reason)),
        Err(_) => Err(anyhow!("the pipeline died")),
    }
}

/// The listeners of the servers, and the certificates of one.
struct Servers {
    socket: OwnerOnly,
    health: Option<(TcpListener, SocketAddr)>,
    metrics: Option<(TcpListener, SocketAddr)>,
    tls: Option<TlsAcceptor>,
    /// File descriptors that the process may have.
    descriptors: u64,
}

impl Servers {
    async fn bind(settings: &Settings, lock: SharedLock) -> anyhow::Result<Self> {
        Ok(Self {
            socket: server::bind_socket(lock)?,
            health: server::bind("health", "--health-listen", &settings.health_listen).await?,
            metrics: server::bind("metrics", "--metrics-listen", &settings.metrics_listen).await?,
            tls: server::acceptor(&settings.metrics_tls())?,
            descriptors: raise_descriptors(),
        })
    }

    fn addresses(&self) -> Addresses {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let metrics = self.metrics.as_ref();
        let health = self.health.as_ref();
        Addresses {
            metrics: metrics.map(|(_, address)| format!("{scheme}://{address}/metrics")),
            health: health.map(|(_, address)| format!("http://{address}/readiness")),
        }
    }

    fn start(self, tasks: &mut Tasks, outlets: &Outlets, handle: Handle, stop: &Stop) {
        let limits = Limits::public(self.descriptors);
        if let Some((listener, _)) = self.health {
            let service = Service {
                name: "health",
                router: server::health_router(Arc::clone(&outlets.health)),
                limits,
                tls: None,
                metrics: Arc::clone(&outlets.metrics),
            };
            tasks.spawn(server::serve(listener, service, stop.clone()));
        }
        if let Some((listener, _)) = self.metrics {
            let service = Service {
                name: "metrics",
                router: server::metrics_router(Arc::clone(&outlets.metrics), handle.clone()),
                limits,
                tls: self.tls,
                metrics: Arc::clone(&outlets.metrics),
            };
            tasks.spawn(server::serve(listener, service, stop.clone()));
        }
        let limits = Limits::private(self.descriptors);
        let service = Service {
            name: "socket",
            router: server::api_router(handle, limits.connections),
            limits,
            tls: None,
            metrics: Arc::clone(&outlets.metrics),
        };
        tasks.spawn(server::serve(self.socket, service, stop.clone()));
    }
}

/// Lets the process have as many file descriptors as it is allowed, and returns how many that are.
fn raise_descriptors() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        },
        Ok((soft, _)) => soft,
        // What every process has at least.
        Err(_) => 256,
    }
}

async fn open_dataplane(settings: &Settings) -> anyhow::Result<(felid_dataplane::Dataplane, Planner)> {
    let options = felid_dataplane::Options {
        kernel: kernel_config(settings),
        route_protocol: ROUTE_PROTOCOL,
    };
    let began = Instant::now();
    let (dataplane, adopted) = felid_dataplane::Dataplane::open(&options).await?;
    let (epoch, endpoints) = (dataplane.epoch(), adopted.endpoints.len());
    tracing::info!(
        epoch,
        endpoints,
        "adopted what the kernel holds in {:.0} ms",
        began.elapsed().as_secs_f64() * 1e3
    );
    let planner = Planner::new(planner_options(&dataplane.capacities()), adopted);
    Ok((dataplane, planner))
}

/// Starts what works beside the pipeline: the sweeper, the reader of Log rules' records, and the
/// look-out for others.
fn start_helpers(
    tasks: &mut Tasks,
    dataplane: &felid_dataplane::Dataplane,
    settings: &Settings,
    outlets: &Outlets,
    stop: &Stop,
) -> anyhow::Result<()> {
    let metrics = Arc::clone(&outlets.metrics);
    let interval = settings.conntrack_sweep_interval;
    let watch = sweeper::Watch {
        metrics,
        health: Arc::clone(&outlets.health),
        names: Arc::clone(&outlets.policy_log),
    };
    tasks.spawn(sweeper::run(dataplane.flows(), watch, interval, stop.clone()));
    let reader = dataplane.kernel().log_reader()?;
    let tables = Arc::clone(&outlets.policy_log);
    tasks.spawn(policy_log::run(reader, tables, stop.clone()));
    let health = Arc::clone(&outlets.health);
    tasks.spawn(others::watch(health, stop.clone()));
    Ok(())
}

/// Runs the pipeline on a thread of its own; the receiver gets its result, or an error if it died.
fn start_pipeline(
    setup: Setup<felid_dataplane::Dataplane>,
    stop: Stop,
) -> anyhow::Result<tokio::sync::oneshot::Receiver<Result<(), String>>> {
    let (done, result) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("pipeline".to_owned()).spawn(move || {
        let (pipeline, inputs) = Pipeline::new(setup);
        let result = runtime.block_on(pipeline.run(inputs, stop));
        // Nobody waits for it any more only if the process is ending.
        let _ = done.send(result);
    })?;
    Ok(result)
}
