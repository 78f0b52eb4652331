//! An endpoint's programs, run on packets that no interface ever saw (`BPF_PROG_TEST_RUN`): the real programs and maps, as the agent
//! loads them.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use felid_common::{ABI_VERSION, CB_REASON, CB_TARGET, Drop};
use felid_compile::program::MapRef;
use felid_compile::stub::{Hook, stub};
use felid_compile::transaction::EndpointId;
use felid_dataplane::{Kernel, sys};
use felid_lab::Host;

/// `BPF_PSEUDO_MAP_FD` of the kernel's bpf.h.
const PSEUDO_MAP_FD: u8 = 1;
/// Offsets in `struct __sk_buff`.
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
const CB: usize = 48;
/// Size of the whole: the kernel calls a shorter one an error.
const CONTEXT: usize = 192;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on to the host's stack, or from there to the workload.
    Next,
    /// Redirected to this interface.
    Redirect(u32),
    /// Dropped, and why.
    Drop(Option<Drop>),
    /// Something that no program of ours returns.
    Other(i32),
}

/// One hook of one endpoint.
#[derive(Debug)]
pub struct Probe {
    program: OwnedFd,
}

/// A run: outcome, the packet afterwards, nanoseconds.
#[derive(Clone, Debug)]
pub struct Run {
    /// What became of the packet.
    pub outcome: Outcome,
    /// The packet afterwards.
    pub data: Vec<u8>,
    /// Mean over the repetitions.
    pub nanoseconds: u32,
}

impl Probe {
    /// Loads the endpoint's stub for a hook. The kernel half must be open on this host.
    pub fn new(host: &Host, _kernel: &Kernel, hook: Hook, id: EndpointId) -> Result<Self> {
        let pin = host.bpffs().join(format!("felid/v{ABI_VERSION}/maps/fixed"));
        let fixed = MapData::from_pin(&pin).with_context(|| format!("open {}", pin.display()))?;
        let mut chunk = stub(hook, id);
        for (index, map) in &chunk.maps {
            anyhow::ensure!(*map == MapRef::Fixed, "a stub refers to {map:?}");
            let insn = chunk.insns.get_mut(*index).context("a map reference out of place")?;
            insn.src = PSEUDO_MAP_FD;
            insn.imm = fixed.fd().as_fd().as_raw_fd();
        }
        let program = sys::load_classifier(&chunk.insns, "probe")
            .map_err(|error| anyhow::anyhow!("{}\n{}", error.error, error.log))?;
        Ok(Self { program })
    }

    /// The loaded stub.
    pub const fn program(&self) -> &OwnedFd {
        &self.program
    }

    /// Runs it once on a frame that came in by the interface `from` (0 = made on this host).
    pub fn run(&self, frame: &[u8], ifindex: u32, from: u32) -> Result<Run> {
        self.repeat(frame, ifindex, from, 1)
    }

    /// As [`Probe::run`], many times on the same buffer.
    pub fn repeat(&self, frame: &[u8], ifindex: u32, from: u32, times: u32) -> Result<Run> {
        let mut context = [0_u8; CONTEXT];
        context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&from.to_ne_bytes());
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
        let run = sys::test_run(self.program.as_fd(), frame, &context, times).context("test run")?;
        let word = |n: usize| {
            let at = CB + n * 4;
            run.context
                .get(at..at + 4)
                .and_then(|b| b.try_into().ok())
                .map_or(0, u32::from_ne_bytes)
        };
        let outcome = match run.result as i32 {
            -1 => Outcome::Next,
            2 => Outcome::Drop(Drop::ALL.get(word(CB_REASON) as usize).copied()),
            7 => Outcome::Redirect(word(CB_TARGET)),
            other => Outcome::Other(other),
        };
        Ok(Run {
            outcome,
            data: run.data,
            nanoseconds: run.duration,
        })
    }
}
