//! Two workloads with 1:1 translations, a host, somebody outside; and conversations between them of
//! which both ends' addresses are seen.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use felid_lab::frames::Frame;
use felid_lab::records::Endpoint;
use felid_lab::{Namespace, Workload};

use crate::seen::{Capture, Seen, send_ip};
use crate::{Cluster, sockets};

/// Everybody's addresses in one IP version.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The workload `web`.
    pub web: &'static str,
    /// An external address of `web`.
    pub external: &'static str,
    /// Another one, that comes first in the order of their texts: `web` shows it where it has the
    /// choice.
    pub smallest: &'static str,
    /// The workload `client`.
    pub client: &'static str,
    /// The external address of `client`.
    pub client_external: &'static str,
    /// Somebody behind the uplink.
    pub outside: &'static str,
    /// Another address there, in a network that an `IPPool` may name.
    pub pool: &'static str,
    /// The host on the uplink.
    pub host: &'static str,
}

/// IPv4 and IPv6.
pub const FAMILIES: [Family; 2] = [
    Family {
        web: "10.65.0.2",
        external: "203.0.113.5",
        smallest: "203.0.113.20",
        client: "10.65.0.3",
        client_external: "203.0.113.3",
        outside: "192.0.2.7",
        pool: "198.51.100.7",
        host: "192.0.2.1",
    },
    Family {
        web: "fd00:65::2",
        external: "2001:db8:5::5",
        smallest: "2001:db8:5::20",
        client: "fd00:65::3",
        client_external: "2001:db8:5::3",
        outside: "2001:db8:2::7",
        pool: "2001:db8:7::7",
        host: "2001:db8:2::1",
    },
];

/// A record of the pools that [`Family::pool`] is in.
pub const POOLS: &str = "---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: four}
spec: {cidr: 198.51.100.0/24}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: six}
spec: {cidr: '2001:db8:7::/64'}
";

/// Workloads may reach the host.
pub const HOST_ACCEPTS: &str = "---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {defaultEndpointToHostAction: Accept}
";

/// A port on which everybody answers.
pub const PORT: u16 = 80;

/// Text to address.
pub fn ip(text: &str) -> IpAddr {
    // The texts are constants of tests.
    text.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]))
}

/// The node and those around it.
#[derive(Debug)]
pub struct NatWorld {
    /// The node.
    pub cluster: Cluster,
    /// A workload with two external addresses in each IP version.
    pub web: Workload,
    /// A workload with one.
    pub client: Workload,
    /// Somebody behind the uplink, whose default routes lead to the host.
    pub outside: Namespace,
}

impl NatWorld {
    /// Everything but the agent; `extra` records and arguments for it.
    pub fn without_agent(prefix: &str, extra: &str, options: &[&str]) -> Result<Self> {
        let mut cluster = Cluster::new(prefix)?;
        cluster.options = options.iter().map(ToString::to_string).collect();
        let outside = Namespace::new(&format!("{prefix}-out"))?;
        let host = cluster.host.namespace();
        join(host, "uplink", &outside, "eth0")?;
        for family in FAMILIES {
            address(host, "uplink", family.host)?;
            address(&outside, "eth0", family.outside)?;
            address(&outside, "lo", family.pool)?;
            route(&outside, "default", family.host)?;
            route(host, family.pool, family.outside)?;
        }
        let workload =
            |interface: &str, of: fn(Family) -> &'static str| cluster.host.workload(interface, &FAMILIES.map(of));
        let web = workload("caliweb", |family| family.web)?;
        let client = workload("caliclient", |family| family.client)?;
        let world = Self {
            cluster,
            web,
            client,
            outside,
        };
        world.cluster.write("extra.yaml", extra)?;
        world.cluster.write("web.yaml", &world.web_record().yaml())?;
        let client = Endpoint {
            labels: "app: client",
            nats: FAMILIES.map(|family| nat(family.client, family.client_external)).into(),
            ..Endpoint::of("client", &world.client)
        };
        world.cluster.write("client.yaml", &client.yaml())?;
        Ok(world)
    }

