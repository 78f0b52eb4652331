//! Where the servers listen.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;

use crate::config::Listen;

/// Listens over TCP. An empty host is every address of both families, or of IPv4 where the system
/// has no IPv6.
async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    if host.is_empty() {
        return match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
            }
            result => result,
        };
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return TcpListener::bind(SocketAddr::from((address, port))).await;
    }
    if host.eq_ignore_ascii_case("localhost") {
        // Without asking a resolver, which a bare network namespace or a container without
        // /etc/hosts lacks.
        return TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
    }
    TcpListener::bind((host, port)).await
}

/// Listens where a setting says; `None` = it says nowhere. `flag` names the setting to people.
///
/// A port that somebody else has is an error at the start: whoever asks there would be answered by
/// another agent, and take this one for ready.
pub async fn bind(what: &str, flag: &str, setting: &Listen) -> anyhow::Result<Option<(TcpListener, SocketAddr)>> {
    let Some((host, port)) = setting.address() else {
        return Ok(None);
    };
    let listener = match listen(host, port).await {
        Ok(listener) => listener,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            return Err(anyhow!(
                "{what} cannot be served on {host}:{port}: another process listens there (Felix does by default); stop it, or \
                 choose another address with {flag}"
            ));
        }
        Err(error) => {
            return Err(error).with_context(|| format!("{what} cannot be served on {host}:{port} ({flag})"));
        }
    };
    let address = listener.local_addr().with_context(|| what.to_owned())?;
    tracing::info!("{what} on {address}");
    Ok(Some((listener, address)))
}
