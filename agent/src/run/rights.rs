//! The rights of the agent's process: it keeps the capabilities that it needs, gives up all others
//! before it has a second thread, and at the end of its start all system calls that it does not
//! make. docs/rights.md says why it needs which.

use std::collections::HashSet;

use anyhow::bail;
use caps::{CapSet, Capability};

use crate::config::Settings;

use super::health::Health;

/// Without these the kernel loads no program, and nothing is enforced.
const NEEDED: [(Capability, &str); 3] = [
    (Capability::CAP_BPF, "to make maps and load programs"),
    (Capability::CAP_PERFMON, "to load programs that read packets' addresses"),
    (
        Capability::CAP_NET_ADMIN,
        "to attach programs, and for routes and sysctls",
    ),
];
/// What the agent can do without, but not everything.
const USEFUL: [Capability; 3] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_LEASE,
];
/// Ports below this one are not everybody's.
const FIRST_OPEN_PORT: u16 = 1024;

/// What people should know about the rights of the process.
#[derive(Debug, Default)]
pub(super) struct Rights {
    notices: Vec<String>,
}

impl Rights {
    /// Logs it, and shows it with the status.
    pub(super) fn tell(self, health: &Health) {
        for notice in self.notices {
            tracing::warn!("{notice}");
            health.add_notice(notice);
        }
    }
}

/// Gives up the capabilities that the agent does not need. To be called before there is a second
/// thread: each has capabilities of its own.
pub(super) fn give_up_capabilities(settings: &Settings) -> anyhow::Result<Rights> {
    let held = caps::read(None, CapSet::Permitted)?;
    check(&held)?;
    let wanted = wanted(settings);
    let kept: HashSet<Capability> = held.intersection(&wanted).copied().collect();
    // Programs that the process could start: it starts none. Without CAP_SETPCAP this cannot be
    // given up, and does not matter, as no new privileges are to be had.
    for capability in caps::read(None, CapSet::Bounding)?.difference(&wanted) {
        let _ = caps::drop(None, CapSet::Bounding, *capability);
    }
    let _ = caps::clear(None, CapSet::Ambient);
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    nix::sys::prctl::set_no_new_privs()?;
    let mut rights = Rights::default();
    if !kept.contains(&Capability::CAP_SYS_ADMIN) {
        rights.notices.push(
            "the agent runs without CAP_SYS_ADMIN: it cannot mount a bpffs, cannot tell programs of earlier runs that are pinned elsewhere from \
             those of others, and names others' programs by numbers"
                .to_owned(),
        );
    }
    Ok(rights)
}

/// Says in one sentence which capabilities are missing.
fn check(held: &HashSet<Capability>) -> anyhow::Result<()> {
    // To the kernel it stands for the two that were made of it.
    let stands_for =
        |capability: Capability| capability != Capability::CAP_NET_ADMIN && held.contains(&Capability::CAP_SYS_ADMIN);
    let missing = NEEDED
        .iter()
        .filter(|(capability, _)| !held.contains(capability) && !stands_for(*capability))
        .map(|(capability, purpose)| format!("{capability} ({purpose})"));
    let missing: Vec<String> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "the process lacks {}: run the agent as root, or give it the capabilities that docs/rights.md lists",
        missing.join(" and ")
    )
}

fn wanted(settings: &Settings) -> HashSet<Capability> {
    let needed = NEEDED.iter().map(|(capability, _)| *capability);
    let mut wanted: HashSet<Capability> = needed.chain(USEFUL).collect();
    let listens = [&settings.metrics_listen, &settings.health_listen];
    let mut ports = listens.into_iter().filter_map(|listen| Some(listen.address()?.1));
    if ports.any(|port| (1..FIRST_OPEN_PORT).contains(&port)) {
        wanted.insert(Capability::CAP_NET_BIND_SERVICE);
    }
    wanted
}

/// Gives up the system calls that the agent does not make, for all threads. Where that is not
/// possible the agent runs without, and says so.
pub(super) fn give_up_system_calls(settings: &Settings) -> Rights {
    let mut rights = Rights::default();
    if !settings.system_call_filter {
        return rights;
    }
    if let Err(error) = felid_dataplane::sys::restrict_system_calls() {
        let notice = format!("the agent may make any system call: the kernel takes no filter ({error})");
        rights.notices.push(notice);
    }
    rights
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_in_one_sentence() {
        let held = |list: &[Capability]| list.iter().copied().collect::<HashSet<_>>();
        use Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN};
        assert!(check(&held(&[CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON])).is_ok());
        assert!(check(&held(&[CAP_SYS_ADMIN, CAP_NET_ADMIN])).is_ok());
        let error = check(&held(&[CAP_SYS_ADMIN])).unwrap_err().to_string();
        assert_eq!(
            error,
            "the process lacks CAP_NET_ADMIN (to attach programs, and for routes and sysctls): run the agent as root, or give it the \
             capabilities that docs/rights.md lists"
        );
        let error = check(&held(&[CAP_NET_ADMIN])).unwrap_err().to_string();
        assert!(
            error.contains("CAP_BPF (to make maps and load programs) and CAP_PERFMON ("),
            "{error}"
        );
    }
}
