//! `sqlite3` inserting rows, each in a transaction of its own.
//!
//! The program is given inserts in small batches and asked how far it is after each, so that it can be stopped at any
//! time. `stdbuf` makes it answer at once although nobody sits at a terminal.

use super::Rate;
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Inserts between two questions.
const BATCH: u64 = 20;

/// Inserts for this long.
///
/// # Errors
/// When `sqlite3` is missing or fails, with what it said.
pub fn insert(directory: &Path, limit: Duration) -> Result<Rate> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let mut sqlite = Command::new("stdbuf")
        .args(["--output=L", "sqlite3", "-batch", "-bail"])
        .arg(directory.join("database"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run sqlite3")?;
    let (mut input, output) = match (sqlite.stdin.take(), sqlite.stdout.take()) {
        (Some(input), Some(output)) => (input, output),
        _ => anyhow::bail!("sqlite3 was started without pipes"),
    };
    let mut answers = BufReader::new(output).lines();
    let mut answer = || -> Result<String> {
        let line = answers.next().context("sqlite3 has ended")?;
        line.context("cannot read what sqlite3 says")
    };
    input.write_all(
        b"PRAGMA journal_mode = WAL;\nPRAGMA synchronous = FULL;\n\
          CREATE TABLE rows (id INTEGER PRIMARY KEY, filler TEXT NOT NULL);\nSELECT 'ready';\n",
    )?;
    ensure!(
        answer()? == "wal",
        "sqlite3 does not keep a write-ahead log there"
    );
    ensure!(answer()? == "ready", "sqlite3 did not make the table");
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < limit {
        let mut batch = String::new();
        for number in count..count + BATCH {
            // Into a string: it cannot fail.
            let _ = writeln!(batch, "INSERT INTO rows VALUES ({number}, '{:0100}');", number);
        }
        batch.push_str("SELECT max(id) FROM rows;\n");
        input.write_all(batch.as_bytes())?;
        count += BATCH;
        let last = answer()?;
        ensure!(last == (count - 1).to_string(), "sqlite3 says {last:?}");
    }
    let seconds = start.elapsed().as_secs_f64();
    drop(input);
    let status = sqlite.wait().context("cannot wait for sqlite3")?;
    ensure!(status.success(), "sqlite3 ended with {status}");
    Ok(Rate { count, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_inserted_until_the_time_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let rate = insert(directory.path(), Duration::from_millis(50)).unwrap();
        assert!(rate.count >= BATCH);
        assert!(rate.seconds >= 0.05);
    }
}
