//! The verdict by the compiled programs: each probe runs through the real programs and maps, as the
//! agent would load them.
//!
//! Planner and dataplane are the agent's. The endpoints' interfaces exist (the programs are
//! attached to them, and redirect to them), but no packet ever passes them: `BPF_PROG_TEST_RUN`
//! hands it to the endpoint's stub.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use felid_compile::planner::Planner;
use felid_compile::reference::Packet;
use felid_compile::stub::Hook;
use felid_compile::transaction::EndpointId;
use felid_dataplane::kernel::{Capacities, Config, Kernel, PacketOutcome, Probe as Run, Settings};
use felid_dataplane::{LinkState, Peer};
use felid_model::ResourceKey;

use super::command;
use super::frame::frame;
use super::probe::{FirstPacket, HOST_V4, HOST_V6, Party};
use super::state::PolicyState;
use crate::output::warn;

/// The other end of every interface, as Calico's CNI plugin sets it.
const HOST_MAC: [u8; 6] = [0xee; 6];

/// An endpoint's interface.
#[derive(Debug, Clone, Copy)]
struct Interface {
    index: u32,
    /// The workload's own end.
    mac: [u8; 6],
}

/// The programs and tables, and what is in force there.
pub(crate) struct ByKernel {
    kernel: Kernel,
    planner: Planner,
    /// What is in force.
    state: PolicyState,
    /// The endpoints' interfaces, as they were needed so far.
    interfaces: BTreeMap<Arc<str>, Interface>,
    uplink: u32,
    hooks: BTreeMap<(EndpointId, Hook), Run>,
    /// Flows there have been since the tables were cleared, without a direction.
    flows: HashSet<Undirected>,
}

impl ByKernel {
    /// Loads everything, in namespaces of one's own.
    pub(crate) fn new(bpffs: &Path) -> anyhow::Result<Self> {
        command("ip link set lo up")?;
        command("ip link add felid-up type veth peer name felid-out")?;
        command("ip link set felid-up up")?;
        command("ip link set felid-out up")?;
        command(&format!("ip addr add {HOST_V4}/30 dev felid-up"))?;
        command(&format!("ip addr add {HOST_V6}/126 dev felid-up nodad"))?;
        let (gateway_v4, gateway_v6) = (HOST_V4.to_bits() + 1, HOST_V6.to_bits() + 1);
        command(&format!(
            "ip route add default via {}",
            std::net::Ipv4Addr::from_bits(gateway_v4)
        ))?;
        command(&format!(
            "ip -6 route add default via {}",
            std::net::Ipv6Addr::from_bits(gateway_v6)
        ))?;
        let config = Config {
            bpffs: bpffs.to_owned(),
            bpffs_private: true,
            capacities: Capacities {
                established_v4: 4096,
                established_v6: 4096,
                half_open: 65_536,
                ..Capacities::default()
            },
            interface_prefixes: vec!["cali".to_owned()],
            settings: Settings::default(),
        };
        let kernel = Kernel::open(&config)?;
        let planner = Planner::new(kernel.planner_options(), kernel.adopt());
        Ok(Self {
            kernel,
            planner,
            state: PolicyState::default(),
            interfaces: BTreeMap::new(),
            uplink: ifindex("felid-up")?,
            hooks: BTreeMap::new(),
            flows: HashSet::new(),
        })
    }

