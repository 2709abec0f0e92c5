//! `pgbench_1`, `pgbench_8`: a database as people run it. The server is on the working host, its data in the
//! directory under test; `pgbench`'s own transaction ("TPC-B (sort of)").

use super::Place;
use crate::ground::{WORKER, finished};
use crate::results::{Metric, Reading};
use anyhow::{Context, Result};
use lab::postgres::{self, Postgres};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Transactions of so many clients.
///
/// # Errors
/// When the server or `pgbench` fails.
pub fn tpc_b(place: &Place, clients: u32) -> Result<Vec<Reading>> {
    let server = Server::of(place)?;
    server.make_once()?;
    place.ground.settle(place.system.directory())?;
    server
        .postgres
        .start(&|program| place.ground.command(WORKER, program))?;
    let transactions = server.transactions(clients);
    // Also after a failure: a server must not disturb the next one.
    let stopped = server
        .postgres
        .stop(&|program| place.ground.command(WORKER, program));
    let tps = transactions?;
    stopped?;
    Ok(vec![Reading::new(Metric::Tps, tps)])
}

/// Makes the database, if there is none.
///
/// # Errors
/// When the server or `pgbench` fails.
pub fn prepare(place: &Place) -> Result<()> {
    Server::of(place)?.make_once()
}

struct Server<'a> {
    place: &'a Place<'a>,
    postgres: Postgres,
    made: PathBuf,
}

impl<'a> Server<'a> {
    fn of(place: &'a Place<'a>) -> Result<Self> {
        let run = place
            .ground
            .lab
            .directory()
            .join(format!("postgresql-{}", place.name.name()));
        Ok(Server {
            place,
            postgres: Postgres::new(place.system.directory(), &run)?,
            made: run.join("made"),
        })
    }

    /// Makes the database cluster and its tables, once for each system.
    fn make_once(&self) -> Result<()> {
        if self.made.exists() {
            return Ok(());
        }
        let enter = |program: &str| self.place.ground.command(WORKER, program);
        let data = self.postgres.data.to_string_lossy().into_owned();
        let _: () = self.place.ground.work(&["remove", &data])?;
        self.postgres.init(&enter)?;
        self.postgres.start(&enter)?;
        let filled = self.pgbench(&[
            "--initialize",
            "--quiet",
            &format!("--scale={}", self.place.amount.pgbench_scale),
        ]);
        let stopped = self.postgres.stop(&enter);
        filled?;
        stopped?;
        std::fs::write(&self.made, "").with_context(|| format!("cannot write {}", self.made.display()))
    }

    fn transactions(&self, clients: u32) -> Result<f64> {
        self.postgres.connect()?.batch_execute("CHECKPOINT")?;
        let said = self.pgbench(&[
            "--no-vacuum",
            &format!("--client={clients}"),
            &format!("--jobs={}", clients.min(2)),
            &format!("--time={}", self.place.amount.pgbench.as_secs().max(1)),
        ])?;
        tps(&said).with_context(|| format!("pgbench reports no tps: {said}"))
    }

    /// Beside the hosts: the server's socket is seen from everywhere.
    fn pgbench(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(postgres::programs()?.join("pgbench"));
        command
            .args(["--username=postgres", "--host"])
            .arg(&self.postgres.run)
            .args(arguments)
            .arg("postgres")
            .stdin(Stdio::null());
        finished(format!("pgbench {}", arguments.join(" ")), command.output())
    }
}

/// Transactions per second without the time of connecting.
fn tps(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_what_pgbench_says() {
        let said = "transaction type: <builtin: TPC-B (sort of)>\nnumber of clients: 1\nlatency average = 1.5 ms\n\
                    tps = 643.216 (without initial connection time)\n";
        assert_eq!(tps(said), Some(643.216));
        assert_eq!(tps("pgbench: error: no connection"), None);
    }
}
