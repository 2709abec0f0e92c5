//! The measuring process: makes the hosts, goes through the rounds, prints and writes what came of it.

use crate::amount::Amount;
use crate::arguments::Arguments;
use crate::ground::{Ground, PEER, WORKER};
use crate::machine::Machine;
use crate::question::Question;
use crate::results::Row;
use crate::rounds::{self, Plan};
use crate::system::SystemName;
use crate::{picture, stop, table};
use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Measures as told.
///
/// # Errors
/// When the hosts cannot be made or the results cannot be written.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(file) = &arguments.from {
        show_again(file, arguments.picture.as_deref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let plan = plan(arguments);
    let machine = Machine::look(arguments, plan.amount.rounds)?;
    println!("{}", machine.headline());
    let start = plan.start;
    stop::listen()?;
    let ground = Ground::up()?;
    let (delay, loss) = (
        arguments.slow.unwrap_or_default(),
        arguments.loss.unwrap_or_default(),
    );
    let results = rounds::run(
        &plan,
        &ground,
        || {
            if delay > Duration::ZERO || loss > 0.0 {
                ground.lab.slow(WORKER, PEER, delay, loss)?;
            }
            Ok(())
        },
        |line| eprintln!("  {:>4} s  {line}", start.elapsed().as_secs()),
    )?;
    drop(ground);
    let rows = results.rows();
    println!("{}", table::text(&rows));
    write_down(arguments, &rows, &machine)?;
    println!("measured in {} s", start.elapsed().as_secs());
    Ok(ExitCode::SUCCESS)
}

/// Prints and draws results that were written down before.
fn show_again(file: &Path, picture: Option<&Path>) -> Result<()> {
    let machine = beside(file)?;
    let rows: Vec<Row> = read_json(file)?;
    let headline = read_json::<Machine>(&machine)?.headline();
    println!("{headline}");
    println!("{}", table::text(&rows));
    match picture {
        Some(path) => write(path, &picture::svg(&rows, &headline)),
        None => Ok(()),
    }
}

/// Where [`write_down`], or who keeps the results of a day, puts what they were measured on.
fn beside(file: &Path) -> Result<PathBuf> {
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let machine = match name.strip_prefix("latest") {
        Some(rest) => format!("machine{rest}"),
        None => format!("{}-machine.json", name.trim_end_matches(".json")),
    };
    let path = file.with_file_name(machine);
    anyhow::ensure!(
        path.exists(),
        "{} is missing: it tells what {} was measured on",
        path.display(),
        file.display()
    );
    Ok(path)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} holds no results", path.display()))
}

fn plan(arguments: &Arguments) -> Plan {
    let mut amount = if arguments.quick {
        Amount::quick()
    } else {
        Amount::full()
    };
    if let Some(rounds) = arguments.rounds {
        amount.rounds = rounds;
    }
    Plan {
        tests: chosen(&arguments.tests, Question::value_variants()),
        systems: chosen(&arguments.systems, SystemName::value_variants()),
        amount,
        start: Instant::now(),
    }
}

/// Those that were named, in the order of all; all, if none was.
fn chosen<T: Copy + PartialEq>(named: &[T], all: &[T]) -> Vec<T> {
    let keep = |one: &&T| named.is_empty() || named.contains(one);
    all.iter().filter(keep).copied().collect()
}

fn write_down(arguments: &Arguments, rows: &[Row], machine: &Machine) -> Result<()> {
    let out = &arguments.out;
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let network = network_suffix(arguments.slow, arguments.loss);
    write_json(&out.join(format!("latest{network}.json")), &rows)?;
    write_json(&out.join(format!("machine{network}.json")), machine)?;
    match &arguments.picture {
        Some(path) => write(path, &picture::svg(rows, &machine.headline())),
        None => Ok(()),
    }
}

/// Results over a bad network have files of their own.
fn network_suffix(delay: Option<Duration>, loss: Option<f64>) -> String {
    let delay = delay.map(|delay| format!("-slow-{}", humantime::format_duration(delay)));
    let loss = loss.map(|loss| format!("-loss-{}%", loss * 100.0));
    [delay, loss].into_iter().flatten().collect()
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    write(path, &text)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_runs_in_the_order_of_all() {
        assert_eq!(chosen(&[3, 1], &[1, 2, 3]), [1, 3]);
        assert_eq!(chosen(&[], &[1, 2, 3]), [1, 2, 3]);
    }

    #[test]
    fn results_over_a_bad_network_do_not_replace_those_over_a_good_one() {
        assert_eq!(network_suffix(None, None), "");
        let bad = network_suffix(Some(Duration::from_millis(5)), Some(0.01));
        assert_eq!(bad, "-slow-5ms-loss-1%");
    }
}
