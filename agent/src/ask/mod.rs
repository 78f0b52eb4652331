//! The commands that ask the running agent: status, endpoints, flows, nat, program.

mod show;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::api::{Client, Endpoint, Flows, Nat, ProgramListing, Status};
use crate::cli::{AskArgs, EndpointsArgs, FlowsArgs, NatArgs, Places, ProgramArgs};
use crate::config;
use crate::entry::{Outcome, usage};
use crate::output::{self, Format};
use crate::run::flows::FlowFilter;

/// Asks one question of the agent that uses the run directory.
fn ask<T: serde::de::DeserializeOwned>(places: &Places, path: &str, query: &[(&str, String)]) -> anyhow::Result<T> {
    let settings = config::gather(places, [])?.settings();
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
pub fn status(places: &Places, args: &AskArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let format = Format::parse(&args.output, false)?;
    let status: Status = ask(places, "/v1/status", &[])?;
    if !structured(&format, &status, out)? {
        show::status(&status, format == Format::Wide, out)?;
    }
    Ok(Outcome::Done)
}

/// `felid endpoints`.
pub fn endpoints(places: &Places, args: &EndpointsArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let format = Format::parse(&args.ask.output, false)?;
    let mut endpoints: Vec<Endpoint> = ask(places, "/v1/endpoints", &[])?;
    endpoints.retain(|endpoint| {
        args.namespace
            .as_ref()
            .is_none_or(|namespace| *namespace == endpoint.namespace)
    });
    let unknown: Vec<&String> = args
        .names
        .iter()
        .filter(|name| !endpoints.iter().any(|endpoint| is_named(endpoint, name)))
        .collect();
    if !args.names.is_empty() {
        endpoints.retain(|endpoint| args.names.iter().any(|name| is_named(endpoint, name)));
    }
    if !structured(&format, &endpoints, out)? {
        show::endpoints(&endpoints, format == Format::Wide, out)?;
    }
    for name in &unknown {
        writeln!(std::io::stderr(), "felid: no local endpoint {name:?}")?;
    }
    Ok(if unknown.is_empty() {
        Outcome::Done
    } else {
        Outcome::Failed
    })
}

/// Whether a user may mean this endpoint by the name.
fn is_named(endpoint: &Endpoint, name: &str) -> bool {
    endpoint.name == name
        || endpoint.interface == name
        || name.split_once('/') == Some((endpoint.namespace.as_str(), endpoint.name.as_str()))
}

/// `felid flows`.
pub fn flows(places: &Places, args: &FlowsArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let format = Format::parse(&args.ask.output, false)?;
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
    let flows: Flows = ask(places, "/v1/flows", &query)?;
    if !structured(&format, &flows, out)? {
        show::flows(&flows, format == Format::Wide, out)?;
    }
    Ok(Outcome::Done)
}

/// The address of `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`.
fn address_of(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    text.parse().ok().or_else(with_port)
}

/// `felid nat`.
pub fn nat(places: &Places, args: &NatArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let format = Format::parse(&args.ask.output, false)?;
    let mut nats: Vec<Nat> = ask(places, "/v1/nat", &[])?;
    nats.retain(|nat| {
        args.namespace
            .as_ref()
            .is_none_or(|namespace| *namespace == nat.namespace)
    });
    let is_meant = |nat: &Nat, name: &str| {
        let address = |text: &str| text == name || address_of(name).is_some_and(|name| address_of(text) == Some(name));
        address(&nat.external)
            || address(&nat.internal)
            || nat.endpoint == name
            || nat.interface == name
            || name.split_once('/') == Some((nat.namespace.as_str(), nat.endpoint.as_str()))
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
        writeln!(std::io::stderr(), "felid: nothing is translated for {name:?}")?;
    }
    Ok(if unknown.is_empty() {
        Outcome::Done
    } else {
        Outcome::Failed
    })
}

/// `felid program`.
pub fn program(places: &Places, args: &ProgramArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let format = Format::parse(&args.ask.output, false)?;
    if !matches!(args.direction.as_str(), "ingress" | "egress" | "both") {
        return Err(usage(format!(
            "unknown direction {:?}: use ingress, egress or both",
            args.direction
        )));
    }
    let endpoint = match &args.namespace {
        Some(namespace) if !args.endpoint.contains('/') => format!("{namespace}/{}", args.endpoint),
        _ => args.endpoint.clone(),
    };
    let query = [("endpoint", endpoint), ("direction", args.direction.clone())];
    let listings: Vec<ProgramListing> = ask(places, "/v1/program", &query)?;
    if !structured(&format, &listings, out)? {
        show::programs(&listings, format == Format::Wide, out)?;
    }
    Ok(Outcome::Done)
}
