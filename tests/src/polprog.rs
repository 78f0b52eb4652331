//! Single cases of policy, sets and packet through the kernel, as the equivalence test does with
//! random ones.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use felid_common::DropReason;
use felid_compile::Direction;
use felid_compile::reference::Packet;
use felid_compile::stub::Hook;
use felid_compile::testing::{Rng, World};
use felid_model::resolved::{LocalEndpoint, ResolvedPolicy};
use felid_model::{Kind, ResourceKey};

use crate::equivalence::{Bench, frame_of, with_bench};
use crate::probe::PacketOutcome;

/// A case.
#[derive(Debug)]
pub struct Case {
    /// What it is called.
    pub name: String,
    /// Sets and their members.
    pub world: World,
    /// The policy, the same in both directions.
    pub policy: Arc<ResolvedPolicy>,
    /// The packet.
    pub packet: Packet,
    /// Whether it passes.
    pub allowed: bool,
}

/// Runs every case in both directions; the first that disagrees is the error.
pub fn judge(cases: Vec<Case>) -> Result<usize> {
    with_bench(|mut bench| {
        let mut judged = 0;
        for (number, case) in cases.iter().enumerate() {
            for direction in [Direction::Ingress, Direction::Egress] {
                let allowed =
                    one(&mut bench, number, case, direction).with_context(|| format!("{direction:?} {}", case.name))?;
                ensure!(allowed == case.allowed, "{direction:?}: {case:#?}");
                judged += 1;
            }
        }
        Ok(judged)
    })
}

/// An endpoint of its own for each case and direction, so that no flow of another matters.
fn one(bench: &mut Bench, number: usize, case: &Case, direction: Direction) -> Result<bool> {
    let mut packet = case.packet;
    let mut world = case.world.clone();
    world.own = vec![if direction == Direction::Ingress {
        packet.dst
    } else {
        packet.src
    }];
    let key = ResourceKey {
        kind: Kind::WorkloadEndpoint,
        namespace: Some("default".into()),
        name: format!("case{number}{direction:?}").to_lowercase().into(),
    };
    let mut delta = bench.surroundings(&world);
    if let Some(old) = bench.endpoint.replace(key.clone()) {
        delta.endpoints.insert(old, None);
    }
    let endpoint = LocalEndpoint {
        allow_spoofed_source_prefixes: Vec::new(),
        ip_nats: Vec::new(),
        aws_elastic_ips: Vec::new(),
        key: key.clone(),
        interface_name: "calieq".into(),
        addresses: world.own.clone(),
        mac: None,
        ipv4_gateway: None,
        ipv6_gateway: None,
        ports: Vec::new(),
        profiles: Vec::new(),
        ingress: case.policy.clone(),
        egress: case.policy.clone(),
    };
    delta.endpoints.insert(key.clone(), Some(Arc::new(endpoint)));
    bench.planner.update(&delta);
    let id = bench.program(&key)?;
    let hook = match direction {
        Direction::Ingress => Hook::ToWorkload,
        Direction::Egress => Hook::FromWorkload,
    };
    let frame = frame_of(&mut packet, &mut Rng::new(number as u64));
    ensure!(packet == case.packet, "the packet cannot be made: {packet:?}");
    let denied = match direction {
        Direction::Ingress => DropReason::IngressPolicy,
        Direction::Egress => DropReason::EgressPolicy,
    };
    match bench
        .kernel
        .probe(hook, id)?
        .run(&frame, bench.uplink, bench.uplink)?
        .outcome
    {
        PacketOutcome::Next => Ok(true),
        PacketOutcome::Drop(Some(reason)) if reason == denied => Ok(false),
        // The reference's cases also use addresses that belong on no link: such packets never come
        // as far as policy.
        PacketOutcome::Drop(Some(DropReason::Martian)) if packet.is_martian() => Ok(case.allowed),
        // To itself, in by another interface.
        PacketOutcome::Drop(_) if packet.src == packet.dst && !case.allowed => Ok(false),
        other => bail!("{other:?}"),
    }
}
