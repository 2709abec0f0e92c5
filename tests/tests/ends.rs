//! How the roles of a mirror end, and what is left: nothing open to changes, nobody promoted unwarned.
//! Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use lab::mirror::MirrorOptions;
use lab::mirrors::mirror_of;
use lab::status::Wanted;
use lab::{LIMIT, Lab};
use skfs::config::OnPeerLoss;
use skfs::control::client::ClientError;
use skfs::control::command::{Command, Refusal, RefusalKind};
use skfs::control::status::{Role, Standing, State};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

struct Pair {
    lab: Lab,
    dir: PathBuf,
}

impl Pair {
    fn up(on_peer_loss: OnPeerLoss) -> Pair {
        Pair::up_with(on_peer_loss, Duration::from_secs(1))
    }

    fn up_with(on_peer_loss: OnPeerLoss, peer_stall: Duration) -> Pair {
        let lab = Lab::up(&["a", "b"]).unwrap();
        let dir = PathBuf::from(format!("/srv/{}/data", lab.name()));
        let options = MirrorOptions {
            on_peer_loss,
            peer_stall: Some(peer_stall),
            ..MirrorOptions::default()
        };
        lab.mirror(&dir, &options).unwrap();
        Pair { lab, dir }
    }

    /// Runs a script in the directory on a host; its output, errors included.
    fn run(&self, host: &str, script: &str) -> String {
        let script = format!("cd {} && {{ {script}; }} 2>&1", self.dir.display());
        let mut shell = self.lab.host(host).command("sh").unwrap();
        let output = shell.args(["-c", &script]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn refusal(&self, host: &str, command: Command) -> Refusal {
        match self.lab.command(host, &self.dir, command) {
            Err(lab::Error::Skfs { source, .. }) => match *source {
                ClientError::Refused(refusal) => refusal,
                other => panic!("{other}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_mount_that_is_taken_away_by_hand_leaves_the_directory_read_only_and_is_reported() {
    let pair = Pair::up(OnPeerLoss::Alone);
    pair.run("a", "echo kept > file");
    let mut umount = pair.lab.host("a").command("umount").unwrap();
    assert!(umount.arg(&pair.dir).status().unwrap().success());
    let refused = pair.run("a", "cat file; echo unseen > other");
    assert!(
        refused.starts_with("kept") && refused.contains("Read-only"),
        "{refused}"
    );
    pair.lab
        .wait_for(LIMIT, "the status of a names the mount", |status| {
            mirror_of(status, "a", &pair.dir)
                .is_some_and(|mirror| mirror.reason.iter().any(|why| why.contains("taken away")))
        })
        .unwrap();
    // The session is whole: it ends cleanly, and the pair begins again as if nothing had happened.
    pair.lab.command("a", &pair.dir, Command::Demote).unwrap();
    pair.lab.promote("a", None, false).unwrap();
    pair.lab
        .command("a", &pair.dir, Command::Connect { overwrite: false })
        .unwrap();
    assert_eq!(
        pair.run("a", "cat file; echo seen > other; cat other"),
        "kept\nseen"
    );
}

#[test]
fn a_primary_that_loses_its_secondary_while_it_ends_is_stopped_and_covered_all_the_same() {
    // Long enough for a busy machine: once the loss is noticed, a demotion is refused as long as it is undecided.
    let pair = Pair::up_with(OnPeerLoss::Ask, Duration::from_secs(6));
    pair.run("a", "echo kept > file");
    pair.lab.host("b").kill().unwrap();
    let refusal = pair.refusal("a", Command::Demote);
    assert_eq!(refusal.kind, RefusalKind::PeerUnreachable, "{refusal}");
    let status = pair.lab.status().unwrap();
    let mirror = mirror_of(&status, "a", &pair.dir).unwrap();
    assert_eq!(
        (mirror.role, mirror.state),
        (Some(Role::Stopped), Some(State::Stop))
    );
    let refused = pair.run("a", "cat file; echo unseen > other");
    assert!(
        refused.starts_with("kept") && refused.contains("Read-only"),
        "{refused}"
    );
    pair.lab
        .command("a", &pair.dir, Command::Stop { abort: false })
        .unwrap();
}

#[test]
fn a_secondary_that_was_left_behind_unheard_learns_it_when_it_can_be_reached_and_is_not_promoted() {
    let pair = Pair::up(OnPeerLoss::Alone);
    pair.lab.cut("a", "b").unwrap();
    pair.run("a", "echo alone > file");
    pair.lab
        .wait_state("a", None, Wanted::State(State::Alone))
        .unwrap();
    pair.lab.heal().unwrap();
    pair.lab
        .wait_for(LIMIT, "b knows that its copy is outdated", |status| {
            mirror_of(status, "b", &pair.dir)
                .is_some_and(|mirror| mirror.standing == Some(Standing::Outdated))
        })
        .unwrap();
    let promote = Command::BecomePrimary {
        ignore_holders: false,
        force: false,
    };
    let refusal = pair.refusal("b", promote);
    assert_eq!(refusal.kind, RefusalKind::NotUpToDate, "{refusal}");
    let status = pair.lab.status().unwrap();
    let mirror = mirror_of(&status, "b", &pair.dir).unwrap();
    assert_eq!(mirror.role, Some(Role::Secondary), "a refusal changes nothing");
}

#[test]
fn a_directory_that_has_another_owner_and_mode_on_the_secondary_takes_those_of_the_primary() {
    let pair = Pair::up(OnPeerLoss::Alone);
    pair.lab.command("a", &pair.dir, Command::Demote).unwrap();
    let tops = || {
        ["a", "b"].map(|host| {
            let status = std::fs::metadata(pair.lab.backing(host, &pair.dir).unwrap()).unwrap();
            (
                status.mode() & 0o7777,
                status.uid(),
                status.gid(),
                status.mtime_nsec(),
            )
        })
    };
    let backing = pair.lab.backing("a", &pair.dir).unwrap();
    std::fs::set_permissions(&backing, std::os::unix::fs::PermissionsExt::from_mode(0o2750)).unwrap();
    std::os::unix::fs::chown(&backing, Some(12), Some(34)).unwrap();
    assert_ne!(tops()[0], tops()[1]);
    pair.lab.promote("a", None, false).unwrap();
    pair.lab
        .command("a", &pair.dir, Command::Connect { overwrite: false })
        .unwrap();
    assert_eq!(tops()[0], tops()[1]);
}
