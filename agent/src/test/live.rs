//! The verdict by real packets: a whole agent on a node of namespaces, and a namespace behind a
//! virtual Ethernet pair for each pod.
//!
//! The agent gets the records of a case as any agent gets them from a stream: as JSON lines.
//!
//! TCP and UDP are sent by sockets of the pod's own stack, everything else as crafted frames. A
//! packet is allowed if it arrives at the destination's interface. The packets of a step are sent
//! together; those that the reference lets pass are waited for, the others get a moment to prove it
//! wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use felid_common::protocol;
use felid_lab::netns::{GATEWAY_V4, HOST_LINK_LOCAL, HOST_MAC};
use felid_lab::{Host, Namespace, PacketSocket, Workload, WorkloadSpec};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect, getsockopt, send, setsockopt, socket,
    sockopt,
};

use crate::config::{self, Static};
use crate::run::inside::Inside;

use super::arrival::{Arrival, rounds};
use crate::output::warn;
use crate::verdict::{self, FirstPacket, HOST_V4, HOST_V6, Party, PolicyState, frame};

use super::node::NODE;
use super::world::RecordChange;
use super::{Runner, StepChange};

/// How long packets that should arrive are waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long others have to prove that they should not.
const MOMENT: Duration = Duration::from_millis(80);
/// How names of namespaces begin.
const NAME: &str = "felid-test";

/// The live engine.
pub(crate) struct Live {
    // In the order in which they have to go.
    agent: Inside,
    pods: BTreeMap<Arc<str>, Pod>,
    outside: Outside,
    host: Host,
}

/// A pod's namespace; kept for the pods of later cases that get the same interface.
struct Pod {
    workload: Workload,
    addresses: Vec<IpAddr>,
    arrivals: PacketSocket,
    /// The host's side.
    host_side: PacketSocket,
}

/// What lies behind the host: everything external.
struct Outside {
    namespace: Namespace,
    addresses: BTreeSet<IpAddr>,
    arrivals: PacketSocket,
    mac: [u8; 6],
    host_mac: [u8; 6],
}

/// Whose sockets send: a kind of party, and an endpoint's interface.
type Sender<'a> = (u8, Option<&'a Arc<str>>);

/// A packet that has been sent by a socket, whose answer may come back to it.
enum Sent {
    Socket(OwnedFd),
    Frame,
}

