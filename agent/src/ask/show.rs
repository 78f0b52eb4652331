//! How the running agent's answers look to people.

use std::io::Write;

use crate::api::{Direction, Endpoint, Flow, FlowEnd, Flows, Nat, Problem, ProgramListing, Status};
use crate::output::{count, printable, table};

/// State, problems, counts.
pub(super) fn status(status: &Status, wide: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let yes = |flag: bool| if flag { "yes" } else { "no" };
    let line = |out: &mut dyn Write, name: &str, value: String| writeln!(out, "{name:<18}{value}");
    line(out, "Node", printable(&status.node))?;
    line(
        out,
        "Agent",
        format!(
            "felid {}, process {}, since {}",
            status.version, status.pid, status.started
        ),
    )?;
    line(out, "Datastore", printable(&status.datastore))?;
    line(out, "Ready", yes(status.ready).to_owned())?;
    for reason in &status.not_ready {
        line(out, "", printable(reason))?;
    }
    line(out, "In sync", yes(status.in_sync).to_owned())?;
    line(out, "Epoch", status.epoch.to_string())?;
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
    line(out, "Last programming", last)?;
    let c = &status.counts;
    let endpoints = format!(
        "{} local: {} enforcing, {} waiting for their interface, {} closed; {} in the datastore",
        c.local_endpoints, c.enforcing, c.waiting, c.closed, c.workload_endpoints
    );
    line(out, "Endpoints", endpoints)?;
    let records = format!(
        "{} ({} active here, {} of them staged), {}, {}, {}",
        count(c.policies, "policy", "policies"),
        c.active_policies,
        c.staged_policies,
        count(c.profiles, "profile", "profiles"),
        count(c.tiers, "tier", "tiers"),
        count(c.network_sets, "network set", "network sets")
    );
    line(out, "Records", records)?;
    let kernel = format!(
        "{}, {}, {}, {}, {}, {}, {}",
        count(c.programs, "program", "programs"),
        count(c.selectors, "selector", "selectors"),
        count(c.sets, "set", "sets"),
        count(c.classes, "class", "classes"),
        count(c.addresses, "address", "addresses"),
        count(c.prefixes, "prefix", "prefixes"),
        count(c.named_ports, "named port", "named ports")
    );
    line(out, "Kernel", kernel)?;
    if let Some(log) = &status.log {
        let packets = format!("{} told, {} suppressed, {} lost", log.logged, log.suppressed, log.lost);
        line(out, "Log rules", packets)?;
    }
    let conflicts = match status.nat.conflicts {
        0 => String::new(),
        conflicts => format!(", {conflicts} in conflict (felid nat says why)"),
    };
    line(
        out,
        "Translations",
        format!("{} in force{conflicts}", status.nat.in_force),
    )?;
    line(
        out,
        "Metrics",
        status.metrics.clone().unwrap_or_else(|| "not served".to_owned()),
    )?;
    line(
        out,
        "Health",
        status.health.clone().unwrap_or_else(|| "not served".to_owned()),
    )?;
    if wide {
        for (name, value) in &status.settings {
            line(out, "Setting", format!("{name} from {}", value.source))?;
        }
    }
    for notice in &status.notices {
        line(out, "Notice", printable(notice).to_string())?;
    }
    if !status.failures.is_empty() {
        writeln!(out, "\nFailing, and tried again (what was in force stays):")?;
        for failure in &status.failures {
            let times = if failure.attempts > 1 {
                format!(", {} times", failure.attempts)
            } else {
                String::new()
            };
            writeln!(
                out,
                "  {}: {} (since {}{times})",
                failure.what,
                printable(&failure.reason),
                failure.since
            )?;
        }
    }
    if !status.problems.is_empty() {
        writeln!(out, "\nProblems with records:")?;
        for problem in &status.problems {
            writeln!(out, "  {}", printable(&self::problem(problem)))?;
        }
    }
    Ok(())
}

