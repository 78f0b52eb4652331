//! An endpoint's programs, run on packets that no interface ever saw (`BPF_PROG_TEST_RUN`): the
//! real programs and maps, as they are in force for everybody else.

use std::os::fd::{AsFd as _, OwnedFd};

use felid_common::{CB_REASON, CB_TARGET, DropReason};
use felid_compile::stub::{Hook, stub};
use felid_compile::transaction::EndpointId;

use super::Kernel;
use super::programs::link;
use crate::error::{KernelError, Result};
use crate::sys;

/// Offsets in `struct __sk_buff`.
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
const CB: usize = 48;
/// Size of the whole: the kernel calls a shorter one an error.
const CONTEXT: usize = 192;

/// What a program did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketOutcome {
    /// It lets the packet go on to the host's stack, or from there to the workload.
    Next,
    /// It redirected the packet to the interface with this index.
    Redirect(u32),
    /// It dropped the packet, for this reason if it said one.
    Drop(Option<DropReason>),
    /// It returned what no program of felid's returns.
    Other(i32),
}

/// The stub of an endpoint at one hook, to be run by hand.
#[derive(Debug)]
pub struct Probe {
    program: OwnedFd,
}

/// What came of running a stub.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it did with the packet.
    pub outcome: PacketOutcome,
    /// The frame afterwards.
    pub data: Vec<u8>,
    /// The time that a run took: the mean over all repetitions.
    pub nanoseconds: u32,
}

impl Kernel {
    /// Loads an endpoint's stub for a hook once more, to be run by hand. What it does to packets
    /// and flows is what the one at the endpoint's interface does.
    pub fn probe(&self, hook: Hook, id: EndpointId) -> Result<Probe> {
        let insns = link(&stub(hook, id, &self.programs.skb_layout), &self.programs.map_fds, None)
            .ok_or_else(|| KernelError::Inconsistent("a map reference of a stub is out of place".to_owned()))?;
        let program = sys::load_classifier(&insns, "probe")
            .map_err(|error| KernelError::call("load a stub")(std::io::Error::new(error.error.kind(), error.log)))?;
        Ok(Probe { program })
    }
}

impl Probe {
    /// Returns the loaded stub.
    pub const fn program(&self) -> &OwnedFd {
        &self.program
    }

    /// Runs the stub once on an Ethernet frame at the interface with the index `ifindex`. The frame
    /// came in by the interface `from`; 0 says that it was made on this host.
    pub fn run(&self, frame: &[u8], ifindex: u32, from: u32) -> Result<Run> {
        self.repeat(frame, ifindex, from, 1)
    }

    /// Runs the stub as [`Probe::run`] does, so many times on the same buffer.
    pub fn repeat(&self, frame: &[u8], ifindex: u32, from: u32, times: u32) -> Result<Run> {
        let mut context = [0_u8; CONTEXT];
        context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&from.to_ne_bytes());
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
        let run = sys::test_run(self.program.as_fd(), frame, &context, times)
            .map_err(KernelError::call("run a program on a packet"))?;
        let word = |n: usize| {
            let at = CB + n * 4;
            run.context
                .get(at..at + 4)
                .and_then(|b| b.try_into().ok())
                .map_or(0, u32::from_ne_bytes)
        };
        let outcome = match run.result.cast_signed() {
            -1 => PacketOutcome::Next,
            2 => PacketOutcome::Drop(DropReason::ALL.get(word(CB_REASON) as usize).copied()),
            7 => PacketOutcome::Redirect(word(CB_TARGET)),
            other => PacketOutcome::Other(other),
        };
        Ok(Run {
            outcome,
            data: run.data,
            nanoseconds: run.duration,
        })
    }
}
