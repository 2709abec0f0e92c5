//! Both nodes were primary apart from each other. Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod pair;

use lab::disk::ext4::DiskOptions;
use lab::mirror::MirrorOptions;
use lab::mirrors::mirror_of;
use lab::status::Wanted;
use lab::verify::{self, Options};
use lab::{LIMIT, wait};
use pair::Pair;
use skfs::control::archive::Archive;
use skfs::control::command::{ArchivesCommand, Command, Reply};
use skfs::control::event::What;
use skfs::control::status::{SplitBrain, State};
use skfs::record::split_brain::{Policy, Resolution};
use std::fs;
use std::path::Path;
use std::time::Duration;

const CONNECT: Command = Command::Connect { overwrite: false };
const OVERWRITE: Command = Command::Connect { overwrite: true };

fn options(split_brain: Policy) -> MirrorOptions {
    MirrorOptions {
        split_brain,
        peer_stall: Some(Duration::from_secs(2)),
        ..MirrorOptions::default()
    }
}

/// Something of everything, on both.
const TREE: &str = "mkdir -p d/e; echo both > d/both; ln d/both d/e/linked; ln -s d/both link; mkfifo fifo
    head -c 3000000 /dev/urandom > large; setfattr -n user.a -v b d/both; chmod 2750 d/e; chown 7:8 d/e";

/// Cuts the two off from each other and makes both primary; `b` was in sync to the last.
fn part(pair: &Pair) {
    pair.run(TREE);
    pair.lab.cut("a", "b").unwrap();
    pair.lab
        .wait_state("a", None, Wanted::State(State::Alone))
        .unwrap();
    pair.lab.promote("b", None, false).unwrap();
}

/// What was primary waits to be brought to the other one's state.
fn give_way(pair: &Pair, host: &str) {
    for command in [Command::Demote, Command::BecomeSecondary] {
        pair.lab.command(host, &pair.dir, command).unwrap();
    }
}

fn connect(pair: &Pair, host: &str, command: Command) -> Result<(), String> {
    let answer = pair.lab.command(host, &pair.dir, command);
    answer.map(drop).map_err(|error| error.to_string())
}

#[track_caller]
fn assert_joined(pair: &Pair, primary: &str) {
    pair.lab.wait_state(primary, None, Wanted::InSync).unwrap();
    pair.run_in(primary, &pair.dir, "echo on >> d/both; sync");
    let report = pair.lab.verify(&pair.dir, Options::default()).unwrap();
    assert_eq!(report.differences, []);
}

fn archives(pair: &Pair, host: &str) -> Vec<Archive> {
    let list = Command::Archives(ArchivesCommand::List);
    match pair.lab.command(host, &pair.dir, list).unwrap() {
        Reply::Archives(archives) => archives,
        other => panic!("{other:?}"),
    }
}

/// The only archive of a host, where the test sees it.
fn archive_of(pair: &Pair, host: &str) -> std::path::PathBuf {
    let found = archives(pair, host);
    let [archive] = &found[..] else {
        panic!("{found:?}");
    };
    let place = pair.backing(host).join(".sidekick/archive").join(&archive.name);
    assert!(place.join("manifest.jsonl").exists());
    place.join("files")
}

/// A copy of what a host holds.
fn kept(pair: &Pair, host: &str) -> std::path::PathBuf {
    let kept = pair.outside("kept");
    let output = std::process::Command::new("cp")
        .arg("-a")
        .arg(pair.backing(host))
        .arg(&kept)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    kept
}

#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    let report = verify::compare(one, other, Options::default()).unwrap();
    assert_eq!(report.differences, []);
}

fn split_of(pair: &Pair, host: &str) -> Option<SplitBrain> {
    let status = pair.lab.status().unwrap();
    let mirror = mirror_of(&status, host, &pair.dir).unwrap();
    mirror.skfs.as_ref().unwrap().split_brain
}

fn resolutions(pair: &Pair, host: &str) -> Vec<Resolution> {
    let resolution = |what: &What| match what {
        What::SplitBrain { resolution, .. } => Some(*resolution),
        _ => None,
    };
    let events = pair.lab.events(host).unwrap();
    events
        .iter()
        .filter_map(|one| resolution(&one.event.what))
        .collect()
}

