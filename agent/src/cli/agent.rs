//! Arguments of the commands that ask the running agent, or clean up after it.

use clap::Args;

pub(super) const STATUS_EXAMPLES: &str = "\
Examples:
  felid status
  felid status -o json | jq .problems";

pub(super) const ENDPOINTS_EXAMPLES: &str = "\
Examples:
  felid endpoints -o wide
  felid endpoints -n shop web-1-eth0 -o json";

pub(super) const FLOWS_EXAMPLES: &str = "\
Examples:
  felid flows --protocol tcp --address 10.0.0.0/24
  felid flows --endpoint shop/web-1-eth0 --state established -o json
  felid flows --port 443 --limit 20";

pub(super) const NAT_EXAMPLES: &str = "\
What felid translates (ipNATs), and beside it what others do for the same endpoints: awsElasticIPs (AWS), hostPort (the CNI plugin
portmap).

Examples:
  felid nat
  felid nat 203.0.113.10
  felid nat -n shop -o json | jq '.[] | select(.state == \"conflict\")'";

pub(super) const PROGRAM_EXAMPLES: &str = "\
Examples:
  felid program shop/web-1-eth0
  felid program cali1234567890a --direction ingress
  felid program web-1-eth0 -n shop -o json";

pub(super) const CLEANUP_EXAMPLES: &str = "\
Refuses while an agent runs on the same run directory. Connections are no longer judged afterwards.

Examples:
  felid cleanup
  felid cleanup --bpffs /sys/fs/bpf --interface-prefix cali";

/// Arguments of commands that ask the running agent.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// table, wide, json or yaml
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "table")]
    pub output: String,
}

/// What commands that list things of all namespaces have in common.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this namespace
    #[arg(long, short = 'n', value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Accepted as calicoctl's; all namespaces are shown unless one is named
    #[arg(long, short = 'A', hide = true)]
    pub all_namespaces: bool,
    /// Output.
    #[command(flatten)]
    pub agent: AgentArgs,
}

impl ListArgs {
    /// Returns whether things of this namespace are shown.
    pub fn shows(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|only| only == namespace)
    }
}

/// Arguments of `endpoints`.
#[derive(Debug, Args)]
pub struct EndpointsArgs {
    /// Names of endpoints: NAME, NAMESPACE/NAME, interface or address; none = all
    #[arg(value_name = "ENDPOINT")]
    pub names: Vec<String>,
    /// Namespace and output.
    #[command(flatten)]
    pub list: ListArgs,
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
    /// Only flows of this local endpoint (NAME, NAMESPACE/NAME, interface or address)
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
    pub agent: AgentArgs,
}

/// Arguments of `nat`.
#[derive(Debug, Args)]
pub struct NatArgs {
    /// Addresses, or endpoints: NAME, NAMESPACE/NAME or interface; none = all
    #[arg(value_name = "ADDRESS|ENDPOINT")]
    pub names: Vec<String>,
    /// Namespace and output.
    #[command(flatten)]
    pub list: ListArgs,
}

/// Arguments of `program`.
#[derive(Debug, Args)]
pub struct ProgramArgs {
    /// NAME, NAMESPACE/NAME, interface or address of a local endpoint
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
    pub agent: AgentArgs,
}

/// Arguments of `cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// Prefixes of workload interfaces, split at commas [env: FELID_INTERFACE_PREFIX] [default:
    /// cali]
    #[arg(long, value_name = "PREFIX,...")]
    pub interface_prefix: Option<String>,
    /// text or json
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "text")]
    pub output: String,
}
