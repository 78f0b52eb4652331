//! From arguments to an exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, GlobalArgs};
use crate::outcome::{Outcome, Usage};

/// Code for wrong usage, clap's too.
const USAGE: u8 = 2;

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output, with code 0; wrong usage to standard error,
            // with code 2. A closed pipe is nobody's fault.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    match dispatch(&cli.global, cli.command) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            crate::output::error(&format!("{error:#}"));
            match error.chain().find_map(|cause| cause.downcast_ref::<Usage>()) {
                Some(usage) => {
                    usage.below.iter().for_each(|line| crate::output::below_error(line));
                    ExitCode::from(USAGE)
                }
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn dispatch(global: &GlobalArgs, command: Command) -> anyhow::Result<Outcome> {
    let out = &mut std::io::BufWriter::new(std::io::stdout().lock());
    let outcome = match command {
        Command::Run(args) => return crate::run::run(global, &args),
        Command::Get(args) => crate::records::get(global, &args, out),
        Command::Create(args) => crate::records::create(global, &args, out),
        Command::Apply(args) => crate::records::apply(global, &args, out),
        Command::Replace(args) => crate::records::replace(global, &args, out),
        Command::Delete(args) => crate::records::delete(global, &args, out),
        Command::Validate(args) => crate::records::validate(&args, out),
        Command::Convert(args) => crate::records::convert(&args, out),
        Command::Test(args) => crate::test::test(&args, out),
        Command::Explain(args) => crate::explain::explain(global, &args, out),
        Command::Selector(args) => crate::tools::selector(&args, out),
        Command::Name(args) => crate::tools::name(global, &args, out),
        Command::Status(args) => crate::client::status(global, &args, out),
        Command::Wait(args) => crate::client::wait(global, &args, out),
        Command::WaitReady(args) => crate::client::wait_ready(global, &args, out),
        Command::Endpoints(args) => crate::client::endpoints(global, &args, out),
        Command::Flows(args) => crate::client::flows(global, &args, out),
        Command::Nat(args) => crate::client::nat(global, &args, out),
        Command::Program(args) => crate::client::program(global, &args, out),
        Command::Cleanup(args) => crate::cleanup::cleanup(global, &args, out),
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