#[test]
fn a_node_that_changed_nothing_alone_is_joined_by_itself_and_nothing_is_put_aside() {
    let pair = Pair::up(&options(Policy::default()));
    part(&pair);
    pair.run("echo of-a > d/both; rm large");
    // It reads, and syncs.
    pair.run_in("b", &pair.dir, "cat d/both large > /dev/null; sync");
    give_way(&pair, "b");
    pair.lab.heal().unwrap();
    connect(&pair, "a", CONNECT).unwrap();
    assert_joined(&pair, "a");
    assert_eq!(pair.run("head -1 d/both"), "of-a");
    assert_eq!(archives(&pair, "b"), []);
    assert!(resolutions(&pair, "b").contains(&Resolution::KeepPrimary));
}

#[test]
fn a_primary_that_changed_nothing_is_told_how_to_give_way() {
    let pair = Pair::up(&options(Policy::default()));
    part(&pair);
    pair.run_in("b", &pair.dir, "echo of-b > d/both; mkdir new; mv large new");
    give_way(&pair, "b");
    pair.lab.heal().unwrap();
    let refusal = connect(&pair, "a", CONNECT).unwrap_err();
    assert!(refusal.contains("the primary has changed nothing"), "{refusal}");
    assert!(refusal.contains("Its changes are the ones to keep"), "{refusal}");
    // As it says.
    give_way(&pair, "a");
    pair.lab.promote("b", None, false).unwrap();
    connect(&pair, "b", CONNECT).unwrap();
    assert_joined(&pair, "b");
    assert_eq!(
        pair.run_in("b", &pair.dir, "head -1 d/both; ls new"),
        "of-b\nlarge"
    );
    assert_eq!(archives(&pair, "a"), []);
}

