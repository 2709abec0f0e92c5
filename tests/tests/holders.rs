//! Programs that hold the directory when it is mounted or taken down, and what a killed `skfs` leaves. Needs root
//! and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use lab::mirror::MirrorOptions;
use lab::pair::Pair;
use lab::wait;
use skfs::control::command::{Command, RefusalKind};
use skfs::control::event::What;
use skfs::control::status::{Access, Role};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};

const STOP: Command = Command::Stop { abort: false };

/// A program on a host, holding the directory in some way until it is dropped.
struct Holder {
    child: Child,
    input: Option<ChildStdin>,
}

impl Holder {
    /// `how` is shell before `exec cat`.
    fn on(pair: &Pair, host: &str, how: &str) -> Holder {
        let script = format!("D={}; {how}; exec cat", pair.dir.display());
        let mut command = pair.lab.host(host).command("sh").unwrap();
        let command = command.args(["-c", &script]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // What comes back has been through the program: it holds the directory by now.
        input.write_all(b"here\n").unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "here\n", "{how}");
        Holder {
            child,
            input: Some(input),
        }
    }

    fn end(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
    }
}

fn stop(pair: &Pair, host: &str) {
    let skfs = pair.skfs(host).unwrap();
    pair.command(host, STOP).unwrap();
    wait::until_true(pair.lab.limit(), "skfs has ended", || !skfs.lives()).unwrap();
}

/// A pair with a file, both `skfs` stopped cleanly and started again; `a` has no role yet.
fn stopped_pair() -> Pair {
    let pair = Pair::up(&MirrorOptions::default()).unwrap();
    pair.shell("a", "mkdir sub; echo one > sub/file; sync").unwrap();
    stop(&pair, "a");
    stop(&pair, "b");
    pair.lab.start("a").unwrap();
    pair
}

fn become_primary(ignore_holders: bool) -> Command {
    Command::BecomePrimary {
        ignore_holders,
        force: false,
    }
}

#[test]
fn a_program_that_was_in_the_directory_before_the_mount_is_named_and_refused_or_warned_of() {
    let pair = stopped_pair();
    for how in ["cd $D", "cd $D/sub", "exec 3< $D/sub/file", "exec 3< $D"] {
        let holder = Holder::on(&pair, "a", how);
        let refusal = pair.refusal("a", become_primary(false)).unwrap();
        assert_eq!(refusal.kind, RefusalKind::Holders, "{how}: {refusal}");
        assert!(refusal.message.contains("cat (pid "), "{how}: {refusal}");
        assert!(refusal.message.contains("--ignore-holders"), "{how}: {refusal}");
        assert_eq!(pair.status("a").unwrap().role, Some(Role::Stopped), "{how}");
        holder.end();
    }
    let holder = Holder::on(&pair, "a", "exec 3< $D/sub/file");
    // Its peer, which it has left the next beginning to, is away.
    let refusal = pair.refusal("a", become_primary(true)).unwrap();
    assert_eq!(refusal.kind, RefusalKind::NotUpToDate, "{refusal}");
    assert!(refusal.message.contains("without b"), "{refusal}");
    assert_eq!(pair.status("a").unwrap().role, Some(Role::Stopped));
    let forced = Command::BecomePrimary {
        ignore_holders: true,
        force: true,
    };
    pair.command("a", forced).unwrap();
    let events = pair.lab.events("a").unwrap();
    let is_warning = |event: &&lab::keeper::events::Recorded| event.event.what == What::Warning;
    let warning = events.iter().rev().find(is_warning).unwrap();
    assert!(warning.event.message.contains("cat (pid "), "{warning:?}");
    holder.end();
}

#[test]
fn a_promotion_that_is_refused_for_a_program_in_the_directory_leaves_the_pair_in_sync() {
    let pair = Pair::up(&MirrorOptions::default()).unwrap();
    pair.shell("a", "mkdir sub; echo one > sub/file; sync").unwrap();
    let holder = Holder::on(&pair, "b", "cd $D/sub");
    let refusal = pair.refusal("b", become_primary(false)).unwrap();
    assert_eq!(refusal.kind, RefusalKind::Holders, "{refusal}");
    assert_eq!(pair.status("b").unwrap().in_sync, Some(true));
    pair.shell("a", "echo two > sub/file; sync").unwrap();
    assert_eq!(pair.status("a").unwrap().in_sync, Some(true));
    assert_eq!(pair.differences().unwrap(), [] as [&str; 0]);
    holder.end();
}

#[test]
fn a_stop_of_a_mount_in_use_names_the_program_and_changes_nothing() {
    let pair = Pair::up(&MirrorOptions::default()).unwrap();
    pair.shell("a", "mkdir sub; echo one > sub/file").unwrap();
    for how in ["cd $D/sub", "exec 3>> $D/sub/file", "cd $D"] {
        let holder = Holder::on(&pair, "a", how);
        let refusal = pair.refusal("a", STOP).unwrap();
        assert_eq!(refusal.kind, RefusalKind::Busy, "{how}: {refusal}");
        assert!(refusal.message.contains("cat (pid "), "{how}: {refusal}");
        pair.shell("a", "echo more >> sub/file; sync").unwrap();
        assert_eq!(pair.status("a").unwrap().in_sync, Some(true), "{how}");
        holder.end();
    }
    stop(&pair, "a");
    assert_eq!(pair.differences().unwrap(), [] as [&str; 0]);
}

#[test]
fn what_a_killed_primary_leaves_is_cleared_and_its_copy_is_not_trusted_by_itself() {
    let pair = Pair::up(&MirrorOptions::default()).unwrap();
    pair.shell("a", "mkdir sub; echo one > sub/file; sync").unwrap();
    // A program in the mount keeps the dead mount busy.
    let holder = Holder::on(&pair, "a", "cd $D/sub; exec 3< $D/sub/file");
    pair.lab.host("a").kill_program("skfs").unwrap();
    assert!(pair.shell("a", "cat sub/file").is_err());
    pair.lab.start("a").unwrap();
    // Covered: readable and safe from changes.
    assert_eq!(pair.shell("a", "cat sub/file").unwrap(), "one");
    assert!(pair.shell("a", "echo two > sub/file").is_err());
    let status = pair.status("a").unwrap();
    assert_eq!(status.skfs.unwrap().directories[0].access, Access::Covered);
    let refusal = pair.refusal("a", become_primary(false)).unwrap();
    assert_eq!(refusal.kind, RefusalKind::NotUpToDate, "{refusal}");
    assert!(refusal.message.contains("did not end cleanly"), "{refusal}");
    holder.end();
    // The secondary has everything and takes over.
    pair.lab.promote("b", None, false).unwrap();
    assert_eq!(
        pair.shell("b", "cat sub/file; echo two > sub/file").unwrap(),
        "one"
    );
}

#[test]
fn a_killed_secondary_starts_again_over_its_own_cover_and_socket() {
    let pair = Pair::up(&MirrorOptions::default()).unwrap();
    pair.shell("a", "echo one > file; sync").unwrap();
    for _ in 0..2 {
        pair.lab.host("b").kill_program("skfs").unwrap();
        // Nobody guards it now, and the cover stays.
        assert!(pair.shell("b", "echo two > file").is_err());
        pair.lab.start("b").unwrap();
    }
    assert_eq!(pair.shell("b", "cat file").unwrap(), "one");
    let mounts = pair.shell("b", "grep -c $PWD /proc/self/mounts").unwrap();
    // The lab's bind of the host's own directory, and one cover.
    assert_eq!(mounts, "2");
}
