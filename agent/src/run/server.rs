//! Servers of the running agent: metrics and health over TCP, questions over a root-only Unix socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

use crate::api::{ErrorAnswer, SOCKET, Way};
use crate::metrics::{self, Metrics};

use super::flows::FlowFilter;
use super::handle::{Handle, Question, Refusal};
use super::health::Health;

/// Becomes true once, when the agent goes down.
pub type Stop = watch::Receiver<bool>;

/// Waits until the agent goes down.
pub async fn stopped(mut stop: Stop) {
    // An error means that the sender is gone: that is the end, too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// `/metrics`. Kernel counters are brought up to date first, unless the pipeline is busy.
pub fn metrics_router(metrics: Arc<Metrics>, handle: Handle) -> Router {
    let answer = |State((metrics, handle)): State<(Arc<Metrics>, Handle)>| async move {
        if let Err(refusal) = handle.ask(Question::Sample).await {
            tracing::debug!("metrics without fresh kernel counters: {refusal}");
        }
        match metrics.text() {
            Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        }
    };
    Router::new()
        .route("/metrics", get(answer))
        .with_state((metrics, handle))
}

/// `/liveness` and `/readiness`: 200 or 503, with the reasons.
pub fn health_router(health: Arc<Health>) -> Router {
    fn answer(result: Result<(), String>) -> Response {
        match result {
            Ok(()) => (StatusCode::OK, "ok\n".to_owned()).into_response(),
            Err(reasons) => (StatusCode::SERVICE_UNAVAILABLE, reasons + "\n").into_response(),
        }
    }
    Router::new()
        .route(
            "/liveness",
            get(|State(health): State<Arc<Health>>| async move { answer(health.alive()) }),
        )
        .route(
            "/readiness",
            get(|State(health): State<Arc<Health>>| async move { answer(health.ready()) }),
        )
        .with_state(health)
}

/// The questions of [`crate::api`].
pub fn api_router(handle: Handle) -> Router {
    Router::new()
        .route(
            "/v1/status",
            get(|State(h): State<Handle>| async move { answer(h.ask(Question::Status).await) }),
        )
        .route(
            "/v1/endpoints",
            get(|State(h): State<Handle>| async move { answer(h.ask(Question::Endpoints).await) }),
        )
        .route(
            "/v1/snapshot",
            get(|State(h): State<Handle>| async move { answer(h.ask(Question::Snapshot).await) }),
        )
        .route(
            "/v1/nat",
            get(|State(h): State<Handle>| async move { answer(h.ask(Question::Nats).await) }),
        )
        .route("/v1/flows", get(flows))
        .route("/v1/program", get(program))
        .fallback(|| async { answer::<()>(Err(Refusal::Unknown("no such question".to_owned()))) })
        .with_state(handle)
}

async fn flows(State(handle): State<Handle>, RawQuery(query): RawQuery) -> Response {
    let pairs = decode(query.as_deref().unwrap_or_default());
    let filter = FlowFilter::from_query(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    match filter {
        Ok(filter) => answer(handle.ask(|reply| Question::Flows(filter, reply)).await),
        Err(refusal) => answer::<()>(Err(refusal)),
    }
}

async fn program(State(handle): State<Handle>, RawQuery(query): RawQuery) -> Response {
    let (mut endpoint, mut direction) = (None, None);
    for (name, value) in decode(query.as_deref().unwrap_or_default()) {
        let refusal = match (name.as_str(), value.as_str()) {
            ("endpoint", _) => {
                endpoint = Some(value);
                continue;
            }
            ("direction", "both") => continue,
            ("direction", "ingress" | "egress") => {
                let ingress = value == "ingress";
                direction = Some(if ingress { Way::Ingress } else { Way::Egress });
                continue;
            }
            ("direction", _) => format!("direction {value:?} is not ingress, egress or both"),
            _ => format!("{name:?} is no part of a question about programs"),
        };
        return answer::<()>(Err(Refusal::Unknown(refusal)));
    }
    match endpoint {
        Some(endpoint) => answer(handle.ask(|reply| Question::Program(endpoint, direction, reply)).await),
        None => answer::<()>(Err(Refusal::Unknown("which endpoint?".to_owned()))),
    }
}

fn answer<T: Serialize>(result: Result<T, Refusal>) -> Response {
    let refusal = match result {
        Ok(value) => return Json(value).into_response(),
        Err(refusal) => refusal,
    };
    let status = match &refusal {
        Refusal::Unknown(_) => StatusCode::NOT_FOUND,
        Refusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Refusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
    };
    (
        status,
        Json(ErrorAnswer {
            error: refusal.to_string(),
        }),
    )
        .into_response()
}

/// Pairs of a query string.
fn decode(query: &str) -> Vec<(String, String)> {
    let text = |text: &str| {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let [first, tail @ ..] = rest {
            let escaped = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
            match (first, escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
                (b'%', Some(byte)) => {
                    bytes.push(byte);
                    rest = tail.get(2..).unwrap_or_default();
                }
                (b'+', _) => {
                    bytes.push(b' ');
                    rest = tail;
                }
                _ => {
                    bytes.push(*first);
                    rest = tail;
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

/// Listens over TCP. An empty host is every address of both families, or of IPv4 where the system has no IPv6.
pub async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    if host.is_empty() {
        return match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
            Ok(listener) => Ok(listener),
            Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await,
        };
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return TcpListener::bind(SocketAddr::from((address, port))).await;
    }
    if host.eq_ignore_ascii_case("localhost") {
        // Without asking a resolver, which a bare network namespace or a container without /etc/hosts lacks.
        return TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
    }
    TcpListener::bind((host, port)).await
}

/// Serves over TCP until the agent stops; tries again while the address cannot be had. `bound` is told the address.
pub async fn serve_tcp(
    what: &'static str,
    (host, port): (String, u16),
    router: Router,
    bound: impl Fn(SocketAddr),
    stop: Stop,
) {
    let retry = Duration::from_secs(5);
    let listener = loop {
        match listen(&host, port).await {
            Ok(listener) => break listener,
            Err(error) => tracing::error!("{what}: cannot listen on {host}:{port}: {error}; trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(retry) => {}
            () = stopped(stop.clone()) => return,
        }
    };
    match listener.local_addr() {
        Ok(address) => {
            tracing::info!("{what} on {address}");
            bound(address);
        }
        Err(error) => tracing::warn!("{what}: {error}"),
    }
    if let Err(error) = axum::serve(listener, router)
        .with_graceful_shutdown(stopped(stop))
        .await
    {
        tracing::error!("{what}: {error}");
    }
}

/// The socket, which only root and the agent's own user may use. Made where nobody else can reach it, then moved.
pub fn bind_socket(run_dir: &Path) -> anyhow::Result<OwnerOnly> {
    let path = run_dir.join(SOCKET);
    let private = run_dir.join(".felid.sock");
    let _ = std::fs::remove_dir_all(&private);
    let context = || format!("{}: cannot make the socket", path.display());
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&private)
        .with_context(context)?;
    let made = private.join("s");
    let listener = UnixListener::bind(&made).with_context(context)?;
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o600)).with_context(context)?;
    std::fs::rename(&made, &path).with_context(context)?;
    let _ = std::fs::remove_dir(&private);
    Ok(OwnerOnly { listener })
}

/// Serves the socket until the agent stops.
pub async fn serve_socket(listener: OwnerOnly, router: Router, stop: Stop) {
    if let Err(error) = axum::serve(listener, router)
        .with_graceful_shutdown(stopped(stop))
        .await
    {
        tracing::error!("socket: {error}");
    }
}

/// A listener that hangs up on everyone but root and the agent's own user.
#[derive(Debug)]
pub struct OwnerOnly {
    listener: UnixListener,
}

impl axum::serve::Listener for OwnerOnly {
    type Io = tokio::net::UnixStream;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw() => {
                        return (stream, address);
                    }
                    Ok(peer) => tracing::warn!("socket: user {} may not ask", peer.uid()),
                    Err(error) => tracing::warn!("socket: {error}"),
                },
                Err(error) => {
                    // Too many open files, most likely: give it time.
                    tracing::warn!("socket: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