    /// The record of `web`, with all its external addresses.
    pub fn web_record(&self) -> Endpoint<'_> {
        let nats = FAMILIES.map(|family| [nat(family.web, family.external), nat(family.web, family.smallest)]);
        Endpoint {
            labels: "app: web",
            nats: nats.concat(),
            ..Endpoint::of("web", &self.web)
        }
    }

    /// With the agent running, its translations in force, and servers for every [`Kind`] but on the
    /// host.
    pub fn new(prefix: &str, extra: &str, options: &[&str]) -> Result<Self> {
        let mut world = Self::without_agent(prefix, extra, options)?;
        world.cluster.start()?;
        world.in_force()?;
        for namespace in [&world.web.namespace, &world.client.namespace] {
            serve(namespace, &[ip("::")])?;
        }
        // A datagram's answer comes from the address that was asked only where the socket has no
        // other.
        let outside = FAMILIES.map(|family| [ip(family.outside), ip(family.pool)]);
        serve(&world.outside, &outside.concat())?;
        Ok(world)
    }

    /// Waits until routes lead to every external address, the last thing that the agent does for
    /// them.
    pub fn in_force(&self) -> Result<()> {
        let host = self.cluster.host.namespace();
        for family in FAMILIES {
            for external in [family.external, family.smallest, family.client_external] {
                self.cluster.eventually(&format!("a route to {external}"), || {
                    Ok(routed(host, external)?.is_some())
                })?;
            }
        }
        Ok(())
    }
}

/// The interface that a host route leads to.
pub fn routed(host: &Namespace, to: &str) -> Result<Option<String>> {
    let version = if to.contains(':') { "-6" } else { "-4" };
    let shown = host.ip(&format!("{version} route show exact {to}"))?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "dev");
    Ok(words.nth(1).map(str::to_owned))
}

/// Internal and external address, as records have them.
pub fn nat(internal: &str, external: &str) -> (String, String) {
    (internal.to_owned(), external.to_owned())
}

/// A pair of interfaces, up.
pub fn join(one: &Namespace, interface: &str, other: &Namespace, there: &str) -> Result<()> {
    let name = other.name();
    one.ip(&format!(
        "link add {interface} type veth peer name {there} netns {name}"
    ))?;
    for (namespace, interface) in [(one, interface), (other, there)] {
        namespace.sysctl(&format!("net/ipv6/conf/{interface}/accept_dad"), "0")?;
        namespace.ip(&format!("link set {interface} up"))?;
    }
    Ok(())
}

/// An address in a /24 or /64.
pub fn address(namespace: &Namespace, interface: &str, address: &str) -> Result<()> {
    let rest = if address.contains(':') { "/64 nodad" } else { "/24" };
    let (length, nodad) = rest.split_once(' ').unwrap_or((rest, ""));
    namespace.ip(&format!("addr add {address}{length} dev {interface} {nodad}"))?;
    Ok(())
}

/// A route.
pub fn route(namespace: &Namespace, to: &str, via: &str) -> Result<()> {
    let version = if via.contains(':') { "-6" } else { "-4" };
    namespace.ip(&format!("{version} route add {to} via {via}"))?;
    Ok(())
}

/// What a conversation is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A connection, a question, its answer.
    Tcp,
    /// A datagram and its answer.
    Udp,
    /// An echo request, answered by the kernel.
    Echo,
    /// Crafted INIT and INIT ACK.
    Sctp,
}

/// All.
pub const KINDS: [Kind; 4] = [Kind::Tcp, Kind::Udp, Kind::Echo, Kind::Sctp];

impl Kind {
    /// L4 protocol.
    pub const fn protocol(self, v6: bool) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Echo if v6 => 58,
            Self::Echo => 1,
            Self::Sctp => 132,
        }
    }

    /// Whether a packet belongs to such a conversation: `Some(true)` on its way to the server.
    pub fn way(self, seen: &Seen) -> Option<bool> {
        if seen.protocol != self.protocol(seen.source.is_ipv6()) {
            return None;
        }
        match (self, seen.ports) {
            (Self::Echo, (8 | 128, _)) => Some(true),
            (Self::Echo, (0 | 129, _)) => Some(false),
            (Self::Echo, _) => None,
            (_, (_, PORT)) => Some(true),
            (_, (PORT, _)) => Some(false),
            _ => None,
        }
    }

    /// Asks from a namespace with an address of its own; whether there was an answer. (SCTP: it is
    /// asked; see what arrives.)
    pub fn ask(self, from: &Namespace, own: IpAddr, to: IpAddr) -> Result<bool> {
        match self {
            Self::Tcp => sockets::tcp(from, to, PORT),
            Self::Udp => sockets::udp(from, to, PORT, 100),
            Self::Echo => from.pings(&to.to_string()),
            Self::Sctp => {
                // By another name from the same port would be a collision.
                static NEXT: AtomicU16 = AtomicU16::new(40_000);
                let port = NEXT.fetch_add(1, Ordering::Relaxed);
                let init = Frame::new([0; 6], [0; 6], own, to).sctp(port, PORT, 1).split_off(14);
                from.run(|| send_ip(&init, to))??;
                Ok(true)
            }
        }
    }
}

