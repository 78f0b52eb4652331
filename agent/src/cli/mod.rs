//! Arguments of every command, as clap reads them.
//!
//! Settings of the agent are kept as text here: one place ([`crate::config`]) parses them, wherever
//! they come from.

mod agent;
mod cases;
mod records;
mod run;
mod tools;
mod wait;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use agent::{AgentArgs, CleanupArgs, EndpointsArgs, FlowsArgs, NatArgs, ProgramArgs};
pub use cases::{Engine, ExplainArgs, IpFamily, TestArgs};
pub use records::{
    ApplyArgs, ConvertArgs, CreateArgs, DeleteArgs, FileArgs, GetArgs, NamespaceArgs, StrayArgs, ValidateArgs,
    WriteArgs,
};
pub use run::RunArgs;
pub use tools::{NameArgs, SelectorArgs};
pub use wait::{WaitArgs, WaitReadyArgs};

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

/// Per-host dataplane agent: turns Calico WorkloadEndpoint and policy records into eBPF programs on
/// each workload's interface.
#[derive(Debug, Parser)]
#[command(name = "felid", version, long_version = long_version(), after_help = EXIT_CODES, propagate_version = true)]
#[command(arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    /// Flags that every command takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent: read records, enforce them in the kernel, until SIGTERM or SIGINT (the kernel
    /// goes on enforcing)
    #[command(after_help = run::EXAMPLES)]
    Run(Box<RunArgs>),
    /// Show records of one kind, by name or all of them
    #[command(after_help = records::GET_EXAMPLES)]
    Get(GetArgs),
    /// Create records; one that exists already is an error
    #[command(after_help = records::WRITE_EXAMPLES)]
    Create(CreateArgs),
    /// Create records, or replace those that exist
    #[command(after_help = records::WRITE_EXAMPLES)]
    Apply(ApplyArgs),
    /// Replace records; one that does not exist is an error
    #[command(after_help = records::WRITE_EXAMPLES)]
    Replace(ApplyArgs),
    /// Delete records by file, or by kind and names
    #[command(after_help = records::DELETE_EXAMPLES)]
    Delete(DeleteArgs),
    /// Check records without writing them: every error at once
    #[command(after_help = records::VALIDATE_EXAMPLES)]
    Validate(ValidateArgs),
    /// Turn records of Kubernetes and of Calico's v1 form into Calico v3 resources
    #[command(after_help = records::CONVERT_EXAMPLES)]
    Convert(ConvertArgs),
    /// Run policy tests: what can reach what under records, by the reference, in the kernel, or
    /// live
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
    #[command(after_help = agent::STATUS_EXAMPLES)]
    Status(AgentArgs),
    /// Wait until a record is enforced by the running agent, or gone
    #[command(after_help = wait::WAIT_EXAMPLES)]
    Wait(WaitArgs),
    /// Wait until the running agent is ready
    #[command(after_help = wait::WAIT_READY_EXAMPLES)]
    WaitReady(WaitReadyArgs),
    /// The running agent's local endpoints: interface, addresses, state, policies, programs
    #[command(after_help = agent::ENDPOINTS_EXAMPLES)]
    Endpoints(EndpointsArgs),
    /// The running agent's connection table
    #[command(after_help = agent::FLOWS_EXAMPLES)]
    Flows(FlowsArgs),
    /// External addresses of the running agent's local endpoints: what is translated, by whom, with
    /// how many flows
    #[command(after_help = agent::NAT_EXAMPLES, visible_alias = "nats")]
    Nat(NatArgs),
    /// Annotated listing of the policy programs that are loaded for an endpoint
    #[command(after_help = agent::PROGRAM_EXAMPLES)]
    Program(ProgramArgs),
    /// Remove everything the agent put into the kernel: interfaces are open afterwards
    #[command(after_help = agent::CLEANUP_EXAMPLES)]
    Cleanup(CleanupArgs),
}

/// Where things are; every command takes these flags, before or after its name, and uses those that
/// it needs.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Datastore with the records [env: FELID_DATASTORE] [default: dir:/etc/felid/records]
    #[arg(long, value_name = "dir:PATH", global = true)]
    pub datastore: Option<String>,
    /// File with settings, in FelixConfiguration's names [env: FELID_CONFIG]
    #[arg(long, short = 'c', value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Directory for accepted versions of records, kept across restarts [env: FELID_STATE_DIR]
    /// [default: /var/lib/felid]
    #[arg(long, value_name = "DIR", global = true)]
    pub state_dir: Option<String>,
    /// Directory of the agent's socket and lock [env: FELID_RUN_DIR] [default: /run/felid]
    #[arg(long, value_name = "DIR", global = true)]
    pub run_dir: Option<String>,
    /// bpf file system, or a directory in it, for what is pinned [env: FELID_BPFFS] [default:
    /// /sys/fs/bpf]
    #[arg(long, value_name = "DIR", global = true)]
    pub bpffs: Option<String>,
}

impl GlobalArgs {
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