#[test]
fn what_both_have_changed_is_decided_by_a_person_and_put_aside_first() {
    let pair = Pair::up(&options(Policy::default()));
    part(&pair);
    pair.run("echo of-a > d/both; echo a > of-a");
    pair.run_in(
        "b",
        &pair.dir,
        "echo of-b > d/both; rm link; mv d/e moved; head -c 2000000 /dev/urandom > of-b; truncate -s 50M sparse",
    );
    give_way(&pair, "b");
    let kept = kept(&pair, "b");
    pair.lab.heal().unwrap();
    let refusal = connect(&pair, "a", CONNECT).unwrap_err();
    assert!(refusal.contains("connect --overwrite here"), "{refusal}");
    let split = split_of(&pair, "b").unwrap();
    assert_eq!(split.resolution, Resolution::Manual);
    assert!(split.secondary.bytes.unwrap() >= 2_000_000, "{split:?}");
    // What was written last while both were together counts on either side.
    assert!(split.primary.bytes < split.secondary.bytes, "{split:?}");
    assert!(split.secondary.bytes.unwrap() < 20_000_000, "{split:?}");
    assert_same(&kept, &pair.backing("b"));
    connect(&pair, "a", OVERWRITE).unwrap();
    assert_joined(&pair, "a");
    assert_eq!(split_of(&pair, "b"), None);
    let archive = archive_of(&pair, "b");
    assert_same(&archive, &kept);
    let changes = fs::read_to_string(archive.with_file_name("changes.jsonl")).unwrap();
    let lines: Vec<&str> = changes.lines().collect();
    assert_eq!(lines[0], r#"{"known":true}"#);
    for line in [
        r#"{"path":"of-b","change":"new"}"#,
        r#"{"path":"link","change":"gone"}"#,
        r#"{"path":"d/e","change":"gone"}"#,
        r#"{"path":"moved","change":"name"}"#,
    ] {
        assert!(lines.contains(&line), "{line}:\n{changes}");
    }
    // Neither shown, nor verified, nor copied.
    assert_eq!(pair.run("ls -a | grep -c sidekick || true"), "0");
    let name = archives(&pair, "b")[0].name.clone();
    let remove = |name: &str| {
        let name = name.to_owned();
        connect(&pair, "b", Command::Archives(ArchivesCommand::Remove { name }))
    };
    assert!(remove("nothing").unwrap_err().contains("no archive"));
    remove(&name).unwrap();
    assert_eq!(archives(&pair, "b"), []);
    assert_joined(&pair, "a");
}

#[test]
fn the_primarys_changes_stay_where_that_is_the_policy() {
    let pair = Pair::up(&options(Policy::KeepPrimary));
    part(&pair);
    pair.run("echo of-a > d/both");
    pair.run_in("b", &pair.dir, "echo of-b > d/both; echo b > of-b");
    give_way(&pair, "b");
    let kept = kept(&pair, "b");
    pair.lab.heal().unwrap();
    connect(&pair, "a", CONNECT).unwrap();
    assert_joined(&pair, "a");
    assert_same(&archive_of(&pair, "b"), &kept);
}

#[test]
fn who_changed_less_loses_it_where_that_is_the_policy() {
    let pair = Pair::up(&options(Policy::DiscardLeastChanges));
    part(&pair);
    pair.run("head -c 1000000 /dev/zero > of-a");
    pair.run_in("b", &pair.dir, "head -c 5000000 /dev/urandom > of-b");
    give_way(&pair, "b");
    pair.lab.heal().unwrap();
    let refusal = connect(&pair, "a", CONNECT).unwrap_err();
    assert!(refusal.contains("Its changes are the ones to keep"), "{refusal}");
    give_way(&pair, "a");
    let kept = kept(&pair, "a");
    pair.lab.promote("b", None, false).unwrap();
    connect(&pair, "b", CONNECT).unwrap();
    assert_joined(&pair, "b");
    assert_same(&archive_of(&pair, "a"), &kept);
}

#[test]
fn nothing_is_decided_without_a_person_where_that_is_the_policy() {
    let pair = Pair::up(&options(Policy::Manual));
    part(&pair);
    pair.run("echo of-a > d/both");
    give_way(&pair, "b");
    pair.lab.heal().unwrap();
    let refusal = connect(&pair, "a", CONNECT).unwrap_err();
    assert!(refusal.contains("the secondary nothing"), "{refusal}");
    connect(&pair, "a", OVERWRITE).unwrap();
    assert_joined(&pair, "a");
    assert_eq!(archives(&pair, "b"), [], "nothing is lost");
}

#[test]
fn a_full_disk_keeps_what_cannot_be_put_aside() {
    let pair = Pair::up_prepared(&options(Policy::KeepPrimary), |lab| {
        let disk = DiskOptions {
            size_bytes: 64 << 20,
            volatile: false,
        };
        lab.host("b").make_disk(disk).unwrap();
    });
    part(&pair);
    pair.run("echo of-a > d/both");
    pair.run_in("b", &pair.dir, "head -c 30000000 /dev/urandom > of-b");
    give_way(&pair, "b");
    let kept = kept(&pair, "b");
    pair.lab.heal().unwrap();
    let refusal = connect(&pair, "a", CONNECT).unwrap_err();
    assert!(refusal.contains("cannot be put aside"), "{refusal}");
    assert!(refusal.contains("bytes and"), "{refusal}");
    assert_same(&kept, &pair.backing("b"));
    assert_eq!(archives(&pair, "b"), []);
    // Room is made, as it says.
    for command in [Command::Demote, Command::Unlock] {
        pair.lab.command("b", &pair.dir, command).unwrap();
    }
    fs::remove_file(pair.backing("b").join("of-b")).unwrap();
    pair.lab
        .command("b", &pair.dir, Command::BecomeSecondary)
        .unwrap();
    connect(&pair, "a", OVERWRITE).unwrap();
    assert_joined(&pair, "a");
    assert_eq!(archives(&pair, "b").len(), 1);
}

#[test]
fn a_node_that_dies_while_it_puts_its_changes_aside_does_it_again() {
    let pair = Pair::up(&options(Policy::KeepPrimary));
    part(&pair);
    pair.run("echo of-a > d/both");
    pair.run_in(
        "b",
        &pair.dir,
        "for n in $(seq 20); do head -c 10000000 /dev/urandom > of-b-$n; done; sync",
    );
    give_way(&pair, "b");
    let kept = kept(&pair, "b");
    pair.lab.heal().unwrap();
    let place = pair.backing("b").join(".sidekick/archive");
    let is_partial = || {
        let names = fs::read_dir(&place).into_iter().flatten().flatten();
        names
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().ends_with(".partial") && path.join("files/of-b-1").exists())
    };
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&pair, "a", CONNECT));
        wait::until_true(LIMIT, "an archive that is being made", || is_partial().is_some()).unwrap();
        pair.lab.host("b").kill().unwrap();
        connecting.join().unwrap().unwrap_err();
    });
    assert!(is_partial().is_some());
    assert_same(&kept, &pair.backing("b"));
    pair.lab.start("b").unwrap();
    pair.lab
        .command("b", &pair.dir, Command::BecomeSecondary)
        .unwrap();
    connect(&pair, "a", CONNECT).unwrap();
    assert_joined(&pair, "a");
    assert!(is_partial().is_none());
    assert_same(&archive_of(&pair, "b"), &kept);
}
