//! Arguments of every command, as clap reads them.
//!
//! Settings of the agent are kept as text here: one place ([`crate::config`]) parses them, wherever they come from.

mod cases;
mod run;
mod tools;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use cases::{Engine, ExplainArgs, Family, TestArgs};
pub use run::RunArgs;
pub use tools::{NameArgs, SelectorArgs};

/// Exit codes, printed below every help text.
const EXIT_CODES: &str = "\
Exit codes:
  0  done; everything asked for was found and is valid
  1  failed: no such record or file, invalid record, no running agent, ... (the reason is on standard error)
  2  wrong usage: the arguments cannot be followed, whatever there is";

/// Version with what a bug report needs: no git, so that a source archive builds the same.
fn long_version() -> &'static str {
    static TEXT: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        format!(
            "{}\npinned kernel state: ABI {}\nbuild: {} {}, {}",
            env!("CARGO_PKG_VERSION"),
            felid_common::ABI_VERSION,
            std::env::consts::OS,
            std::env::consts::ARCH,
            if cfg!(debug_assertions) { "debug" } else { "release" },
        )
    });
    &TEXT
}

/// Per-host dataplane agent: turns Calico WorkloadEndpoint and policy records into eBPF programs on each workload's interface.
#[derive(Debug, Parser)]
#[command(name = "felid", version, long_version = long_version(), after_help = EXIT_CODES, propagate_version = true)]
#[command(arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    /// Places that several commands need.
    #[command(flatten)]
    pub places: Places,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent: read records, enforce them in the kernel, until SIGTERM or SIGINT (the kernel goes on enforcing)
    #[command(after_help = run::EXAMPLES)]
    Run(Box<RunArgs>),
    /// Show records of one kind, by name or all of them
    #[command(after_help = GET_EXAMPLES)]
    Get(GetArgs),
    /// Create records; one that exists already is an error
    #[command(after_help = WRITE_EXAMPLES)]
    Create(CreateArgs),
    /// Create records, or replace those that exist
    #[command(after_help = WRITE_EXAMPLES)]
    Apply(WriteArgs),
    /// Replace records; one that does not exist is an error
    #[command(after_help = WRITE_EXAMPLES)]
    Replace(WriteArgs),
    /// Delete records by file, or by kind and names
    #[command(after_help = DELETE_EXAMPLES)]
    Delete(DeleteArgs),
    /// Check records without writing them: every error at once
    #[command(after_help = VALIDATE_EXAMPLES)]
    Validate(ValidateArgs),
    /// Turn records of Kubernetes and of Calico's v1 form into Calico v3 resources
    #[command(after_help = CONVERT_EXAMPLES)]
    Convert(ConvertArgs),
    /// Run policy tests: what can reach what under records, by the reference, in the kernel, or live
    #[command(after_help = cases::TEST_EXAMPLES)]
    Test(TestArgs),
    /// Why a packet passes or not: every tier, policy and rule on both sides
    #[command(after_help = cases::EXPLAIN_EXAMPLES)]
    Explain(Box<ExplainArgs>),
    /// Whether a selector matches labels, or its canonical form
    #[command(after_help = tools::SELECTOR_EXAMPLES)]
    Selector(SelectorArgs),
    /// The name of a workload endpoint and its host-side interface, and what a name is made of
    #[command(after_help = tools::NAME_EXAMPLES)]
    Name(NameArgs),
    /// What the running agent does: in sync, problems with records, counts, last programming
    #[command(after_help = STATUS_EXAMPLES)]
    Status(AskArgs),
    /// The running agent's local endpoints: interface, addresses, state, policies, programs
    #[command(after_help = ENDPOINTS_EXAMPLES)]
    Endpoints(EndpointsArgs),
    /// The running agent's connection table
    #[command(after_help = FLOWS_EXAMPLES)]
    Flows(FlowsArgs),
    /// External addresses of the running agent's local endpoints: what is translated, by whom, with how many flows
    #[command(after_help = NAT_EXAMPLES, visible_alias = "nats")]
    Nat(NatArgs),
    /// Annotated listing of the policy programs that are loaded for an endpoint
    #[command(after_help = PROGRAM_EXAMPLES)]
    Program(ProgramArgs),
    /// Remove everything the agent put into the kernel: interfaces are open afterwards
    #[command(after_help = CLEANUP_EXAMPLES)]
    Cleanup(CleanupArgs),
}

const GET_EXAMPLES: &str = "\
Kinds, in any case: workloadendpoint(s) wep weps; networkpolicy networkpolicies policy policies pol pols np;
  globalnetworkpolicy globalnetworkpolicies gnp gnps; profile(s) pro pros; tier(s); networkset(s) netsets;
  globalnetworkset(s) gnetsets; felixconfiguration(s) felixconfig felixconfigs;
  and of Kubernetes: pod(s) po; kubernetesnetworkpolicies knp; adminnetworkpolicies anp; baselineadminnetworkpolicies banp;
  clusternetworkpolicies; namespaces ns; serviceaccounts sa; services svc; endpointslices

