//! Commands that meet in the middle of each other's work. The middle is held open by freezing a host, or the file
//! system that its records are written to. Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use lab::disk::ext4::{Disk, DiskOptions, SIZE_BYTES_MIN};
use lab::error::Attempt;
use lab::mirror::MirrorOptions;
use lab::pair::Pair;
use lab::status::Wanted;
use lab::wait;
use skfs::config::OnPeerLoss;
use skfs::control::command::{Command, RefusalKind, Reply};
use skfs::control::status::{Access, Role, Standing, State, Status, SubState};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

const BECOME_PRIMARY: Command = Command::BecomePrimary {
    ignore_holders: false,
    force: false,
};

/// The file system of a host's records, which can be frozen: whatever writes a record waits then.
struct Records {
    directory: File,
    /// The images of the disk.
    _files: tempfile::TempDir,
}

/// A frozen file system; thawed when it is dropped.
struct Frozen<'a>(&'a Records);

impl Records {
    /// Mounts a disk of its own over a host's state directory, in the host's namespace only. No `skfs` may run there.
    fn on_a_disk_of_their_own(pair: &Pair, host: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let state = pair.lab.host_directory(host).join("state");
        let options = DiskOptions {
            size_bytes: SIZE_BYTES_MIN,
            volatile: false,
        };
        let directory = pair.lab.host(host).within(|| {
            // The mount ends with the host.
            Disk::make(files.path(), &state, options)?;
            File::open(&state).on("open", &state)
        });
        Records {
            directory: directory.unwrap(),
            _files: files,
        }
    }

    fn freeze(&self) -> Frozen<'_> {
        /// `_IOWR('X', 119, int)`, linux/fs.h.
        const FIFREEZE: libc::Ioctl = 0xc004_5877_u32 as libc::Ioctl;
        // SAFETY: FIFREEZE takes no argument.
        let frozen = unsafe { libc::ioctl(self.directory.as_raw_fd(), FIFREEZE, 0) };
        assert_eq!(frozen, 0, "{}", std::io::Error::last_os_error());
        Frozen(self)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        /// `_IOWR('X', 120, int)`, linux/fs.h.
        const FITHAW: libc::Ioctl = 0xc004_5878_u32 as libc::Ioctl;
        // SAFETY: FITHAW takes no argument.
        let thawed = unsafe { libc::ioctl(self.0.directory.as_raw_fd(), FITHAW, 0) };
        assert_eq!(thawed, 0, "{}", std::io::Error::last_os_error());
    }
}

fn status(pair: &Pair, host: &str) -> Status {
    match pair.lab.command(host, &pair.dir, Command::Status).unwrap() {
        Reply::Status(status) => *status,
        Reply::Done | Reply::Verification(_) | Reply::Archives(_) => panic!("a status was asked for"),
    }
}

fn wait_for_status(pair: &Pair, host: &str, what: &str, holds: impl Fn(&Status) -> bool) {
    wait::until_true(pair.lab.limit(), what, || holds(&status(pair, host))).unwrap();
}

/// A pair that was in sync and ended cleanly, so that `b` is to begin next; it is secondary, and its records can be frozen.
fn ended_pair() -> (Pair, Records) {
    let pair = Pair::bare().unwrap();
    let records = Records::on_a_disk_of_their_own(&pair, "b");
    let options = MirrorOptions {
        on_peer_loss: OnPeerLoss::Ask,
        ..MirrorOptions::default()
    };
    pair.lab.mirror(&pair.dir, &options).unwrap();
    pair.shell("a", "echo before > file; sync file").unwrap();
    pair.command("a", Command::Demote).unwrap();
    (pair, records)
}

/// As [`ended_pair`], and the other way round; `a` is primary and not connected.
fn unconnected_pair() -> (Pair, Records) {
    let (pair, records) = ended_pair();
    pair.command("a", Command::BecomeSecondary).unwrap();
    pair.command("b", BECOME_PRIMARY).unwrap();
    pair.command("b", Command::Connect { overwrite: false }).unwrap();
    pair.command("b", Command::Demote).unwrap();
    pair.command("b", Command::BecomeSecondary).unwrap();
    pair.command("a", BECOME_PRIMARY).unwrap();
    (pair, records)
}

