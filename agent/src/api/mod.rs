//! What the running agent answers on its socket `<run-dir>/felid.sock` (HTTP/1.1, root only). The
//! client of it is [`crate::client`].
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/endpoints` | list of [`Endpoint`] |
//! | `GET /v1/flows` (with filters in its query) | [`Flows`] |
//! | `GET /v1/nat` | list of [`Nat`] |
//! | `GET /v1/program?endpoint=&direction=` | list of [`ProgramListing`] |
//! | `GET /v1/wait?for=&kind=&namespace=&name=&timeoutMs=` | [`Waited`], once it is so |
//!
//! Errors are `{"error": "..."}` with a status of 4xx (the question is wrong: no such endpoint) or
//! 5xx. Fields may be added, so readers ignore names that they do not know.

mod filter;
mod refusal;
mod time;
mod wait;
mod words;

use std::collections::BTreeMap;

use felid_model::{Direction, Severity};
use serde::{Deserialize, Serialize};

pub use filter::{FlowFacts, FlowFilter};
pub use refusal::Refusal;
pub use time::rfc3339;
pub use wait::{LONGEST_WAIT, Wait, WaitFor, Waited};
pub use words::{
    EndpointState, FailureKind, FlowState, FlowTable, Judgement, NatField, NatState, ResyncState, Translator,
};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "felid.sock";

/// State of the whole agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Name of the node.
    pub node: String,
    /// The datastore.
    pub datastore: String,
    /// When the agent started, RFC 3339.
    pub started: String,
    /// Ready: in sync, programmed, nothing refused.
    pub ready: bool,
    /// Why not.
    pub not_ready: Vec<String>,
    /// What people should know of the host, without anything being wrong with the agent.
    pub notices: Vec<String>,
    /// The datastore has been read completely once.
    pub in_sync: bool,
    /// How the connection to the datastore stands now.
    pub resync: Option<Resync>,
    /// The kernel has been programmed once since.
    pub programmed: bool,
    /// Number of the policy epoch in the kernel.
    pub epoch: u32,
    /// How many changes of records were seen, and up to which of them all are enforced.
    pub revisions: Revisions,
    /// The last switch.
    pub last_programming: Option<Programming>,
    /// How many of what.
    pub counts: Counts,
    /// What Log rules told since the kernel's programs were first loaded, if it can be read.
    pub log: Option<Log>,
    /// Translations of local endpoints' addresses.
    pub nat: NatCounts,
    /// What is wrong with records, and what holds instead.
    pub problems: Vec<Problem>,
    /// What the planner or the kernel refused, or what else keeps failing.
    pub failures: Vec<Failure>,
    /// Settings that are not defaults: name -> (value, where it comes from).
    pub settings: BTreeMap<String, SettingValue>,
    /// Where metrics are served, if at all.
    pub metrics: Option<String>,
    /// Where health is served, if at all.
    pub health: Option<String>,
}

/// How the connection to the datastore stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Resync {
    /// How it stands.
    pub state: ResyncState,
    /// Since when, RFC 3339.
    pub since: String,
    /// Why the connection is lost.
    pub reason: Option<String>,
}

/// How far enforcement has come. Changes of records are numbered from the start of the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Revisions {
    /// The last change that was taken in.
    pub seen: u64,
    /// The last change that is enforced, with all before it: the kernel has switched, and the flows
    /// that are no longer allowed are revoked.
    pub enforced: u64,
    /// When that became so, RFC 3339; `None` = nothing was enforced yet.
    pub enforced_at: Option<String>,
}

/// One switch of the kernel to new policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Programming {
    /// When, RFC 3339.
    pub at: String,
    /// From the first record of the batch to its enforcement, in milliseconds.
    pub latency_ms: f64,
    /// Updates in the batch.
    pub updates: usize,
    /// How many there were since the agent started.
    pub total: u64,
}

/// Packets that matched Log rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Log {
    /// Told to the agent, which wrote a line each.
    pub logged: u64,
    /// Not told because there were too many of them.
    pub suppressed: u64,
    /// Not told because the agent did not read fast enough, or was not there.
    pub lost: u64,
}

/// How many of what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub workload_endpoints: usize,
    pub local_endpoints: usize,
    pub enforcing: usize,
    pub waiting: usize,
    pub closed: usize,
    pub policies: usize,
    pub active_policies: usize,
    pub staged_policies: usize,
    pub profiles: usize,
    pub tiers: usize,
    pub network_sets: usize,
    pub selectors: usize,
    pub sets: usize,
    pub classes: usize,
    pub addresses: usize,
    pub prefixes: usize,
    pub named_ports: usize,
    pub programs: usize,
}

/// Translations (`ipNATs`) of local endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NatCounts {
    /// In force.
    pub in_force: usize,
    /// Not in force, because of others or of the host.
    pub conflicts: usize,
}

/// An address (or a port of the host) by which a local endpoint is known, and who translates it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Nat {
    /// By which others know it; of a host port `ADDRESS:PORT`.
    pub external: String,
    /// What it is translated to: the endpoint's address, of a host port `ADDRESS:PORT`.
    pub internal: String,
    /// `TCP`, `UDP`, `SCTP` of a host port; otherwise every protocol is translated.
    pub protocol: Option<String>,
    /// Namespace of the endpoint.
    pub namespace: String,
    /// Name of the endpoint.
    pub endpoint: String,
    /// Its host-side interface.
    pub interface: String,
    /// Field of the record that asks for it.
    pub field: NatField,
    /// Who translates.
    pub by: Translator,
    /// Where it stands.
    pub state: NatState,
    /// Why it is not in force.
    pub reason: Option<String>,
    /// Flows that began with it since it is in force.
    pub flows_total: Option<u64>,
    /// Flows that are in the connection table now.
    pub flows: Option<u64>,
}

/// Something wrong with a record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// File, if the record came from one.
    pub file: Option<String>,
    /// Line in it, from 1.
    pub line: Option<u64>,
    /// Object, if the record came from a datastore that has objects: `Kind/[namespace/]name`.
    pub object: Option<String>,
    /// The resource version of the object as it was last read, if it has one.
    pub resource_version: Option<String>,
    /// `Kind/[namespace/]name`, if known.
    pub resource: Option<String>,
    /// Path of the field, if it is one field.
    pub field: Option<String>,
    /// What stands there.
    pub value: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// What holds instead.
    pub in_force: Option<String>,
}

/// Something that failed and is tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Failure {
    /// What: `plan`, `program`, `network`, `datastore`, `interface`, ...
    pub what: String,
    /// Why.
    pub reason: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// How many times in a row.
    pub attempts: u64,
}

/// A setting.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SettingValue {
    /// Where it comes from.
    pub source: String,
}

/// A local endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Namespace of its record.
    pub namespace: String,
    /// Name of its record.
    pub name: String,
    /// Host-side interface.
    pub interface: String,
    /// Its index, if it is there.
    pub ifindex: Option<u32>,
    /// Addresses.
    pub addresses: Vec<String>,
    /// External addresses that its record translates, and those that others translate for it.
    pub external_addresses: Vec<String>,
    /// MAC address of the workload, if known.
    pub mac: Option<String>,
    /// Where it stands.
    pub state: EndpointState,
    /// Why it is not enforcing, or what else there is to say.
    pub reason: Option<String>,
    /// Whether packets may be redirected past the host's stack.
    pub redirectable: Option<bool>,
    /// The same as `redirectable`, under the name that it had first.
    pub fast: Option<bool>,
    /// Profiles in order.
    pub profiles: Vec<String>,
    /// Since when its policy is enforced as it is, RFC 3339: since it changed last, or since the
    /// agent confirmed after its start what was there.
    pub enforced_at: Option<String>,
    /// Towards the workload.
    pub ingress: Option<DirectionPolicy>,
    /// From the workload.
    pub egress: Option<DirectionPolicy>,
    /// What it has of the conntrack tables.
    pub flows: Option<EndpointFlows>,
}

/// What an endpoint has of the conntrack tables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointFlows {
    /// Established IPv4 flows that are charged to it.
    pub established_v4: u32,
    /// How many it may have at present.
    pub allowed_v4: u32,
    /// Established IPv6 flows that are charged to it.
    pub established_v6: u32,
    /// How many it may have at present.
    pub allowed_v6: u32,
    /// New flows that were refused, since its share was used up.
    pub refused: u64,
    /// Unanswered flows of its own that made room for newer ones.
    pub replaced: u64,
}

/// Policy of an endpoint in one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DirectionPolicy {
    /// Policies in the order they are asked, as `tier: Kind/[namespace/]name`.
    pub policies: Vec<String>,
    /// Number of the loaded program.
    pub program: Option<u64>,
    /// Endpoints (times directions) that use the same program, this one included.
    pub shared_by: usize,
    /// Generation of the policy: flows judged under another one are judged again.
    pub generation: Option<u32>,
}

/// Flows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Flows {
    /// Flows that match, at most `limit`.
    pub flows: Vec<Flow>,
    /// How many match in all.
    pub total: usize,
}

/// A flow.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Flow {
    /// Protocol's name or number.
    pub protocol: String,
    /// Who began.
    pub source: FlowEnd,
    /// Who was asked.
    pub destination: FlowEnd,
    /// State.
    pub state: FlowState,
    /// Table that holds it.
    pub table: FlowTable,
    /// Whether its packets are redirected past the host's stack.
    pub redirect: bool,
    /// The same as `redirect`, under the name that it had first.
    pub fast: bool,
    /// Seconds since the first packet.
    pub age_seconds: f64,
    /// Seconds since the last packet (one second's precision).
    pub idle_seconds: f64,
    /// Seconds until it is forgotten if nothing more comes.
    pub expires_seconds: f64,
}

/// One end of a flow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FlowEnd {
    /// Address.
    pub address: String,
    /// Port (ICMP: the identifier); 0 = the protocol has none.
    pub port: u16,
    /// `namespace/name` of the local endpoint, if it is one.
    pub endpoint: Option<String>,
    /// The external address that the other end knows it by, if it is translated; `gone` = by one
    /// that no longer is.
    pub shown_as: Option<String>,
    /// How its policy judged the flow.
    pub judged: Judgement,
}

/// What is loaded for an endpoint in one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramListing {
    /// `namespace/name`.
    pub endpoint: String,
    /// Direction of the policy.
    pub direction: Direction,
    /// Number of the program.
    pub program: u64,
    /// Endpoints that use it in this direction, as `namespace/name`.
    pub shared_by: Vec<String>,
    /// Rules in the order of their numbers.
    pub rules: Vec<String>,
    /// Instructions.
    pub lines: Vec<ProgramLine>,
}

/// An instruction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProgramLine {
    /// Part of the program (parts tail-call each other).
    pub chunk: usize,
    /// Index in the part.
    pub index: usize,
    /// The instruction.
    pub code: String,
    /// What it is for, where that changes.
    pub note: Option<String>,
}

/// An error answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// What is wrong.
    pub error: String,
}
