//! The commands that ask the running agent: status, wait, wait-ready, endpoints, flows, nat,
//! program.

mod connection;
mod show;
mod wait;

use std::io::Write;

use crate::api::{Endpoint, FlowFilter, Flows, Nat, ProgramListing, Status};
use crate::cli::{AgentArgs, EndpointsArgs, FlowsArgs, GlobalArgs, NatArgs, ProgramArgs};
use crate::config;
use crate::endpoint_names::{EndpointNames, address};
use crate::outcome::{Outcome, usage};
use crate::output::{self, Format};

pub use connection::{Client, ClientError};
pub use wait::{wait, wait_ready};

/// Asks one question of the agent that uses the run directory.
fn ask<T: serde::de::DeserializeOwned>(global: &GlobalArgs, path: &str, query: &[(&str, String)]) -> anyhow::Result<T> {
    let settings = config::gather(global, [])?.settings();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(Client::new(&settings.run_dir).get(path, query))?)
}

/// Prints as JSON or YAML if that is wanted; else says which table.
fn structured(format: &Format, value: &impl serde::Serialize, out: &mut dyn Write) -> anyhow::Result<bool> {
    match format {
        Format::Json => output::json(out, value)?,
        Format::Yaml => output::yaml(out, value)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// `felid status`.
pub fn status(global: &GlobalArgs, args: &AgentArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let format = Format::parse(&args.output, false)?;
    let status: Status = ask(global, "/v1/status", &[])?;
    if !structured(&format, &status, out)? {
        show::status(&status, format == Format::Wide, out)?;
    }
    Ok(Outcome::Done)
}

/// `felid endpoints`.
pub fn endpoints(global: &GlobalArgs, args: &EndpointsArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let format = Format::parse(&args.list.agent.output, false)?;
    let mut endpoints: Vec<Endpoint> = ask(global, "/v1/endpoints", &[])?;
    endpoints.retain(|endpoint| args.list.shows(&endpoint.namespace));
    let unknown: Vec<&String> = args
        .names
        .iter()
        .filter(|name| !endpoints.iter().any(|endpoint| names(endpoint).are_meant_by(name)))
        .collect();
    if !args.names.is_empty() {
        endpoints.retain(|endpoint| args.names.iter().any(|name| names(endpoint).are_meant_by(name)));
    }
    if !structured(&format, &endpoints, out)? {
        show::endpoints(&endpoints, format == Format::Wide, out)?;
    }
    for name in &unknown {
        output::error(&format!("no local endpoint {name:?}"));
    }
    Ok(if unknown.is_empty() {
        Outcome::Done
    } else {
        Outcome::Failed
    })
}

/// What users may call an endpoint.
fn names(endpoint: &Endpoint) -> EndpointNames {
    let addresses = endpoint.addresses.iter().chain(&endpoint.external_addresses);
    EndpointNames::new(&endpoint.namespace, &endpoint.name, &endpoint.interface)
        .with_addresses(addresses.filter_map(|text| address(text)))
}

/// `felid flows`.
pub fn flows(global: &GlobalArgs, args: &FlowsArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let format = Format::parse(&args.agent.output, false)?;
    let mut query = vec![("limit", args.limit.to_string())];
    for (name, values) in [
        ("address", &args.address),
        ("source", &args.source),
        ("destination", &args.destination),
    ] {
        query.extend(values.iter().map(|value| (name, value.clone())));
    }
    query.extend(args.port.iter().map(|port| ("port", port.to_string())));
    for (name, value) in [
        ("protocol", &args.protocol),
        ("endpoint", &args.endpoint),
        ("state", &args.state),
    ] {
        query.extend(value.iter().map(|value| (name, value.clone())));
    }
    // The agent would say the same, if there is one.
    FlowFilter::from_query(query.iter().map(|(name, value)| (*name, value.as_str()))).map_err(usage)?;
    let flows: Flows = ask(global, "/v1/flows", &query)?;
    if !structured(&format, &flows, out)? {
        show::flows(&flows, format == Format::Wide, out)?;
    }
    Ok(Outcome::Done)
}

/// `felid nat`.
pub fn nat(global: &GlobalArgs, args: &NatArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let format = Format::parse(&args.list.agent.output, false)?;
    let mut nats: Vec<Nat> = ask(global, "/v1/nat", &[])?;
    nats.retain(|nat| args.list.shows(&nat.namespace));
    let is_meant = |nat: &Nat, name: &str| {
        // An address selects the translations of that address, not all of the endpoint that has it.
        let addresses = [&nat.external, &nat.internal]
            .into_iter()
            .filter_map(|text| address(text));
        EndpointNames::new(&nat.namespace, &nat.endpoint, &nat.interface)
            .with_addresses(addresses)
            .are_meant_by(name)
    };
    let is_unknown = |name: &&String| !nats.iter().any(|nat| is_meant(nat, name));
    let unknown: Vec<&String> = args.names.iter().filter(is_unknown).collect();
    if !args.names.is_empty() {
        nats.retain(|nat| args.names.iter().any(|name| is_meant(nat, name)));
    }
    if !structured(&format, &nats, out)? {
        show::nats(&nats, format == Format::Wide, out)?;
    }
    for name in &unknown {
        output::error(&format!("nothing is translated for {name:?}"));
    }
    Ok(if unknown.is_empty() {
        Outcome::Done
    } else {
        Outcome::Failed
    })
}

/// `felid program`.
pub fn program(global: &GlobalArgs, args: &ProgramArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let format = Format::parse(&args.agent.output, false)?;
    if !matches!(args.direction.as_str(), "ingress" | "egress" | "both") {
        return Err(usage(format!(
            "unknown direction {:?}: use ingress, egress or both",
            args.direction
        )));
    }
    let endpoint = match &args.namespace {
        // An address means one endpoint, whatever its namespace.
        Some(namespace) if !args.endpoint.contains('/') && address(&args.endpoint).is_none() => {
            format!("{namespace}/{}", args.endpoint)
        }
        _ => args.endpoint.clone(),
    };
    let query = [("endpoint", endpoint), ("direction", args.direction.clone())];
    let listings: Vec<ProgramListing> = ask(global, "/v1/program", &query)?;
    if !structured(&format, &listings, out)? {
        show::programs(&listings, format == Format::Wide, out)?;
    }
    Ok(Outcome::Done)
}