/// Answers to every [`Kind`] on [`PORT`], for the rest of the test; to datagrams at these
/// addresses.
pub fn serve(namespace: &Namespace, datagrams: &[IpAddr]) -> Result<()> {
    sockets::serve_tcp(namespace, PORT)?;
    for address in datagrams {
        sockets::serve_udp_at(namespace, (*address, PORT).into())?;
    }
    let socket = namespace.packets("eth0")?;
    // The kernel's own answer would be that it does not speak SCTP.
    namespace.spawn(move || {
        loop {
            let mut init = None;
            let wanted = |frame: &[u8]| {
                init = Seen::frame(frame).filter(|seen| Kind::Sctp.way(seen) == Some(true));
                init.is_some()
            };
            if socket.receive(Duration::from_secs(3600), wanted).is_err() {
                return;
            }
            let Some(init) = init else { continue };
            let answer = Frame::new([0; 6], [0; 6], init.destination, init.source).sctp(PORT, init.ports.0, 2);
            // A namespace that is going away is nobody's concern.
            let _ = send_ip(answer.get(14..).unwrap_or_default(), init.source);
        }
    })?;
    Ok(())
}

/// What both ends saw of a conversation.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Sources and destinations of what arrived at the server.
    pub server: Vec<(IpAddr, IpAddr)>,
    /// The same at the asker.
    pub asker: Vec<(IpAddr, IpAddr)>,
}

/// Has a conversation between two namespaces (or within one) and tells which addresses arrived
/// where. Fails unless there is an answer.
pub fn converse(kind: Kind, asker: &Namespace, own: &str, server: &Namespace, to: &str) -> Result<Ends> {
    let (at_asker, at_server) = (Capture::of(asker)?, Capture::of(server)?);
    let what = || format!("{kind:?} from {own} to {to}");
    ensure!(kind.ask(asker, ip(own), ip(to))?, "no answer: {}", what());
    let mut ends = Ends::default();
    // What is crafted is not waited for by a socket.
    if kind == Kind::Sctp {
        let answer = at_asker.wait(&what(), |seen| kind.way(seen) == Some(false))?;
        ends.asker.push(answer.ends());
    }
    let distinct = |packets: Vec<Seen>, way: bool, ends: &mut Vec<(IpAddr, IpAddr)>| {
        ends.extend(
            packets
                .iter()
                .filter(|seen| kind.way(seen) == Some(way))
                .map(Seen::ends),
        );
        ends.sort_unstable();
        ends.dedup();
    };
    distinct(at_server.look()?, true, &mut ends.server);
    distinct(at_asker.look()?, false, &mut ends.asker);
    Ok(ends)
}

/// Counts what the host itself receives, by source address, behind everything that could change it.
#[derive(Debug)]
pub struct HostView<'a>(&'a Namespace);

impl<'a> HostView<'a> {
    /// Begins to count these sources.
    pub fn new(host: &'a Namespace, sources: &[&str]) -> Result<Self> {
        let mut table = String::from("table inet seen { chain in { type filter hook input priority 300;");
        for source in sources {
            let version = if source.contains(':') { "ip6" } else { "ip" };
            for kind in KINDS {
                let kind = matching(kind, source);
                table += &format!(" {version} saddr {source} {kind} counter comment \"{source} {kind}\";");
            }
        }
        table += " }; }";
        host.exec(&["nft", &table])?;
        Ok(Self(host))
    }

    /// Packets from a source by a kind of conversation so far.
    pub fn packets(&self, kind: Kind, source: &str) -> Result<u64> {
        let rules = self.0.exec(&["nft", "list", "table", "inet", "seen"])?;
        let comment = format!("comment \"{source} {}\"", matching(kind, source));
        let line = rules
            .lines()
            .find(|line| line.contains(&comment))
            .context("no such rule")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "packets").context("no counter")?;
        Ok(words.get(at + 1).context("no number")?.parse()?)
    }
}

/// Packets of a kind of conversation, as nftables matches them. (Neighbour discovery is none.)
fn matching(kind: Kind, source: &str) -> &'static str {
    match kind {
        Kind::Tcp => "meta l4proto tcp",
        Kind::Udp => "meta l4proto udp",
        Kind::Sctp => "meta l4proto sctp",
        Kind::Echo if source.contains(':') => "icmpv6 type { echo-request, echo-reply }",
        Kind::Echo => "icmp type { echo-request, echo-reply }",
    }
}
