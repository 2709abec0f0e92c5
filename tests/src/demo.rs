//! The demo, and the failover of a database that tests repeat: PostgreSQL under load, its host dies, the other
//! host goes on, and everything that was committed is counted.

use crate::Lab;
use crate::failback::Returned;
use crate::mirror::MirrorOptions;
use crate::postgres::{Count, Ledger, Postgres};
use anyhow::{Context, ensure};
use skctl::progress;
use skfs::control::status::Copy;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Fewest commits that say something.
pub const COMMITS_MIN: u64 = 1000;
/// Clients that commit side by side.
const CLIENTS: i32 = 4;
/// Rows of the second load are numbered so far beyond those of the first.
const IDS_AHEAD: i64 = 1_000_000;
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

    /// Ends the clients and the server on `host`, as an administrator would.
    pub fn close(&self, ledger: Ledger, host: &str) -> anyhow::Result<()> {
        ledger.finish(&self.log)?;
        self.server.stop(&self.enter(host))
    }

    /// Kills host `a` as it is, promotes `b`, starts the server there, and counts; `ledger` are the clients, if any
    /// run.
    pub fn fail_over(&self, ledger: Option<Ledger>) -> anyhow::Result<Outcome> {
        self.fail_over_from("a", "b", ledger)
    }

    /// As [`Stage::fail_over`], from and to the hosts named.
    pub fn fail_over_from(&self, from: &str, to: &str, ledger: Option<Ledger>) -> anyhow::Result<Outcome> {
        (self.say)(&format!(
            "SIGKILL for everything on host {from}, in the middle of the load"
        ));
        let killed = Instant::now();
        self.lab.host(from).kill()?;
        let committed = match ledger {
            Some(ledger) => ledger.finish(&self.log)?,
            None => crate::postgres::committed_in(&self.log)?,
        };
        (self.say)(&format!(
            "host {from} is dead; {} commits were written down. {to} becomes primary",
            committed.len()
        ));
        self.lab.promote(to, None, false)?;
        self.server.forget_dead_server(&self.enter(to))?;
        self.server
            .start(&self.enter(to))
            .with_context(|| format!("the database does not start on {to}'s copy"))?;
        self.server.connect()?.simple_query("SELECT 1")?;
        let failover = killed.elapsed();
        (self.say)(&format!("PostgreSQL has recovered on {to} and answers"));
        Ok(Outcome {
            count: Count::take(&self.server, &committed)?,
            failover,
        })
    }

    /// Brings a dead host back while the clients go on; `show` gets lines about the copy.
    pub fn fail_back(&self, host: &str, show: &mut dyn FnMut(&str)) -> anyhow::Result<Returned> {
        (self.say)(&format!(
            "host {host} returns: what changed since is copied back, while the load goes on"
        ));
        let mut progress = |_: &Path, copy: &Copy| show(&progress::line(copy));
        let returned = self.lab.return_host(host, None, &mut progress)?;
        returned.into_iter().next().context("the host has no mirror")
    }

    /// The number of the next row, after all that were written down.
    fn next_id(&self) -> anyhow::Result<i64> {
        let last = crate::postgres::committed_in(&self.log)?.into_iter().max();
        // Clients number their rows with gaps: those that were under way are beyond the last written down.
        Ok(last.unwrap_or(0) + IDS_AHEAD)
    }
}

/// What the demo came to.
#[derive(Debug, Clone)]
pub struct Demonstration {
    /// After the second failover: everything that was committed before either.
    pub count: Count,
    /// The longer of both.
    pub failover: Duration,
    /// The return of the first host.
    pub failback: Returned,
}

/// The demo: at least `commits` commits (not fewer than [`COMMITS_MIN`]), a failover, the return of the dead host under
/// load, a failover to the other side, the check of every index after each.
///
/// # Errors
/// When something was lost, or the database is damaged.
pub fn run(dir: &Path, commits: u64, show: &mut dyn FnMut(&str)) -> anyhow::Result<Demonstration> {
    let stage = Stage::set_up(dir, &MirrorOptions::default(), |line| println!("  {line}"))?;
    let ledger = stage.load(1)?;
    let commits = commits.max(COMMITS_MIN);
    stage.wait_for_commits(&ledger, commits)?;
    let first = stage.fail_over(Some(ledger))?;
    println!("  pg_amcheck compares every table with its indexes");
    stage.server.check().context("pg_amcheck found damage")?;
    ensure!(
        first.count.lost() == 0,
        "lost {} of {}",
        first.count.lost(),
        first.count.committed
    );

    let ledger = stage.load(stage.next_id()?)?;
    stage.wait_for_commits(&ledger, commits / 4)?;
    let failback = stage.fail_back("a", show)?;
    stage.wait_for_commits(&ledger, ledger.committed() + commits / 4)?;
    let second = stage.fail_over_from("b", "a", Some(ledger))?;
    println!("  pg_amcheck compares every table with its indexes");
    stage.server.check().context("pg_amcheck found damage")?;
    stage.server.stop(&stage.enter("a"))?;
    Ok(Demonstration {
        count: second.count,
        failover: first.failover.max(second.failover),
        failback,
    })
}
