//! A lab of two hosts with one mirror, and a plain directory beside it whose path has the same length.
#![allow(dead_code, reason = "each test file that shares this uses a part of it")]

use lab::mirror::MirrorOptions;
use lab::status::Wanted;
use lab::verify::{self, Options};
use lab::{Lab, Result};
use skfs::control::event::What;
use skfs::control::status::State;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;
use tempfile::TempDir;

/// Not so short that a busy disk counts as a lost peer, and short enough to wait for when one is lost.
pub const PEER_STALL: Duration = Duration::from_secs(5);

/// Hosts `a`, the primary, and `b`.
pub struct Pair {
    /// The hosts. Dropped before the directory that its mount point is made in.
    pub lab: Lab,
    /// The mirrored directory.
    pub dir: PathBuf,
    /// A directory of the machine's own file system that the hosts see, too.
    pub plain: PathBuf,
    base: TempDir,
}

impl Pair {
    /// Makes all of it; the mirror is in sync.
    pub fn up(options: &MirrorOptions) -> Pair {
        Pair::up_prepared(options, |_| {})
    }

    /// As [`Pair::up`]; `prepare` gets the lab before the mirror is made.
    pub fn up_prepared(options: &MirrorOptions, prepare: impl FnOnce(&Lab)) -> Pair {
        let lab = Lab::up(&["a", "b"]).unwrap();
        // Not below /tmp, which may be a tmpfs.
        let base = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (dir, plain) = (base.path().join("mount"), base.path().join("plain"));
        fs::create_dir(&plain).unwrap();
        prepare(&lab);
        let options = MirrorOptions {
            peer_stall: options.peer_stall.or(Some(PEER_STALL)),
            ..options.clone()
        };
        lab.mirror(&dir, &options).unwrap();
        Pair {
            lab,
            dir,
            plain,
            base,
        }
    }

    /// A path for files of the test itself, outside of the mirror.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// Where a host keeps its copy.
    pub fn backing(&self, host: &str) -> PathBuf {
        self.lab.backing(host, &self.dir).unwrap()
    }

    /// Runs a program on a host to its end.
    pub fn output(&self, host: &str, program: impl AsRef<OsStr>, arguments: &[impl AsRef<OsStr>]) -> Output {
        let mut command = self.lab.host(host).command(program).unwrap();
        command.args(arguments).output().unwrap()
    }

    /// Runs a script on the primary in the mirror and gives its output.
    pub fn run(&self, script: &str) -> String {
        self.run_in("a", &self.dir, script)
    }

    /// Runs a script in a directory of a host and gives its output.
    pub fn run_in(&self, host: &str, directory: &Path, script: &str) -> String {
        let whole = format!("set -e; cd {}; {script}", directory.display());
        let output = self.output(host, "sh", &["-c", &whole]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {}: {errors}", output.status);
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Runs `action` in the namespaces of the primary.
    pub fn within<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let done: Result<T> = self.lab.host("a").within(|| Ok(action()));
        done.unwrap()
    }

    /// Ends the secondary's host, and returns when the primary goes on alone.
    pub fn lose_secondary(&self) {
        self.lab.host("b").kill().unwrap();
        self.lab
            .wait_state("a", None, Wanted::State(State::Alone))
            .unwrap();
    }

    /// Has the kernel write back what it caches, and says how the two copies differ.
    pub fn differences(&self) -> Vec<String> {
        self.run("sync");
        let report = self.lab.verify(&self.dir, Options::default()).unwrap();
        shown(&report)
    }

    /// How the copy of a host and the plain directory differ; their times may.
    pub fn differences_to_plain(&self, host: &str) -> Vec<String> {
        let report = verify::compare(&self.backing(host), &self.plain, Options { mtime: false });
        shown(&report.unwrap())
    }

    /// As [`Pair::differences_to_plain`], for what lies below a directory of both.
    pub fn differences_to_plain_below(&self, host: &str, below: &str) -> Vec<String> {
        let (copy, plain) = (self.backing(host).join(below), self.plain.join(below));
        shown(&verify::compare(&copy, &plain, Options { mtime: false }).unwrap())
    }

    /// Fails unless the mirror was in sync all the time and both copies are the same.
    pub fn assert_in_sync(&self) {
        let events = self.lab.events("a").unwrap();
        let messages: Vec<_> = events.iter().map(|one| &one.event.message).collect();
        let lost = events
            .iter()
            .filter(|one| matches!(one.event.what, What::PeerLost { .. } | What::Repairing));
        assert_eq!(lost.count(), 0, "not in sync all the time: {messages:#?}");
        self.lab.wait_state("a", None, Wanted::InSync).unwrap();
        assert_eq!(self.differences(), [] as [&str; 0]);
    }
}

/// The first of many is enough to see what is wrong.
const SHOWN_MAX: usize = 20;

fn shown(report: &verify::Report) -> Vec<String> {
    report
        .differences
        .iter()
        .take(SHOWN_MAX)
        .map(ToString::to_string)
        .collect()
}

/// The seeds to run with: `SIDEKICK_SEED`, or a fixed one, or many with `SIDEKICK_LONG`.
pub fn seeds() -> Vec<u64> {
    /// Enough for a night's run to meet what one seed does not.
    const LONG: u64 = 20;
    match std::env::var("SIDEKICK_SEED") {
        Ok(seed) => vec![seed.parse().expect("SIDEKICK_SEED is a number")],
        Err(_) if std::env::var_os("SIDEKICK_LONG").is_some() => (1..=LONG).collect(),
        Err(_) => vec![1],
    }
}
