//! `felid name`.

use std::io::Write;

use felid_model::names::{self, Identifiers, NameError};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cli::{GlobalArgs, NameArgs};
use crate::config;
use crate::outcome::{Outcome, usage};
use crate::output::{self, Format, json_line};

use super::lines;

/// Endpoint of a pod whose endpoint is not named.
const POD_ENDPOINT: &str = "eth0";

/// A line of standard input; other fields are somebody else's.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Question {
    op: Option<String>,
    name: Option<String>,
    node: Option<String>,
    orchestrator: Option<String>,
    pod: Option<String>,
    #[serde(rename = "containerID")]
    container_id: Option<String>,
    workload: Option<String>,
    endpoint: Option<String>,
    namespace: Option<String>,
    allow_prefix: Option<bool>,
    interface_prefixes: Option<Prefixes>,
}

/// A list, or text with commas.
#[derive(Deserialize)]
#[serde(untagged)]
enum Prefixes {
    Text(String),
    List(Vec<String>),
}

/// Builds names, compares them, takes them apart.
pub fn name(global: &GlobalArgs, args: &NameArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let json = Format::is_json(&args.output)?;
    let settings = config::gather(global, [("interface-prefix", args.interface_prefix.as_ref())])?.settings();
    let prefix = settings.interface_prefix.first().to_owned();
    let given = [
        &args.node,
        &args.orchestrator,
        &args.pod,
        &args.container_id,
        &args.workload,
        &args.endpoint,
    ];
    match (&args.name, given.iter().any(|value| value.is_some())) {
        (None, false) if args.allow_prefix || args.namespace.is_some() => Err(usage(
            "which endpoint? Name it, or --node and --pod or what else it has",
        )),
        (None, false) => lines::answer(out, |question| answer(&question, &prefix)),
        (None, true) => build(args, &prefix, json, out),
        (Some(name), false) => take_apart(name, args, &prefix, json, out),
        (Some(name), true) => {
            let matches = identifiers(args).matches(name).map_err(bad)?;
            if json {
                json_line(out, &json!({"match": matches}))?;
            } else {
                writeln!(out, "{matches}")?;
            }
            Ok(Outcome::Done)
        }
    }
}

/// What is wrong with an identifier is wrong with an argument.
fn bad(error: NameError) -> anyhow::Error {
    let flag = match error.field {
        "name" => return usage(error.to_string()),
        "containerID" => "container-id",
        other => other,
    };
    usage(format!("--{flag} {}", error.reason))
}

fn identifiers(args: &NameArgs) -> Identifiers {
    let orchestrator = match (&args.orchestrator, &args.pod, &args.container_id) {
        (Some(orchestrator), ..) => orchestrator.clone(),
        (None, Some(_), _) => "k8s".to_owned(),
        (None, None, Some(_)) => "cni".to_owned(),
        (None, None, None) => String::new(),
    };
    Identifiers {
        node: args.node.clone().unwrap_or_default(),
        orchestrator,
        endpoint: args.endpoint.clone().unwrap_or_default(),
        workload: args.workload.clone().unwrap_or_default(),
        pod: args.pod.clone().unwrap_or_default(),
        container_id: args.container_id.clone().unwrap_or_default(),
    }
}

/// The host-side interface of a pod; other orchestrators name theirs themselves.
fn interface(ids: &Identifiers, args: &NameArgs, prefix: &str) -> Option<String> {
    let namespace = args.namespace.as_deref().unwrap_or("default");
    (ids.orchestrator == "k8s" && !ids.pod.is_empty()).then(|| names::host_interface(prefix, namespace, &ids.pod))
}

fn build(args: &NameArgs, prefix: &str, json: bool, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let mut ids = identifiers(args);
    if ids.orchestrator == "k8s" && ids.endpoint.is_empty() && !args.allow_prefix {
        ids.endpoint = POD_ENDPOINT.to_owned();
    }
    let interface = interface(&ids, args, prefix);
    // A pod's interface does not depend on its node.
    let name = match &interface {
        Some(_) if ids.node.is_empty() => None,
        _ => Some(ids.name(args.allow_prefix).map_err(bad)?),
    };
    print(&[("name", name), ("interface", interface)], json, out)
}

fn take_apart(name: &str, args: &NameArgs, prefix: &str, json: bool, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let ids = Identifiers::parse(name).map_err(bad)?;
    let interface = interface(&ids, args, prefix);
    let mut fields: Vec<(&str, Option<String>)> = present(&ids)
        .map(|(field, value)| (field, Some(value.to_owned())))
        .collect();
    fields.push(("interface", interface));
    print(&fields, json, out)
}

/// The identifiers that there are, by their names in a spec.
fn present(ids: &Identifiers) -> impl Iterator<Item = (&'static str, &str)> {
    let all = [
        ("node", ids.node.as_str()),
        ("orchestrator", &ids.orchestrator),
        ("pod", &ids.pod),
        ("containerID", &ids.container_id),
        ("workload", &ids.workload),
        ("endpoint", &ids.endpoint),
    ];
    all.into_iter().filter(|(_, value)| !value.is_empty())
}

fn print(fields: &[(&str, Option<String>)], json: bool, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let known = fields.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?)));
    if json {
        let object: Map<String, Value> = known.map(|(name, value)| (name.to_owned(), json!(value))).collect();
        json_line(out, &object)?;
    } else {
        for (name, value) in known {
            writeln!(out, "{name:<12}   {}", output::printable(value))?;
        }
    }
    Ok(Outcome::Done)
}

fn answer(question: &Question, default_prefix: &str) -> Result<Value, String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let ids = Identifiers {
        node: text(&question.node),
        orchestrator: text(&question.orchestrator),
        endpoint: text(&question.endpoint),
        workload: text(&question.workload),
        pod: text(&question.pod),
        container_id: text(&question.container_id),
    };
    let name = text(&question.name);
    let failed = |error: NameError| {
        let mut answer = json!({"error": error.to_string()});
        // A name as a whole is no field of an endpoint's spec.
        if error.field != "name" {
            answer["erroredField"] = json!(error.field);
        }
        answer
    };
    let result = match question.op.as_deref() {
        Some("build") => ids
            .name(question.allow_prefix == Some(true))
            .map(|name| json!({"name": name})),
        Some("match") => ids.matches(&name).map(|matches| json!({"match": matches})),
        Some("parse") => Identifiers::parse(&name).map(|ids| {
            let ids: Map<String, Value> = present(&ids)
                .map(|(key, value)| (key.to_owned(), json!(value)))
                .collect();
            json!({"ids": ids})
        }),
        Some("veth") => {
            let prefix = first_prefix(question.interface_prefixes.as_ref(), default_prefix);
            let namespace = text(&question.namespace);
            Ok(json!({"name": names::host_interface(&prefix, &namespace, &ids.pod)}))
        }
        Some(other) => return Err(format!("no question: op {other:?} is not build, match, parse or veth")),
        None => return Err("no question: op is missing: build, match, parse or veth".to_owned()),
    };
    Ok(result.unwrap_or_else(failed))
}

/// The first of the prefixes; none at all is the default.
fn first_prefix(prefixes: Option<&Prefixes>, default: &str) -> String {
    let text = match prefixes {
        None => String::new(),
        Some(Prefixes::Text(text)) => text.clone(),
        Some(Prefixes::List(list)) => list.join(","),
    };
    match text.split(',').next() {
        Some(first) if !text.is_empty() => first.to_owned(),
        _ => default.to_owned(),
    }
}
