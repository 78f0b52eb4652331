//! From arguments to an exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, Places};

/// How a command ended that did not fail with an error of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for was done.
    Done,
    /// Some of it failed; the reasons are on standard error already.
    Failed,
}

/// Arguments that cannot be followed, whatever there is in files, in the datastore or in the kernel.
#[derive(Debug)]
pub(crate) struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// An error for wrong usage, which ends with a code of its own.
pub(crate) fn usage(reason: impl std::fmt::Display) -> anyhow::Error {
    Usage(reason.to_string()).into()
}

/// Code for wrong usage, clap's too.
const USAGE: u8 = 2;

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output, with code 0; wrong usage to standard error, with code 2. A closed pipe is
            // nobody's fault.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    match dispatch(&cli.places, cli.command) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "felid: {error:#}");
            if error.chain().any(|cause| cause.is::<Usage>()) {
                ExitCode::from(USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn dispatch(places: &Places, command: Command) -> anyhow::Result<Outcome> {
    let out = &mut std::io::BufWriter::new(std::io::stdout().lock());
    let outcome = match command {
        Command::Run(args) => return crate::run::run(places, &args),
        Command::Get(args) => crate::records::get(places, &args, out),
        Command::Create(args) => crate::records::create(places, &args, out),
        Command::Apply(args) => crate::records::apply(places, &args, out),
        Command::Replace(args) => crate::records::replace(places, &args, out),
        Command::Delete(args) => crate::records::delete(places, &args, out),
        Command::Validate(args) => crate::records::validate(&args, out),
        Command::Convert(args) => crate::records::convert(&args, out),
        Command::Test(args) => crate::test::test(&args, out),
        Command::Explain(args) => crate::explain::explain(places, &args, out),
        Command::Selector(args) => crate::tools::selector(&args, out),
        Command::Name(args) => crate::tools::name(places, &args, out),
        Command::Status(args) => crate::ask::status(places, &args, out),
        Command::Endpoints(args) => crate::ask::endpoints(places, &args, out),
        Command::Flows(args) => crate::ask::flows(places, &args, out),
        Command::Nat(args) => crate::ask::nat(places, &args, out),
        Command::Program(args) => crate::ask::program(places, &args, out),
        Command::Cleanup(args) => crate::cleanup::cleanup(places, &args, out),
    };
    // What was found before an error is worth printing.
    let flushed = out.flush();
    let outcome = outcome?;
    flushed?;
    Ok(outcome)
}

/// Whoever read our output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
