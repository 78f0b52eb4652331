//! Compares compiled policy in the kernel with the reference evaluator, for as many pairs of policy
//! and packet as it is told.

use anyhow::Result;
use clap::Parser;
use felid_tests::equivalence;

#[derive(Parser)]
struct Arguments {
    /// Pairs of policy and packet.
    #[arg(long, default_value_t = 100_000)]
    pairs: u64,
    /// First seed; by default from the clock.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)?
                .as_secs()
                << 20
        }
    };
    println!("{} pairs from seed {seed}", arguments.pairs);
    let start = std::time::Instant::now();
    let summary = equivalence::run(arguments.pairs, seed)?;
    println!(
        "{} pairs of {} distinct policies agree ({} allowed, {} denied); seeds {} to {}; {:.1} s",
        summary.pairs,
        summary.policies,
        summary.allowed,
        summary.pairs - summary.allowed,
        summary.seeds.0,
        summary.seeds.1 - 1,
        start.elapsed().as_secs_f64()
    );
    Ok(())
}
