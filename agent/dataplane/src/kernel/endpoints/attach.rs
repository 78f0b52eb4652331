//! Putting programs at an interface's hooks: an endpoint's at both, or those that drop everything.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use felid_compile::stub::{self, SkbLayout, stub};
use felid_compile::transaction::EndpointId;

use super::Endpoints;
use crate::error::{KernelError, Result};
use crate::kernel::links::Role;
use crate::kernel::programs::{MapFds, link};
use crate::sys::{self, Hook};

/// What is needed to load programs for links.
pub(crate) struct Attach<'a> {
    pub(crate) closed: BorrowedFd<'a>,
    pub(crate) maps: &'a MapFds,
    pub(crate) skb_layout: &'a SkbLayout,
    /// The directory of everything pinned.
    pub(crate) directory: &'a Path,
}

impl Endpoints {
    /// Makes both hooks run what a role asks for. After an error the interface is closed, as far as
    /// that is possible.
    pub(super) fn attach(&mut self, ifindex: u32, role: Role, attach: &Attach<'_>) -> Result<()> {
        if let Role::Stub(id) = role {
            // The record knows the interface before the first packet enters by it.
            self.refresh_record(id);
            self.records.flush()?;
        }
        let put = match role {
            Role::Stub(id) => self.put_stubs(ifindex, id, attach),
            Role::Closed | Role::Inherited => self.close(ifindex, attach),
        };
        let Err(error) = put else { return Ok(()) };
        if error.is_gone() {
            return Err(error);
        }
        // One hook alone must not let anything pass, nor may what stood there before, which was
        // another's.
        Err(match self.close(ifindex, attach) {
            Ok(()) => KernelError::Closed {
                ifindex,
                source: Box::new(error),
            },
            Err(also) => KernelError::HalfOpen {
                ifindex,
                source: Box::new(error),
                also: Box::new(also),
            },
        })
    }

    fn put_stubs(&mut self, ifindex: u32, id: EndpointId, attach: &Attach<'_>) -> Result<()> {
        let stubs = [
            load_stub(Hook::ALL[0], id, attach)?,
            load_stub(Hook::ALL[1], id, attach)?,
        ];
        for (hook, program) in Hook::ALL.into_iter().zip(stubs) {
            self.links.set(ifindex, hook, Role::Stub(id), program.as_fd())?;
        }
        Ok(())
    }

    /// Closes both hooks, or the one that can be.
    fn close(&mut self, ifindex: u32, attach: &Attach<'_>) -> Result<()> {
        let [first, second] = Hook::ALL.map(|hook| self.links.set(ifindex, hook, Role::Closed, attach.closed));
        first.and(second)
    }
}

pub(super) fn load_stub(hook: Hook, id: EndpointId, attach: &Attach<'_>) -> Result<std::os::fd::OwnedFd> {
    let kind = match hook {
        Hook::FromWorkload => stub::Hook::FromWorkload,
        Hook::ToWorkload => stub::Hook::ToWorkload,
    };
    let chunk = stub(kind, id, attach.skb_layout);
    let insns = link(&chunk, attach.maps, None)
        .ok_or_else(|| KernelError::Inconsistent("a map reference of a stub is out of place".to_owned()))?;
    sys::load_classifier(&insns, &format!("e{}_{}", id.index, id.id)).map_err(|error| KernelError::Fixed {
        name: format!("stub of endpoint {}", id.id),
        reason: format!("{}\n{}", error.error, error.log),
    })
}
