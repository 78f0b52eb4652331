//! What others do on the host that people should know when they write policy.

use std::sync::Arc;
use std::time::Duration;

use felid_dataplane::net::kube_proxy;

use super::health::Health;
use super::server::{Stop, stopped};

/// kube-proxy may come after the agent.
const INTERVAL: Duration = Duration::from_secs(60);

/// Looks until it is found, and says so once.
pub(super) async fn watch(health: Arc<Health>, stop: Stop) {
    loop {
        // Reading the tables of iptables takes as long as they are.
        let found = tokio::task::spawn_blocking(kube_proxy).await.unwrap_or_default();
        if !found.is_empty() {
            let notice = format!(
                "kube-proxy translates addresses on this host ({}): policies judge packets as it leaves them, virtual addresses and node \
                 ports as they are written",
                found.join(", ")
            );
            tracing::warn!("{notice}");
            health.add_notice(notice);
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = stopped(stop.clone()) => return,
        }
    }
}
