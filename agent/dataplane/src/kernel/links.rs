//! TCX links: which program stands at which hook of which interface.
//!
//! A link is pinned as `links/<ifindex>_<hook>`, so that it outlives the agent, and held open, so
//! that it outlives its pin. The kernel says which interface it is really attached to; a link whose
//! interface is gone says 0. Links of an earlier run are known by their programs, wherever they are
//! pinned.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use felid_compile::program::Insn;
use felid_compile::transaction::EndpointId;

use super::identity::Identities;
use crate::error::{KernelError, Result};
use crate::sys::{self, Hook, LinkInfo};

/// A program that drops everything (`TC_ACT_SHOT`), and counts nothing.
const BLOCK: [Insn; 2] = [
    Insn {
        code: 0xb7,
        dst: 0,
        src: 0,
        off: 0,
        imm: 2,
    },
    Insn {
        code: 0x95,
        dst: 0,
        src: 0,
        off: 0,
        imm: 0,
    },
];

/// What the links at an interface do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// They do what a previous run decided, which is left as it stands until this run knows better.
    Inherited,
    /// They drop every packet.
    Closed,
    /// They enter the programs as this endpoint.
    Stub(EndpointId),
}

pub(crate) struct Links {
    directory: PathBuf,
    attached: BTreeMap<(u32, Hook), Attached>,
    identities: Identities,
}

struct Attached {
    role: Role,
    /// The kernel's id of the link, never reused.
    id: u32,
    /// Held open, so that whoever removes the pin detaches nothing.
    link: OwnedFd,
    /// It was found without a pin of this directory: it may have others, which keep it attached.
    is_stray: bool,
}

/// What the kernel says of one hook.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct HookState {
    /// Ids of the programs that run before felid's.
    pub(crate) before: Vec<u32>,
    /// Ids of the programs that run after it.
    pub(crate) after: Vec<u32>,
    /// Felid's own is not there.
    pub(crate) is_missing: bool,
}

