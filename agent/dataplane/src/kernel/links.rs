//! TCX links: which program stands at which hook of which interface.
//!
//! A link is pinned as `links/<ifindex>_<hook>` and held by its pin alone: it outlives the agent. The kernel says which interface it
//! is really attached to; a link whose interface is gone says 0.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use felid_compile::transaction::EndpointId;

use crate::error::{KernelError, Result};
use crate::sys::{self, Hook, LinkInfo};

/// What a link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What a previous run left: enforced as it stands until this run knows better.
    Inherited,
    /// Drops everything.
    Closed,
    /// Enters the programs as this endpoint.
    Stub(EndpointId),
}

pub(crate) struct Links {
    directory: PathBuf,
    attached: BTreeMap<(u32, Hook), Attached>,
}

#[derive(Clone, Copy)]
struct Attached {
    role: Role,
    /// The kernel's id of the link, never reused.
    link: u32,
}

const fn suffix(hook: Hook) -> &'static str {
    match hook {
        Hook::FromWorkload => "from_workload",
        Hook::ToWorkload => "to_workload",
    }
}

fn parse(name: &str) -> Option<(u32, Hook)> {
    let (ifindex, hook) = name.split_once('_')?;
    let hook = Hook::ALL.into_iter().find(|known| suffix(*known) == hook)?;
    Some((ifindex.parse().ok()?, hook))
}

impl Links {
    /// Takes over the pins of a previous run; removes those whose interface is gone.
    pub(crate) fn adopt(directory: PathBuf) -> Result<Self> {
        let mut links = Self {
            directory,
            attached: BTreeMap::new(),
        };
        let entries = fs::read_dir(&links.directory).map_err(KernelError::file("list", &links.directory))?;
        for entry in entries {
            let path = entry.map_err(KernelError::file("list", &links.directory))?.path();
            let known = path.file_name().and_then(|name| parse(name.to_str()?));
            match (known, read(&path)) {
                (Some((ifindex, hook)), Ok(Some(info))) if info.ifindex == ifindex => {
                    links.attached.insert(
                        (ifindex, hook),
                        Attached {
                            role: Role::Inherited,
                            link: info.id,
                        },
                    );
                }
                (_, Ok(_)) => fs::remove_file(&path).map_err(KernelError::file("remove", &path))?,
                // Whatever this means, the link may well be what guards a workload: it stays.
                (_, Err(error)) => return Err(KernelError::file("adopt the link", &path)(error)),
            }
        }
        Ok(links)
    }

    fn path(&self, ifindex: u32, hook: Hook) -> PathBuf {
        self.directory.join(format!("{ifindex}_{}", suffix(hook)))
    }

    /// What stands at both hooks of an interface, if it is the same.
    pub(crate) fn role(&self, ifindex: u32) -> Option<Role> {
        let role = |hook| self.attached.get(&(ifindex, hook)).map(|attached| attached.role);
        role(Hook::FromWorkload).filter(|from| role(Hook::ToWorkload) == Some(*from))
    }

