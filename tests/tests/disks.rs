//! Mirrors on disks that are full or lose their power. Needs root and FUSE.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use lab::Lab;
use lab::disk::ext4::DiskOptions;
use lab::error::Attempt;
use lab::mirror::MirrorOptions;
use lab::mirrors::mirror_of;
use lab::status::Wanted;
use lab::verify::Options;
use skfs::control::command::Command;
use skfs::control::event::What;
use skfs::control::status::{State, SubState};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

const SMALL: DiskOptions = DiskOptions {
    size_bytes: 32 << 20,
    volatile: false,
};
const VOLATILE: DiskOptions = DiskOptions {
    size_bytes: 64 << 20,
    volatile: true,
};

/// A mirror whose hosts have these disks; none is the machine's own.
fn mirror_on(disks: [Option<DiskOptions>; 2]) -> (Lab, PathBuf) {
    let lab = Lab::up(&["a", "b"]).unwrap();
    for (host, disk) in ["a", "b"].into_iter().zip(disks) {
        if let Some(disk) = disk {
            lab.host(host).make_disk(disk).unwrap();
        }
    }
    let dir = PathBuf::from(format!("/srv/{}/data", lab.name()));
    lab.mirror(&dir, &MirrorOptions::default()).unwrap();
    (lab, dir)
}

/// Runs a script in the directory on a host; gives its exit code and output.
fn run(lab: &Lab, host: &str, dir: &Path, script: &str) -> (Option<i32>, String) {
    let mut command = lab.host(host).command("sh").unwrap();
    let script = format!("cd {} && {{ {script}; }} 2>&1", dir.display());
    let output = command.args(["-c", &script]).output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

#[test]
fn a_full_disk_of_the_secondary_leaves_the_primary_alone_and_the_application_without_an_error() {
    let (lab, dir) = mirror_on([None, Some(SMALL)]);
    let (code, output) = run(
        &lab,
        "a",
        &dir,
        "dd if=/dev/zero of=big bs=64k count=1000 conv=fsync",
    );
    assert_eq!(code, Some(0), "{output}");
    lab.wait_state("a", None, Wanted::State(State::Alone)).unwrap();
    assert_eq!(
        fs::metadata(lab.backing("a", &dir).unwrap().join("big"))
            .unwrap()
            .len(),
        64_000 << 10
    );
    let events = lab.events("a").unwrap();
    let why = events.iter().find_map(|one| match &one.event.what {
        What::WentAlone { reason } => Some(reason.clone()),
        _ => None,
    });
    assert_eq!(why.as_deref(), Some("no-space"), "{events:?}");
}

#[test]
fn a_full_disk_of_the_primary_is_the_applications_enospc_and_both_copies_stay_the_same() {
    let (lab, dir) = mirror_on([Some(SMALL), None]);
    let (code, output) = run(&lab, "a", &dir, "dd if=/dev/zero of=big bs=64k count=1000");
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("No space left on device"), "{output}");
    lab.wait_state("a", None, Wanted::InSync).unwrap();
    let (code, output) = run(&lab, "a", &dir, "rm big && echo small > small && sync small");
    assert_eq!(code, Some(0), "{output}");
    let report = lab.verify(&dir, Options::default()).unwrap();
    assert_eq!(report.differences, []);
    assert_eq!(report.entries, 2);
}

#[test]
fn what_was_synced_survives_the_loss_of_power_on_both_hosts() {
    for seed in 1..4 {
        let (lab, dir) = mirror_on([Some(VOLATILE), Some(VOLATILE)]);
        let script = "for i in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=synced$i bs=64k count=5 conv=fsync; \
                      echo lost > unsynced$i; done; sync .";
        let (code, output) = run(&lab, "a", &dir, script);
        assert_eq!(code, Some(0), "{output}");
        let before: Vec<_> = (1..9)
            .map(|i| fs::read(lab.backing("a", &dir).unwrap().join(format!("synced{i}"))).unwrap())
            .collect();
        for host in ["a", "b"] {
            lab.host(host).cut_power(seed).unwrap();
        }
        for host in ["a", "b"] {
            for (i, data) in (1..9).zip(&before) {
                let path = lab.backing(host, &dir).unwrap().join(format!("synced{i}"));
                assert!(
                    fs::read(&path).unwrap() == *data,
                    "seed {seed}: {} differs",
                    path.display()
                );
            }
        }
    }
}

