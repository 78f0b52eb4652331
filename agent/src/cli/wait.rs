//! Arguments of the commands that wait for the running agent.

use clap::Args;

use super::{FileArgs, NamespaceArgs};

pub(super) const WAIT_EXAMPLES: &str = "\
Returns when the version of the record that stands in the datastore now, or a later one, is enforced in the kernel of this node: new
connections are judged by it, and established ones that it forbids are revoked. Of a workload endpoint, when its policy is enforced at its
interface. The agent tells it at once; nothing is polled.

Examples:
  felid apply -f policy.yaml && felid wait -f policy.yaml
  felid wait networkpolicy/allow-web -n shop --timeout 5s
  felid wait wep node1-k8s-web-eth0 -n shop
  felid wait np/allow-web -n shop --for delete

Exit codes: 0 = it is so; 1 = the time is over (the reason is on standard error), there is no such record, it is bad so that an earlier
version or nothing is in force, the endpoint is of another node, or no agent runs; 2 = wrong usage.";

pub(super) const WAIT_READY_EXAMPLES: &str = "\
Returns when the agent is ready: it has read the datastore, the kernel enforces what that says, and nothing is refused. An agent that does
not run yet is waited for.

Examples:
  systemctl start felid && felid wait-ready --timeout 1m

Exit codes: 0 = it is ready; 1 = the time is over (the reasons are on standard error).";

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// KIND/NAME, or a kind or an alias before names
    #[arg(value_name = "KIND/NAME", required_unless_present = "files")]
    pub kind: Option<String>,
    /// Names
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Files that say which records to wait for.
    #[command(flatten)]
    pub files: FileArgs,
    /// Namespace.
    #[command(flatten)]
    pub namespace: NamespaceArgs,
    /// enforced, or delete: the record is gone, and that is enforced
    #[arg(long = "for", value_name = "CONDITION", default_value = "enforced")]
    pub condition: String,
    /// How long to wait at most, for all of them together; 0 = look once, negative = a week
    #[arg(long, value_name = "DURATION", default_value = "30s", allow_hyphen_values = true)]
    pub timeout: String,
    /// text or json (one line a record)
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "text")]
    pub output: String,
}

/// Arguments of `wait-ready`.
#[derive(Debug, Args)]
pub struct WaitReadyArgs {
    /// How long to wait at most; 0 = look once, negative = a week
    #[arg(long, value_name = "DURATION", default_value = "30s", allow_hyphen_values = true)]
    pub timeout: String,
    /// text or json
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "text")]
    pub output: String,
}
