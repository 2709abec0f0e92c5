//! A lab of two hosts with one mirror: what most end-to-end tests begin with, and the questions they ask of it.

use crate::disk::ext4::DiskOptions;
use crate::error::{Attempt, Error, Result, refused};
use crate::lab::Lab;
use crate::mirror::MirrorOptions;
use crate::mirrors::mirror_of;
use crate::process::ProcessId;
use crate::status::MirrorStatus;
use crate::verify;
use skfs::control::client::ClientError;
use skfs::control::command::{Command, Refusal};
use skfs::control::event::What;
use std::path::{Path, PathBuf};
use std::process::Output;

/// A lab with the hosts `a` and `b`, and a directory of its own mirrored between them, `a` being primary.
#[derive(Debug)]
pub struct Pair {
    /// The lab; removed with this value.
    pub lab: Lab,
    /// The mirrored directory, as the hosts see it.
    pub dir: PathBuf,
}

impl Pair {
    /// A pair that is in sync.
    ///
    /// # Errors
    /// See [`Lab::mirror`].
    pub fn up(options: &MirrorOptions) -> Result<Pair> {
        Pair::up_on([None, None], options)
    }

    /// A pair that is in sync, `a` and `b` on these disks.
    ///
    /// # Errors
    /// See [`Lab::mirror`].
    pub fn up_on(disks: [Option<DiskOptions>; 2], options: &MirrorOptions) -> Result<Pair> {
        let pair = Pair::bare()?;
        for (host, disk) in ["a", "b"].into_iter().zip(disks) {
            if let Some(disk) = disk {
                pair.lab.host(host).make_disk(disk)?;
            }
        }
        pair.lab.mirror(&pair.dir, options)?;
        Ok(pair)
    }

    /// The two hosts and the name of the directory, which is not mirrored yet.
    ///
    /// # Errors
    /// See [`Lab::up`].
    pub fn bare() -> Result<Pair> {
        let lab = Lab::up(&["a", "b"])?;
        let dir = PathBuf::from(format!("/srv/{}/data", lab.name()));
        Ok(Pair { lab, dir })
    }

    /// A path below the directory as programs on a host see it, for use from outside of all hosts.
    ///
    /// # Errors
    /// When the host is down.
    pub fn path(&self, host: &str, below: impl AsRef<Path>) -> Result<PathBuf> {
        let Some(init) = self.lab.host(host).picture()?.init else {
            return refused(format!("host {host} is down"));
        };
        let inside = self.dir.strip_prefix("/").unwrap_or(&self.dir).join(below);
        Ok(PathBuf::from(format!("/proc/{}/root", init.pid)).join(inside))
    }

    /// Where a host's copy lies, past every mount.
    ///
    /// # Errors
    /// See [`Lab::backing`].
    pub fn backing(&self, host: &str) -> Result<PathBuf> {
        self.lab.backing(host, &self.dir)
    }

    /// Runs a shell script in the directory on a host, whatever comes of it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, host: &str, script: &str) -> Result<Output> {
        let script = format!("set -e; cd {}; {script}", self.dir.display());
        let mut command = self.lab.host(host).command("sh")?;
        let output = command.args(["-c", &script]).output();
        output.attempt(|| format!("run {script:?} on host {host}"))
    }

    /// Runs a shell script in the directory on a host and gives what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn shell(&self, host: &str, script: &str) -> Result<String> {
        let output = self.run(host, script)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
        }
        Err(Error::Program {
            program: format!("{script:?} on host {host}"),
            output: format!(
                "{}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            ),
        })
    }

    /// Tells the `skfs` of a host what to do.
    ///
    /// # Errors
    /// See [`Lab::command`].
    pub fn command(&self, host: &str, command: Command) -> Result<()> {
        self.lab.command(host, &self.dir, command).map(drop)
    }

    /// The refusal of a command that must be refused.
    ///
    /// # Errors
    /// When it is carried out, or fails in another way.
    pub fn refusal(&self, host: &str, command: Command) -> Result<Refusal> {
        let text = format!("{command:?}");
        match self.command(host, command) {
            Ok(()) => refused(format!("{text} on host {host} was not refused")),
            Err(error) => error.into_refusal(),
        }
    }

    /// How the mirror is on a host.
    ///
    /// # Errors
    /// When the lab does not answer.
    pub fn status(&self, host: &str) -> Result<MirrorStatus> {
        match mirror_of(&self.lab.status()?, host, &self.dir) {
            Some(status) => Ok(status.clone()),
            None => refused(format!("host {host} has no mirror")),
        }
    }

    /// The `skfs` of a host.
    ///
    /// # Errors
    /// When none runs there.
    pub fn skfs(&self, host: &str) -> Result<ProcessId> {
        let picture = self.lab.host(host).picture()?;
        let mut running = picture.processes.iter();
        match running.find(|(process, _)| process.runs_program("skfs")) {
            Some((process, _)) => Ok(*process),
            None => refused(format!("no skfs runs on host {host}")),
        }
    }

    /// What the `skfs` of a host reported, oldest first.
    ///
    /// # Errors
    /// See [`Lab::events`].
    pub fn events(&self, host: &str) -> Result<Vec<What>> {
        let events = self.lab.events(host)?;
        Ok(events.into_iter().map(|one| one.event.what).collect())
    }

    /// Why the `skfs` of a host went on alone: one entry for each time.
    ///
    /// # Errors
    /// See [`Lab::events`].
    pub fn went_alone(&self, host: &str) -> Result<Vec<String>> {
        let reason = |what| match what {
            What::WentAlone { reason } => Some(reason),
            _ => None,
        };
        Ok(self.events(host)?.into_iter().filter_map(reason).collect())
    }

    /// Everything in which the two copies differ.
    ///
    /// # Errors
    /// See [`Lab::verify`].
    pub fn differences(&self) -> Result<Vec<String>> {
        let report = self.lab.verify(&self.dir, verify::Options::default())?;
        Ok(report.differences.iter().map(ToString::to_string).collect())
    }
}

/// Ends a host when a panic drops it: threads of a test that wait in the host's mount return with an error, so
/// that the panic is told instead of waited for.
#[derive(Debug)]
pub struct EndOnPanic<'a> {
    pair: &'a Pair,
    host: &'a str,
}

impl Pair {
    /// To be held while other threads use the mount of a host.
    pub fn end_on_panic<'a>(&'a self, host: &'a str) -> EndOnPanic<'a> {
        EndOnPanic { pair: self, host }
    }
}

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if let Err(error) = self.pair.lab.host(self.host).kill() {
            eprintln!("host {} could not be ended: {error}", self.host);
        }
    }
}

impl Error {
    /// The refusal of `skfs` that this error carries.
    ///
    /// # Errors
    /// The error itself, if it is another one.
    pub fn into_refusal(self) -> Result<Refusal> {
        match self {
            Error::Skfs { host, dir, source } => match *source {
                ClientError::Refused(refusal) => Ok(refusal),
                source => Err(Error::Skfs {
                    host,
                    dir,
                    source: Box::new(source),
                }),
            },
            other => Err(other),
        }
    }
}