/// A file of the primary whose content is in no cache, on a disk whose reads fail from now on.
fn make_unreadable(lab: &Lab, dir: &Path) {
    let (code, output) = run(
        lab,
        "a",
        dir,
        "echo kept > other; dd if=/dev/urandom of=file bs=64k count=4 conv=fsync",
    );
    assert_eq!(code, Some(0), "{output}");
    let copy = lab.backing("a", dir).unwrap().join("file");
    let through_the_mount = dir.join("file");
    lab.host("a").within(|| drop_cached(&through_the_mount)).unwrap();
    drop_cached(&copy).unwrap();
    lab.host("a").fail_reads().unwrap();
}

fn drop_cached(path: &Path) -> lab::Result<()> {
    let file = fs::File::open(path).on("open", path)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).on("drop the cache of", path)
}

/// A command on a host that may never be answered.
fn spawn(lab: &Lab, host: &str, dir: &Path, script: &str) -> Child {
    let mut command = lab.host(host).command("sh").unwrap();
    let script = format!("cd {} && {{ {script}; }} 2>&1", dir.display());
    command
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_read_that_fails_in_sync_is_not_answered_and_the_secondary_takes_over() {
    let (lab, dir) = mirror_on([Some(VOLATILE), None]);
    make_unreadable(&lab, &dir);
    let mut reader = spawn(&lab, "a", &dir, "cat file");
    lab.wait_for(lab.limit(), "the primary says that its disk fails", |status| {
        mirror_of(status, "a", &dir).is_some_and(|mirror| {
            mirror.sub_state == Some(SubState::NotReady)
                && mirror.reason.iter().any(|why| why.contains("disk fails (a read"))
        })
    })
    .unwrap();
    let told = |one: &lab::keeper::events::Recorded| matches!(one.event.what, What::DiskFailing { .. });
    assert!(lab.events("a").unwrap().iter().any(told));
    // A write is not answered any more either: the secondary, which has everything, takes over.
    let mut writer = spawn(&lab, "a", &dir, "echo more >> other");
    lab.promote("b", None, false).unwrap();
    let (code, output) = run(&lab, "b", &dir, "wc -c < file; cat other");
    assert_eq!((code, output.as_str()), (Some(0), "262144\nkept\n"));
    for child in [&mut reader, &mut writer] {
        assert_eq!(child.try_wait().unwrap(), None, "it was answered");
    }
    lab.command("a", &dir, Command::Stop { abort: true }).unwrap();
    for child in [reader, writer] {
        assert!(!child.wait_with_output().unwrap().status.success());
    }
}

#[test]
fn a_read_that_fails_without_a_secondary_is_the_applications_error() {
    let (lab, dir) = mirror_on([Some(VOLATILE), None]);
    lab.host("b").kill().unwrap();
    let (code, output) = run(&lab, "a", &dir, "echo alone > first");
    assert_eq!(code, Some(0), "{output}");
    lab.wait_state("a", None, Wanted::State(State::Alone)).unwrap();
    make_unreadable(&lab, &dir);
    let (code, output) = run(&lab, "a", &dir, "cat file");
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("Input/output error"), "{output}");
    lab.wait_state("a", None, Wanted::State(State::Alone)).unwrap();
    let (code, output) = run(&lab, "a", &dir, "cat first");
    assert_eq!((code, output.as_str()), (Some(0), "alone\n"));
}
