//! Arguments of the tools that need neither records nor an agent.

use clap::Args;

/// Examples below the help of `selector`.
pub(super) const SELECTOR_EXAMPLES: &str = "\
Examples:
  felid selector \"role == 'db' && has(tier)\" -l role=db       true or false
  felid selector \"a in {'y', 'x'}\" -o json                    canonical form and uid as well
  echo '{\"selector\": \"has(a)\", \"labels\": {\"a\": \"b\"}}' | felid selector

Without SELECTOR, each line of standard input is a question {\"selector\", \"labels\"}, answered by one line {\"match\"}; \
without labels by {\"canonical\", \"uid\"}; a selector that does not parse by {\"error\", \"column\"}. all() and global() are \
always true here.

Exit codes: 0 = answered; 2 = SELECTOR does not parse. On standard input a selector that does not parse is an answer; a line \
that is no question is answered by {\"error\"}, and the exit code is 1 once all lines are answered.";

/// Examples below the help of `name`.
pub(super) const NAME_EXAMPLES: &str = "\
Examples:
  felid name --node node1 --pod my-nginx -n web             endpoint's name and interface
  felid name --node host1 --orchestrator openstack --workload vm7 --endpoint tap1
  felid name node1-k8s-my--nginx-eth0                       what it is made of
  felid name node1-k8s-my--nginx-eth0 --node node1          whether it fits: true or false
  echo '{\"op\": \"parse\", \"name\": \"node1-k8s-web-eth0\"}' | felid name

Names are NODE-ORCHESTRATOR-X-ENDPOINT, a - in a part written --; X is the pod (k8s), the container ID (cni), the word \
libnetwork, or else the workload. Without --orchestrator it is k8s where --pod is given and cni where --container-id is; \
the endpoint of pods is eth0 unless it is named.

Without any argument each line of standard input is a question:
  {\"op\": \"build\", identifiers, \"allowPrefix\"}                      -> {\"name\"}
  {\"op\": \"match\", identifiers, \"name\"}                             -> {\"match\"}
  {\"op\": \"parse\", \"name\"}                                          -> {\"ids\"}
  {\"op\": \"veth\", \"namespace\", \"pod\", \"interfacePrefixes\"}          -> {\"name\"}
or the answer is {\"error\", \"erroredField\"}. The exit code is 1 if a line was no question.";

/// Arguments of `selector`.
#[derive(Debug, Args)]
pub struct SelectorArgs {
    /// Selector; without it, JSON lines are read from standard input
    #[arg(value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Label of what the selector is asked about; may be given several times
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", requires = "selector")]
    pub labels: Vec<String>,
    /// text, or json: {"match", "canonical", "uid"}
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "text")]
    pub output: String,
}

/// Arguments of `name`.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// Name of a workload endpoint, to be taken apart or compared
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Node (spec.node)
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Orchestrator (spec.orchestrator): k8s, cni, libnetwork, openstack, ...
    #[arg(long, value_name = "NAME")]
    pub orchestrator: Option<String>,
    /// Pod (spec.pod), of orchestrator k8s
    #[arg(long, value_name = "NAME")]
    pub pod: Option<String>,
    /// Container ID (spec.containerID), of orchestrator cni
    #[arg(long, value_name = "ID")]
    pub container_id: Option<String>,
    /// Workload (spec.workload), of other orchestrators
    #[arg(long, value_name = "NAME")]
    pub workload: Option<String>,
    /// Endpoint (spec.endpoint)
    #[arg(long, value_name = "NAME")]
    pub endpoint: Option<String>,
    /// Namespace of the pod, for its interface [default: default]
    #[arg(long, short = 'n', value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Prefixes of workload interfaces; the first counts [env: FELID_INTERFACE_PREFIX] [default:
    /// cali]
    #[arg(long, value_name = "PREFIX,...")]
    pub interface_prefix: Option<String>,
    /// Let the name end with a - where the first identifier is missing: the prefix that names of
    /// such endpoints share
    #[arg(long)]
    pub allow_prefix: bool,
    /// text or json
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "text")]
    pub output: String,
}