    /// Sees that the endpoints' interfaces exist.
    fn connect(&mut self) -> anyhow::Result<()> {
        let mut new = false;
        for endpoint in self.state.endpoints.values() {
            let name = &endpoint.interface_name;
            if self.interfaces.contains_key(name) {
                continue;
            }
            let number = self.interfaces.len() + 1;
            command(&format!("ip link add {name} type veth peer name felid-o{number}"))?;
            let [.., high, low] = number.to_be_bytes();
            let mac = [2, 0, 0, 0, high, low];
            let index = ifindex(name)?;
            self.interfaces.insert(Arc::clone(name), Interface { index, mac });
            new = true;
        }
        if new {
            let links = self.interfaces.iter().map(|(name, interface)| LinkState {
                ifindex: interface.index,
                name: Arc::clone(name),
                mac: Some(HOST_MAC),
                mtu: 1500,
                is_ethernet: true,
                peer: Some(Peer {
                    mac: Some(interface.mac),
                }),
                filters: Arc::default(),
            });
            if let Some(error) = self.kernel.set_links(links.collect()).into_iter().next() {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// No packet is under way but those of this thread, so there is nothing to wait for between the
    /// two halves.
    fn program(&mut self) -> anyhow::Result<()> {
        while let Some(transaction) = self.planner.plan()? {
            let flip = match self.kernel.apply(&transaction) {
                Ok(flip) => flip,
                Err(felid_dataplane::KernelError::Programs(refused)) => {
                    // Those endpoints are closed, and it is tried without.
                    for refusal in &refused {
                        warn(&refusal.to_string());
                    }
                    let refused = refused.iter().map(|refusal| (refusal.id, refusal.to_string()));
                    self.planner.aborted(&refused.collect());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if let Some(error) = flip.link_errors.into_iter().next() {
                return Err(error.into());
            }
            self.kernel.complete(&transaction)?;
            self.planner.committed();
        }
        for problem in self.planner.problems() {
            warn(&problem.to_string());
        }
        Ok(())
    }

    /// Whether a packet gets through. `number` tells messages apart that carry an identifier.
    pub(crate) fn judge(&mut self, probe: &FirstPacket, number: usize) -> anyhow::Result<bool> {
        let packet = &probe.packet;
        if !self.flows.insert(undirected(packet)) {
            // It would belong to an earlier packet's flow, and is no first packet then.
            self.forget_flows()?;
            self.flows.insert(undirected(packet));
        }
        let came_by = match &probe.from {
            Party::Host => 0,
            Party::External => self.uplink,
            Party::Endpoint { key, interface } => {
                let Some(interface) = self.interfaces.get(interface).copied() else {
                    return Ok(false);
                };
                let frame = frame(packet, self.mac(key, interface), HOST_MAC, number);
                match self.run(key, Hook::FromWorkload, &frame, (interface.index, interface.index))? {
                    None | Some(PacketOutcome::Drop(_)) => return Ok(false),
                    Some(PacketOutcome::Redirect(target)) => {
                        let right = match &probe.to {
                            Party::Endpoint { interface, .. } => {
                                self.interfaces.get(interface).map(|interface| interface.index)
                            }
                            Party::External | Party::Host => None,
                        };
                        anyhow::ensure!(
                            right == Some(target),
                            "redirected to interface {target} instead of {right:?}"
                        );
                        return Ok(true);
                    }
                    Some(PacketOutcome::Next) => interface.index,
                    Some(PacketOutcome::Other(code)) => bail!("the program returned {code}"),
                }
            }
        };
        // On to the host's stack, and from there to the destination.
        let Party::Endpoint { key, interface } = &probe.to else {
            // What a workload sends to the host meets one more program, which stands at a hook that
            // no packet of a test run passes.
            return Ok(!(self.state.host_closed
                && probe.to == Party::Host
                && matches!(probe.from, Party::Endpoint { .. })));
        };
        let Some(interface) = self.interfaces.get(interface).copied() else {
            return Ok(false);
        };
        let frame = frame(packet, HOST_MAC, self.mac(key, interface), number);
        match self.run(key, Hook::ToWorkload, &frame, (interface.index, came_by))? {
            Some(PacketOutcome::Next) => Ok(true),
            None | Some(PacketOutcome::Drop(_)) => Ok(false),
            Some(other) => bail!("the program returned {other:?}"),
        }
    }

    /// The workload's MAC address: its record's, if that names one.
    fn mac(&self, key: &ResourceKey, interface: Interface) -> [u8; 6] {
        self.state
            .endpoints
            .get(key)
            .and_then(|endpoint| endpoint.mac)
            .unwrap_or(interface.mac)
    }

    /// Runs a hook of an endpoint on a frame that is at the first of two interfaces and came by the
    /// second; `None` = there is no such endpoint in force, so its interface is closed.
    fn run(
        &mut self,
        key: &ResourceKey,
        hook: Hook,
        frame: &[u8],
        (ifindex, came_by): (u32, u32),
    ) -> anyhow::Result<Option<PacketOutcome>> {
        let Some(status) = self.planner.endpoint(key) else {
            return Ok(None);
        };
        let run = match self.hooks.entry((status.id, hook)) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(self.kernel.probe(hook, status.id)?),
        };
        Ok(Some(run.run(frame, ifindex, came_by)?.outcome))
    }

    /// Brings a state in force, in place of the one before.
    pub(crate) fn set(&mut self, state: PolicyState) -> anyhow::Result<()> {
        let delta = self.state.delta_to(&state);
        self.state = state;
        self.connect()?;
        self.kernel.set_settings(Settings {
            host_reachable: !self.state.host_closed,
            allow_ipip: true,
            allow_vxlan: true,
            ..Settings::default()
        })?;
        self.planner.set_host_addresses(self.state.host.clone());
        self.planner.update(&delta);
        self.program()?;
        let in_force: HashSet<EndpointId> = self.planner.endpoints().map(|status| status.id).collect();
        self.hooks.retain(|(id, _), _| in_force.contains(id));
        self.forget_flows()
    }

    fn forget_flows(&mut self) -> anyhow::Result<()> {
        self.kernel.conntrack().clear()?;
        self.flows.clear();
        Ok(())
    }
}

/// Protocol and both ends.
type Undirected = (u8, (IpAddr, u16), (IpAddr, u16));

/// What both directions of a flow have in common.
fn undirected(packet: &Packet) -> Undirected {
    let (src, dst) = ((packet.src, packet.src_port), (packet.dst, packet.dst_port));
    (packet.protocol.0, src.min(dst), src.max(dst))
}

fn ifindex(name: &str) -> anyhow::Result<u32> {
    nix::net::if_::if_nametoindex(name).with_context(|| format!("index of {name}"))
}
