//! Test runs of the fixture: what goes in, what comes out.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use felid_common::{CB_OFFLOAD, CB_REASON, CB_TARGET, DropReason};
use felid_dataplane::sys;

/// `TCX_NEXT`.
pub const NEXT: i32 = -1;
/// `TCX_DROP`.
pub const DROP: i32 = 2;
/// `TCX_REDIRECT`.
pub const REDIRECT: i32 = 7;

/// What a run gave.
#[derive(Debug)]
pub struct Outcome {
    /// Return code: [`NEXT`], [`DROP`], [`REDIRECT`].
    pub code: i32,
    /// `cb[CB_TARGET]`.
    pub target: u32,
    /// `cb[CB_REASON]`.
    pub reason: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Mean time of a repetition, ns.
    pub duration: u32,
}

impl Outcome {
    /// Asserts a drop for this reason.
    #[track_caller]
    pub fn dropped(&self, reason: DropReason) {
        assert!(
            self.code == DROP && self.reason == reason as u32,
            "expected a drop for {reason:?}, not {}",
            self.text()
        );
    }

    /// Asserts that the host's stack goes on.
    #[track_caller]
    pub fn passed(&self) {
        assert!(self.code == NEXT, "expected the packet to pass, not {}", self.text());
    }

    /// Asserts a redirect to an interface.
    #[track_caller]
    pub fn redirected(&self, ifindex: u32) {
        assert!(
            self.code == REDIRECT && self.target == ifindex,
            "expected a redirect to {ifindex}, not {}",
            self.text()
        );
    }

    fn text(&self) -> String {
        match self.code {
            DROP => format!("a drop for {:?}", DropReason::ALL.get(self.reason as usize)),
            NEXT => "a pass".to_owned(),
            REDIRECT => format!("a redirect to {}", self.target),
            code => format!("code {code}"),
        }
    }
}

/// `struct __sk_buff` as test runs take it, as far as it may be set.
pub struct Context {
    bytes: [u8; 192],
}

impl Context {
    /// At an interface, having come in by another.
    pub fn new(ifindex: u32, came_by: u32) -> Self {
        let mut context = Self { bytes: [0; 192] };
        context.set(36, came_by);
        context.set(40, ifindex);
        context
    }

    /// With segmentation offload: bytes a segment. Their number is derived from the packet by the
    /// programs' helpers.
    #[must_use]
    pub fn segments(mut self, size: u32, count: u32) -> Self {
        self.set(164, count);
        self.set(176, size);
        self
    }

    /// With a word of `OFFLOAD_*`, as an endpoint's real stub finds it.
    #[must_use]
    pub fn offload(mut self, word: u32) -> Self {
        self.set(48 + 4 * CB_OFFLOAD, word);
        self
    }

    fn set(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }
}

/// Runs a program on a packet.
pub fn run(program: &OwnedFd, packet: &[u8], context: &Context, repeat: u32) -> Result<Outcome> {
    let result = sys::test_run(program.as_fd(), packet, &context.bytes, repeat).context("test run")?;
    let cb = |word: usize| {
        let at = 48 + 4 * word;
        result
            .context
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_ne_bytes)
    };
    Ok(Outcome {
        code: result.result as i32,
        target: cb(CB_TARGET),
        reason: cb(CB_REASON),
        packet: result.data,
        duration: result.duration,
    })
}
