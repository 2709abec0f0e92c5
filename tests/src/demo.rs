//! The demo, and the failover of a database that tests repeat: PostgreSQL under load, its host dies, the other
//! host goes on, and everything that was committed is counted.

use crate::Lab;
use crate::mirror::MirrorOptions;
use crate::postgres::{Count, Ledger, Postgres};
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Fewest commits that say something.
pub const COMMITS_MIN: u64 = 1000;
/// Clients that commit side by side.
const CLIENTS: i32 = 4;
/// How long clients may take for the wanted commits.
const LOAD_MAX: Duration = Duration::from_secs(240);

/// What a failover came to.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Committed, and found again.
    pub count: Count,
    /// From the kill until a query is answered on the other host.
    pub failover: Duration,
}

/// A database on a mirror of two hosts.
pub struct Stage {
    /// The hosts `a` and `b`.
    pub lab: Lab,
    /// The server's directories.
    pub server: Postgres,
    log: PathBuf,
    say: fn(&str),
}

impl Stage {
    /// Makes the hosts, the mirror of `dir`, and a database with an empty ledger, running on `a`.
    pub fn set_up(dir: &Path, options: &MirrorOptions, say: fn(&str)) -> anyhow::Result<Self> {
        say("two hosts, a and b, each with a network and a disk directory of its own");
        let lab = Lab::up(&["a", "b"])?;
        say(&format!(
            "{} becomes a mirror: a is primary, b is secondary",
            dir.display()
        ));
        lab.mirror(dir, options)?;
        let run = lab.directory().join("postgresql");
        let server = Postgres::new(dir, &run)?;
        let log = run.join("committed");
        let stage = Stage {
            lab,
            server,
            log,
            say,
        };
        say("PostgreSQL: a new database cluster on the mirror");
        stage.server.init(&stage.enter("a"))?;
        stage.server.start(&stage.enter("a"))?;
        Ledger::create_table(&stage.server)?;
        Ok(stage)
    }

    /// Makes commands that run on a host.
    pub fn enter<'a>(&'a self, host: &'a str) -> impl Fn(&str) -> anyhow::Result<std::process::Command> + 'a {
        move |program| Ok(self.lab.host(host).command(program)?)
    }

    /// Starts the clients; the ids go on from an earlier load.
    pub fn load(&self, first_id: i64) -> anyhow::Result<Ledger> {
        (self.say)(&format!(
            "{CLIENTS} clients commit rows, and write down each id whose COMMIT returned"
        ));
        Ledger::start(&self.server, CLIENTS, first_id, &self.log)
    }

    /// Waits until `commits` were made.
    pub fn wait_for_commits(&self, ledger: &Ledger, commits: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + LOAD_MAX;
        while ledger.committed() < commits {
            ensure!(
                Instant::now() < deadline,
                "only {} of {commits} commits within {LOAD_MAX:?}",
                ledger.committed()
            );
            ensure!(
                !ledger.has_ended(),
                "the clients ended after {} commits",
                ledger.committed()
            );
            // A poll for progress, bounded by the deadline above.
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends the clients and the server, as an administrator would.
    pub fn close(&self, ledger: Ledger) -> anyhow::Result<()> {
        ledger.finish(&self.log)?;
        self.server.stop(&self.enter("a"))
    }

    /// Kills host `a` as it is, promotes `b`, starts the server there, and counts; `ledger` are the clients, if any
    /// run.
    pub fn fail_over(&self, ledger: Option<Ledger>) -> anyhow::Result<Outcome> {
        (self.say)("SIGKILL for everything on host a, in the middle of the load");
        let killed = Instant::now();
        self.lab.host("a").kill()?;
        let committed = match ledger {
            Some(ledger) => ledger.finish(&self.log)?,
            None => crate::postgres::committed_in(&self.log)?,
        };
        (self.say)(&format!(
            "host a is dead; {} commits were written down. b becomes primary",
            committed.len()
        ));
        self.lab.promote("b", None, false)?;
        self.server.forget_dead_server(&self.enter("b"))?;
        self.server
            .start(&self.enter("b"))
            .context("the database does not start on b's copy")?;
        self.server.connect()?.simple_query("SELECT 1")?;
        let failover = killed.elapsed();
        (self.say)("PostgreSQL has recovered on b and answers");
        Ok(Outcome {
            count: Count::take(&self.server, &committed)?,
            failover,
        })
    }
}

/// The demo: at least `commits` commits (not fewer than [`COMMITS_MIN`]), one failover, the check of every index.
///
/// # Errors
/// When something was lost, or the database is damaged.
pub fn run(dir: &Path, commits: u64) -> anyhow::Result<Outcome> {
    let stage = Stage::set_up(dir, &MirrorOptions::default(), |line| println!("  {line}"))?;
    let ledger = stage.load(1)?;
    stage.wait_for_commits(&ledger, commits.max(COMMITS_MIN))?;
    let outcome = stage.fail_over(Some(ledger))?;
    println!("  pg_amcheck compares every table with its indexes");
    stage.server.check().context("pg_amcheck found damage")?;
    stage.server.stop(&stage.enter("b"))?;
    Ok(outcome)
}
