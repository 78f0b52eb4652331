//! Connections of the servers: how many there may be, and how long each may take.
//!
//! Whoever can reach a port can open connections, send slowly and never read. So each server has a
//! limit of connections, in all and for each address, a time for the head of a request, a time for
//! the whole connection, and a pace at which connections are taken. The limits leave most of the
//! process's file descriptors to enforcement.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::serve::Listener;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::metrics::Metrics;

use super::{Stop, stopped};

/// Turned away connections are told of at most this often.
const COMPLAINT: Duration = Duration::from_secs(60);

/// What the connections of a server may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at one time.
    pub connections: usize,
    /// Of these, from one address.
    pub per_address: usize,
    /// Until the head of a request has been read, and until TLS is agreed upon.
    pub head: Duration,
    /// From the beginning of a connection to its end. An answer under way has as long again.
    pub lifetime: Duration,
    /// Between two connections that are taken, where more than that come.
    pub pace: Duration,
}

impl Limits {
    /// Returns the limits of a server that anybody may reach, when the process may have so many
    /// file descriptors.
    pub fn public(descriptors: u64) -> Self {
        let connections = usize::try_from(descriptors / 8).unwrap_or(usize::MAX).clamp(4, 64);
        Self {
            connections,
            per_address: (connections / 2).max(2),
            head: Duration::from_secs(5),
            lifetime: Duration::from_secs(20),
            pace: Duration::from_millis(10),
        }
    }

    /// Returns the limits of the socket that only root may use: its answers may be long, and many
    /// may wait for something at one time.
    pub fn private(descriptors: u64) -> Self {
        let connections = usize::try_from(descriptors / 8).unwrap_or(usize::MAX).clamp(4, 512);
        let public = Self::public(descriptors);
        Self {
            connections,
            per_address: connections,
            lifetime: Duration::from_secs(300),
            pace: Duration::ZERO,
            ..public
        }
    }
}

/// The address of who connects, by which connections are counted.
pub trait Peer {
    /// Returns the address; `None` = the connection has none.
    fn ip(&self) -> Option<IpAddr>;
}

impl Peer for SocketAddr {
    fn ip(&self) -> Option<IpAddr> {
        Some(Self::ip(self).to_canonical())
    }
}

impl Peer for tokio::net::unix::SocketAddr {
    fn ip(&self) -> Option<IpAddr> {
        None
    }
}

/// How many connections are open.
#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One of the connections that may be open; counted until it is dropped.
struct ConnectionPermit {
    open: Arc<Mutex<Open>>,
    address: Option<IpAddr>,
}

impl ConnectionPermit {
    /// Takes a place, if there is one.
    fn take(open: &Arc<Mutex<Open>>, address: Option<IpAddr>, limits: &Limits) -> Option<Self> {
        let mut now = open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = address.and_then(|address| now.by_address.get(&address)).copied();
        if now.all >= limits.connections || of_address.unwrap_or(0) >= limits.per_address {
            return None;
        }
        now.all += 1;
        if let Some(address) = address {
            *now.by_address.entry(address).or_default() += 1;
        }
        let open = Arc::clone(open);
        Some(Self { open, address })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all = open.all.saturating_sub(1);
        let Some(address) = self.address else { return };
        if let Some(count) = open.by_address.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}

/// A server: who it is, what it answers, and what its connections may use.
pub struct Service {
    /// Its name, for the log.
    pub name: &'static str,
    /// What it answers.
    pub router: Router,
    /// What its connections may use.
    pub limits: Limits,
    /// Its certificates; `None` = plain HTTP.
    pub tls: Option<TlsAcceptor>,
    /// Where what it turns away is counted.
    pub metrics: Arc<Metrics>,
}

/// Serves until the agent stops.
pub async fn serve<L>(mut listener: L, service: Service, stop: Stop)
where
    L: Listener,
    L::Addr: Peer,
{
    let service = Arc::new(service);
    let limits = service.limits;
    let open = Arc::<Mutex<Open>>::default();
    let mut connections = JoinSet::new();
    let mut turned_away = TurnedAway::default();
    loop {
        let (io, address) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(stop.clone()) => break,
        };
        while connections.try_join_next().is_some() {}
        let Some(place) = ConnectionPermit::take(&open, address.ip(), &limits) else {
            service.metrics.condition.turned_away(service.name);
            turned_away.note(service.name, &limits);
            continue;
        };
        connections.spawn(connection(io, place, Arc::clone(&service), stop.clone()));
        if !limits.pace.is_zero() {
            tokio::time::sleep(limits.pace).await;
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Connections that were closed at once, for the log.
#[derive(Debug, Default)]
struct TurnedAway {
    count: u64,
    told: Option<Instant>,
}

impl TurnedAway {
    fn note(&mut self, server: &str, limits: &Limits) {
        self.count += 1;
        if self.told.is_some_and(|told| told.elapsed() < COMPLAINT) {
            return;
        }
        self.told = Some(Instant::now());
        tracing::warn!(
            "{server}: {} connections turned away so far: {} are open, or {} of one address",
            self.count,
            limits.connections,
            limits.per_address
        );
    }
}

/// One connection, from its acceptance to its end.
async fn connection<I>(io: I, place: ConnectionPermit, service: Arc<Service>, stop: Stop)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match &service.tls {
        None => exchange(io, &service, stop).await,
        Some(tls) => match tokio::time::timeout(service.limits.head, tls.accept(io)).await {
            Ok(Ok(io)) => exchange(io, &service, stop).await,
            Ok(Err(error)) => tracing::debug!("{}: TLS: {error}", service.name),
            Err(_) => tracing::debug!("{}: TLS: not agreed upon in time", service.name),
        },
    }
    drop(place);
}

/// Answers requests until the peer has no more, its time is over, or the agent stops.
async fn exchange<I>(io: I, service: &Service, stop: Stop)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(service.router.clone());
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(service.limits.head)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(io), router);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async {
            tokio::select! {
                () = tokio::time::sleep(service.limits.lifetime) => {}
                () = stopped(stop) => {}
            }
        } => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(service.limits.lifetime, connection).await {
                Ok(ended) => ended,
                Err(_) => return tracing::debug!("{}: a connection did not end in time", service.name),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!("{}: {error}", service.name);
    }
}
