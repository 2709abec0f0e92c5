//! Pairs that must not be joined and nodes that must not become primary: refused with the reason, and nothing is
//! changed by the attempt. Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use lab::mirror::MirrorOptions;
use lab::pair::Pair;
use lab::status::Wanted;
use lab::wait;
use skfs::config::OnPeerLoss;
use skfs::control::command::{Command, RefusalKind};
use skfs::control::status::{Role, Standing, State};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const BECOME_PRIMARY: Command = Command::BecomePrimary {
    ignore_holders: false,
    force: false,
};
const FORCED: Command = Command::BecomePrimary {
    ignore_holders: false,
    force: true,
};
const STOP: Command = Command::Stop { abort: false };

/// Path, inode, time of change and size.
type Entry = (PathBuf, u64, (i64, i64), u64);

/// Identity, time of change and size of everything in a host's copy. A copy made anew differs in all of them.
/// The top directory's own time is left out: each role makes its scratch directory in it.
fn snapshot(pair: &Pair, host: &str) -> Vec<Entry> {
    fn walk(path: &Path, found: &mut Vec<Entry>) {
        let status = fs::symlink_metadata(path).unwrap();
        let changed = (status.ctime(), status.ctime_nsec());
        found.push((path.to_owned(), status.ino(), changed, status.size()));
        if status.is_dir() {
            walk_inside(path, found);
        }
    }
    fn walk_inside(path: &Path, found: &mut Vec<Entry>) {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != ".sidekick" {
                walk(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    walk_inside(&pair.backing(host).unwrap(), &mut found);
    found.sort();
    found
}

/// Stops an `skfs` cleanly and waits for its end.
fn stop(pair: &Pair, host: &str) {
    let skfs = pair.skfs(host).unwrap();
    pair.command(host, STOP).unwrap();
    wait::until_true(pair.lab.limit(), "skfs has ended", || !skfs.lives()).unwrap();
}

fn stop_both(pair: &Pair) {
    stop(pair, "a");
    stop(pair, "b");
}

fn quick() -> MirrorOptions {
    MirrorOptions {
        peer_stall: Some(Duration::from_millis(500)),
        ..MirrorOptions::default()
    }
}

#[test]
fn a_secondary_that_holds_files_from_before_is_not_joined_and_not_touched() {
    for hosts in [&["b"] as &[&str], &["a", "b"]] {
        let pair = Pair::bare().unwrap();
        for host in hosts {
            let backing = pair.backing(host).unwrap();
            fs::create_dir_all(backing.join("sub")).unwrap();
            // Even what looks equal is not known to be.
            fs::write(backing.join("sub/file"), "from before").unwrap();
        }
        for host in ["a", "b"] {
            fs::create_dir_all(pair.backing(host).unwrap()).unwrap();
        }
        let before = ["a", "b"].map(|host| snapshot(&pair, host));
        let refused = pair.lab.mirror(&pair.dir, &MirrorOptions::default());
        let refusal = refused.unwrap_err().into_refusal().unwrap();
        assert_eq!(refusal.kind, RefusalKind::WouldOverwrite, "{hosts:?}: {refusal}");
        // Asked again it says the same, and nobody has gone on alone because of it.
        let again = pair.refusal("a", Command::Connect { overwrite: false }).unwrap();
        assert_eq!(again, refusal, "{hosts:?}");
        assert_eq!(["a", "b"].map(|host| snapshot(&pair, host)), before, "{hosts:?}");
        let status = pair.status("a").unwrap();
        assert_eq!((status.role, status.in_sync), (Some(Role::Primary), Some(false)));
        assert_eq!(pair.went_alone("a").unwrap(), [] as [&str; 0]);
    }
}

#[test]
fn two_that_stopped_cleanly_start_again_in_exchanged_roles_with_nothing_copied() {
    let pair = Pair::up(&MirrorOptions::default()).unwrap();
    pair.shell("a", "mkdir sub; echo one > sub/file; ln sub/file link; sync")
        .unwrap();
    let mut primary = "a";
    for (next, other) in [("b", "a"), ("a", "b"), ("b", "a")] {
        stop(&pair, primary);
        stop(&pair, if primary == "a" { "b" } else { "a" });
        let before = ["a", "b"].map(|host| snapshot(&pair, host));
        pair.lab.start(next).unwrap();
        pair.lab.promote(next, None, false).unwrap();
        let notes = pair.lab.start(other).unwrap();
        assert_eq!(notes, [] as [&str; 0]);
        pair.lab.wait_state(next, None, Wanted::InSync).unwrap();
        let status = pair.status(next).unwrap();
        assert_eq!(status.last_sequence.unwrap_or(0), 0, "{status:?}");
        assert_eq!(["a", "b"].map(|host| snapshot(&pair, host)), before);
        pair.shell(next, &format!("cat sub/file; echo {next} >> sub/file; sync"))
            .unwrap();
        assert_eq!(pair.differences().unwrap(), [] as [&str; 0]);
        primary = next;
    }
    assert_eq!(pair.shell("b", "cat link").unwrap(), "one\nb\na\nb");
}

#[test]
fn who_was_primary_at_the_clean_end_begins_again_beside_its_peer_only() {
    let pair = Pair::up(&MirrorOptions::default()).unwrap();
    pair.shell("a", "echo one > file; sync").unwrap();
    stop_both(&pair);
    let before = ["a", "b"].map(|host| snapshot(&pair, host));
    pair.lab.start("a").unwrap();
    let refusal = pair.refusal("a", BECOME_PRIMARY).unwrap();
    assert_eq!(refusal.kind, RefusalKind::NotUpToDate, "{refusal}");
    assert!(refusal.message.contains("cannot reach b"), "{refusal}");
    // Nobody has seen it mounted.
    assert!(pair.shell("a", "echo no > file").is_err());
    pair.lab.start("b").unwrap();
    pair.command("b", Command::BecomeSecondary).unwrap();
    pair.lab.promote("a", None, false).unwrap();
    pair.lab.wait_state("a", None, Wanted::InSync).unwrap();
    assert_eq!(["a", "b"].map(|host| snapshot(&pair, host)), before);
    // One that has begun alone meanwhile says so, and nobody reads the older copy.
    stop_both(&pair);
    pair.lab.start("b").unwrap();
    pair.lab.promote("b", None, false).unwrap();
    pair.command("b", Command::GoAlone).unwrap();
    pair.shell("b", "echo two >> file; sync").unwrap();
    pair.command("b", Command::Demote).unwrap();
    pair.command("b", Command::BecomeSecondary).unwrap();
    pair.lab.start("a").unwrap();
    let refusal = pair.refusal("a", BECOME_PRIMARY).unwrap();
    assert_eq!(refusal.kind, RefusalKind::NotUpToDate, "{refusal}");
    assert!(refusal.message.contains("the primary has not"), "{refusal}");
    assert_eq!(pair.shell("a", "cat file").unwrap(), "one");
    pair.command("a", Command::BecomeSecondary).unwrap();
    pair.lab.promote("b", None, false).unwrap();
    pair.command("b", Command::Connect { overwrite: false }).unwrap();
    assert_eq!(pair.differences().unwrap(), [] as [&str; 0]);
}

#[test]
fn a_node_that_is_no_secondary_or_was_opened_for_maintenance_is_not_joined() {
    let pair = Pair::up(&MirrorOptions::default()).unwrap();
    pair.shell("a", "echo one > file; sync").unwrap();
    stop_both(&pair);
    pair.lab.start("b").unwrap();
    pair.command("b", Command::Demote).unwrap();
    pair.lab.start("a").unwrap();
    let before = ["a", "b"].map(|host| snapshot(&pair, host));

    let refusal = pair.refusal("a", BECOME_PRIMARY).unwrap();
    assert_eq!(refusal.kind, RefusalKind::NotUpToDate, "{refusal}");
    assert!(refusal.message.contains("b is stopped"), "{refusal}");
    // Nothing was lost by asking: once it is a secondary the two belong together.
    pair.command("b", Command::BecomeSecondary).unwrap();
    pair.lab.promote("a", None, false).unwrap();
    pair.command("a", Command::Connect { overwrite: false }).unwrap();
    assert_eq!(["a", "b"].map(|host| snapshot(&pair, host)), before);

    let refusal = pair.refusal("b", Command::Unlock).unwrap();
    assert_eq!(refusal.kind, RefusalKind::WrongRole, "{refusal}");
    stop_both(&pair);
    pair.lab.start("b").unwrap();
    pair.command("b", Command::Demote).unwrap();
    assert!(pair.shell("b", "echo no > new").is_err());
    pair.command("b", Command::Unlock).unwrap();
    assert_eq!(pair.status("b").unwrap().standing, Some(Standing::Verify));
    pair.shell("b", "echo repaired by hand > new").unwrap();
    pair.lab.start("a").unwrap();
    let refusal = pair.refusal("a", BECOME_PRIMARY).unwrap();
    assert_eq!(refusal.kind, RefusalKind::NotUpToDate, "{refusal}");
    assert!(refusal.message.contains("maintenance"), "{refusal}");
    // Covered again it still cannot be trusted, in either role, also after a restart.
    pair.lab.host("b").kill_program("skfs").unwrap();
    pair.lab.cut("a", "b").unwrap();
    pair.lab.start("b").unwrap();
    assert!(pair.shell("b", "echo no > newer").is_err());
    let refusal = pair.refusal("b", BECOME_PRIMARY).unwrap();
    assert_eq!(refusal.kind, RefusalKind::NotUpToDate, "{refusal}");
    assert_eq!(pair.status("b").unwrap().standing, Some(Standing::Verify));
    // A copy brings it to the primary's state again, whatever was done to it.
    pair.lab.heal().unwrap();
    pair.command("b", Command::BecomeSecondary).unwrap();
    pair.lab.promote("a", None, false).unwrap();
    pair.command("a", Command::Connect { overwrite: false }).unwrap();
    assert_eq!(pair.status("b").unwrap().standing, Some(Standing::UpToDate));
    assert_eq!(pair.differences().unwrap(), [] as [&str; 0]);
}

#[test]
fn after_both_crashed_neither_becomes_primary_by_itself_and_a_forced_one_is_joined_by_a_copy() {
    let pair = Pair::up(&MirrorOptions::default()).unwrap();
    pair.shell("a", "echo one > file; sync").unwrap();
    for host in ["a", "b"] {
        pair.lab.host(host).kill().unwrap();
    }
    for host in ["a", "b"] {
        pair.lab.start(host).unwrap();
    }
    let before = ["a", "b"].map(|host| snapshot(&pair, host));
    for host in ["a", "b"] {
        let refusal = pair.refusal(host, BECOME_PRIMARY).unwrap();
        assert_eq!(refusal.kind, RefusalKind::NotUpToDate, "{refusal}");
        assert!(refusal.message.contains("did not end cleanly"), "{refusal}");
        assert!(refusal.message.contains("--force"), "{refusal}");
    }
    // A refusal leaves the node in the role it had.
    assert_eq!(pair.status("a").unwrap().role, Some(Role::Stopped));
    assert_eq!(pair.status("b").unwrap().role, Some(Role::Secondary));
    pair.command("a", FORCED).unwrap();
    assert_eq!(["a", "b"].map(|host| snapshot(&pair, host)), before);
    assert_eq!(pair.shell("a", "echo two >> file; cat file").unwrap(), "one\ntwo");
    pair.command("a", Command::Connect { overwrite: false }).unwrap();
    assert_eq!(pair.differences().unwrap(), [] as [&str; 0]);
}

#[test]
fn a_secondary_that_returns_after_its_primary_went_on_alone_is_kept_from_both_roles() {
    let pair = Pair::up(&quick()).unwrap();
    pair.shell("a", "echo one > file; sync").unwrap();
    pair.lab.host("b").kill().unwrap();
    pair.shell("a", "echo two >> file; sync").unwrap();
    pair.lab
        .wait_state("a", None, Wanted::State(State::Alone))
        .unwrap();
    // It comes back without being joined: its primary cannot reach it yet.
    pair.lab.cut("a", "b").unwrap();
    let notes = pair.lab.start("b").unwrap();
    assert!(
        notes.iter().any(|note| note.contains("cannot reach")),
        "{notes:?}"
    );
    let before = snapshot(&pair, "b");
    let refusal = pair.refusal("b", BECOME_PRIMARY).unwrap();
    assert_eq!(refusal.kind, RefusalKind::NotUpToDate, "{refusal}");
    assert_eq!(snapshot(&pair, "b"), before);
    // The primary that went alone may stop and start as often as it likes: it has the newest copy. So may its
    // process die.
    stop(&pair, "a");
    pair.lab.start("a").unwrap();
    pair.lab.promote("a", None, false).unwrap();
    assert_eq!(
        pair.shell("a", "echo three >> file; cat file").unwrap(),
        "one\ntwo\nthree"
    );
    pair.lab.host("a").kill().unwrap();
    pair.lab.start("a").unwrap();
    pair.lab.promote("a", None, false).unwrap();
    // A person can still decide for the old copy. Then both have writes of their own.
    pair.command("b", FORCED).unwrap();
    assert_eq!(pair.shell("b", "cat file").unwrap(), "one");
    pair.command("b", Command::Demote).unwrap();
    pair.command("b", Command::BecomeSecondary).unwrap();
    pair.lab.heal().unwrap();
    let refusal = pair.refusal("a", Command::Connect { overwrite: false }).unwrap();
    assert_eq!(refusal.kind, RefusalKind::WouldOverwrite, "{refusal}");
    assert_eq!(snapshot(&pair, "b"), before);
}

#[test]
fn a_secondary_that_left_before_the_first_operation_is_kept_from_being_primary_as_well() {
    let pair = Pair::up(&MirrorOptions::default()).unwrap();
    pair.command("b", Command::Demote).unwrap();
    pair.lab
        .wait_state("a", None, Wanted::State(State::Alone))
        .unwrap();
    pair.shell("a", "echo alone > file").unwrap();
    let refusal = pair.refusal("b", BECOME_PRIMARY).unwrap();
    assert_eq!(refusal.kind, RefusalKind::NotUpToDate, "{refusal}");
}

#[test]
fn a_primary_whose_writes_wait_does_not_stop_and_says_what_to_do() {
    let options = MirrorOptions {
        on_peer_loss: OnPeerLoss::Ask,
        ..quick()
    };
    let pair = Pair::up(&options).unwrap();
    pair.shell("a", "echo one > file; sync").unwrap();
    pair.lab.host("b").kill().unwrap();
    std::thread::scope(|scope| {
        let _guard = pair.end_on_panic("a");
        let writer = scope.spawn(|| pair.shell("a", "echo two >> file"));
        let waits = |status: &lab::status::LabStatus| {
            let a = lab::mirrors::mirror_of(status, "a", &pair.dir).unwrap();
            a.reason
                .as_ref()
                .is_some_and(|reason| reason.contains("go-alone"))
        };
        pair.lab
            .wait_for(lab::LIMIT, "the secondary counts as lost", waits)
            .unwrap();
        assert!(!writer.is_finished());
        let refusal = pair.refusal("a", STOP).unwrap();
        assert_eq!(refusal.kind, RefusalKind::Busy, "{refusal}");
        assert!(refusal.message.contains("go-alone"), "{refusal}");
        pair.command("a", Command::GoAlone).unwrap();
        writer.join().unwrap().unwrap();
    });
    stop(&pair, "a");
}
