//! A directory belongs to one module, also between two configurations and whatever the role of either. Needs root
//! and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use lab::mirror::MirrorOptions;
use lab::pair::Pair;
use lab::{programs, wait};
use skfs::config::Config;
use skfs::control::client::Client;
use skfs::control::command::{Command, RefusalKind, Reply};
use skfs::control::status::{Access, Role};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// A second module on a host of a pair, with a configuration of its own.
struct Second<'a> {
    pair: &'a Pair,
    host: &'static str,
    config: Config,
    file: PathBuf,
    _files: tempfile::TempDir,
}

impl<'a> Second<'a> {
    /// Like the first module there, but for `dir`.
    fn on(pair: &'a Pair, host: &'static str, dir: &Path) -> Self {
        let command_line = fs::read(format!("/proc/{}/cmdline", pair.skfs(host).unwrap().pid)).unwrap();
        let first = command_line.split(|byte| *byte == 0).nth(2).unwrap();
        let mut config = Config::load(Path::new(str::from_utf8(first).unwrap())).unwrap();
        let files = tempfile::tempdir().unwrap();
        config.module = "second".into();
        config.state = files.path().join("state");
        config.control = files.path().join("control");
        config.listen.set_port(0);
        config.replicate[0].dir = dir.to_owned();
        let file = files.path().join("second.toml");
        fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
        Second {
            pair,
            host,
            config,
            file,
            _files: files,
        }
    }

    fn command(&self) -> std::process::Command {
        let skfs = programs::find("skfs").unwrap();
        let mut command = self.pair.lab.host(self.host).command(skfs).unwrap();
        command.arg("--config").arg(&self.file);
        command
    }

    /// What it says when it refuses to start.
    fn refusal(&self) -> String {
        let mut child = self.command().stderr(Stdio::piped()).spawn().unwrap();
        let ended = || child.try_wait().unwrap().is_some() || self.call(Command::Status).is_some();
        wait::until_true(self.pair.lab.limit(), "the second skfs decides", ended).unwrap();
        if self.call(Command::Status).is_some() {
            stop(self, child);
            panic!("it was started on {}", self.config.replicate[0].dir.display());
        }
        String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap()
    }

    fn start(&self) -> Child {
        let mut child = self.command().stderr(Stdio::null()).spawn().unwrap();
        let answers = || {
            assert_eq!(child.try_wait().unwrap(), None, "it ended early");
            self.call(Command::Status).is_some()
        };
        wait::until_true(self.pair.lab.limit(), "the second skfs answers", answers).unwrap();
        child
    }

    /// None when it does not answer; one that refuses to start may have taken the connection already.
    fn call(&self, command: Command) -> Option<Reply> {
        let mut client = Client::connect(&self.config.control).ok()?;
        client.set_timeout(Some(self.pair.lab.limit())).unwrap();
        client.call(command).ok()
    }
}

fn stop(second: &Second<'_>, mut child: Child) {
    second.call(Command::Stop { abort: false }).unwrap();
    assert!(child.wait().unwrap().success());
}

fn access(pair: &Pair, host: &str) -> (Option<Role>, Access) {
    let status = match pair.lab.command(host, &pair.dir, Command::Status).unwrap() {
        Reply::Status(status) => status,
        Reply::Done | Reply::Verification(_) | Reply::Archives(_) => panic!("a status was asked for"),
    };
    (Some(status.role), status.directories[0].access)
}

#[test]
fn no_second_module_gets_a_directory_in_or_around_or_at_that_of_a_mounted_covered_or_stopped_one() {
    let pair = Pair::up(&MirrorOptions::default()).unwrap();
    pair.shell("a", "mkdir inner; sync").unwrap();
    let (inner, outer) = (pair.dir.join("inner"), pair.dir.parent().unwrap().to_owned());
    let refuse_all = |host: &'static str, state: &str| {
        for dir in [&inner, &outer] {
            let refusal = Second::on(&pair, host, dir).refusal();
            assert!(
                refusal.contains("overlaps with"),
                "{} on a {state} one: {refusal}",
                dir.display()
            );
        }
        let refusal = Second::on(&pair, host, &pair.dir).refusal();
        assert!(
            refusal.contains("locked by another process") || refusal.contains("stop that skfs first"),
            "the same on a {state} one: {refusal}"
        );
    };
    refuse_all("a", "mounted");
    refuse_all("b", "secondary");
    assert_eq!(access(&pair, "b"), (Some(Role::Secondary), Access::Covered));
    pair.command("a", Command::Demote).unwrap();
    refuse_all("a", "stopped");
    assert_eq!(access(&pair, "a"), (Some(Role::Stopped), Access::Covered));
    // A neighbour is welcome, and whoever was refused has not harmed the first.
    let neighbour = tempfile::tempdir_in("/var/tmp").unwrap();
    let second = Second::on(&pair, "a", neighbour.path());
    let child = second.start();
    stop(&second, child);
    pair.lab.promote("a", None, false).unwrap();
    pair.command("a", Command::Connect { overwrite: false }).unwrap();
    assert_eq!(pair.shell("a", "echo kept > file; cat file").unwrap(), "kept");
    assert_eq!(pair.differences().unwrap(), [] as [&str; 0]);
}

#[test]
fn a_directory_open_for_maintenance_is_claimed_and_takes_no_role_around_another_module() {
    let pair = Pair::up(&MirrorOptions::default()).unwrap();
    pair.shell("a", "mkdir inner; sync").unwrap();
    pair.command("a", Command::Demote).unwrap();
    pair.command("a", Command::Unlock).unwrap();
    let refusal = Second::on(&pair, "a", &pair.dir).refusal();
    assert!(refusal.contains("locked by another process"), "{refusal}");
    let second = Second::on(&pair, "a", &pair.dir.join("inner"));
    let child = second.start();
    let forced = Command::BecomePrimary {
        ignore_holders: false,
        force: true,
    };
    for role in [Command::BecomeSecondary, forced] {
        let refusal = pair.refusal("a", role).unwrap();
        assert_eq!(refusal.kind, RefusalKind::System);
        assert!(refusal.message.contains("overlaps with"), "{refusal}");
    }
    stop(&second, child);
}