/// `error: file:line: resource: field "value": reason (what is in force)`.
fn problem(problem: &Problem) -> String {
    let mut text = format!("{}: ", problem.severity);
    match (&problem.file, problem.line) {
        (Some(file), Some(line)) => text.push_str(&format!("{file}:{line}: ")),
        (Some(file), None) => text.push_str(&format!("{file}: ")),
        (None, _) => {}
    }
    if let Some(resource) = &problem.resource {
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

/// One line an endpoint.
pub(super) fn endpoints(endpoints: &[Endpoint], wide: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let policies = |direction: &Option<Direction>| match direction {
        Some(direction) if !direction.policies.is_empty() => direction.policies.join(","),
        _ => "-".to_owned(),
    };
    let program = |direction: &Option<Direction>| match direction {
        Some(Direction {
            program: Some(program),
            shared_by,
            ..
        }) => format!("{program} ({shared_by}x)"),
        _ => "-".to_owned(),
    };
    let mut headings = vec!["NAMESPACE", "NAME", "INTERFACE", "ADDRESSES", "STATE"];
    if wide {
        headings.extend(["IFINDEX", "MAC", "FAST", "PROFILES", "INGRESS", "EGRESS", "PROGRAMS"]);
    }
    headings.push("REASON");
    let rows: Vec<Vec<String>> = endpoints
        .iter()
        .map(|endpoint| {
            let mut row = vec![
                endpoint.namespace.clone(),
                endpoint.name.clone(),
                endpoint.interface.clone(),
                endpoint.addresses.join(","),
                endpoint.state.clone(),
            ];
            if wide {
                row.extend([
                    endpoint
                        .ifindex
                        .map_or_else(|| "-".to_owned(), |index| index.to_string()),
                    endpoint.mac.clone().unwrap_or_else(|| "-".to_owned()),
                    endpoint
                        .fast
                        .map_or("-", |fast| if fast { "yes" } else { "no" })
                        .to_owned(),
                    endpoint.profiles.join(","),
                    policies(&endpoint.ingress),
                    policies(&endpoint.egress),
                    format!("in {}, out {}", program(&endpoint.ingress), program(&endpoint.egress)),
                ]);
            }
            row.push(endpoint.reason.clone().unwrap_or_default());
            row
        })
        .collect();
    Ok(table(out, &headings, &rows)?)
}

/// One line a flow.
pub(super) fn flows(flows: &Flows, wide: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let end = |end: &FlowEnd| {
        let address = if end.address.contains(':') && end.port != 0 {
            format!("[{}]", end.address)
        } else {
            end.address.clone()
        };
        if end.port == 0 {
            address
        } else {
            format!("{address}:{}", end.port)
        }
    };
    let endpoint = |end: &FlowEnd| end.endpoint.clone().unwrap_or_else(|| "-".to_owned());
    let mut headings = vec!["PROTOCOL", "SOURCE", "DESTINATION", "STATE", "IDLE", "EXPIRES", "NAT"];
    if wide {
        headings.extend(["AGE", "PATH", "FROM", "EGRESS", "TO", "INGRESS"]);
    }
    let rows: Vec<Vec<String>> = flows
        .flows
        .iter()
        .map(|flow| {
            let mut row = vec![
                flow.protocol.clone(),
                end(&flow.source),
                end(&flow.destination),
                flow.state.clone(),
                format!("{:.0}s", flow.idle_seconds),
                format!("{:.0}s", flow.expires_seconds),
                translation(flow),
            ];
            if wide {
                row.extend([
                    format!("{:.0}s", flow.age_seconds),
                    if flow.fast { "redirect" } else { "host" }.to_owned(),
                    endpoint(&flow.source),
                    flow.source.judged.clone(),
                    endpoint(&flow.destination),
                    flow.destination.judged.clone(),
                ]);
            }
            row
        })
        .collect();
    table(out, &headings, &rows)?;
    if flows.total > flows.flows.len() {
        writeln!(
            out,
            "{} of {} flows; --limit shows more",
            flows.flows.len(),
            flows.total
        )?;
    }
    Ok(())
}

/// Which end is known by another address.
fn translation(flow: &Flow) -> String {
    let end = |name: &str, end: &FlowEnd| end.shown_as.as_ref().map(|shown| format!("{name} is {shown}"));
    let ends = [end("source", &flow.source), end("destination", &flow.destination)];
    let ends: Vec<String> = ends.into_iter().flatten().collect();
    if ends.is_empty() {
        "-".to_owned()
    } else {
        ends.join(", ")
    }
}

/// One line a translation.
pub(super) fn nats(nats: &[Nat], wide: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let mut headings = vec![
        "EXTERNAL",
        "INTERNAL",
        "NAMESPACE",
        "ENDPOINT",
        "INTERFACE",
        "BY",
        "STATE",
    ];
    if wide {
        headings.extend(["FIELD", "PROTOCOL"]);
    }
    headings.extend(["FLOWS", "TOTAL", "REASON"]);
    let rows: Vec<Vec<String>> = nats
        .iter()
        .map(|nat| {
            let mut row = vec![
                nat.external.clone(),
                nat.internal.clone(),
                nat.namespace.clone(),
                nat.endpoint.clone(),
                nat.interface.clone(),
                nat.by.clone(),
                nat.state.clone(),
            ];
            if wide {
                row.push(nat.field.clone());
                row.push(nat.protocol.clone().unwrap_or_else(|| "any".to_owned()));
            }
            row.extend([
                number(nat.flows),
                number(nat.flows_total),
                nat.reason.clone().unwrap_or_default(),
            ]);
            row
        })
        .collect();
    Ok(table(out, &headings, &rows)?)
}

/// Listings, with what each part is for above it.
pub(super) fn programs(listings: &[ProgramListing], wide: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    for (number, listing) in listings.iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        let chunks = listing.lines.last().map_or(0, |line| line.chunk + 1);
        writeln!(
            out,
            "{} {}: program {}, {} in {}, used by {}",
            printable(&listing.endpoint),
            listing.direction,
            listing.program,
            count(listing.lines.len(), "instruction", "instructions"),
            count(chunks, "part", "parts"),
            count(listing.shared_by.len(), "endpoint", "endpoints")
        )?;
        if wide {
            writeln!(out, "used by {}", printable(&listing.shared_by.join(", ")))?;
        }
        for (index, rule) in listing.rules.iter().enumerate() {
            writeln!(out, "  rule {index}: {}", printable(rule))?;
        }
        let mut chunk = None;
        for line in &listing.lines {
            if chunk != Some(line.chunk) {
                chunk = Some(line.chunk);
                writeln!(out, "part {}:", line.chunk)?;
            }
            if let Some(note) = &line.note {
                writeln!(out, "        ; {}", printable(note))?;
            }
            writeln!(out, "  {:>5}: {}", line.index, line.code)?;
        }
    }
    Ok(())
}
