//! The host's side of routing: links, addresses, routes, static neighbours and sysctls, all through
//! rtnetlink and one sysctl module.
//!
//! In: what each local endpoint needs of its host-side interface ([`EndpointNet`]). Out: links and
//! the host's own addresses as they are ([`Link`], [`Net::host_addresses`]), and [`Event`]s when
//! they change. Only routes with felid's protocol number and permanent neighbours on managed
//! interfaces, and proxy neighbours with felid's mark, are ever deleted; everything else on the
//! host is left alone.

mod forward;
mod kube_proxy;
mod link;
mod nftables;
mod proxy;
mod reconcile;
mod request;
mod sysctl;
mod traffic;
mod uses;
mod watch;

pub use forward::{Firewall, Interfaces, let_through, remove_rules};
pub use kube_proxy::kube_proxy;
pub use link::{Link, Links};
pub use proxy::Proxy;
pub use reconcile::{EndpointNet, Present, Reconciled};
pub use sysctl::{Configured, Sysctls};
pub use traffic::Classifiers;
pub use watch::{Event, Events};

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::Handle;

/// What can go wrong between felid and the host's network configuration.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The netlink socket cannot be opened.
    #[error("cannot open a route netlink socket: {0}")]
    Open(#[source] std::io::Error),
    /// Rules of the host's firewall cannot be changed.
    #[error("cannot change the chain FORWARD of nftables: {0}")]
    Firewall(#[source] std::io::Error),
    /// A netlink request failed.
    #[error("{what}: {source}")]
    Netlink {
        /// What felid wanted.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// The kernel did not answer a netlink request in time.
    #[error("{what}: no answer of the kernel within {patience:?}")]
    Silent {
        /// What felid wanted.
        what: String,
        /// How long it waited.
        patience: Duration,
    },
    /// Too much changes for the kernel to give a whole list.
    #[error("{what}: interrupted by changes again and again")]
    Interrupted {
        /// What felid wanted.
        what: &'static str,
    },
    /// Somebody else's route is where one to an external address should be.
    #[error(
        "add route {address} via {via} dev {interface}: there is another route to {address}, which stays; who made it has to remove it"
    )]
    Taken {
        /// The external address.
        address: IpAddr,
        /// The workload's.
        via: IpAddr,
        /// The workload's host-side interface.
        interface: Arc<str>,
    },
    /// A route or rule of others leads packets to an endpoint elsewhere.
    #[error(
        "{address} of {interface} is not reached: a route of others with a lower metric, or a rule of theirs, leads packets to it to {out}; \
         who made it has to remove it (`ip route get {address}` shows it)"
    )]
    Hidden {
        /// The workload's address, or its external one.
        address: IpAddr,
        /// The workload's host-side interface.
        interface: Arc<str>,
        /// Where packets go instead.
        out: String,
    },
    /// A sysctl cannot be read or written.
    #[error("sysctl {path} = {value}: {source}{hint}")]
    Sysctl {
        /// Its file.
        path: String,
        /// Wanted value.
        value: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
        /// What to do about it, if that is known.
        hint: &'static str,
    },
}

impl NetError {
    fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let what = what.into();
        move |source| NetError::Netlink { what, source }
    }

    /// Whether it only says that the kernel, or what changes there, kept felid from an answer:
    /// another attempt may get one.
    pub(crate) const fn is_passing(&self) -> bool {
        matches!(self, Self::Silent { .. } | Self::Interrupted { .. })
    }

    /// The errno of a netlink answer, as a positive number.
    fn errno(&self) -> Option<i32> {
        match self {
            NetError::Netlink {
                source: rtnetlink::Error::NetlinkError(message),
                ..
            } => message.code.map(|code| -code.get()),
            _ => None,
        }
    }
}

/// A connection to the network configuration of the namespace that the calling thread is in.
#[derive(Clone, Debug)]
pub struct Net {
    handle: Arc<Mutex<Handle>>,
    patience: Duration,
    protocol: u8,
    sysctls: Sysctls,
}

impl Net {
    /// Opens the connection and the stream of events, within a tokio runtime. `protocol` marks
    /// felid's routes (Felix's `deviceRouteProtocol`, 3 by default). It fails if a netlink socket
    /// cannot be opened.
    pub fn open(protocol: u8) -> Result<(Self, Events), NetError> {
        let handle = request::connect().map_err(NetError::Open)?;
        let events = Events::open()?;
        Ok((
            Self {
                handle: Arc::new(Mutex::new(handle)),
                patience: request::PATIENCE,
                protocol,
                sysctls: Sysctls::default(),
            },
            events,
        ))
    }

    /// Sets how long each answer of the kernel is waited for from now on.
    pub const fn wait_for(&mut self, timeout: Duration) {
        self.patience = timeout;
    }

    /// Returns the addresses of the host itself, on any of its links. It fails if netlink does.
    pub async fn host_addresses(&self) -> Result<BTreeSet<IpAddr>, NetError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let listed = self.dump("list addresses", &request).await?;
        let messages: Vec<AddressMessage> = listed
            .messages
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(message) => Some(message),
                _ => None,
            })
            .collect();
        if !listed.whole {
            return Err(NetError::Interrupted { what: "list addresses" });
        }
        // On point-to-point links IFA_ADDRESS is the other end's; IFA_LOCAL is the host's wherever
        // it is there.
        Ok(messages
            .iter()
            .filter_map(|message| {
                let local = message.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Local(address) => Some(*address),
                    _ => None,
                });
                local.or_else(|| {
                    message.attributes.iter().find_map(|a| match a {
                        AddressAttribute::Address(address) => Some(*address),
                        _ => None,
                    })
                })
            })
            .collect())
    }

    /// Lets the host forward between workloads and the world, as Felix does at start-up. Returns
    /// what failed.
    pub fn enable_forwarding(&self) -> Vec<NetError> {
        self.sysctls.host()
    }

    /// Sets the sysctls of a workload's host-side interface. `may_spoof` says that the workload may
    /// send from addresses that are not its own.
    pub fn configure_interface(&self, name: &str, may_spoof: bool) -> Configured {
        self.sysctls.interface(name, may_spoof)
    }
}
