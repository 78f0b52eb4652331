//! Arguments of the commands that judge packets.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::FileArgs;

/// Examples below the help of `test`.
pub(super) const TEST_EXAMPLES: &str = "\
Examples:
  felid test policies.json                            by the reference evaluator: needs neither root nor a kernel
  felid test tests/*.yaml --engine kernel             every packet through the compiled programs, as the agent loads them
  felid test tests/*.yaml --engine live               a whole agent between namespaces, with real packets
  felid test policies.json -o json | jq .failed

FILE holds a JSON array of cases, or YAML documents; - is standard input. The format: docs/policy-tests.md. Records are judged as they
stand, what `felid validate` would refuse too. Where an expectation fails, the rule that decided is named.

Exit codes: 0 = every expectation holds; 1 = one does not, or a case cannot be carried out; 2 = a file that holds no cases.";

/// What carries tests out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// The reference evaluator
    Reference,
    /// The compiled programs and their maps in the kernel, by test runs (root)
    Kernel,
    /// The agent between network namespaces, with real packets (root)
    Live,
}

/// Arguments of `test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Files of cases, or - for standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// What judges the packets
    #[arg(long, value_name = "ENGINE", value_enum, default_value = "reference")]
    pub engine: Engine,
    /// text, or json: {"cases", "expectations", "failed"}
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "text")]
    pub output: String,
}

/// Examples below the help of `explain`.
pub(super) const EXPLAIN_EXAMPLES: &str = "\
Examples:
  felid explain --from shop/web --to shop/db --protocol tcp --port 5432
  felid explain --from 203.0.113.7 --to shop/web --protocol tcp --port 443 -f records/
  felid explain --from shop/web --to host --protocol icmp -o json

Ends are a workload (NAMESPACE/NAME of a pod, workload or endpoint, NAME, interface or address), any other address, or host. Records: those of -f; else of --datastore; else what the running
agent has in force; else the configured datastore. Nothing is sent: the walk is the reference evaluator's, and beside it the compiled
programs run on that very packet in a kernel of their own (root). A workload on another node than the agent's is only an address to it.

Exit codes: 0 = explained, whatever the verdict; 1 = no such workload or no records; 2 = wrong usage.";

/// IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IpFamily {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Who sends: NAMESPACE/NAME, interface, address, or host
    #[arg(long, value_name = "WHO")]
    pub from: String,
    /// Who shall receive: NAMESPACE/NAME, interface, address, or host
    #[arg(long, value_name = "WHO")]
    pub to: String,
    /// TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite (any case) or a number
    #[arg(long, value_name = "PROTOCOL", default_value = "TCP")]
    pub protocol: String,
    /// Destination port
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Source port [default: 40000]
    #[arg(long, value_name = "PORT")]
    pub source_port: Option<u16>,
    /// ICMP type [default: echo request]
    #[arg(long, value_name = "TYPE")]
    pub icmp_type: Option<u8>,
    /// ICMP code [default: 0]
    #[arg(long, value_name = "CODE")]
    pub icmp_code: Option<u8>,
    /// Of workloads with both, the addresses of this version [default: IPv4 if both ends have it]
    #[arg(long, value_name = "VERSION", value_enum)]
    pub ip: Option<IpFamily>,
    /// Records to explain by.
    #[command(flatten)]
    pub files: FileArgs,
    /// text or json
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "text")]
    pub output: String,
}
