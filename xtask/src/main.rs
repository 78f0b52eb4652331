//! `cargo xtask`: builds, tests, benches and demonstrates felid. Every command first installs what
//! it needs and is missing.
#![forbid(unsafe_code)]

mod bench;
mod check;
mod command;
mod comments;
mod demo;
mod mutation;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests, benches and demonstrates felid")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs what is missing: rust-src, bpf-linker with its LLVM, Debian packages. Idempotent.
    Setup,
    /// Builds the agent (release).
    Build,
    /// A host and six workloads in namespaces, the agent on real records: shows who reaches whom,
    /// before and after a policy is edited.
    Demo {
        /// Leave everything up, and say what to try.
        #[arg(long)]
        keep: bool,
        /// Remove what an earlier --keep left.
        #[arg(long, conflicts_with = "keep")]
        down: bool,
    },
    /// What a packet, a connection and a change cost.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Random policies and packets: the compiled programs in the kernel against the reference
    /// evaluator.
    Equivalence {
        /// How many pairs of policy and packet.
        #[arg(long, default_value_t = 100_000)]
        pairs: u64,
        /// Seed of the first policy; the seeds of a run are printed.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Breaks the compiler in twenty ways, one at a time in a copy of the sources, and shows that
    /// equivalence finds each.
    Mutation {
        /// Only mutations whose description contains this.
        filter: Option<String>,
    },
    /// Fuzzes the readers of records, selectors, policy tests and streams of records.
    Fuzz {
        /// Seconds for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Echoes on a TCP port until killed: the demonstration's workloads.
    #[command(hide = true)]
    Serve {
        /// Port.
        port: u16,
    },
    /// Runs everything: formatting, lints, documentation, tests with and without root. Ends with
    /// the counts.
    Test {
        /// Only tests whose name contains this.
        filter: Option<String>,
        /// Only what needs no root rights.
        #[arg(long)]
        no_root: bool,
    },
    /// Formatting, lints, documentation, licences and sources of dependencies.
    Check,
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup => setup::all(),
        Task::Build => {
            setup::build_tools().and_then(|()| command::build_agent().map(|path| println!("{}", path.display())))
        }
        Task::Demo { down: true, .. } => demo::down(),
        Task::Demo { keep, .. } => demo::run(keep),
        Task::Bench(bench) => bench.run(),
        Task::Equivalence { pairs, seed } => test::equivalence(pairs, seed),
        Task::Mutation { filter } => mutation::run(filter.as_deref()),
        Task::Fuzz { seconds } => test::fuzz(seconds),
        Task::Serve { port } => demo::serve(port),
        Task::Test { filter, no_root } => test::run(filter.as_deref(), no_root),
        Task::Check => setup::build_tools().and_then(|()| check::all(true).into_result()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
