//! Which programs at an interface are felid's own, of whatever run and version.
//!
//! An earlier run may have pinned its links where this one does not look: below another version's
//! directory, another bpffs, or under a mount. What stands at a hook is then known by its program:
//! the name that felid gives, and the maps that felid's programs refer to.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use crate::sys;

/// Programs that are remembered: others are asked about again.
const REMEMBERED: usize = 1024;
/// Maps by which a stub enters the shared programs, by the names that they have or had.
const ENTRIES: [&str; 2] = ["static_programs", "fixed"];
/// The map in which the program `closed` counts.
const DROPS: &str = "drops";

/// What is known of programs, by their ids, which are never reused while a program lives.
#[derive(Default)]
pub(crate) struct Identities {
    known: BTreeMap<u32, bool>,
}

impl Identities {
    /// Whether a program is felid's: an endpoint's stub, or the one that drops everything. What is
    /// gone meanwhile, or cannot be looked at, is not.
    pub(crate) fn is_felid(&mut self, program: u32) -> bool {
        if let Some(known) = self.known.get(&program) {
            return *known;
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let is_felid = look(program).unwrap_or_else(|error| {
            tracing::debug!(program, %error, "cannot look at a program");
            false
        });
        self.known.insert(program, is_felid);
        is_felid
    }
}

fn look(program: u32) -> std::io::Result<bool> {
    let info = sys::program_info(sys::program_by_id(program)?.as_fd())?;
    let wanted: &[&str] = if is_stub(&info.name) {
        &ENTRIES
    } else if info.name == "closed" {
        &[DROPS]
    } else {
        return Ok(false);
    };
    for map in info.maps {
        if wanted.contains(&sys::map_name(map)?.as_str()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a name is a stub's: `e<index>_<id>`, cut to 15 bytes.
fn is_stub(name: &str) -> bool {
    let numbers = name.strip_prefix('e').and_then(|rest| rest.split_once('_'));
    numbers.is_some_and(|(index, id)| {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number(index) && is_number(id)
    })
}

#[cfg(test)]
mod tests {
    use super::is_stub;

    #[test]
    fn names_of_stubs() {
        assert!(is_stub("e1_5") && is_stub("e4095_429496729"));
        for other in ["e1", "e_5", "e1_", "x1_5", "e1_5x", "egress_1", ""] {
            assert!(!is_stub(other), "{other}");
        }
    }
}
