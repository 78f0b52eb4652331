//! How `felid status` looks.

use std::io::Write;

use crate::api::{Counts, Failure, Problem, ResyncState, Revisions, Status};
use crate::output::{count, printable};

/// Lines of a name and a value; a line without a name goes on with the one before.
type Lines = Vec<(&'static str, String)>;

/// Prints state, counts and problems.
pub(in crate::client) fn status(status: &Status, wide: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut lines = agent(status);
    lines.extend(counts(&status.counts));
    lines.extend(rest(status));
    if wide {
        let settings = status.settings.iter();
        lines.extend(settings.map(|(name, value)| ("Setting", format!("{name} from {}", value.source))));
    }
    lines.extend(status.notices.iter().map(|notice| ("Notice", notice.clone())));
    for (name, value) in lines {
        writeln!(out, "{name:<18}{}", printable(&value))?;
    }
    if !status.failures.is_empty() {
        writeln!(out, "\nFailing, and tried again (what was in force stays):")?;
        for one in &status.failures {
            writeln!(out, "  {}", printable(&failure(one)))?;
        }
    }
    if !status.problems.is_empty() {
        writeln!(out, "\nProblems with records:")?;
        for one in &status.problems {
            writeln!(out, "  {}", printable(&problem(one)))?;
        }
    }
    Ok(())
}

const fn yes(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

/// The agent itself.
fn agent(status: &Status) -> Lines {
    let agent = format!(
        "felid {}, process {}, since {}",
        status.version, status.pid, status.started
    );
    let mut lines = vec![
        ("Node", status.node.clone()),
        ("Agent", agent),
        ("Datastore", status.datastore.clone()),
        ("Ready", yes(status.ready).to_owned()),
    ];
    lines.extend(status.not_ready.iter().map(|reason| ("", reason.clone())));
    let last = match &status.last_programming {
        None => "never".to_owned(),
        Some(last) => format!(
            "{} ({}, in force after {:.1} ms; {} in all)",
            last.at,
            count(last.updates, "update", "updates"),
            last.latency_ms,
            last.total
        ),
    };
    lines.push(("In sync", in_sync(status)));
    lines.push(("Epoch", status.epoch.to_string()));
    lines.push(("Last programming", last));
    lines.push(("Enforced", enforced(&status.revisions)));
    lines
}

/// How many changes of records were seen, and which are enforced since when.
fn enforced(revisions: &Revisions) -> String {
    let seen = count_large(revisions.seen, "change", "changes");
    match &revisions.enforced_at {
        None => format!("none of the {seen} of records that were seen"),
        Some(at) if revisions.enforced >= revisions.seen => format!("all {seen} of records that were seen, since {at}"),
        Some(at) => format!(
            "{} of the {seen} of records that were seen, since {at}",
            revisions.enforced
        ),
    }
}

fn count_large(number: u64, one: &str, many: &str) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), one, many)
}

fn counts(c: &Counts) -> Lines {
    let endpoints = format!(
        "{} local: {} enforcing, {} waiting for their interface, {} closed; {} in the datastore",
        c.local_endpoints, c.enforcing, c.waiting, c.closed, c.workload_endpoints
    );
    let records = format!(
        "{} ({} active here, {} of them staged), {}, {}, {}",
        count(c.policies, "policy", "policies"),
        c.active_policies,
        c.staged_policies,
        count(c.profiles, "profile", "profiles"),
        count(c.tiers, "tier", "tiers"),
        count(c.network_sets, "network set", "network sets")
    );
    let kernel = [
        count(c.programs, "program", "programs"),
        count(c.selectors, "selector", "selectors"),
        count(c.sets, "set", "sets"),
        count(c.classes, "class", "classes"),
        count(c.addresses, "address", "addresses"),
        count(c.prefixes, "prefix", "prefixes"),
        count(c.named_ports, "named port", "named ports"),
    ];
    vec![
        ("Endpoints", endpoints),
        ("Records", records),
        ("Kernel", kernel.join(", ")),
    ]
}

/// Log rules, translations, servers.
fn rest(status: &Status) -> Lines {
    let mut lines = Vec::new();
    if let Some(log) = &status.log {
        let packets = format!("{} told, {} suppressed, {} lost", log.logged, log.suppressed, log.lost);
        lines.push(("Log rules", packets));
    }
    let conflicts = match status.nat.conflicts {
        0 => String::new(),
        conflicts => format!(", {conflicts} in conflict (felid nat says why)"),
    };
    let served = |address: &Option<String>| address.clone().unwrap_or_else(|| "not served".to_owned());
    lines.push(("Translations", format!("{} in force{conflicts}", status.nat.in_force)));
    lines.push(("Metrics", served(&status.metrics)));
    lines.push(("Health", served(&status.health)));
    lines
}

/// Whether the datastore is in sync, since when, and why not.
fn in_sync(status: &Status) -> String {
    let Some(resync) = &status.resync else {
        return yes(status.in_sync).to_owned();
    };
    let kept = if status.in_sync {
        "; what was last read stays in force"
    } else {
        ""
    };
    let (state, kept) = match resync.state {
        ResyncState::InSync => ("yes", ""),
        ResyncState::ResyncInProgress => ("no, resync in progress", kept),
        ResyncState::WaitForDatastore => ("no, waiting for the datastore", kept),
    };
    let reason = resync.reason.as_ref().map(|reason| format!(": {reason}"));
    format!("{state} (since {}){}{kept}", resync.since, reason.unwrap_or_default())
}

fn failure(failure: &Failure) -> String {
    let times = match failure.attempts {
        0 | 1 => String::new(),
        attempts => format!(", {attempts} times"),
    };
    format!("{}: {} (since {}{times})", failure.what, failure.reason, failure.since)
}

/// `error: file:line: resource: field "value": reason (what is in force)`.
fn problem(problem: &Problem) -> String {
    let mut text = format!("{}: ", problem.severity);
    match (&problem.file, problem.line) {
        (Some(file), Some(line)) => text.push_str(&format!("{file}:{line}: ")),
        (Some(file), None) => text.push_str(&format!("{file}: ")),
        (None, _) => {}
    }
    match (&problem.object, &problem.resource_version) {
        (Some(object), Some(version)) => text.push_str(&format!("{object}@{version}: ")),
        (Some(object), None) => text.push_str(&format!("{object}: ")),
        (None, _) => {}
    }
    if let Some(resource) = problem.resource.as_ref().filter(|_| problem.resource != problem.object) {
        text.push_str(&format!("{resource}: "));
    }
    match (&problem.field, &problem.value) {
        (Some(field), Some(value)) => text.push_str(&format!("{field} {value:?}: ")),
        (Some(field), None) => text.push_str(&format!("{field}: ")),
        (None, _) => {}
    }
    text.push_str(&problem.reason);
    if let Some(in_force) = &problem.in_force {
        text.push_str(&format!(" ({in_force})"));
    }
    text
}
