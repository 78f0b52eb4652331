//! How the running agent's answers look to people.

mod status;

use std::io::Write;

use crate::api::{DirectionPolicy, Endpoint, EndpointFlows, Flow, FlowEnd, Flows, Nat, ProgramListing};
use crate::output::{count, printable, table};

pub(super) use status::status;

/// One line an endpoint.
pub(super) fn endpoints(endpoints: &[Endpoint], wide: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let policies = |direction: &Option<DirectionPolicy>| match direction {
        Some(direction) if !direction.policies.is_empty() => direction.policies.join(","),
        _ => "-".to_owned(),
    };
    let program = |direction: &Option<DirectionPolicy>| match direction {
        Some(DirectionPolicy {
            program: Some(program),
            shared_by,
            ..
        }) => format!("{program} ({shared_by}x)"),
        _ => "-".to_owned(),
    };
    let mut headings = vec!["NAMESPACE", "NAME", "INTERFACE", "ADDRESSES", "STATE"];
    if wide {
        headings.extend([
            "IFINDEX", "MAC", "REDIRECT", "PROFILES", "INGRESS", "EGRESS", "PROGRAMS", "ENFORCED", "FLOWS", "REFUSED",
        ]);
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
                endpoint.state.to_string(),
            ];
            if wide {
                row.extend([
                    endpoint
                        .ifindex
                        .map_or_else(|| "-".to_owned(), |index| index.to_string()),
                    endpoint.mac.clone().unwrap_or_else(|| "-".to_owned()),
                    endpoint
                        .redirectable
                        .map_or("-", |redirectable| if redirectable { "yes" } else { "no" })
                        .to_owned(),
                    endpoint.profiles.join(","),
                    policies(&endpoint.ingress),
                    policies(&endpoint.egress),
                    format!("in {}, out {}", program(&endpoint.ingress), program(&endpoint.egress)),
                    endpoint.enforced_at.clone().unwrap_or_else(|| "-".to_owned()),
                    endpoint.flows.as_ref().map_or_else(|| "-".to_owned(), share),
                    endpoint
                        .flows
                        .as_ref()
                        .map_or_else(|| "-".to_owned(), |flows| flows.refused.to_string()),
                ]);
            }
            row.push(endpoint.reason.clone().unwrap_or_default());
            row
        })
        .collect();
    Ok(table(out, &headings, &rows)?)
}

/// Established flows of each IP version, and how many there may be.
fn share(flows: &EndpointFlows) -> String {
    format!(
        "{}/{} v4, {}/{} v6",
        flows.established_v4, flows.allowed_v4, flows.established_v6, flows.allowed_v6
    )
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
                flow.state.to_string(),
                format!("{:.0}s", flow.idle_seconds),
                format!("{:.0}s", flow.expires_seconds),
                translation(flow),
            ];
            if wide {
                row.extend([
                    format!("{:.0}s", flow.age_seconds),
                    if flow.redirect { "redirect" } else { "host" }.to_owned(),
                    endpoint(&flow.source),
                    flow.source.judged.to_string(),
                    endpoint(&flow.destination),
                    flow.destination.judged.to_string(),
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
                nat.by.to_string(),
                nat.state.to_string(),
            ];
            if wide {
                row.push(nat.field.to_string());
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
