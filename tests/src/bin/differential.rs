//! The parts of the tests that work on a mount from inside of a host: started there by `lab exec`.

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use lab::differential::{Tally, run_disjoint, run_shared};
use lab::recorded::{self, Plan};
use std::path::PathBuf;

#[derive(Parser)]
#[command(about = "Random operations on a mount, for the tests")]
struct Arguments {
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand)]
enum Work {
    /// The same operations on two directories, compared one by one; prints how many failed with what.
    Disjoint {
        mount: PathBuf,
        plain: PathBuf,
        #[command(flatten)]
        amount: Amount,
    },
    /// Operations of threads that share names; prints how many failed with what.
    Shared {
        directory: PathBuf,
        #[command(flatten)]
        amount: Amount,
    },
    /// Operations whose acknowledgements are counted in files in `log`.
    Recorded {
        directory: PathBuf,
        log: PathBuf,
        #[command(flatten)]
        amount: Amount,
    },
}

#[derive(Args, Clone, Copy)]
struct Amount {
    #[arg(long)]
    seed: u64,
    #[arg(long, default_value_t = 4)]
    threads: u64,
    /// For each thread.
    #[arg(long)]
    steps: u64,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().work {
        Work::Disjoint { mount, plain, amount } => print(&run_disjoint(
            &mount,
            &plain,
            amount.seed,
            amount.threads,
            amount.steps as usize,
        )?),
        Work::Shared { directory, amount } => print(&run_shared(
            &directory,
            amount.seed,
            amount.threads,
            amount.steps as usize,
        )?),
        Work::Recorded {
            directory,
            log,
            amount,
        } => {
            let Amount { seed, threads, steps } = amount;
            let plan = Plan { seed, threads, steps };
            Ok(recorded::work(&directory, &log, &plan)?)
        }
    }
}

fn print(tally: &Tally) -> anyhow::Result<()> {
    println!(
        "{}",
        serde_json::to_string(tally).context("cannot write a tally as JSON")?
    );
    Ok(())
}
