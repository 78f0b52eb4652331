//! The binary `felid`. Everything is in the library beside it.
use std::process::ExitCode;

fn main() -> ExitCode {
    felid_agent::main()
}