#[test]
fn a_secondary_that_is_promoted_while_it_welcomes_a_primary_turns_that_away_and_is_what_it_was() {
    let (pair, records) = ended_pair();
    let before = status(&pair, "b");
    let frozen = records.freeze();
    std::thread::scope(|scope| {
        // Beside its peer only: it calls before it mounts anything.
        let connect = scope.spawn(|| pair.refusal("a", BECOME_PRIMARY));
        wait_for_status(&pair, "b", "b writes down that a session is open", |status| {
            (status.state, status.sub_state, status.connected) == (State::Second, SubState::Transient, true)
        });
        let promote = scope.spawn(|| pair.command("b", BECOME_PRIMARY));
        // The caller does not wait for the disk.
        let refusal = connect.join().unwrap().unwrap();
        assert_eq!(refusal.kind, RefusalKind::NotUpToDate, "{refusal}");
        assert!(refusal.message.contains("changing its role"), "{refusal}");
        // The promotion does: the note must not come to the disk after it.
        assert!(!promote.is_finished());
        assert_eq!(status(&pair, "b").role, Role::Secondary);
        drop(frozen);
        promote.join().unwrap().unwrap();
    });
    let after = status(&pair, "b");
    assert_eq!(
        (after.role, after.in_sync, after.last_sequence),
        (Role::Primary, false, None)
    );
    assert_eq!(
        (after.standing, after.generation),
        (before.standing, before.generation)
    );
    assert_eq!(status(&pair, "a").role, Role::Stopped);
    // Neither believes in a session that was never there: the pair begins again without a full copy.
    pair.command("b", Command::Demote).unwrap();
    pair.command("b", Command::BecomeSecondary).unwrap();
    pair.command("a", BECOME_PRIMARY).unwrap();
    assert!(status(&pair, "a").in_sync);
    pair.shell("a", "echo after > file").unwrap();
    assert_eq!(pair.differences().unwrap(), [] as [&str; 0]);
}

#[test]
fn a_primary_that_is_told_to_go_alone_while_it_is_being_welcomed_is_alone_and_has_no_session() {
    let (pair, records) = unconnected_pair();
    let frozen = records.freeze();
    std::thread::scope(|scope| {
        let connect = scope.spawn(|| pair.refusal("a", Command::Connect { overwrite: false }));
        wait_for_status(&pair, "b", "b writes down that a session is open", |status| {
            (status.state, status.sub_state, status.connected) == (State::Second, SubState::Transient, true)
        });
        pair.command("a", Command::GoAlone).unwrap();
        pair.shell("a", "echo alone > file").unwrap();
        assert!(!connect.is_finished());
        drop(frozen);
        let refusal = connect.join().unwrap().unwrap();
        assert_eq!(refusal.kind, RefusalKind::WrongRole, "{refusal}");
    });
    pair.shell("a", "cat file; echo more >> file").unwrap();
    let alone = status(&pair, "a");
    assert_eq!(
        (alone.state, alone.standing, alone.in_sync, alone.last_sequence),
        (State::Alone, Standing::UpToDate, false, None)
    );
    // Nothing of it was shipped.
    let copy = std::fs::read_to_string(pair.backing("b").unwrap().join("file"));
    assert_eq!(copy.unwrap(), "before\n");
    pair.command("a", Command::Connect { overwrite: false }).unwrap();
    assert_eq!(pair.differences().unwrap(), [] as [&str; 0]);
}

#[test]
fn a_clean_end_that_waits_for_a_silent_secondary_is_cut_short_by_an_abort() {
    let options = MirrorOptions {
        on_peer_loss: OnPeerLoss::Ask,
        // Longer than this test may take: nothing but the abort ends it.
        peer_stall: Some(Duration::from_secs(600)),
        ..MirrorOptions::default()
    };
    let pair = Pair::up(&options).unwrap();
    pair.shell("a", "echo kept > file; sync file").unwrap();
    let skfs = pair.skfs("a").unwrap();
    std::thread::scope(|scope| {
        pair.lab.host("b").freeze().unwrap();
        let demote = scope.spawn(|| pair.refusal("a", Command::Demote));
        wait_for_status(&pair, "a", "a is unmounted and ends its session", |status| {
            status.role == Role::Primary && status.directories[0].access == Access::Covered
        });
        assert!(!demote.is_finished());
        pair.command("a", Command::Stop { abort: true }).unwrap();
        let refusal = demote.join().unwrap().unwrap();
        assert_eq!(refusal.kind, RefusalKind::PeerUnreachable, "{refusal}");
    });
    wait::until_true(pair.lab.limit(), "skfs has ended", || !skfs.lives()).unwrap();
    let refused = pair.run("a", "cat file; echo unseen > other").unwrap();
    assert_eq!(String::from_utf8_lossy(&refused.stdout), "kept\n");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("Read-only"),
        "the cover stays"
    );
    // The secondary, which was in sync to the last, can lead.
    pair.lab.host("b").thaw().unwrap();
    pair.lab
        .wait_state("b", None, Wanted::State(State::Second))
        .unwrap();
    pair.command("b", BECOME_PRIMARY).unwrap();
    assert_eq!(pair.shell("b", "cat file").unwrap(), "kept");
}
