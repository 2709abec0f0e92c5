//! What every system stands on: a lab of two hosts, `a` where the work is done and `b` that holds the copies, on
//! one disk; and ways to run a program there.

use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::keeper::protocol::{Answer, Order};
use lab::process::ProcessId;
use lab::wait::{self, Look};
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// The host that runs the work.
pub const WORKER: &str = "a";
/// The host that holds the second copy.
pub const PEER: &str = "b";

/// A single run that takes longer is stuck: it is ended and its row says so.
const RUN_MAX: Duration = Duration::from_secs(240);

/// Two hosts without anything on them. Removed when dropped, and by the lab's keeper when this process dies in any
/// other way.
#[derive(Debug)]
pub struct Ground {
    /// The hosts.
    pub lab: Lab,
    program: PathBuf,
}

impl Ground {
    /// Makes the hosts.
    ///
    /// # Errors
    /// See [`Lab::up`].
    pub fn up() -> Result<Self> {
        Ok(Ground {
            lab: Lab::up(&[WORKER, PEER])?,
            program: std::env::current_exe().context("cannot find the running program")?,
        })
    }

    /// A directory on the disk of a host, made when absent. All of them are on the same file system, which is also
    /// the one of the mirrors' copies.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn directory(&self, host: &str, name: &str) -> Result<PathBuf> {
        let path = self
            .lab
            .host_directory(host)
            .join("disk")
            .join("bench")
            .join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// The address of a host.
    ///
    /// # Errors
    /// When the lab does not answer.
    pub fn address(&self, host: &str) -> Result<Ipv4Addr> {
        Ok(self.lab.host(host).picture()?.address)
    }

    /// Starts a program on a host, which ends with it, and gives the file that takes its output.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, host: &str, name: &str, arguments: Vec<OsString>) -> Result<Daemon> {
        let log = self
            .lab
            .host_directory(host)
            .join("log")
            .join(format!("{name}.log"));
        let order = Order::Spawn {
            host: host.to_owned(),
            arguments,
            log: log.clone(),
        };
        // The log of an earlier program of this name goes on.
        let said_before = std::fs::metadata(&log).map_or(0, |found| found.len());
        match self.lab.ask(order)? {
            Answer::Started(process) => Ok(Daemon {
                name: name.to_owned(),
                process,
                log,
                said_before,
            }),
            other => anyhow::bail!("the lab answered a start with {other:?}"),
        }
    }

    /// Starts this program as one of its services on a host.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn serve(&self, host: &str, name: &str, arguments: &[&str]) -> Result<Daemon> {
        let mut line: Vec<OsString> = vec![self.program.clone().into(), "serve".into()];
        line.extend(arguments.iter().map(OsString::from));
        self.spawn(host, name, line)
    }

    /// Runs a program on a host to its end and gives its output.
    ///
    /// # Errors
    /// When it fails or takes longer than any run should, with what it said.
    pub fn run(&self, host: &str, line: &[&str]) -> Result<String> {
        let mut command = self.command(host, "timeout")?;
        command
            .args(["--kill-after=5", &RUN_MAX.as_secs().to_string()])
            .args(line);
        finished(line.join(" "), command.output())
    }

    /// Runs a work of this program on the working host and gives what it prints, which is JSON.
    ///
    /// # Errors
    /// As [`Ground::run`], and when it prints something else.
    pub fn work<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let program = self.program.to_string_lossy().into_owned();
        let line = [&[program.as_str(), "work"], arguments].concat();
        let text = self.run(WORKER, &line)?;
        serde_json::from_str(&text).with_context(|| format!("{} printed {text:?}", arguments.join(" ")))
    }

    /// A command that runs on a host.
    ///
    /// # Errors
    /// When the lab's program is missing.
    pub fn command(&self, host: &str, program: &str) -> Result<Command> {
        Ok(self.lab.host(host).command(program)?)
    }

    /// Writes everything of `directory`, and then of the disk below it, back: what one system left in memory must
    /// not be written during the next one's run.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn settle(&self, directory: &Path) -> Result<()> {
        let _: () = self.work(&["settle", &directory.to_string_lossy()])?;
        let disk = std::fs::File::open(self.lab.directory()).context("cannot open the lab's directory")?;
        rustix::fs::syncfs(&disk).context("cannot write the disk back")
    }

    /// Drops every clean page that this machine's kernel holds, so that reads come from the disk.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn drop_pages(&self, directory: &Path) -> Result<()> {
        self.settle(directory)?;
        std::fs::write("/proc/sys/vm/drop_caches", "1").context("cannot drop the page cache")
    }
}

/// A program that was started on a host.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    /// Which process it is.
    pub process: ProcessId,
    log: PathBuf,
    /// Bytes of the log that are not its own.
    said_before: u64,
}

impl Daemon {
    /// What it printed so far.
    fn said(&self) -> String {
        // Not there yet, or cut in the middle of a character: the next look will do.
        let text = std::fs::read(&self.log).unwrap_or_default();
        let own = text.get(self.said_before as usize..).unwrap_or_default();
        String::from_utf8_lossy(own).into_owned()
    }

    /// Waits for a line of its output that begins with `word`, and gives what follows.
    ///
    /// # Errors
    /// When it ends or says nothing of the kind in time, with what it said.
    pub fn wait_for_line(&self, limit: Duration, word: &str) -> Result<String> {
        let what = format!("{} says {word:?}", self.name);
        Ok(wait::until(limit, &what, || {
            let text = self.said();
            let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(rest) = lines.find_map(|line| line.strip_prefix(word)) {
                return Ok(Look::Holds(rest.trim().to_owned()));
            }
            if self.process.lives() {
                return Ok(Look::NotYet(text));
            }
            lab::error::refused(format!("{} ended: {}", self.name, text.trim()))
        })?)
    }
}

/// The standard output of a program that succeeded.
///
/// # Errors
/// When it could not be started or failed, with what it said.
pub fn finished(what: String, output: std::io::Result<Output>) -> Result<String> {
    let output = output.with_context(|| format!("cannot run {what}"))?;
    let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(
        output.status.code() != Some(124),
        "{what} was ended after {RUN_MAX:?}: {}",
        said()
    );
    ensure!(
        output.status.success(),
        "{what} ended with {}: {}",
        output.status,
        said()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_an_earlier_program_in_the_same_log_is_not_taken_for_one_of_this_program() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        std::fs::write(&log, "listening 1\n").unwrap();
        let daemon = Daemon {
            name: "this test".into(),
            process: ProcessId::of(std::process::id()).unwrap(),
            said_before: 12,
            log,
        };
        assert!(daemon.wait_for_line(Duration::ZERO, "listening ").is_err());
        std::fs::write(&daemon.log, "listening 1\nlistening 2\n").unwrap();
        assert_eq!(daemon.wait_for_line(Duration::ZERO, "listening ").unwrap(), "2");
    }
}
