//! Arguments of the commands that judge packets.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

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
