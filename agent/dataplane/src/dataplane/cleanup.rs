//! Taking everything away that felid has put into the kernel and the host's network configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::DataplaneError;
use crate::kernel;
use crate::net::{self, EndpointNet, Link, Net, NetError};

/// How long an answer of the kernel is waited for. On a busy host it takes its time, and nobody
/// else waits for this.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long what is not answered is asked for again.
const LONGEST: Duration = Duration::from_secs(120);
/// Interfaces after which progress is told.
const STEP: usize = 64;

/// Removes everything that felid has put into the kernel and the host's network configuration:
/// links, programs, maps, pins, the routes and permanent neighbours of interfaces with its prefixes
/// or its programs, its proxy neighbours, and its rules in the host's firewall. Programs of felid's
/// that are pinned elsewhere are detached. Called again, it does nothing more.
///
/// `progress` is told what is being done, and what is tried again because the kernel was too busy
/// to answer. Returns what could not be removed.
pub async fn cleanup(
    bpffs: &Path,
    prefixes: &[String],
    route_protocol: u8,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<NetError>, DataplaneError> {
    let (mut net, _events) = Net::open(route_protocol)?;
    net.wait_for(PATIENCE);
    let until = Instant::now() + LONGEST;
    // Before anything is removed, so that a failure here leaves it for the next attempt.
    let links = list_links(&net, until, progress).await?;
    let attached = kernel::attached(bpffs);
    progress("removing programs and maps");
    kernel::cleanup(bpffs)?;
    let (strays, failed) = kernel::detach_strays(links.iter().map(|link| link.index));
    if let Some(error) = failed.into_iter().next() {
        return Err(error.into());
    }
    let mut errors: Vec<NetError> = net
        .follow_proxies(&BTreeSet::new())
        .await
        .into_iter()
        .map(|(_, error)| error)
        .collect();
    errors.extend(net::remove_rules().err().map(NetError::Firewall));
    let is_felids = |link: &&Link| {
        strays.contains(&link.index)
            || attached.contains(&link.index)
            || prefixes.iter().any(|prefix| link.name.starts_with(prefix.as_str()))
    };
    let concerned: Vec<&Link> = links.iter().filter(is_felids).collect();
    for (done, link) in concerned.iter().enumerate() {
        if done.is_multiple_of(STEP) {
            progress(&format!(
                "removing routes of interface {} of {}",
                done + 1,
                concerned.len()
            ));
        }
        errors.extend(clear(&net, link, until, progress).await);
    }
    Ok(errors)
}

async fn list_links(net: &Net, until: Instant, progress: &mut dyn FnMut(&str)) -> Result<Vec<Link>, NetError> {
    loop {
        match net.links().await {
            Ok(links) => return Ok(links.list),
            Err(error) if error.is_passing() && Instant::now() < until => progress(&format!("{error}: trying again")),
            Err(error) => return Err(error),
        }
    }
}

/// Takes the routes and permanent neighbours of one interface away. Returns what could not be
/// removed.
async fn clear(net: &Net, link: &Link, until: Instant, progress: &mut dyn FnMut(&str)) -> Vec<NetError> {
    let nothing = EndpointNet {
        ifindex: link.index,
        interface: link.name.clone(),
        addresses: Vec::new(),
        nats: BTreeMap::new(),
        mac: None,
    };
    loop {
        let errors = net.reconcile(&nothing, link.up).await.errors;
        match errors.iter().find(|error| error.is_passing()) {
            Some(error) if Instant::now() < until => progress(&format!("{error}: trying again")),
            _ => return errors,
        }
    }
}