    /// Interfaces with a link at either hook.
    pub(crate) fn interfaces(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.attached.keys().map(|(ifindex, _)| *ifindex).collect();
        all.dedup();
        all
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Looks which programs the kernel runs at an interface. A link of ours that is not among them is forgotten: it belongs to an
    /// interface that is gone, of which this one has taken the index. Returns the programs of others.
    pub(crate) fn inspect(&mut self, ifindex: u32) -> Result<Foreign> {
        let mut foreign = Foreign::default();
        for hook in Hook::ALL {
            let own = self.attached.get(&(ifindex, hook)).map(|attached| attached.link);
            let all = sys::attached(ifindex, hook).map_err(KernelError::call(format!(
                "ask for the programs of interface {ifindex}"
            )))?;
            let place = all.iter().position(|(_, link)| own == Some(*link));
            if own.is_some() && place.is_none() {
                self.remove_one(ifindex, hook)?;
            }
            let programs = |part: &[(u32, u32)]| part.iter().map(|(program, _)| *program).collect::<Vec<_>>();
            match place {
                Some(place) => {
                    foreign.before.extend(programs(&all[..place]));
                    foreign.after.extend(programs(&all[place + 1..]));
                }
                None => foreign.before.extend(programs(&all)),
            }
        }
        Ok(foreign)
    }

    /// Makes a hook run `program`: in place where there is a link, else by a new one before all others.
    pub(crate) fn set(&mut self, ifindex: u32, hook: Hook, role: Role, program: BorrowedFd<'_>) -> Result<()> {
        let path = self.path(ifindex, hook);
        if let Some(attached) = self.attached.get(&(ifindex, hook)).copied()
            && self.update(ifindex, hook, program)?
        {
            self.attached.insert((ifindex, hook), Attached { role, ..attached });
            return Ok(());
        }
        let link = sys::attach_first(program, ifindex, hook).map_err(KernelError::call(format!(
            "attach to interface {ifindex} ({})",
            suffix(hook)
        )))?;
        match sys::pin(link.as_fd(), &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&path).map_err(KernelError::file("remove", &path))?;
                sys::pin(link.as_fd(), &path)
            }
            result => result,
        }
        .map_err(KernelError::file("pin", &path))?;
        let info = sys::link_info(link.as_fd()).map_err(KernelError::file("look at", &path))?;
        self.attached.insert((ifindex, hook), Attached { role, link: info.id });
        Ok(())
    }

    /// Puts a program into a link that should be there; whether it was.
    fn update(&mut self, ifindex: u32, hook: Hook, program: BorrowedFd<'_>) -> Result<bool> {
        let path = self.path(ifindex, hook);
        match sys::open_pin(&path).and_then(|link| sys::update_link(link.as_fd(), program)) {
            Ok(()) => Ok(true),
            // The interface is gone, or somebody removed the pin.
            Err(error) if is_gone(&error) => {
                self.remove_one(ifindex, hook)?;
                Ok(false)
            }
            Err(error) => Err(KernelError::file("update", &path)(error)),
        }
    }

    /// Detaches from an interface, or forgets links of one that is gone.
    pub(crate) fn remove(&mut self, ifindex: u32) -> Result<()> {
        for hook in Hook::ALL {
            if self.attached.contains_key(&(ifindex, hook)) {
                self.remove_one(ifindex, hook)?;
            }
        }
        Ok(())
    }

    fn remove_one(&mut self, ifindex: u32, hook: Hook) -> Result<()> {
        let path = self.path(ifindex, hook);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(KernelError::file("remove", &path)(error)),
            _ => {
                self.attached.remove(&(ifindex, hook));
                Ok(())
            }
        }
    }
}

/// Programs of others at an interface: on its TCX hooks, by id, and by traffic control.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// They see packets before felid does, and may let them pass it.
    pub before: Vec<u32>,
    /// They see what felid lets pass.
    pub after: Vec<u32>,
    /// Filters of traffic control, for people; they run after felid.
    pub filters: Arc<[String]>,
}

impl Foreign {
    /// Whether there are any: then packets must not skip the host's stack.
    pub fn any(&self) -> bool {
        !self.before.is_empty() || !self.after.is_empty() || !self.filters.is_empty()
    }
}

/// What is pinned; `None` = nothing any more.
fn read(path: &Path) -> io::Result<Option<LinkInfo>> {
    match sys::open_pin(path).and_then(|link| sys::link_info(link.as_fd())) {
        Ok(info) => Ok(Some(info)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error says that a link, its pin or its interface is not there any more.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENOLINK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pins_are_read_back() {
        for hook in Hook::ALL {
            assert_eq!(parse(&format!("17_{}", suffix(hook))), Some((17, hook)));
        }
        assert_eq!(parse("17"), None);
        assert_eq!(parse("x_from_workload"), None);
        assert_eq!(parse("17_elsewhere"), None);
    }
}