pub(super) const fn suffix(hook: Hook) -> &'static str {
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
            identities: Identities::default(),
        };
        let entries = fs::read_dir(&links.directory).map_err(KernelError::file("list", &links.directory))?;
        for entry in entries {
            let path = entry.map_err(KernelError::file("list", &links.directory))?.path();
            let known = path.file_name().and_then(|name| parse(name.to_str()?));
            match (known, read(&path)) {
                (Some((ifindex, hook)), Ok(Some((link, info)))) if info.ifindex == ifindex => {
                    let role = Role::Inherited;
                    let attached = Attached {
                        role,
                        id: info.id,
                        link,
                        is_stray: false,
                    };
                    links.attached.insert((ifindex, hook), attached);
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

    /// Whether a link, by its id, is among these.
    pub(crate) fn contains(&self, id: u32) -> bool {
        self.attached.values().any(|attached| attached.id == id)
    }

    /// What stands at one hook; `None` = nothing of felid's that is known.
    pub(crate) fn role_at(&self, ifindex: u32, hook: Hook) -> Option<Role> {
        self.attached.get(&(ifindex, hook)).map(|attached| attached.role)
    }

    /// Asks the kernel what it runs at a hook.
    pub(crate) fn hook_state(&self, ifindex: u32, hook: Hook) -> Result<HookState> {
        let own = self.attached.get(&(ifindex, hook)).map(|attached| attached.id);
        let all = query(ifindex, hook)?;
        let programs = |part: &[(u32, u32)]| part.iter().map(|(program, _)| *program).collect::<Vec<_>>();
        Ok(match all.iter().position(|(_, link)| own == Some(*link)) {
            Some(place) => HookState {
                before: programs(&all[..place]),
                after: programs(&all[place + 1..]),
                is_missing: false,
            },
            None => HookState {
                before: programs(&all),
                after: Vec::new(),
                is_missing: true,
            },
        })
    }

    /// Looks which programs the kernel runs at an interface. A link of ours that is not among them
    /// is forgotten: it belongs to an interface that is gone, of which this one has taken the
    /// index, or somebody has detached it. Links of an earlier run that this one did not find by
    /// their pins are taken over or detached. Returns the programs of others.
    pub(crate) fn inspect(&mut self, ifindex: u32) -> Result<Foreign> {
        let mut foreign = Foreign::default();
        for hook in Hook::ALL {
            if self.hook_state(ifindex, hook)?.is_missing {
                self.remove_one(ifindex, hook)?;
            }
            self.take_over_strays(ifindex, hook)?;
            let state = self.hook_state(ifindex, hook)?;
            foreign.before.extend(state.before);
            foreign.after.extend(state.after);
        }
        Ok(foreign)
    }

    /// Takes over what earlier runs left at an interface where no pin of this directory says so.
    /// Returns whether there was anything.
    pub(crate) fn find_strays(&mut self, ifindex: u32) -> Result<bool> {
        let mut found = false;
        for hook in Hook::ALL {
            found |= self.take_over_strays(ifindex, hook)?;
        }
        Ok(found)
    }

    /// Programs of felid's at a hook whose links are not known: the first becomes the hook's link,
    /// with its program as it is, if there is none; the others go. Their pins may be in another
    /// version's directory, below another bpffs, or hidden by a mount.
    fn take_over_strays(&mut self, ifindex: u32, hook: Hook) -> Result<bool> {
        let mut found = false;
        for (program, link) in query(ifindex, hook)? {
            let known = self.attached.get(&(ifindex, hook));
            if link == 0 || known.is_some_and(|known| known.id == link) || !self.identities.is_felid(program) {
                continue;
            }
            found = true;
            let call = KernelError::call(format!("take over the link {link} at interface {ifindex}"));
            let stray = match sys::link_by_id(link) {
                Ok(stray) => stray,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(call(error)),
            };
            if self.attached.contains_key(&(ifindex, hook)) {
                sys::detach_link(stray.as_fd()).map_err(call)?;
                tracing::warn!(
                    ifindex,
                    hook = suffix(hook),
                    link,
                    program,
                    "a program of an earlier run is detached"
                );
                continue;
            }
            self.pin_over(stray.as_fd(), ifindex, hook)?;
            let attached = Attached {
                role: Role::Inherited,
                id: link,
                link: stray,
                is_stray: true,
            };
            self.attached.insert((ifindex, hook), attached);
            tracing::warn!(
                ifindex,
                hook = suffix(hook),
                link,
                program,
                "a program of an earlier run, which is not pinned where this one keeps its pins, is taken over: it judges by the tables \
                 of that run until the first change is in force"
            );
        }
        Ok(found)
    }

    /// Makes a hook run `program`: in place where there is a link, else by a new one before all
    /// others.
    pub(crate) fn set(&mut self, ifindex: u32, hook: Hook, role: Role, program: BorrowedFd<'_>) -> Result<()> {
        if let Some(attached) = self.attached.get_mut(&(ifindex, hook)) {
            match sys::update_link(attached.link.as_fd(), program) {
                Ok(()) => {
                    attached.role = role;
                    return Ok(());
                }
                // The interface is gone, or somebody has detached the link.
                Err(error) if is_gone(&error) => self.remove_one(ifindex, hook)?,
                Err(error) => return Err(KernelError::file("update", &self.path(ifindex, hook))(error)),
            }
        }
        self.attach(ifindex, hook, role, program)
    }

    /// Makes felid's program the first at a hook: by a new link with another copy of it before all
    /// others, then the old one goes.
    pub(crate) fn take_head(&mut self, ifindex: u32, hook: Hook, copy: BorrowedFd<'_>) -> Result<()> {
        let Some(old) = self.attached.remove(&(ifindex, hook)) else {
            return Ok(());
        };
        let attached = self.attach(ifindex, hook, old.role, copy);
        match &attached {
            Ok(()) => sys::detach_link(old.link.as_fd()).map_err(KernelError::call(format!(
                "detach felid's older program from interface {ifindex} ({})",
                suffix(hook)
            )))?,
            Err(_) => drop(self.attached.insert((ifindex, hook), old)),
        }
        attached
    }

    /// As [`Links::take_head`], where the program is to stay the very same. A hook takes no program
    /// twice, so that for a few microseconds one stands there that drops everything.
    pub(crate) fn take_head_with_same(&mut self, ifindex: u32, hook: Hook) -> Result<()> {
        let Some(attached) = self.attached.get(&(ifindex, hook)) else {
            return Ok(());
        };
        let call =
            |error| KernelError::call(format!("replace the program of interface {ifindex} ({})", suffix(hook)))(error);
        let present = sys::link_info(attached.link.as_fd()).and_then(|info| sys::program_by_id(info.program));
        let present = present.map_err(call)?;
        let block = sys::load_classifier(&BLOCK, "block").map_err(|error| call(error.error))?;
        sys::update_link(attached.link.as_fd(), block.as_fd()).map_err(call)?;
        let taken = self.take_head(ifindex, hook, present.as_fd());
        if taken.is_err()
            && let Some(attached) = self.attached.get(&(ifindex, hook))
        {
            sys::update_link(attached.link.as_fd(), present.as_fd()).map_err(call)?;
        }
        taken
    }

    fn attach(&mut self, ifindex: u32, hook: Hook, role: Role, program: BorrowedFd<'_>) -> Result<()> {
        let link = sys::attach_first(program, ifindex, hook).map_err(KernelError::call(format!(
            "attach to interface {ifindex} ({})",
            suffix(hook)
        )))?;
        self.pin_over(link.as_fd(), ifindex, hook)?;
        let path = self.path(ifindex, hook);
        let id = sys::link_info(link.as_fd())
            .map_err(KernelError::file("look at", &path))?
            .id;
        let attached = Attached {
            role,
            id,
            link,
            is_stray: false,
        };
        self.attached.insert((ifindex, hook), attached);
        Ok(())
    }

    /// Pins a link in the place of whatever is pinned there.
    fn pin_over(&self, link: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> Result<()> {
        let path = self.path(ifindex, hook);
        // A bpffs allows no dot in names.
        let beside = self.directory.join(format!("new_{ifindex}_{}", suffix(hook)));
        match sys::pin(link, &beside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&beside).map_err(KernelError::file("remove", &beside))?;
                sys::pin(link, &beside)
            }
            result => result,
        }
        .and_then(|()| fs::rename(&beside, &path))
        .map_err(KernelError::file("pin", &path))
    }

    /// Pins what is no longer pinned. Returns the number of such links.
    pub(crate) fn repin(&self) -> Result<usize> {
        let mut count = 0;
        for (&(ifindex, hook), attached) in &self.attached {
            let path = self.path(ifindex, hook);
            if fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                sys::pin(attached.link.as_fd(), &path).map_err(KernelError::file("pin", &path))?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Detaches from an interface, or forgets links of one that is gone.
    pub(crate) fn remove(&mut self, ifindex: u32) -> Result<()> {
        for hook in Hook::ALL {
            self.remove_one(ifindex, hook)?;
        }
        Ok(())
    }

    fn remove_one(&mut self, ifindex: u32, hook: Hook) -> Result<()> {
        let Some(attached) = self.attached.get(&(ifindex, hook)) else {
            return Ok(());
        };
        if attached.is_stray
            && let Err(error) = sys::detach_link(attached.link.as_fd())
            && !is_gone(&error)
        {
            return Err(KernelError::call(format!("detach from interface {ifindex}"))(error));
        }
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

fn query(ifindex: u32, hook: Hook) -> Result<Vec<(u32, u32)>> {
    sys::attached(ifindex, hook).map_err(KernelError::call(format!(
        "ask for the programs of interface {ifindex}"
    )))
}

/// The programs of others at an interface: at its TCX hooks, by id, and of traffic control.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Programs that see packets before felid does, and may let them pass it.
    pub before: Vec<u32>,
    /// Programs that see what felid lets pass.
    pub after: Vec<u32>,
    /// Filters of traffic control, for people. They run after felid.
    pub filters: Arc<[String]>,
}

impl Foreign {
    /// Returns whether there are any, so that packets must not skip the host's stack.
    pub fn any(&self) -> bool {
        !self.before.is_empty() || !self.after.is_empty() || !self.filters.is_empty()
    }
}

/// What is pinned; `None` = nothing any more.
fn read(path: &Path) -> io::Result<Option<(OwnedFd, LinkInfo)>> {
    let opened = sys::open_pin(path).and_then(|link| {
        let info = sys::link_info(link.as_fd())?;
        Ok((link, info))
    });
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error says that a link, its pin or its interface is not there any more.
pub(super) fn is_gone(error: &io::Error) -> bool {
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