Examples:
  felid get wep -A -o wide              every workload endpoint, all columns
  felid get np allow-web -n shop -o yaml
  felid get gnp -o name | xargs felid delete
  felid get wep -o custom-columns=NAME,NODE

Exit code 1 if a name is unknown; records that exist are printed all the same.";

const WRITE_EXAMPLES: &str = "\
Examples:
  felid apply -f policy.yaml
  felid apply -f records/ --datastore dir:/etc/felid/records
  felid get np allow-web -o yaml | sed s/80/8080/ | felid replace -f -

All documents are checked first; if one is bad, nothing is written and the exit code is 1. A new resource gets a file
KIND.NAMESPACE.NAME.yaml; others are rewritten where they stand, the rest of their file stays as it is.";

const DELETE_EXAMPLES: &str = "\
Examples:
  felid delete np allow-web -n shop
  felid delete -f policy.yaml
  felid delete wep --skip-not-exists node1-k8s-web-eth0";

const VALIDATE_EXAMPLES: &str = "\
Examples:
  felid validate -f policy.yaml
  felid validate -f records/
  cat *.json | felid validate -f - -o json     one line {\"valid\": ..., \"errors\": [...]} a document, in input order

Exit code 1 if any document is bad.";

const CONVERT_EXAMPLES: &str = "\
Pods become WorkloadEndpoints; Namespaces and ServiceAccounts Profiles; NetworkPolicies of Kubernetes, AdminNetworkPolicies,
BaselineAdminNetworkPolicies and ClusterNetworkPolicies become (Global)NetworkPolicies; v1 workloadEndpoints v3 ones. Calico v3
resources stay as they are. The agent reads all of these itself: nothing needs to be converted for it.

Examples:
  felid convert -f policy.yaml
  kubectl get pods,networkpolicies -A -o yaml | felid convert -f - > records.yaml
  cat *.json | felid convert -f - -o json
      one line a document, in input order: {\"resources\": [...]}, {\"none\": true} or {\"error\": ...};
      \"error\" beside \"resources\" where rules were left out or replaced by ones that deny

Exit code 1 if there is an error in any document.";

const STATUS_EXAMPLES: &str = "\
Examples:
  felid status
  felid status -o json | jq .problems";

const ENDPOINTS_EXAMPLES: &str = "\
Examples:
  felid endpoints -o wide
  felid endpoints -n shop web-1-eth0 -o json";

const FLOWS_EXAMPLES: &str = "\
Examples:
  felid flows --protocol tcp --address 10.0.0.0/24
  felid flows --endpoint shop/web-1-eth0 --state established -o json
  felid flows --port 443 --limit 20";

const NAT_EXAMPLES: &str = "\
What felid translates (ipNATs), and beside it what others do for the same endpoints: awsElasticIPs (AWS), hostPort (the CNI plugin
portmap).

Examples:
  felid nat
  felid nat 203.0.113.10
  felid nat -n shop -o json | jq '.[] | select(.state == \"conflict\")'";

const PROGRAM_EXAMPLES: &str = "\
Examples:
  felid program shop/web-1-eth0
  felid program cali1234567890a --direction ingress
  felid program web-1-eth0 -n shop -o json";

const CLEANUP_EXAMPLES: &str = "\
Refuses while an agent runs on the same run directory. Connections are no longer judged afterwards.

Examples:
  felid cleanup
  felid cleanup --bpffs /sys/fs/bpf --interface-prefix cali";

/// Where things are; every command takes these flags, before or after its name, and uses those that it needs.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Places")]
pub struct Places {
    /// Datastore with the records [env: FELID_DATASTORE] [default: dir:/etc/felid/records]
    #[arg(long, value_name = "dir:PATH", global = true)]
    pub datastore: Option<String>,
    /// File with settings, in FelixConfiguration's names [env: FELID_CONFIG]
    #[arg(long, short = 'c', value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Directory for accepted versions of records, kept across restarts [env: FELID_STATE_DIR] [default: /var/lib/felid]
    #[arg(long, value_name = "DIR", global = true)]
    pub state_dir: Option<String>,
    /// Directory of the agent's socket and lock [env: FELID_RUN_DIR] [default: /run/felid]
    #[arg(long, value_name = "DIR", global = true)]
    pub run_dir: Option<String>,
    /// bpf file system, or a directory in it, for what is pinned [env: FELID_BPFFS] [default: /sys/fs/bpf]
    #[arg(long, value_name = "DIR", global = true)]
    pub bpffs: Option<String>,
}

impl Places {
    /// The flags that are settings.
    pub fn flags(&self) -> [(&'static str, Option<&String>); 4] {
        [
            ("datastore", self.datastore.as_ref()),
            ("state-dir", self.state_dir.as_ref()),
            ("run-dir", self.run_dir.as_ref()),
            ("bpffs", self.bpffs.as_ref()),
        ]
    }
}

/// Files to read.
#[derive(Debug, Clone, Default, Args)]
pub struct FileArgs {
    /// File with YAML or JSON documents, a directory of such files (with all below it), or - for standard input
    #[arg(long = "filename", short = 'f', value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
    /// Accepted as calicoctl's; directories are always read with all below them
    #[arg(long, short = 'R', hide = true)]
    pub recursive: bool,
    /// Files and directories without any document are no error
    #[arg(long)]
    pub skip_empty: bool,
}

/// Namespace of names and of documents that name none.
#[derive(Debug, Clone, Default, Args)]
pub struct NamespaceArgs {
    /// Namespace (of names, and of documents that do not say theirs) [default: default]
    #[arg(long, short = 'n', value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Kind or an alias, or KIND/NAME
    #[arg(value_name = "KIND", required_unless_present = "files")]
    pub kind: Option<String>,
    /// Names; none = all
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Files that say which records to show.
    #[command(flatten)]
    pub files: FileArgs,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// Show all namespaces
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// table (also ps), wide, yaml, json, name, or custom-columns=COLUMN,...
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "table")]
    pub output: String,
}