impl Live {
    /// Makes the node and starts the agent on it. The calling thread must see mounts and named
    /// namespaces that are its own.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let host = Host::new(NAME)?;
        let outside = Outside::new(&host)?;
        let flags = [
            ("node", NODE.to_owned()),
            ("state-dir", host.directory().join("state").display().to_string()),
            ("bpffs", host.bpffs().display().to_string()),
            ("bpffs-private", "true".to_owned()),
        ];
        let layer = config::from_flags(flags.iter().map(|(name, value)| (*name, Some(value))))?;
        let config = Static::new(layer, [], None)?;
        let agent = host.namespace().run(|| Inside::start(config))??;
        Ok(Self {
            agent,
            pods: BTreeMap::new(),
            outside,
            host,
        })
    }

    fn connect(&mut self, interface: &Arc<str>, addresses: &[IpAddr]) -> anyhow::Result<()> {
        if !self.pods.contains_key(interface) {
            let spec = WorkloadSpec {
                interface,
                ..WorkloadSpec::default()
            };
            let workload = self.host.create(&spec)?;
            let arrivals = workload.namespace.packets("eth0")?;
            arrivals.enlarge()?;
            let host_side = self.host.namespace().packets(interface)?;
            let pod = Pod {
                workload,
                addresses: Vec::new(),
                arrivals,
                host_side,
            };
            self.pods.insert(Arc::clone(interface), pod);
        }
        let pod = self.pods.get_mut(interface).context("a pod without an interface")?;
        if pod.addresses != addresses {
            pod.set_addresses(addresses)?;
        }
        Ok(())
    }

    fn pod(&self, interface: &str) -> anyhow::Result<&Pod> {
        self.pods.get(interface).context("a pod without an interface")
    }

    /// Where a probe's sockets live.
    fn namespace(&self, party: &Party) -> anyhow::Result<&Namespace> {
        Ok(match party {
            Party::Endpoint { interface, .. } => &self.pod(interface)?.workload.namespace,
            Party::External => &self.outside.namespace,
            Party::Host => self.host.namespace(),
        })
    }

    /// Sends the probes of one sender.
    fn send(&self, probes: &[(usize, &FirstPacket)]) -> anyhow::Result<Vec<(usize, Sent)>> {
        let Some((_, first)) = probes.first() else {
            return Ok(Vec::new());
        };
        let (sockets, frames): (Vec<_>, Vec<_>) = probes
            .iter()
            .partition(|(_, probe)| matches!(probe.packet.protocol.0, protocol::TCP | protocol::UDP));
        let mut sent = Vec::new();
        for (number, probe) in frames {
            self.send_frame(probe, number).with_context(|| format!("{probe:?}"))?;
            sent.push((number, Sent::Frame));
        }
        let by_sockets = self.namespace(&first.from)?.run(|| {
            let each = sockets.into_iter().map(|(number, probe)| {
                let socket = send_by_socket(probe).with_context(|| format!("{probe:?}"))?;
                Ok((number, Sent::Socket(socket)))
            });
            each.collect::<anyhow::Result<Vec<_>>>()
        })??;
        sent.extend(by_sockets);
        Ok(sent)
    }

    fn send_frame(&self, probe: &FirstPacket, number: usize) -> anyhow::Result<()> {
        let packet = &probe.packet;
        match (&probe.from, &probe.to) {
            (Party::Endpoint { interface, .. }, _) => {
                let pod = self.pod(interface)?;
                pod.arrivals.send(&frame(packet, pod.workload.mac, HOST_MAC, number))
            }
            (Party::External, _) => {
                let outside = &self.outside;
                outside
                    .arrivals
                    .send(&frame(packet, outside.mac, outside.host_mac, number))
            }
            (Party::Host, Party::Endpoint { interface, .. }) => {
                let pod = self.pod(interface)?;
                pod.host_side.send(&frame(packet, HOST_MAC, pod.workload.mac, number))
            }
            (Party::Host, _) => bail!("the host has nobody to talk to"),
        }
    }

    /// One round: sends everything, waits once.
    fn round(
        &self,
        numbers: &[usize],
        probes: &[FirstPacket],
        arrivals: &[Arrival],
        state: &PolicyState,
    ) -> anyhow::Result<Vec<usize>> {
        self.agent.forget_flows()?;
        self.drain(|_, _| {})?;
        let mut senders: BTreeMap<Sender<'_>, Vec<(usize, &FirstPacket)>> = BTreeMap::new();
        let (mut seen, mut once) = (BTreeSet::new(), BTreeSet::new());
        let mut awaited = BTreeSet::new();
        for &number in numbers {
            let probe = &probes[number];
            let sender = match &probe.from {
                Party::Endpoint { interface, .. } => (0, Some(interface)),
                Party::External => (1, None),
                Party::Host => (2, None),
            };
            if verdict::judge(state, probe).allowed {
                awaited.insert((receiver(&probe.to), arrivals[number].clone()));
            }
            if once.insert(arrivals[number].clone()) {
                senders.entry(sender).or_default().push((number, probe));
            }
        }
        let mut sent = Vec::new();
        for probes in senders.values() {
            sent.extend(self.send(probes)?);
        }
        let (began, mut quiet) = (Instant::now(), Instant::now());
        loop {
            self.drain(|receiver, arrival| {
                seen.insert((receiver, arrival));
            })?;
            for (number, sent) in &sent {
                if probes[*number].to == Party::Host && answered(sent)? {
                    seen.insert((receiver(&Party::Host), arrivals[*number].clone()));
                }
            }
            let complete = awaited.is_subset(&seen);
            if !complete {
                quiet = Instant::now();
            }
            if (complete && quiet.elapsed() > MOMENT) || began.elapsed() > PATIENCE {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let through = numbers.iter().copied();
        Ok(through
            .filter(|number| seen.contains(&(receiver(&probes[*number].to), arrivals[*number].clone())))
            .collect())
    }

    /// Everything that has arrived since the last call.
    fn drain(&self, mut seen: impl FnMut(Option<Arc<str>>, Arrival)) -> anyhow::Result<()> {
        for (interface, pod) in &self.pods {
            pod.arrivals.drain(|frame| {
                if let Some(arrival) = Arrival::read(frame) {
                    seen(Some(Arc::clone(interface)), arrival);
                }
            })?;
        }
        self.outside.arrivals.drain(|frame| {
            if let Some(arrival) = Arrival::read(frame) {
                seen(None, arrival);
            }
        })
    }
}

/// Where arrivals are looked for: a pod's interface, or nothing for the rest.
fn receiver(party: &Party) -> Option<Arc<str>> {
    match party {
        Party::Endpoint { interface, .. } => Some(Arc::clone(interface)),
        Party::External | Party::Host => None,
    }
}

/// What a stream says of a change. A case begins with a resync that names nothing, so that nothing
/// is left of the cases before, not even what could not be read.
fn lines(change: &StepChange<'_>) -> anyhow::Result<String> {
    let mut lines = String::new();
    if change.begins {
        lines.push_str("{\"resync\": true}\n{\"inSync\": true}\n");
    }
    let mut deleted = false;
    for record in change.records {
        let deletes = matches!(record, RecordChange::Delete(_));
        // A record that takes the place of one that goes is none of its versions: a bad one must
        // not leave the good one in force.
        if deleted && !deletes {
            lines.push_str("{\"inSync\": true}\n");
        }
        deleted = deletes;
        lines.push_str(&serde_json::to_string(record)?);
        lines.push('\n');
    }
    Ok(lines)
}

impl Runner for Live {
    fn change(&mut self, change: &StepChange<'_>) -> anyhow::Result<()> {
        for pod in change.world.pods().filter(|pod| !pod.is_on_host_network()) {
            self.connect(&pod.interface(), pod.living_addresses())?;
        }
        self.outside.set_addresses(change.world.outside().collect())?;
        self.agent.tell(&lines(change)?)?;
        for trouble in self.agent.troubles()? {
            warn(&trouble);
        }
        Ok(())
    }

    fn can_probe(&self, probe: &FirstPacket) -> anyhow::Result<()> {
        if probe.to == Party::Host && !matches!(probe.packet.protocol.0, protocol::TCP | protocol::UDP) {
            bail!("to the host only TCP and UDP can be probed live");
        }
        Ok(())
    }

    fn probe(&mut self, probes: &[FirstPacket], state: &PolicyState) -> anyhow::Result<Vec<bool>> {
        let arrivals: Vec<Arrival> = probes
            .iter()
            .enumerate()
            .map(|(n, probe)| Arrival::of(&probe.packet, n))
            .collect();
        let mut got = vec![false; probes.len()];
        for numbers in rounds(&arrivals) {
            for through in self.round(&numbers, probes, &arrivals, state)? {
                got[through] = true;
            }
        }
        Ok(got)
    }
}

impl Pod {
    fn set_addresses(&mut self, addresses: &[IpAddr]) -> anyhow::Result<()> {
        let namespace = &self.workload.namespace;
        namespace.ip("addr flush dev eth0 scope global")?;
        for address in addresses {
            match address {
                IpAddr::V4(v4) => namespace.ip(&format!("addr add {v4}/32 dev eth0"))?,
                IpAddr::V6(v6) => namespace.ip(&format!("addr add {v6}/128 dev eth0 nodad"))?,
            };
        }
        // They went with the addresses, or were never there.
        if addresses.iter().any(IpAddr::is_ipv4) {
            namespace.ip(&format!("route replace {GATEWAY_V4} dev eth0 scope link"))?;
            namespace.ip(&format!("route replace default via {GATEWAY_V4} dev eth0"))?;
        }
        if addresses.iter().any(IpAddr::is_ipv6) {
            namespace.ip(&format!("-6 route replace default via {HOST_LINK_LOCAL} dev eth0"))?;
        }
        self.addresses = addresses.to_vec();
        Ok(())
    }
}

impl Outside {
    fn new(host: &Host) -> anyhow::Result<Self> {
        let namespace = Namespace::new(&format!("{NAME}-outside"))?;
        let node = host.namespace();
        node.ip(&format!(
            "link add uplink type veth peer name eth0 netns {}",
            namespace.name()
        ))?;
        let (next_v4, next_v6) = (
            Ipv4Addr::from_bits(HOST_V4.to_bits() + 1),
            Ipv6Addr::from_bits(HOST_V6.to_bits() + 1),
        );
        for (namespace, interface, own_v4, own_v6, gateway_v4, gateway_v6) in [
            (node, "uplink", HOST_V4, HOST_V6, next_v4, next_v6),
            (&namespace, "eth0", next_v4, next_v6, HOST_V4, HOST_V6),
        ] {
            namespace.ip(&format!("addr add {own_v4}/30 dev {interface}"))?;
            namespace.ip(&format!("addr add {own_v6}/126 dev {interface} nodad"))?;
            namespace.ip(&format!("link set {interface} up"))?;
            namespace.ip(&format!("route add default via {gateway_v4}"))?;
            namespace.ip(&format!("-6 route add default via {gateway_v6}"))?;
        }
        let arrivals = namespace.packets("eth0")?;
        arrivals.enlarge()?;
        let mac = namespace.run(|| felid_lab::packet::mac_of("eth0"))??;
        let host_mac = node.run(|| felid_lab::packet::mac_of("uplink"))??;
        Ok(Self {
            namespace,
            addresses: BTreeSet::new(),
            arrivals,
            mac,
            host_mac,
        })
    }

    fn set_addresses(&mut self, addresses: BTreeSet<IpAddr>) -> anyhow::Result<()> {
        for gone in self.addresses.difference(&addresses) {
            self.namespace.ip(&format!("addr del {gone} dev lo"))?;
        }
        for new in addresses.difference(&self.addresses) {
            self.namespace.ip(&format!("addr add {new} dev lo"))?;
        }
        self.addresses = addresses;
        Ok(())
    }
}

/// Begins a connection, or sends a datagram, from the calling thread's namespace.
fn send_by_socket(probe: &FirstPacket) -> anyhow::Result<OwnedFd> {
    let packet = &probe.packet;
    let family = if packet.src.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let tcp = packet.protocol.0 == protocol::TCP;
    let kind = if tcp { SockType::Stream } else { SockType::Datagram };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None).context("socket")?;
    // Several probes may name one source port.
    setsockopt(&socket, sockopt::ReuseAddr, &true).context("share a source port")?;
    let address = |ip: IpAddr, port: u16| SockaddrStorage::from(std::net::SocketAddr::new(ip, port));
    bind(socket.as_raw_fd(), &address(packet.src, packet.src_port)).context("bind")?;
    match connect(socket.as_raw_fd(), &address(packet.dst, packet.dst_port)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error).context("connect"),
    }
    if !tcp {
        send(socket.as_raw_fd(), b"felid test", MsgFlags::empty()).context("send")?;
    }
    Ok(socket)
}

/// Whether the other end has refused: whatever was sent has reached it.
fn answered(sent: &Sent) -> anyhow::Result<bool> {
    let Sent::Socket(socket) = sent else { return Ok(false) };
    Ok(getsockopt(socket, sockopt::SocketError)? == Errno::ECONNREFUSED as i32)
}
