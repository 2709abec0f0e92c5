//! A directory mirrored between two hosts of the lab, with the real `skfs`. Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use lab::mirror::MirrorOptions;
use lab::mirrors::mirror_of;
use lab::status::Wanted;
use lab::verify::Options;
use lab::{LIMIT, Lab};
use skfs::config::SyncMode;
use skfs::control::status::{Role, State};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A lab with one mirror, of a directory of this test's own.
struct Pair {
    lab: Lab,
    dir: PathBuf,
}

impl Pair {
    fn up(options: &MirrorOptions) -> Pair {
        let lab = Lab::up(&["a", "b"]).unwrap();
        let dir = PathBuf::from(format!("/srv/{}/data", lab.name()));
        lab.mirror(&dir, options).unwrap();
        Pair { lab, dir }
    }

    /// Runs a script in the directory on a host and gives its output.
    fn run(&self, host: &str, script: &str) -> String {
        let script = format!("set -e; cd {}; {script}", self.dir.display());
        let output = self
            .lab
            .host(host)
            .command("sh")
            .unwrap()
            .args(["-c", &script])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {}: {errors}", output.status);
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn backing(&self, host: &str) -> PathBuf {
        self.lab.backing(host, &self.dir).unwrap()
    }

    fn differences(&self) -> Vec<String> {
        let report = self.lab.verify(&self.dir, Options::default()).unwrap();
        report.differences.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn what_is_written_on_the_primary_is_on_both_hosts() {
    let pair = Pair::up(&MirrorOptions::default());
    pair.run(
        "a",
        "mkdir sub; echo hello > sub/file; ln sub/file link; ln -s sub/file symlink; mkfifo fifo; \
         chmod 640 sub/file; chown 1:2 link; truncate -s 1M sparse; echo x >> sparse; mv sub/file sub/new; sync",
    );
    for host in ["a", "b"] {
        assert_eq!(fs::read(pair.backing(host).join("sub/new")).unwrap(), b"hello\n");
    }
    assert_eq!(pair.differences(), [] as [&str; 0]);
    // The secondary's directory is covered: it can be read, and not changed unseen.
    assert_eq!(
        pair.run("b", "cat link; touch new 2>/dev/null || echo refused"),
        "hello\nrefused"
    );
    fs::write(pair.backing("b").join("sub/new"), b"hullo\n").unwrap();
    let found = pair.differences();
    assert!(
        found
            .iter()
            .any(|one| one.contains("data from byte 1: 0x65 and 0x75")),
        "{found:?}"
    );
}

#[test]
fn a_file_closed_twice_in_a_tick_of_the_clock_has_the_same_time_on_both_hosts() {
    let pair = Pair::up(&MirrorOptions {
        sync: SyncMode::Flush,
        ..MirrorOptions::default()
    });
    // The second write-back of a file brings no time of its own.
    pair.run(
        "a",
        "for i in $(seq 100); do echo 1 > f$i; echo 2 >> f$i; done; fallocate -l 8k f1; fallocate -zl 4k f1",
    );
    assert_eq!(pair.differences(), [] as [&str; 0]);
}

#[test]
fn the_status_tells_both_sides_of_a_mirror_and_the_events_how_it_came_about() {
    let pair = Pair::up(&MirrorOptions::default());
    let status = pair.lab.status().unwrap();
    let of = |host| mirror_of(&status, host, &pair.dir).unwrap();
    assert_eq!(
        (of("a").role, of("a").state),
        (Some(Role::Primary), Some(State::Prim))
    );
    assert_eq!(
        (of("b").role, of("b").state),
        (Some(Role::Secondary), Some(State::Second))
    );
    assert_eq!(of("a").in_sync, Some(true));
    assert_eq!(of("a").connected, Some(true));
    assert_eq!(of("a").copy, None);
    for host in ["a", "b"] {
        assert!(status.host(host).unwrap().pids.contains_key("skfs"));
    }
    pair.lab.wait_state("a", None, Wanted::InSync).unwrap();
    let events = pair.lab.events("a").unwrap();
    assert!(
        events
            .iter()
            .any(|one| one.event.what == skfs::control::event::What::InSync),
        "{events:?}"
    );
}

#[test]
fn a_killed_primarys_writes_are_on_the_promoted_secondary() {
    let pair = Pair::up(&MirrorOptions::default());
    pair.run("a", "for i in $(seq 100); do echo $i > f$i; done");
    pair.lab.host("a").kill().unwrap();
    pair.lab.promote("b", None, false).unwrap();
    pair.lab
        .wait_state("b", None, Wanted::State(State::Alone))
        .unwrap();
    assert_eq!(pair.run("b", "cat f100; ls | wc -l; echo more > g"), "100\n100");
    // The old primary comes back, as the new one's secondary.
    let notes = pair.lab.start("a").unwrap();
    assert_eq!(notes, [] as [&str; 0]);
    pair.lab.wait_state("b", None, Wanted::InSync).unwrap();
    assert_eq!(pair.run("b", "cat g"), "more");
    let report = pair.lab.verify(&pair.dir, Options::default()).unwrap();
    assert_eq!(report.differences, []);
}

#[test]
fn a_frozen_secondary_is_left_behind_and_joined_again_by_a_copy() {
    let pair = Pair::up(&MirrorOptions {
        peer_stall: Some(Duration::from_millis(500)),
        ..MirrorOptions::default()
    });
    pair.lab.host("b").freeze().unwrap();
    pair.run("a", "echo alone > file");
    pair.lab
        .wait_state("a", None, Wanted::State(State::Alone))
        .unwrap();
    pair.lab.host("b").thaw().unwrap();
    let connect = skfs::control::command::Command::Connect { overwrite: false };
    pair.lab.command("a", &pair.dir, connect).unwrap();
    pair.lab.wait_state("b", None, Wanted::InSync).unwrap();
    let report = pair.lab.verify(&pair.dir, Options::default()).unwrap();
    assert_eq!(report.differences, []);
}

#[test]
fn two_mirrors_of_one_lab_do_not_meet() {
    let pair = Pair::up(&MirrorOptions::default());
    let other = pair.dir.with_file_name("other");
    pair.lab.mirror(&other, &MirrorOptions::default()).unwrap();
    let inside = pair.dir.join("sub");
    assert!(pair.lab.mirror(&inside, &MirrorOptions::default()).is_err());
    let across = format!("echo x > file; ln file {}/file 2>&1 || true", other.display());
    assert!(pair.run("a", &across).contains("cross-device"));
    pair.lab
        .wait_for(LIMIT, "both mirrors are in sync", |status| {
            status
                .host("a")
                .is_some_and(|host| host.is(Wanted::InSync) && host.mirrors.len() == 2)
        })
        .unwrap();
    let report = pair.lab.verify(&other, Options::default()).unwrap();
    assert_eq!(report.entries, 1);
}

#[test]
fn the_mount_point_goes_with_the_lab() {
    let pair = Pair::up(&MirrorOptions::default());
    let (dir, directory) = (pair.dir.clone(), pair.lab.directory().to_owned());
    assert!(dir.exists());
    drop(pair);
    assert!(!dir.exists() && !dir.parent().unwrap().exists());
    assert!(!directory.exists());
    assert!(
        !fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(dir.to_str().unwrap())
    );
    assert!(!Path::new("/srv").join(directory.file_name().unwrap()).exists());
}