/// Arguments of `apply` and `replace`.
#[derive(Debug, Args)]
pub struct WriteArgs {
    /// Files.
    #[command(flatten)]
    pub files: FileArgs,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// text, or json: one line {"resource", "action", "file"} a record
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "text")]
    pub output: String,
}

/// Arguments of `create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What all writing commands have.
    #[command(flatten)]
    pub write: WriteArgs,
    /// Leave records that exist alone instead of failing
    #[arg(long)]
    pub skip_exists: bool,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Kind or an alias, or KIND/NAME
    #[arg(value_name = "KIND", required_unless_present = "files")]
    pub kind: Option<String>,
    /// Names
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Do not fail for records that do not exist
    #[arg(long, short = 's')]
    pub skip_not_exists: bool,
    /// What all writing commands have.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Arguments of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Files.
    #[command(flatten)]
    pub files: FileArgs,
    /// Namespace of documents that do not say theirs
    #[arg(long, short = 'n', value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// text, or json: one line a document, in input order
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "text")]
    pub output: String,
}

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Files.
    #[command(flatten)]
    pub files: FileArgs,
    /// Namespace of documents that do not say theirs
    #[arg(long, short = 'n', value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// yaml, or json: one line a document, in input order
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "yaml")]
    pub output: String,
}

/// Arguments of commands that ask the running agent.
#[derive(Debug, Clone, Args)]
pub struct AskArgs {
    /// table, wide, json or yaml
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "table")]
    pub output: String,
}

/// Arguments of `endpoints`.
#[derive(Debug, Args)]
pub struct EndpointsArgs {
    /// Names, NAMESPACE/NAME, or interfaces; none = all
    #[arg(value_name = "ENDPOINT")]
    pub names: Vec<String>,
    /// Only this namespace
    #[arg(long, short = 'n', value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Accepted as calicoctl's; all namespaces are shown unless one is named
    #[arg(long, short = 'A', hide = true)]
    pub all_namespaces: bool,
    /// Output.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Arguments of `flows`.
#[derive(Debug, Args)]
pub struct FlowsArgs {
    /// Only flows with this address or an address in this prefix at either end
    #[arg(long, value_name = "ADDRESS|PREFIX")]
    pub address: Vec<String>,
    /// Only flows from this address or prefix (originator)
    #[arg(long, value_name = "ADDRESS|PREFIX")]
    pub source: Vec<String>,
    /// Only flows to this address or prefix (responder)
    #[arg(long, value_name = "ADDRESS|PREFIX")]
    pub destination: Vec<String>,
    /// Only flows with this port at either end
    #[arg(long, value_name = "PORT")]
    pub port: Vec<u16>,
    /// Only this protocol: a name (TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite) or number
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,
    /// Only flows of this local endpoint (NAME, NAMESPACE/NAME or interface)
    #[arg(long, value_name = "ENDPOINT")]
    pub endpoint: Option<String>,
    /// Only flows in this state: new, answered, established, closing, closed, reset, revoked
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub limit: usize,
    /// Output.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Arguments of `nat`.
#[derive(Debug, Args)]
pub struct NatArgs {
    /// Addresses, or endpoints: NAME, NAMESPACE/NAME, or interface; none = all
    #[arg(value_name = "ADDRESS|ENDPOINT")]
    pub names: Vec<String>,
    /// Only this namespace
    #[arg(long, short = 'n', value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Accepted as calicoctl's; all namespaces are shown unless one is named
    #[arg(long, short = 'A', hide = true)]
    pub all_namespaces: bool,
    /// Output.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Arguments of `program`.
#[derive(Debug, Args)]
pub struct ProgramArgs {
    /// NAME, NAMESPACE/NAME or interface of a local endpoint
    #[arg(value_name = "ENDPOINT")]
    pub endpoint: String,
    /// Namespace of the name
    #[arg(long, short = 'n', value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// ingress (towards the workload), egress, or both
    #[arg(long, short = 'd', value_name = "DIRECTION", default_value = "both")]
    pub direction: String,
    /// Output.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Arguments of `cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// Prefixes of workload interfaces, split at commas [env: FELID_INTERFACE_PREFIX] [default: cali]
    #[arg(long, value_name = "PREFIX,...")]
    pub interface_prefix: Option<String>,
    /// text or json
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "text")]
    pub output: String,
}
