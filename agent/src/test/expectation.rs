//! From an expectation to a packet between two parties.

use std::net::IpAddr;

use anyhow::{Context, bail};
use felid_compile::reference::Packet;
use felid_model::Protocol;

use crate::verdict::{FirstPacket, HOST_V4, HOST_V6, Party};

use super::case::{Expectation, IpFamily};
use super::pod::Pod;
use super::world::World;

/// Source ports where a case names none: from here on, another for each expectation.
const EPHEMERAL: u16 = 32_768;

/// What an expectation means. `number` tells the flows of one step apart.
pub(crate) fn probe(expectation: &Expectation, number: usize, world: &World) -> anyhow::Result<FirstPacket> {
    let family = expectation.ip;
    let (from, src) = party(&expectation.from, family, world).context("from")?;
    let (to, dst) = party(&expectation.to, family, world).context("to")?;
    if !matches!((&from, &to), (Party::Endpoint { .. }, _) | (_, Party::Endpoint { .. })) {
        bail!("neither end is a pod: felid does not judge that");
    }
    if from == to {
        bail!("a pod is not probed from itself");
    }
    let protocol = expectation.protocol;
    let (src_port, dst_port) = if protocol.has_ports() || protocol == Protocol::UDP_LITE {
        let ephemeral = EPHEMERAL + u16::try_from(number % 28_000).unwrap_or_default();
        let dst_port = expectation.port.with_context(|| format!("{protocol} without a port"))?;
        (expectation.src_port.unwrap_or(ephemeral), dst_port)
    } else {
        (0, 0)
    };
    let echo = match protocol {
        Protocol::ICMP => 8,
        Protocol::ICMPV6 => 128,
        _ => 0,
    };
    Ok(FirstPacket {
        from,
        to,
        packet: Packet {
            src,
            dst,
            protocol,
            src_port,
            dst_port,
            icmp_type: expectation.icmp_type.unwrap_or(echo),
            icmp_code: expectation.icmp_code.unwrap_or(0),
        },
    })
}

/// Whether an end is a pod that has ended: nothing comes from it, and nothing reaches it, whatever
/// policy says.
pub(crate) fn is_with_ended(expectation: &Expectation, world: &World) -> bool {
    let ends = [&expectation.from, &expectation.to];
    ends.iter().any(|name| world.pod(name).is_some_and(Pod::has_ended))
}

fn party(name: &str, family: IpFamily, world: &World) -> anyhow::Result<(Party, IpAddr)> {
    if name == "host" {
        let address = match family {
            IpFamily::V4 => HOST_V4.into(),
            IpFamily::V6 => HOST_V6.into(),
        };
        return Ok((Party::Host, address));
    }
    let (party, addresses) = match (world.pod(name), world.external(name)) {
        (Some(pod), _) if pod.is_on_host_network() => {
            bail!("{name} is on the host's network, and so is the host: name it \"host\"")
        }
        (Some(pod), _) => {
            let (key, interface) = (pod.key.clone(), pod.interface());
            (Party::Endpoint { key, interface }, pod.addresses())
        }
        (None, Some(addresses)) => (Party::External, addresses),
        (None, None) => bail!("{name:?} is no pod (NAMESPACE/NAME), nothing external, and not \"host\""),
    };
    let address = addresses.iter().find(|address| family.is_of(address));
    let address = address.with_context(|| format!("{name} has no {} address", family.name()))?;
    Ok((party, *address))
}
