//! Servers of the running agent: metrics and health over TCP, requests over a root-only Unix
//! socket.

mod connections;
mod listen;
mod query;
mod scrape;
mod socket;
mod tls;

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::sync::watch;

use crate::api::{ErrorAnswer, Refusal};
use crate::metrics::{self, Metrics};

use super::handle::{Handle, Request};
use super::health::Health;

pub use connections::{Limits, Service, serve};
pub use listen::bind;
pub use socket::{OwnerOnly, SharedLock, bind_socket};
pub use tls::acceptor;

use scrape::Scrape;

/// Becomes true once, when the agent goes down.
pub type Stop = watch::Receiver<bool>;

/// Waits until the agent goes down.
pub async fn stopped(mut stop: Stop) {
    // An error means that the sender is gone: that is the end, too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// `/metrics`, built once for all who ask at the same time.
pub fn metrics_router(metrics: Arc<Metrics>, handle: Handle) -> Router {
    let answer = |State(scrape): State<Arc<Scrape>>| async move {
        match scrape.text().await {
            Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        }
    };
    let scrape = Arc::new(Scrape::new(metrics, handle));
    Router::new().route("/metrics", get(answer)).with_state(scrape)
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

/// The requests of [`crate::api`], when the server may have so many connections at one time: half
/// of them may be of clients that wait for something, so that others are answered meanwhile.
pub fn api_router(handle: Handle, connections: usize) -> Router {
    let waits = Waits {
        handle: handle.clone(),
        places: Arc::new(Semaphore::new(connections / 2)),
        limit: connections / 2,
    };
    Router::new()
        .route(
            "/v1/status",
            get(|State(h): State<Handle>| async move { answer(h.ask(Request::Status).await) }),
        )
        .route(
            "/v1/endpoints",
            get(|State(h): State<Handle>| async move { answer(h.ask(Request::Endpoints).await) }),
        )
        .route(
            "/v1/snapshot",
            get(|State(h): State<Handle>| async move { answer(h.ask(Request::Snapshot).await) }),
        )
        .route(
            "/v1/nat",
            get(|State(h): State<Handle>| async move { answer(h.ask(Request::Nats).await) }),
        )
        .route("/v1/flows", get(flows))
        .route("/v1/program", get(program))
        .route("/v1/wait", get(move |RawQuery(query)| waits.clone().wait(query)))
        .fallback(|| async { answer::<()>(Err(Refusal::Unknown("no such path".to_owned()))) })
        .with_state(handle)
}

async fn flows(State(handle): State<Handle>, RawQuery(query): RawQuery) -> Response {
    match query::flows(query.as_deref().unwrap_or_default()) {
        Ok(filter) => answer(handle.ask(|reply| Request::Flows(filter, reply)).await),
        Err(refusal) => answer::<()>(Err(refusal)),
    }
}

async fn program(State(handle): State<Handle>, RawQuery(query): RawQuery) -> Response {
    match query::program(query.as_deref().unwrap_or_default()) {
        Ok((endpoint, direction)) => answer(handle.ask(|reply| Request::Program(endpoint, direction, reply)).await),
        Err(refusal) => answer::<()>(Err(refusal)),
    }
}

/// Clients that wait for something.
#[derive(Debug, Clone)]
struct Waits {
    handle: Handle,
    places: Arc<Semaphore>,
    limit: usize,
}

impl Waits {
    async fn wait(self, query: Option<String>) -> Response {
        let wait = match query::wait(query.as_deref().unwrap_or_default()) {
            Ok(wait) => wait,
            Err(refusal) => return answer::<()>(Err(refusal)),
        };
        let Ok(_place) = self.places.try_acquire() else {
            let reason = format!("{} commands wait for something already, which is the limit", self.limit);
            return answer::<()>(Err(Refusal::TooMany(reason)));
        };
        answer(self.handle.wait(wait).await)
    }
}

fn answer<T: Serialize>(result: Result<T, Refusal>) -> Response {
    let refusal = match result {
        Ok(value) => return Json(value).into_response(),
        Err(refusal) => refusal,
    };
    let status = match &refusal {
        Refusal::Unknown(_) => StatusCode::NOT_FOUND,
        Refusal::Unmet(_) => StatusCode::CONFLICT,
        Refusal::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        Refusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
    };
    let error = refusal.to_string();
    (status, Json(ErrorAnswer { error })).into_response()
}
